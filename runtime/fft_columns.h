// Transforms side by side: each lane of a register holds its own, so there is not one shuffle. `in(j)` gives element j of all
// lanes, `out(k, value)` takes bin k; both are called once for each index, and every in(j) before the first out.
//
// A length N = N1 N2 is taken as N1-point transforms of the elements N2 apart, factors, and N2-point transforms of what lies
// together (Cooley and Tukey 1965; the order of Gentleman and Sande 1966), and each of the two in the same way again.
#pragma once
#include <vector>

#include "fft_plan.h"

namespace tsr {
namespace detail {

template <class T, int N, bool Smooth = is_smooth(N)>
struct SideBySide {
  static constexpr int first = is_butterfly(N) ? N : first_factor(N);
  static constexpr int second = N / first;
  static constexpr bool direct = second == 1;
  using First = SideBySide<T, direct ? 1 : first>;
  using Second = SideBySide<T, direct ? 1 : second>;
  using P = Planes<Vec<T>>;
  /// Complex vectors of working memory.
  static constexpr long work_size = direct ? 0 : N + (First::work_size > Second::work_size ? First::work_size : Second::work_size);

  template <class In, class Out>
  TSR_INLINE static void run(In&& in, Out&& out, [[maybe_unused]] P* work) {
    if constexpr (direct) {
      P x[N];
#pragma GCC unroll 32
      for (int j = 0; j < N; ++j) x[j] = in(j);
      butterfly(x);
#pragma GCC unroll 32
      for (int k = 0; k < N; ++k) out(k, x[k]);
    } else {
      const auto& w = step_factors<T, first, second>();
      P* const more = work + N;
#pragma GCC unroll 1
      for (int j = 0; j < second; ++j) {
        const T *re = w.re + j * first, *im = w.im + j * first;
        First::run([&](int i) TSR_LAMBDA { return in(j + second * i); },
                   [&](int k, P v) TSR_LAMBDA { work[k * second + j] = k == 0 ? v : v * Planes<T>{re[k], im[k]}; }, more);
      }
#pragma GCC unroll 1
      for (int k = 0; k < first; ++k)
        Second::run([&](int m) TSR_LAMBDA { return work[k * second + m]; },
                    [&](int m, P v) TSR_LAMBDA { out(k + first * m, v); }, more);
    }
  }
};

/// The transform of n numbers `stride` apart by its recursive definition, for tables: roots are those of n * stride.
inline void plain_transform(long n, long stride, const Planes<double>* in, Planes<double>* out, const std::vector<Planes<double>>& roots) {
  if (n == 1) {
    out[0] = in[0];
    return;
  }
  const long p = smallest_prime(int(n)), m = n / p;
  for (long r = 0; r < p; ++r) plain_transform(m, stride * p, in + r * stride, out + r * m, roots);
  std::vector<Planes<double>> part(p);
  for (long k = 0; k < m; ++k) {
    for (long r = 0; r < p; ++r) part[r] = out[r * m + k];
    for (long q = 0; q < p; ++q) {
      Planes<double> sum = {0, 0};
      for (long r = 0; r < p; ++r) sum = sum + part[r] * roots[r * (k + q * m) % n * stride];
      out[q * m + k] = sum;
    }
  }
}

/// What Bluestein's method convolves with: b[j] = exp(pi i j^2 / N), and the transform of b laid around a circle of M.
template <class T, int N, int M>
struct Chirp {
  Table<T, rounded_up(N, lanes<T>)> chirp;    // conj(b), zero beyond N
  Table<T, rounded_up(M, lanes<T>)> spectrum;  // of b, divided by M
  Chirp() {
    for (long j = 0; j < rounded_up(N, lanes<T>); ++j) chirp.set(j, j < N ? unit_root(j * j % (2L * N), 2L * N) : Planes<double>{0, 0});
    std::vector<Planes<double>> roots(M), laid(M, {0, 0}), result(M);
    for (long k = 0; k < M; ++k) roots[k] = unit_root(k, M);
    for (long j = 0; j < N; ++j) {
      const Planes<double> w = unit_root(j * j % (2L * N), 2L * N);
      laid[j] = laid[(M - j) % M] = {w.re, -w.im};
    }
    plain_transform(M, 1, laid.data(), result.data(), roots);
    for (long k = 0; k < M; ++k) spectrum.set(k, {result[k].re / M, result[k].im / M});
    for (int k = M; k < rounded_up(M, lanes<T>); ++k) spectrum.set(k, {0, 0});
  }
};
template <class T, int N, int M>
TSR_INLINE const Chirp<T, N, M>& chirp() {
  static const Chirp<T, N, M> table;
  return table;
}

/// A length with a large prime factor, as a convolution of a smooth length (Bluestein 1970).
template <class T, int N>
struct SideBySide<T, N, false> {
  static constexpr int length = convolution_length(N, lanes<T>);
  using Inner = SideBySide<T, length>;
  using P = Planes<Vec<T>>;
  static constexpr long work_size = length + Inner::work_size;

  template <class In, class Out>
  TSR_INLINE static void run(In&& in, Out&& out, P* work) {
    const auto& w = chirp<T, N, length>();
    P* const more = work + length;
    Inner::run([&](int j) TSR_LAMBDA { return j < N ? in(j) * Planes<T>{w.chirp.re[j], w.chirp.im[j]} : zero_planes<Vec<T>>(); },
               [&](int k, P v) TSR_LAMBDA { work[k] = swapped(v * Planes<T>{w.spectrum.re[k], w.spectrum.im[k]}); }, more);
    Inner::run([&](int k) TSR_LAMBDA { return work[k]; },
               [&](int j, P v) TSR_LAMBDA {
                 if (j < N) out(j, swapped(v) * Planes<T>{w.chirp.re[j], w.chirp.im[j]});
               },
               more);
  }
};

}  // namespace detail
}  // namespace tsr
