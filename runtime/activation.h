// Error function, activations and their derivatives on Vec<float>, Vec<double>, float and double.
//
// x is the value the activation is applied to. A derivative returns d(activation)/dx at x; the _with_derivative forms
// return both for little more than the cost of one. Limits at infinities are exact; NaN gives NaN.
#pragma once
#include "elementary.h"

namespace tsr {

/// An activation and its derivative at the same point.
template <class V>
struct ValueAndDerivative {
  V value, derivative;
};

namespace detail {
template <class V>
using IfVector = std::enable_if_t<!std::is_arithmetic_v<V>, int>;

// Upper tail of the standard normal distribution, P(X > t) for t >= 0, relative error < 1e-6 (it is exp(-t^2/2) times a minimax fit in
// 1 / (1 + 0.3 t)), so no digits are lost where the tail is small; `density` = exp(-t^2/2) / sqrt(2 pi).
TSR_INLINE Vec<float> normal_tail(Vec<float> t, Vec<float>& density) {
  constexpr float c[] = {0.1196867165f, 0.1195713204f,  0.1102393203f, 0.07837235789f, 0.09620450498f,
                         -0.07950834458f, 0.1918822682f, -0.2282839977f, 0.1124644486f, -0.0206285964f};
  const Vec<float> u = 1.0f / (0.3f * t + 1.0f);
  const Vec<float> e = vexp(-0.5f * t * t);
  density = e * 0.3989422804f;
  return polynomial(u, c) * u * e;
}
TSR_INLINE double normal_tail(double t, double& density) {
  density = std::exp(-0.5 * t * t) * 0.39894228040143267794;
  return 0.5 * std::erfc(t * 0.70710678118654752440);
}
TSR_INLINE float normal_tail(float t, float& density) {
  double d;
  const double tail = normal_tail(double(t), d);
  density = float(d);
  return float(tail);
}
TSR_INLINE Vec<double> normal_tail(Vec<double> t, Vec<double>& density) {
  Vec<double> tail = t;
  for (int i = 0; i < lanes<double>; ++i) {
    double d;
    tail[i] = normal_tail(double(t[i]), d);
    density[i] = d;
  }
  return tail;
}

// |x| of a scalar or vector.
template <class T, IfScalar<T> = 0>
TSR_INLINE T magnitude(T x) {
  return std::fabs(x);
}
template <class V, IfVector<V> = 0>
TSR_INLINE V magnitude(V x) {
  return vabs(x);
}

// A scalar constant in the type of x.
template <class V>
TSR_INLINE V constant(Element<V> c) {
  if constexpr (std::is_arithmetic_v<V>) return c;
  else return broadcast(c);
}

// x limited from below, or on both sides, to where an activation has reached its limit: keeps 0 * inf out. NaN stays.
template <class V>
TSR_INLINE V at_least(V x, Element<V> bound) {
  return vmax(constant<V>(bound), x);
}
template <class V>
TSR_INLINE V within(V x, Element<V> bound) {
  return vmin(constant<V>(bound), at_least(x, -bound));
}
}  // namespace detail

/// Error function, float <= 3 ulp. Double: C library.
template <class T, detail::IfScalar<T> = 0>
TSR_INLINE T verf(T x) {
  return std::erf(x);
}
TSR_INLINE Vec<float> verf(Vec<float> x) {
  constexpr float c[] = {1.128379166f, -0.3761262582f, 0.1128358515f, -0.02685381199f, 0.005188327729f, -0.0008010193659f, 7.853860632e-5f};
  const Vec<float> t = vabs(x);
  Vec<float> density;
  const Vec<float> large = 1.0f - 2.0f * detail::normal_tail(1.41421356f * t, density);
  const Vec<float> small = detail::polynomial(x * x, c) * x;
  return t < 1.0f ? small : (x < 0.0f ? -large : large);
}
TSR_INLINE Vec<double> verf(Vec<double> x) {
  return detail::map_lanes(x, [](double v) { return std::erf(v); });
}

namespace detail {
// sigmoid(x) and its derivative sigmoid(x) (1 - sigmoid(x)) from e^-|x|, which cannot overflow: no digits are lost on either side.
template <class V>
TSR_INLINE ValueAndDerivative<V> sigmoid_pair(V x) {
  using T = Element<V>;
  const V e = vexp(-magnitude(x)), r = T(1) / (T(1) + e), er = e * r;
  return {x < T(0) ? er : r, er * r};
}
}  // namespace detail

/// 1 / (1 + e^-x), <= 3 ulp.
template <class V>
TSR_INLINE V vsigmoid(V x) {
  return detail::sigmoid_pair(x).value;
}

/// x s and s + x s (1 - s), s = sigmoid(x).
template <class V>
TSR_INLINE ValueAndDerivative<V> vsilu_with_derivative(V x) {
  const V y = detail::within(x, Element<V>(800));
  const auto s = detail::sigmoid_pair(y);
  return {detail::at_least(x, Element<V>(-800)) * s.value, s.value + y * s.derivative};
}

/// x sigmoid(x), relative error as vsigmoid.
template <class V>
TSR_INLINE V vsilu(V x) {
  return vsilu_with_derivative(x).value;
}

/// Derivative of vsilu.
template <class V>
TSR_INLINE V vdsilu(V x) {
  return vsilu_with_derivative(x).derivative;
}

/// x Phi(x) and Phi(x) + x phi(x), Phi and phi the distribution and density of the standard normal: the exact (erf) GELU.
/// Absolute error of the value <= 1e-7 max(1, x) (float), 1e-15 max(1, x) (double); relative error for negative x
/// <= 1e-6 (1 + x^2) (float), 4e-16 (1 + x^2) (double).
template <class V>
TSR_INLINE ValueAndDerivative<V> vgelu_with_derivative(V x) {
  using T = Element<V>;
  const V y = detail::within(x, T(50));
  V density;
  const V tail = detail::normal_tail(detail::magnitude(y), density);
  const V phi = x < T(0) ? tail : T(1) - tail;
  return {detail::at_least(x, T(-50)) * phi, phi + y * density};
}

/// Exact GELU, x Phi(x).
template <class V>
TSR_INLINE V vgelu(V x) {
  return vgelu_with_derivative(x).value;
}

/// Derivative of vgelu, absolute error <= 2e-7 (float).
template <class V>
TSR_INLINE V vdgelu(V x) {
  return vgelu_with_derivative(x).derivative;
}

/// The tanh form of GELU, x sigmoid(2 u) with u = sqrt(2/pi) (x + 0.044715 x^3), and its derivative.
/// Float: absolute error of the value <= 2e-7 max(1, x).
template <class V>
TSR_INLINE ValueAndDerivative<V> vgelu_tanh_with_derivative(V x) {
  using T = Element<V>;
  constexpr T a = T(1.5957691216057307117), b = a * T(0.044715);  // 2 sqrt(2/pi)
  const V y = detail::within(x, T(50)), yy = y * y;
  const auto s = detail::sigmoid_pair(V(y * (b * yy + a)));
  return {detail::at_least(x, T(-50)) * s.value, s.value + y * s.derivative * (T(3) * b * yy + a)};
}

/// GELU in its tanh form.
template <class V>
TSR_INLINE V vgelu_tanh(V x) {
  return vgelu_tanh_with_derivative(x).value;
}

/// Derivative of vgelu_tanh, absolute error <= 4e-7 (float).
template <class V>
TSR_INLINE V vdgelu_tanh(V x) {
  return vgelu_tanh_with_derivative(x).derivative;
}

/// log(1 + e^x), <= 4 ulp.
template <class V>
TSR_INLINE V vsoftplus(V x) {
  using T = Element<V>;
  return (x > T(0) ? x : detail::constant<V>(T(0))) + vlog1p(vexp(-detail::magnitude(x)));
}

/// max(x, 0); NaN stays.
template <class V>
TSR_INLINE V vrelu(V x) {
  return x < Element<V>(0) ? detail::constant<V>(0) : x;
}

}  // namespace tsr
