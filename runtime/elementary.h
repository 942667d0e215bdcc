// Elementary functions on Vec<float>, Vec<double>, float and double: sqrt, rsqrt, exp, expm1, log, log1p, tanh, sin, cos, pow, atan2.
//
// Error bounds are in units in the last place (ulp) of the result and hold for results that are normal numbers, in the
// default rounding mode, with or without fused multiply-add. Unless stated otherwise a NaN gives a NaN, infinities
// give the limit, and denormal arguments and results are kept. The float polynomials are minimax fits (Remez exchange) of
// the stated form. Scalars and the double functions named so call the C library.
#pragma once
#include <cmath>

#include "simd.h"

namespace tsr {

namespace detail {
template <class T>
using IfScalar = std::enable_if_t<std::is_floating_point_v<T>, int>;

// Applies a scalar function to each lane.
template <class V, class F>
TSR_INLINE V map_lanes(V v, F f) {
  for (int i = 0; i < lanes<Element<V>>; ++i) v[i] = f(v[i]);
  return v;
}

// c[0] + c[1] x + ... by Horner's rule.
template <class V, int N>
TSR_INLINE V polynomial(V x, const Element<V> (&c)[N]) {
  V sum = x * c[N - 1] + c[N - 2];
#pragma GCC unroll 16
  for (int i = N - 3; i >= 0; --i) sum = sum * x + c[i];
  return sum;
}

template <class T>
struct ExpLimits;
template <>
struct ExpLimits<float> {
  // Beyond these, the result is 0 or infinity.
  static constexpr float lowest = -104.0f, highest = 89.0f, ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr float round = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer held in the low bits
  static constexpr uint32_t bias = 127, mantissa = 23;
};
template <>
struct ExpLimits<double> {
  static constexpr double lowest = -746.0, highest = 710.0, ln2_high = 6.93147180369123816490e-1, ln2_low = 1.90821492927058770002e-10;
  static constexpr double round = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr uint64_t bias = 1023, mantissa = 52;
};

// x = n ln 2 + r with |r| <= ln(2) / 2; scale() multiplies by 2^n.
template <class V>
struct PowerOfTwo {
  using T = Element<V>;
  using L = ExpLimits<T>;
  V remainder, whole, shifted;  // shifted holds n as an integer in its low bits
  TSR_INLINE explicit PowerOfTwo(V x) {
    x = vmin(broadcast(L::highest), vmax(broadcast(L::lowest), x));
    shifted = x * T(1.44269504088896341) + L::round;
    whole = shifted - L::round;
    remainder = (x - whole * L::ln2_high) - whole * L::ln2_low;
  }
  TSR_INLINE V scale(V v) const {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4) return __builtin_ia32_scalefps512_mask(v, whole, v, uint16_t(-1), 4);
    else return __builtin_ia32_scalefpd512_mask(v, whole, v, uint8_t(-1), 4);
#else
    // In two steps, since 2^n itself may lie outside the range of T.
    const BitVec<T> n = bits<BitVec<T>>(shifted) - bits<BitVec<T>>(broadcast(L::round));
    const BitVec<T> half = bits<BitVec<T>>(bits<IntVec<T>>(n) >> 1);
    return v * bits<V>((half + L::bias) << L::mantissa) * bits<V>((n - half + L::bias) << L::mantissa);
#endif
  }
};

// e^r for a reduced argument.
TSR_INLINE Vec<float> exp_reduced(Vec<float> r) {
  constexpr float c[] = {0.5000000013f, 0.1666666654f, 0.04166646441f, 0.008333358695f, 0.001393372185f, 0.0001985964878f};
  return polynomial(r, c) * (r * r) + r + 1.0f;
}
TSR_INLINE Vec<double> exp_reduced(Vec<double> r) {
  constexpr double c[] = {0.5, 0.16666666666666671, 0.0416666666666666204, 0.00833333333332608743, 0.00138888888889162095,
                          0.000198412698750007569, 0.000024801587250776098, 2.75572551591901397e-6, 2.75573439262160322e-7,
                          2.51053213164747743e-8, 2.08915691044758496e-9};
  return polynomial(r, c) * (r * r) + r + 1.0;
}
}  // namespace detail

/// Square root, correctly rounded.
template <class T, detail::IfScalar<T> = 0>
TSR_INLINE T vsqrt(T x) {
  return std::sqrt(x);
}
TSR_INLINE Vec<float> vsqrt(Vec<float> x) {
  return detail::map_lanes(x, [](float v) { return __builtin_sqrtf(v); });
}
TSR_INLINE Vec<double> vsqrt(Vec<double> x) {
  return detail::map_lanes(x, [](double v) { return __builtin_sqrt(v); });
}

/// 1 / sqrt(x) from a square root and a division, <= 1.5 ulp.
template <class V>
TSR_INLINE V vrsqrt(V x) {
  return Element<V>(1) / vsqrt(x);
}

/// e^x, <= 1 ulp.
template <class T, detail::IfScalar<T> = 0>
TSR_INLINE T vexp(T x) {
  return std::exp(x);
}
TSR_INLINE Vec<float> vexp(Vec<float> x) {
  const detail::PowerOfTwo<Vec<float>> p(x);
  return p.scale(detail::exp_reduced(p.remainder));
}
TSR_INLINE Vec<double> vexp(Vec<double> x) {
  const detail::PowerOfTwo<Vec<double>> p(x);
  return p.scale(detail::exp_reduced(p.remainder));
}

/// e^x - 1, float <= 2 ulp, double <= 3 ulp.
template <class T, detail::IfScalar<T> = 0>
TSR_INLINE T vexpm1(T x) {
  return std::expm1(x);
}
TSR_INLINE Vec<float> vexpm1(Vec<float> x) {
  constexpr float c[] = {0.5f, 0.1666666714f, 0.04166666452f, 0.008333182066f, 0.001388901056f, 0.0001996223331f, 2.4851429e-5f};
  return vabs(x) < 0.5f ? detail::polynomial(x, c) * (x * x) + x : vexp(x) - 1.0f;
}
TSR_INLINE Vec<double> vexpm1(Vec<double> x) {
  constexpr double c[] = {0.5, 0.166666666666666668, 0.0416666666666666894, 0.008333333333333306, 0.00138888888888860094,
                          0.000198412698412866481, 0.0000248015873029691506, 2.75573192195337161e-6, 2.75573188993203873e-7, 2.50521089653212715e-8,
                          2.08767983085064616e-9, 1.60590073533786349e-10, 1.14678390157307741e-11, 7.64793285168975191e-13,
                          4.88561759357485146e-14, 2.83102428038596615e-15};
  return vabs(x) < 1.25 ? detail::polynomial(x, c) * (x * x) + x : vexp(x) - 1.0;
}

/// Natural logarithm, <= 1.5 ulp. log 0 = -inf; a negative argument gives NaN. Double: C library.
template <class T, detail::IfScalar<T> = 0>
TSR_INLINE T vlog(T x) {
  return std::log(x);
}
TSR_INLINE Vec<float> vlog(Vec<float> x) {
  constexpr float c[] = {0.3333333117f, -0.24999994f,   0.2000071479f, -0.1666805749f, 0.1424932195f,
                         -0.1242014371f, 0.116770091f, -0.1151459771f, 0.07037643744f};
  const auto tiny = x < 1.17549435e-38f;  // denormal: scaled by 2^23
  const Vec<float> y = tiny ? x * 8388608.0f : x;
  // y = 2^n (1 + t), 1 + t in [sqrt(1/2), sqrt 2)
  const BitVec<float> shifted = bits<BitVec<float>>(y) - 0x3f3504f3u;
  const Vec<float> n = to_float<float>((bits<IntVec<float>>(shifted) >> 23) - (tiny & 23));
  const Vec<float> t = bits<Vec<float>>((shifted & 0x7fffffu) + 0x3f3504f3u) - 1.0f;
  const Vec<float> tt = t * t;
  Vec<float> sum = detail::polynomial(t, c) * (t * tt) + n * -2.12194440e-4f - 0.5f * tt;
  sum = sum + t + n * 0.693359375f;
  sum = x == __builtin_inff() ? x : sum;
  sum = x == 0.0f ? broadcast(-__builtin_inff()) : sum;
  return x >= 0.0f ? sum : broadcast(__builtin_nanf(""));
}
TSR_INLINE Vec<double> vlog(Vec<double> x) {
  return detail::map_lanes(x, [](double v) { return std::log(v); });
}

/// log(1 + x), <= 3 ulp. Double: C library.
template <class T, detail::IfScalar<T> = 0>
TSR_INLINE T vlog1p(T x) {
  return std::log1p(x);
}
TSR_INLINE Vec<float> vlog1p(Vec<float> x) {
  // log(u) x / (u - 1) with u = 1 + x as rounded cancels the rounding of u (Goldberg 1991, theorem 4).
  const Vec<float> u = x + 1.0f, d = u - 1.0f;
  const Vec<float> r = vlog(u) * (x / d);
  return d == 0.0f ? x : (x == __builtin_inff() ? x : r);
}
TSR_INLINE Vec<double> vlog1p(Vec<double> x) {
  return detail::map_lanes(x, [](double v) { return std::log1p(v); });
}

/// Hyperbolic tangent, float <= 2 ulp, double <= 4 ulp.
template <class T, detail::IfScalar<T> = 0>
TSR_INLINE T vtanh(T x) {
  return std::tanh(x);
}
TSR_INLINE Vec<float> vtanh(Vec<float> x) {
  constexpr float c[] = {-0.3333332844f, 0.1333271923f, -0.05384331095f, 0.02096151883f, -0.006045401027f};
  const Vec<float> s = x * x;
  const Vec<float> small = detail::polynomial(s, c) * (s * x) + x;
  const Vec<float> t = vabs(x);
  const Vec<float> large = 1.0f - 2.0f / (vexp(2.0f * t) + 1.0f);
  return t < 0.625f ? small : (x < 0.0f ? -large : large);
}
TSR_INLINE Vec<double> vtanh(Vec<double> x) {
  const Vec<double> t = vabs(x), e = vexpm1(2.0 * t);
  const Vec<double> r = t < 0.625 ? e / (e + 2.0) : 1.0 - 2.0 / (e + 2.0);
  return bits<Vec<double>>(bits<Vec<int64_t>>(r) | (bits<Vec<int64_t>>(x) & INT64_MIN));
}

/// x^y with all the C library's special cases, lane by lane.
template <class T, detail::IfScalar<T> = 0>
TSR_INLINE T vpow(T x, T y) {
  return std::pow(x, y);
}
template <class V, std::enable_if_t<!std::is_arithmetic_v<V>, int> = 0>
TSR_INLINE V vpow(V x, V y) {
  for (int i = 0; i < lanes<Element<V>>; ++i) x[i] = std::pow(Element<V>(x[i]), Element<V>(y[i]));
  return x;
}

/// The angle of the point (x, y), in (-pi, pi], with all the C library's special cases, lane by lane.
template <class T, detail::IfScalar<T> = 0>
TSR_INLINE T vatan2(T y, T x) {
  return std::atan2(y, x);
}
template <class V, std::enable_if_t<!std::is_arithmetic_v<V>, int> = 0>
TSR_INLINE V vatan2(V y, V x) {
  for (int i = 0; i < lanes<Element<V>>; ++i) y[i] = std::atan2(Element<V>(y[i]), Element<V>(x[i]));
  return y;
}

namespace detail {
// sin(x + quarter * pi/2) for |x| up to 10000: pi/2 subtracted in three parts whose products are exact for such x.
TSR_INLINE Vec<float> sine_of_quarter(Vec<float> x, int quarter) {
  constexpr float s[] = {-0.1666666666f, 0.008333331855f, -0.0001984007722f, 2.724879738e-6f};
  constexpr float k[] = {0.04166666666f, -0.001388888766f, 2.480059389e-5f, -2.730017372e-7f};
  const Vec<float> shifted = x * 0.636619772f + ExpLimits<float>::round;
  const Vec<float> n = shifted - ExpLimits<float>::round;
  const BitVec<float> q = bits<BitVec<float>>(shifted) + uint32_t(quarter);
  const Vec<float> r = ((x - n * 1.5703125f) - n * 4.83751296997e-4f) - n * 7.54978995489e-8f;
  const Vec<float> rr = r * r;
  const Vec<float> sine = polynomial(rr, s) * (rr * r) + r;
  const Vec<float> cosine = polynomial(rr, k) * (rr * rr) - 0.5f * rr + 1.0f;
  const Vec<float> v = (q & 1u) != 0u ? cosine : sine;
  return bits<Vec<float>>(bits<BitVec<float>>(v) ^ ((q & 2u) << 30));
}
}  // namespace detail

/// Sine and cosine: <= 2 ulp or 1e-7 absolute for |x| <= 10000, the C library beyond. An infinity gives NaN. Double: C library.
template <class T, detail::IfScalar<T> = 0>
TSR_INLINE T vsin(T x) {
  return std::sin(x);
}
template <class T, detail::IfScalar<T> = 0>
TSR_INLINE T vcos(T x) {
  return std::cos(x);
}
TSR_INLINE Vec<float> vsin(Vec<float> x) {
  if (__builtin_expect(any(!(vabs(x) <= 10000.0f)), 0)) return detail::map_lanes(x, [](float v) { return std::sin(v); });
  return detail::sine_of_quarter(x, 0);
}
TSR_INLINE Vec<float> vcos(Vec<float> x) {
  if (__builtin_expect(any(!(vabs(x) <= 10000.0f)), 0)) return detail::map_lanes(x, [](float v) { return std::cos(v); });
  return detail::sine_of_quarter(x, 1);
}
TSR_INLINE Vec<double> vsin(Vec<double> x) {
  return detail::map_lanes(x, [](double v) { return std::sin(v); });
}
TSR_INLINE Vec<double> vcos(Vec<double> x) {
  return detail::map_lanes(x, [](double v) { return std::cos(v); });
}

}  // namespace tsr
