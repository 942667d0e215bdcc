// Factors of Fourier transforms in device memory, computed in double precision when a transform is first run.
#pragma once
#include <cmath>
#include <complex>
#include <vector>

#include "context.cuh"

namespace tsr {

/// A complex number in registers and in shared memory.
template <class T>
struct alignas(2 * sizeof(T)) Complex {
  T re, im;
};

/// roots[k] = exp(-2 pi i k / passes), chirp[k] = exp(-pi i k^2 / length), filter: the spectrum of the chirp's conjugate over
/// `passes` numbers, divided by `passes` (Bluestein), turn[k] = exp(-2 pi i k / n) for real transforms of even n.
template <class T>
struct FftTables {
  const Complex<T>*roots, *chirp, *filter, *turn;
};

namespace cuda {
namespace detail {
using Number = std::complex<double>;

inline Number unit_root(int64_t k, int64_t n) {
  const double angle = -6.283185307179586476925 * double(k % n) / double(n);
  return {std::cos(angle), std::sin(angle)};
}

/// The transform of a power of two of numbers, halves by halves (Cooley and Tukey 1965).
inline std::vector<Number> spectrum(const std::vector<Number>& x) {
  const size_t n = x.size();
  if (n == 1) return x;
  std::vector<Number> even(n / 2), odd(n / 2), y(n);
  for (size_t i = 0; i < n / 2; ++i) even[i] = x[2 * i], odd[i] = x[2 * i + 1];
  even = spectrum(even), odd = spectrum(odd);
  for (size_t k = 0; k < n / 2; ++k) {
    const Number turned = odd[k] * unit_root(int64_t(k), int64_t(n));
    y[k] = even[k] + turned, y[k + n / 2] = even[k] - turned;
  }
  return y;
}

template <class T>
void append(std::vector<Complex<T>>& all, const std::vector<Number>& part) {
  for (const Number& x : part) all.push_back({T(x.real()), T(x.imag())});
}
}  // namespace detail

/// The tables of a transform of `length` complex numbers by passes over `passes` of them (more: Bluestein's method), which
/// belongs to one of `n` real numbers if that is even. Kept by the context; null pointers if there is no memory.
template <class T>
FftTables<T> fft_tables(Context& context, int n, int length, int passes) {
  using detail::Number;
  void*& memory = context.tables[{int(sizeof(T)), n, length, passes}];
  const int chirps = passes > length ? length : 0;
  if (memory == nullptr) {
    std::vector<Number> roots, chirp, wrapped(size_t(chirps > 0 ? passes : 0)), turn;
    for (int k = 0; k < passes; ++k) roots.push_back(detail::unit_root(k, passes));
    for (int k = 0; k < chirps; ++k) {
      chirp.push_back(detail::unit_root(int64_t(k) * k, 2 * int64_t(length)));
      wrapped[size_t(k)] = wrapped[size_t(k > 0 ? passes - k : 0)] = std::conj(chirp.back()) / double(passes);
    }
    for (int k = 0; k <= n / 2; ++k) turn.push_back(detail::unit_root(k, n));
    std::vector<Complex<T>> all;
    detail::append(all, roots);
    detail::append(all, chirp);
    if (chirps > 0) detail::append(all, detail::spectrum(wrapped));
    detail::append(all, turn);
    if (!context.check(cudaMalloc(&memory, all.size() * sizeof(Complex<T>)), "cudaMalloc of a transform's factors")) return {};
    context.check(cudaMemcpy(memory, all.data(), all.size() * sizeof(Complex<T>), cudaMemcpyHostToDevice), "cudaMemcpy");
  }
  const Complex<T>* const roots = static_cast<const Complex<T>*>(memory);
  const Complex<T>* const filter = roots + passes + chirps;
  return {roots, roots + passes, filter, filter + (chirps > 0 ? passes : 0)};
}

}  // namespace cuda
}  // namespace tsr
