// Orthonormal wavelet transforms along one line, periodic, packed [approximation, coarsest details, ..., finest details].
//
// A filter pair of 2 S taps is S rotations of the even and the odd numbers, with a shift by one pair between two of them
// (the lattice of Vaidyanathan and Hoang 1988): half the arithmetic of the filters, in place, and run backwards it is the
// inverse. The cosines of all rotations are taken out and multiplied in once, as `scale`; `turns` are the tangents.
#pragma once
#include "workspace.h"

namespace tsr {

struct Haar {
  static constexpr int steps = 1, shift = 0;
  static constexpr double scale = 0.7071067811865475244, turns[] = {1.0};
};
struct Db2 {
  static constexpr int steps = 2, shift = 1;
  static constexpr double scale = 0.48296291314453414337, turns[] = {1.7320508075688772935, 0.26794919243112270647};
};
struct Db4 {
  static constexpr int steps = 4, shift = 3;
  static constexpr double scale = 0.23037781330889650086,
                          turns[] = {3.1029314858303258947, 0.81093134449390483858, -0.25929388162988974607, 0.046000097113777892609};
};

namespace detail {
/// Position of the first number of pair k among n: filters are centred as PyWavelets does.
template <class W>
inline long pair_start(long k, long n) {
  return (2 * k + n - W::shift % n) % n;
}

/// a, d: even and odd numbers of m pairs, to approximation and details.
template <class W, class T>
inline void rotate(T* a, T* d, long m) {
  constexpr T scale = T(W::scale), first = T(W::turns[0]);
  for (long k = 0; k < m; ++k) {
    const T u = a[k], v = d[k];
    a[k] = u + first * v, d[k] = first * u - v;
  }
  for (int s = 1; s < W::steps; ++s) {
    const T turn = T(W::turns[s]), wrapped = d[0];
    for (long k = 0; k + 1 < m; ++k) {
      const T u = a[k], v = d[k + 1];
      a[k] = u + turn * v, d[k] = v - turn * u;
    }
    const T u = a[m - 1];
    a[m - 1] = u + turn * wrapped, d[m - 1] = wrapped - turn * u;
  }
  for (long k = 0; k < m; ++k) a[k] *= scale, d[k] *= scale;
}
/// The inverse of rotate.
template <class W, class T>
inline void rotate_back(T* a, T* d, long m) {
  constexpr T scale = T(W::scale), first = T(W::turns[0]);
  for (int s = W::steps - 1; s > 0; --s) {
    const T turn = T(W::turns[s]), wrapped = d[m - 1] + turn * a[m - 1];
    a[m - 1] -= turn * d[m - 1];
    for (long k = m - 2; k >= 0; --k) {
      const T u = a[k], v = d[k];
      a[k] = u - turn * v, d[k + 1] = v + turn * u;
    }
    d[0] = wrapped;
  }
  for (long k = 0; k < m; ++k) {
    const T u = a[k], v = d[k];
    a[k] = (u + first * v) * scale, d[k] = (first * u - v) * scale;
  }
}
}  // namespace detail

/// y = the wavelet transform of x, `level` times; N is n, the length of the line, which 2^level divides.
template <class W, long N, class T>
inline void line_wavelet(const T* x, long sx, T* y, long sy, long n, long level) {
  Workspace<T, 2 * N> work;
  T *const a = work.get(), *const d = a + N;  // a also holds what the next level starts from
  for (long k = 0; k < n; ++k) a[k] = x[k * sx];
  T* const next = d + N / 2;
  for (long m = n / 2; level > 0; --level, m /= 2) {
    for (long k = 0; k < m; ++k) {
      const long at = detail::pair_start<W>(k, 2 * m);
      next[k] = a[at], d[k] = a[at + 1 < 2 * m ? at + 1 : 0];
    }
    detail::rotate<W>(next, d, m);
    for (long k = 0; k < m; ++k) a[k] = next[k], y[(m + k) * sy] = d[k];
    if (level == 1)
      for (long k = 0; k < m; ++k) y[k * sy] = a[k];
  }
}

/// The inverse of line_wavelet.
template <class W, long N, class T>
inline void line_iwavelet(const T* x, long sx, T* y, long sy, long n, long level) {
  Workspace<T, 2 * N> work;
  T *const a = work.get(), *const d = a + N / 2, *const whole = a + N;
  long m = n >> level;
  for (long k = 0; k < m; ++k) whole[k] = x[k * sx];
  for (; level > 0; --level, m *= 2) {
    for (long k = 0; k < m; ++k) a[k] = whole[k], d[k] = x[(m + k) * sx];
    detail::rotate_back<W>(a, d, m);
    for (long k = 0; k < m; ++k) {
      const long at = detail::pair_start<W>(k, 2 * m);
      whole[at] = a[k], whole[at + 1 < 2 * m ? at + 1 : 0] = d[k];
    }
  }
  for (long k = 0; k < n; ++k) y[k * sy] = whole[k];
}

}  // namespace tsr
