// Discrete Fourier transforms of the reference program: the recursion by prime factors, one line at a time. A large prime costs
// its square. A complex tensor is two real ones; `norm` is NumPy's.
#pragma once
#include <cmath>
#include <complex>
#include <string>
#include <vector>

#include "reference_tensor.h"

namespace tsr {
namespace ref {

using Complex = std::complex<double>;
using Line = std::vector<Complex>;

// exp(-2 pi i k / n) for every k < n.
inline Line roots_of_unity(int64_t n) {
  Line roots;
  for (int64_t k = 0; k < n; ++k) roots.push_back(std::polar(1.0, -2.0 * 3.14159265358979323846 * double(k) / double(n)));
  return roots;
}

// The sum over j of in[j * step] w^(jk), where w = exp(-2 pi i / count) and roots are those of unity of order count * step.
inline Line transformed(const Complex* in, int64_t count, int64_t step, const Line& roots) {
  if (count == 1) return {in[0]};
  int64_t prime = 2;
  while (count % prime != 0) prime = prime * prime > count ? count : prime + 1;
  const int64_t each = count / prime;
  std::vector<Line> parts;
  for (int64_t r = 0; r < prime; ++r) parts.push_back(transformed(in + r * step, each, step * prime, roots));
  Line result(size_t(count), 0.0);
  for (int64_t k = 0; k < count; ++k)
    for (int64_t r = 0; r < prime; ++r) result[size_t(k)] += parts[size_t(r)][size_t(k % each)] * roots[size_t(r * k % count * step)];
  return result;
}

inline double factor_of(const std::string& norm, bool inverse, int64_t n) {
  if (norm == "ortho") return 1.0 / std::sqrt(double(n));
  return (norm == "backward") == inverse ? 1.0 / double(n) : 1.0;
}

// Transforms every line along `axis`: `fetch(start, step)` gives its n numbers, `keep(line, start, step)` takes the result, which
// has `size` elements along the axis in the tensors that start and step refer to.
template <class Fetch, class Keep>
inline void along_lines(const Tensor& x, int axis, int64_t n, const std::string& norm, bool inverse, int64_t size, Fetch fetch, Keep keep) {
  const int64_t inner = strides_of(x.shape())[size_t(axis)], lines = x.count() / x.size(axis);
  const Line roots = roots_of_unity(n);
  const double factor = factor_of(norm, inverse, n);
#pragma omp parallel for schedule(static) if (x.count() > kParallel)
  for (int64_t number = 0; number < lines; ++number) {
    const int64_t outer = number / inner, rest = number % inner;
    Line line = fetch(outer * x.size(axis) * inner + rest, inner);
    if (inverse)
      for (Complex& z : line) z = std::conj(z);
    line = transformed(line.data(), n, 1, roots);
    for (Complex& z : line) z = factor * (inverse ? std::conj(z) : z);
    keep(line, outer * size * inner + rest, inner);
  }
}

// im == nullptr: the numbers are real.
inline TensorPair full_transform(const Tensor& re, const Tensor* im, int axis, const std::string& norm, bool inverse) {
  TensorPair result{Tensor(re.shape()), Tensor(re.shape())};
  const int64_t n = re.size(axis);
  double *const to_re = result.first.write(), *const to_im = result.second.write();
  along_lines(
      re, axis, n, norm, inverse, n,
      [&](int64_t start, int64_t step) {
        Line line;
        for (int64_t j = 0; j < n; ++j) line.emplace_back(re.data()[start + j * step], im ? im->data()[start + j * step] : 0.0);
        return line;
      },
      [&](const Line& line, int64_t start, int64_t step) {
        for (int64_t k = 0; k < n; ++k) to_re[start + k * step] = line[size_t(k)].real(), to_im[start + k * step] = line[size_t(k)].imag();
      });
  return result;
}
inline TensorPair fft_pair(Tensor re, Tensor im, int axis, const char* norm) { return full_transform(re, &im, axis, norm, false); }
inline TensorPair fft_pair(Tensor re, int axis, const char* norm) { return full_transform(re, nullptr, axis, norm, false); }
inline TensorPair ifft_pair(Tensor re, Tensor im, int axis, const char* norm) { return full_transform(re, &im, axis, norm, true); }
inline TensorPair ifft_pair(Tensor re, int axis, const char* norm) { return full_transform(re, nullptr, axis, norm, true); }

// Whether bin k of n stands for itself alone, and not for bin n - k as well.
inline bool alone(int64_t k, int64_t n) { return k == 0 || 2 * k == n; }

// Bins 0..n/2 of real numbers; those that stand for two times `interior`.
inline TensorPair rfft_pair(Tensor x, int axis, double interior, const char* norm) {
  Sizes shape = x.shape();
  const int64_t n = x.size(axis), bins = n / 2 + 1;
  shape[size_t(axis)] = bins;
  TensorPair result{Tensor(shape), Tensor(shape)};
  double *const to_re = result.first.write(), *const to_im = result.second.write();
  along_lines(
      x, axis, n, norm, false, bins,
      [&](int64_t start, int64_t step) {
        Line line;
        for (int64_t j = 0; j < n; ++j) line.emplace_back(x.data()[start + j * step], 0.0);
        return line;
      },
      [&](const Line& line, int64_t start, int64_t step) {
        for (int64_t k = 0; k < bins; ++k) {
          const Complex z = alone(k, n) ? line[size_t(k)].real() : interior * line[size_t(k)];
          to_re[start + k * step] = z.real(), to_im[start + k * step] = z.imag();
        }
      });
  return result;
}

// n real numbers from bins 0..n/2, those that stand for two times `interior`.
inline Tensor irfft_pair(Tensor re, Tensor im, int axis, double interior, int64_t n, const char* norm) {
  Sizes shape = re.shape();
  shape[size_t(axis)] = n;
  Tensor result(shape);
  double* const to = result.write();
  along_lines(
      re, axis, n, norm, true, n,
      [&](int64_t start, int64_t step) {
        Line line(size_t(n), 0.0);
        for (int64_t k = 0; k <= n / 2; ++k) {
          const Complex z(re.data()[start + k * step], im.data()[start + k * step]);
          line[size_t(k)] = alone(k, n) ? z.real() : interior * z;
          line[size_t((n - k) % n)] = std::conj(line[size_t(k)]);
        }
        return line;
      },
      [&](const Line& line, int64_t start, int64_t step) {
        for (int64_t j = 0; j < n; ++j) to[start + j * step] = line[size_t(j)].real();
      });
  return result;
}

}  // namespace ref
}  // namespace tsr
