// Orthonormal wavelet transforms along one line, periodic, packed [approximation, coarsest details, ..., finest details].
//
// A transform W takes every second number of the line as its approximation and the others as its details, adds filters of
// one to the other step by step (lifting: Sweldens 1996), and scales both. The inverse takes away what the steps added, the
// last first.
#pragma once
#include "lifting.h"
#include "workspace.h"

namespace tsr {
namespace detail {
inline long wrapped(long k, long n) {
  const long rest = k % n;
  return rest < 0 ? rest + n : rest;
}

/// y: m numbers, every second one of the n = 2 m of x, around, from the one at `start` on.
template <class T>
inline void every_second(const T* x, long n, long start, T* __restrict y, long m) {
  const long at = wrapped(start, n), head = (n - at + 1) / 2;
  for (long k = 0; k < head; ++k) y[k] = x[at + 2 * k];
  for (long k = head; k < m; ++k) y[k] = x[at + 2 * k - n];
}
/// The reverse: y to the places of x that every_second reads.
template <class T>
inline void to_every_second(const T* y, long m, T* __restrict x, long n, long start) {
  const long at = wrapped(start, n), head = (n - at + 1) / 2;
  for (long k = 0; k < head; ++k) x[at + 2 * k] = y[k];
  for (long k = head; k < m; ++k) x[at + 2 * k - n] = y[k];
}

/// Step S of W on the approximations a and the details d of m pairs: added, or taken back.
template <class W, int S, bool Back, class T>
inline void lift(T* a, T* d, long m) {
  constexpr Lift step = W::steps[S];
  constexpr T near = T(Back ? -step.taps[0] : step.taps[0]);
  [[maybe_unused]] constexpr T far = T(Back ? -step.taps[1] : step.taps[1]);
  T* __restrict to = step.onto_details ? d : a;
  const T* __restrict from = step.onto_details ? a : d;
  const auto around = [&](long k) {
    T sum = near * from[wrapped(k + step.first, m)];
    if constexpr (step.count > 1) sum += far * from[wrapped(k + step.first + 1, m)];
    to[k] += sum;
  };
  constexpr long before = step.first < 0 ? -step.first : 0, behind = step.first + step.count > 1 ? step.first + step.count - 1 : 0;
  const long begin = before < m ? before : m, end = m - behind > begin ? m - behind : begin;
  for (long k = 0; k < begin; ++k) around(k);
  for (long k = begin; k < end; ++k) {
    T sum = near * from[k + step.first];
    if constexpr (step.count > 1) sum += far * from[k + step.first + 1];
    to[k] += sum;
  }
  for (long k = end; k < m; ++k) around(k);
}
/// All steps of W from S on, or, backwards, from S down.
template <class W, int S, bool Back, class T>
inline void lift_all(T* a, T* d, long m) {
  if constexpr (S >= 0 && S < W::count) {
    lift<W, S, Back>(a, d, m);
    lift_all<W, Back ? S - 1 : S + 1, Back>(a, d, m);
  }
}
}  // namespace detail

/// y = the wavelet transform of x, `level` times; N is n, the length of the line, which 2^level divides.
template <class W, long N, class T>
inline void line_wavelet(const T* x, long sx, T* y, long sy, long n, long level) {
  Workspace<T, 2 * N> work;
  T *const whole = work.get(), *const a = whole + N, *const d = a + N / 2;
  for (long k = 0; k < n; ++k) whole[k] = x[k * sx];
  for (long m = n / 2; level > 0; --level, m /= 2) {
    detail::every_second(whole, 2 * m, W::approximation, a, m);
    detail::every_second(whole, 2 * m, W::details, d, m);
    detail::lift_all<W, 0, false>(a, d, m);
    for (long k = 0; k < m; ++k) whole[k] = a[k] * T(W::approximation_scale), y[(m + k) * sy] = d[k] * T(W::details_scale);
    if (level == 1)
      for (long k = 0; k < m; ++k) y[k * sy] = whole[k];
  }
}

/// The inverse of line_wavelet.
template <class W, long N, class T>
inline void line_iwavelet(const T* x, long sx, T* y, long sy, long n, long level) {
  Workspace<T, 2 * N> work;
  T *const whole = work.get(), *const a = whole + N, *const d = a + N / 2;
  long m = n >> level;
  for (long k = 0; k < m; ++k) whole[k] = x[k * sx];
  for (; level > 0; --level, m *= 2) {
    for (long k = 0; k < m; ++k) {
      a[k] = whole[k] * T(1 / W::approximation_scale);
      d[k] = x[(m + k) * sx] * T(1 / W::details_scale);
    }
    detail::lift_all<W, W::count - 1, true>(a, d, m);
    detail::to_every_second(a, m, whole, 2 * m, W::approximation);
    detail::to_every_second(d, m, whole, 2 * m, W::details);
  }
  for (long k = 0; k < n; ++k) y[k * sy] = whole[k];
}

}  // namespace tsr
