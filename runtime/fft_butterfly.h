// The small discrete Fourier transforms of which long ones are made: R complex numbers per lane, held in registers.
//
// Everything transforms forwards, X[k] = sum over j of x[j] exp(-2 pi i jk / R). The inverse is the same with the real and
// imaginary parts exchanged on the way in and out, which costs nothing where the two are kept apart.
#pragma once
#include <cmath>

#include "simd.h"

/// On a lambda: a part of the loop that calls it, not a function.
#define TSR_LAMBDA __attribute__((always_inline))

namespace tsr {

/// A vector of complex numbers as two: real and imaginary parts.
template <class V>
struct Planes {
  V re, im;
};

template <class V>
TSR_INLINE Planes<V> operator+(Planes<V> a, Planes<V> b) {
  return {a.re + b.re, a.im + b.im};
}
template <class V>
TSR_INLINE Planes<V> operator-(Planes<V> a, Planes<V> b) {
  return {a.re - b.re, a.im - b.im};
}
/// a times b, lane by lane; b may be a number for all lanes.
template <class V, class W>
TSR_INLINE Planes<V> operator*(Planes<V> a, Planes<W> b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
/// Zero in every lane.
template <class V>
TSR_INLINE Planes<V> zero_planes() {
  return {V{}, V{}};
}
/// The same number with real and imaginary part exchanged.
template <class V>
TSR_INLINE Planes<V> swapped(Planes<V> a) {
  return {a.im, a.re};
}
/// -i times a.
template <class V>
TSR_INLINE Planes<V> turned(Planes<V> a) {
  return {a.im, -a.re};
}

namespace detail {

/// exp(-2 pi i j / n) in double precision; the angle is reduced exactly, to an eighth of a turn.
inline Planes<double> unit_root(long j, long n) {
  j %= n;
  const long eighth = 8 * j / n;  // in eighths of a turn, rounded down
  const bool odd = eighth % 2 != 0;
  // The angle above the eighth, or for an odd one below the next: always in [0, 1/8] of a turn.
  const double angle = 2.0 * M_PI * double(odd ? (eighth + 1) * n - 8 * j : 8 * j - eighth * n) / (8.0 * double(n));
  const double c = std::cos(angle), s = std::sin(angle);
  // Quarter turns to which the angle is added, or from which it is taken.
  const Planes<double> quarters[4] = {{1, 0}, {0, 1}, {-1, 0}, {0, -1}};
  const Planes<double> q = quarters[(odd ? (eighth + 1) / 2 : eighth / 2) % 4];
  const double sine = odd ? -s : s;
  return {q.re * c - q.im * sine, -(q.re * sine + q.im * c)};
}

/// Cosines and sines of 2 pi m / R for m < R.
template <class T, int R>
struct Circle {
  T cosine[R], sine[R];
  Circle() {
    for (int m = 0; m < R; ++m) {
      const Planes<double> w = unit_root(m, R);
      cosine[m] = T(w.re), sine[m] = T(-w.im);
    }
  }
};
template <class T, int R>
TSR_INLINE const Circle<T, R>& circle() {
  static const Circle<T, R> table;
  return table;
}

template <class V>
TSR_INLINE void butterfly2(Planes<V>& a, Planes<V>& b) {
  const Planes<V> sum = a + b;
  b = a - b;
  a = sum;
}
template <class V>
TSR_INLINE void butterfly4(Planes<V>& a, Planes<V>& b, Planes<V>& c, Planes<V>& d) {
  const Planes<V> s = a + c, t = a - c, u = b + d, v = turned(b - d);
  a = s + u, b = t + v, c = s - u, d = t - v;
}
/// An odd length: x[j] + x[R-j] meets cosines only and x[j] - x[R-j] sines only, which halves the work of the definition.
template <class V, int R>
TSR_INLINE void butterfly_odd(Planes<V> (&x)[R]) {
  constexpr int H = (R - 1) / 2;
  const auto& w = circle<Element<V>, R>();
  Planes<V> even[H], odd[H];
  Planes<V> total = x[0];
#pragma GCC unroll 3
  for (int j = 0; j < H; ++j) {
    even[j] = x[j + 1] + x[R - 1 - j];
    odd[j] = x[j + 1] - x[R - 1 - j];
    total = total + even[j];
  }
  const Planes<V> first = x[0];
  x[0] = total;
#pragma GCC unroll 3
  for (int k = 1; k <= H; ++k) {
    Planes<V> a = first, b = {V{}, V{}};
    int m = 0;
#pragma GCC unroll 3
    for (int j = 0; j < H; ++j) {
      m += k;
      if (m >= R) m -= R;
      a.re += w.cosine[m] * even[j].re, a.im += w.cosine[m] * even[j].im;
      b.re += w.sine[m] * odd[j].im, b.im -= w.sine[m] * odd[j].re;  // -i sine (x[j] - x[R-j])
    }
    x[k] = a + b;
    x[R - k] = a - b;
  }
}

/// x transformed in place, in natural order. R is 1, 2, 4, 8 or odd.
template <class V, int R>
TSR_INLINE void butterfly(Planes<V> (&x)[R]) {
  using T = Element<V>;
  if constexpr (R == 2) {
    butterfly2(x[0], x[1]);
  } else if constexpr (R == 4) {
    butterfly4(x[0], x[1], x[2], x[3]);
  } else if constexpr (R == 8) {
    constexpr T h = T(0.70710678118654752440);
    butterfly4(x[0], x[2], x[4], x[6]);  // a[0..3]
    butterfly4(x[1], x[3], x[5], x[7]);  // b[0..3], to be turned by 0, 1, 2, 3 eighths
    const Planes<V> a0 = x[0], a1 = x[2], a2 = x[4], a3 = x[6];
    const Planes<V> b0 = x[1], b1 = {x[3].re + x[3].im, x[3].im - x[3].re}, b2 = turned(x[5]);
    const Planes<V> b3 = {x[7].im - x[7].re, -x[7].re - x[7].im};
    x[0] = a0 + b0, x[4] = a0 - b0;
    x[1] = {a1.re + h * b1.re, a1.im + h * b1.im}, x[5] = {a1.re - h * b1.re, a1.im - h * b1.im};
    x[2] = a2 + b2, x[6] = a2 - b2;
    x[3] = {a3.re + h * b3.re, a3.im + h * b3.im}, x[7] = {a3.re - h * b3.re, a3.im - h * b3.im};
  } else if constexpr (R > 1) {
    static_assert(R % 2 == 1, "no butterfly of this length");
    butterfly_odd(x);
  }
}

}  // namespace detail
}  // namespace tsr
