// Scalars on the device: the functions that emitted kernels call beyond CUDA's own. Same formulas as runtime/activation.h.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#ifndef TSR_EMULATION  // which declares the type itself
#include <cuda_bf16.h>
#endif

namespace tsr {

/// +infinity and a NaN of a floating type.
template <class T>
__device__ inline T infinity() { return T(INFINITY); }
template <class T>
__device__ inline T not_a_number() { return T(NAN); }

/// Whole numbers divided, rounded down; y > 0, both below 2^53.
template <class T>
__device__ inline T tsr_quotient(T x, T y) { return T(floor(double(x) / double(y))); }

/// x >= y ? x : y and x <= y ? x : y: a NaN in y stays.
template <class T>
__device__ inline T tsr_max(T x, T y) { return x >= y ? x : y; }
template <class T>
__device__ inline T tsr_min(T x, T y) { return x <= y ? x : y; }

/// max(x, 0); NaN stays.
template <class T>
__device__ inline T tsr_relu(T x) { return x < T(0) ? T(0) : x; }

/// -1, 0 or 1 by sign; 0 for NaN.
template <class T>
__device__ inline T tsr_sign(T x) { return x > T(0) ? T(1) : x < T(0) ? T(-1) : T(0); }

/// x limited to +-bound, where an activation has reached its limit: keeps 0 * inf out. NaN stays.
template <class T>
__device__ inline T tsr_within(T x, T bound) { return x < -bound ? -bound : x > bound ? bound : x; }

/// 1 / (1 + e^-x) and its derivative, from e^-|x|, which cannot overflow.
template <class T>
struct SigmoidPair {
  T value, derivative;
};
template <class T>
__device__ inline SigmoidPair<T> tsr_sigmoid_pair(T x) {
  const T e = exp(-fabs(x)), r = T(1) / (T(1) + e), er = e * r;
  return {x < T(0) ? er : r, er * r};
}
template <class T>
__device__ inline T tsr_sigmoid(T x) { return tsr_sigmoid_pair(x).value; }

/// log(1 + e^x).
template <class T>
__device__ inline T tsr_softplus(T x) { return (x > T(0) ? x : T(0)) + log1p(exp(-fabs(x))); }

/// x sigmoid(x) and its derivative.
template <class T>
__device__ inline T tsr_silu(T x) { return x < T(-800) ? T(-800) * tsr_sigmoid(x) : x * tsr_sigmoid(x); }
template <class T>
__device__ inline T tsr_dsilu(T x) {
  const SigmoidPair<T> s = tsr_sigmoid_pair(x);
  return s.value + tsr_within(x, T(800)) * s.derivative;
}

/// Upper tail of the standard normal distribution, P(X > x); erfc keeps its digits where the tail is small.
template <class T>
__device__ inline T tsr_normal_tail(T x) { return T(0.5) * erfc(x * T(0.70710678118654752440)); }

/// x Phi(x), the exact (erf) GELU, and its derivative Phi(x) + x phi(x).
template <class T>
__device__ inline T tsr_gelu(T x) { return (x < T(-50) ? T(-50) : x) * tsr_normal_tail(-x); }
template <class T>
__device__ inline T tsr_dgelu(T x) {
  const T y = tsr_within(x, T(50));
  return tsr_normal_tail(-y) + y * T(0.39894228040143267794) * exp(T(-0.5) * y * y);
}

/// The tanh form of GELU, x sigmoid(2 u) with u = sqrt(2/pi) (x + 0.044715 x^3), and its derivative.
template <class T>
__device__ inline T tsr_gelu_tanh(T x) {
  constexpr T a = T(1.5957691216057307117), b = a * T(0.044715);
  const T y = tsr_within(x, T(50));
  return (x < T(-50) ? T(-50) : x) * tsr_sigmoid(y * (b * y * y + a));
}
template <class T>
__device__ inline T tsr_dgelu_tanh(T x) {
  constexpr T a = T(1.5957691216057307117), b = a * T(0.044715);
  const T y = tsr_within(x, T(50));
  const SigmoidPair<T> s = tsr_sigmoid_pair(y * (b * y * y + a));
  return s.value + y * s.derivative * (T(3) * b * y * y + a);
}

/// Two or four neighbouring elements, read and written at once.
template <class T, int N>
struct alignas(sizeof(T) * N > 16 ? 16 : sizeof(T) * N) Neighbours {
  T v[N];
  __device__ T& operator[](int i) { return v[i]; }
  __device__ const T& operator[](int i) const { return v[i]; }
};
template <class T>
using Two = Neighbours<T, 2>;
template <class T>
using Four = Neighbours<T, 4>;
template <class T>
__device__ inline Two<T> load2(const T* p) { return *reinterpret_cast<const Two<T>*>(p); }
template <class T>
__device__ inline void store2(T* p, const Two<T>& x) { *reinterpret_cast<Two<T>*>(p) = x; }
template <class T>
__device__ inline Four<T> load4(const T* p) { return *reinterpret_cast<const Four<T>*>(p); }
template <class T>
__device__ inline void store4(T* p, const Four<T>& x) { *reinterpret_cast<Four<T>*>(p) = x; }

}  // namespace tsr
