// Orthonormal wavelet transforms along a line by one block, periodic, packed as runtime/wavelet.h packs them: the same
// lifting steps, each of which changes one stream by the other, so that all its pairs are independent.
#pragma once
#include "../lifting.h"
#include "context.cuh"
#include "math.cuh"

namespace tsr {

constexpr int kWaveletThreads = 128;

__device__ inline int wrapped(int k, int n) {
  const int rest = k % n;
  return rest < 0 ? rest + n : rest;
}

/// Step S of W on the approximations a and the details d of m pairs: added, or taken back.
template <class W, int S, bool Back, class T>
__device__ inline void lift(T* a, T* d, int m) {
  constexpr Lift step = W::steps[S];
  constexpr T near = T(Back ? -step.taps[0] : step.taps[0]);
  [[maybe_unused]] constexpr T far = T(Back ? -step.taps[1] : step.taps[1]);
  T* const to = step.onto_details ? d : a;
  const T* const from = step.onto_details ? a : d;
  for (int k = threadIdx.x; k < m; k += kWaveletThreads) {
    T sum = near * from[wrapped(k + step.first, m)];
    if constexpr (step.count > 1) sum += far * from[wrapped(k + step.first + 1, m)];
    to[k] += sum;
  }
  __syncthreads();
}
/// All steps of W from S on, or, backwards, from S down.
template <class W, int S, bool Back, class T>
__device__ inline void lift_all(T* a, T* d, int m) {
  if constexpr (S >= 0 && S < W::count) {
    lift<W, S, Back>(a, d, m);
    lift_all<W, Back ? S - 1 : S + 1, Back>(a, d, m);
  }
}

/// y = the wavelet transform of x, `level` times; 2^level divides n. `work` is the block's own memory of 2 n numbers.
template <class W, class T>
__device__ inline void wavelet_line(T* work, const T* x, int64_t sx, T* y, int64_t sy, int n, int level) {
  T *const whole = work, *const a = work + n, *const d = a + n / 2;
  for (int k = threadIdx.x; k < n; k += kWaveletThreads) whole[k] = x[k * sx];
  __syncthreads();
  for (int m = n / 2; level > 0; --level, m /= 2) {
    for (int k = threadIdx.x; k < m; k += kWaveletThreads) {
      a[k] = whole[wrapped(2 * k + W::approximation, 2 * m)];
      d[k] = whole[wrapped(2 * k + W::details, 2 * m)];
    }
    __syncthreads();
    lift_all<W, 0, false>(a, d, m);
    for (int k = threadIdx.x; k < m; k += kWaveletThreads) {
      whole[k] = a[k] * T(W::approximation_scale), y[(m + k) * sy] = d[k] * T(W::details_scale);
      if (level == 1) y[k * sy] = whole[k];
    }
    __syncthreads();
  }
}

/// The inverse of wavelet_line.
template <class W, class T>
__device__ inline void iwavelet_line(T* work, const T* x, int64_t sx, T* y, int64_t sy, int n, int level) {
  T *const whole = work, *const a = work + n, *const d = a + n / 2;
  int m = n >> level;
  for (int k = threadIdx.x; k < m; k += kWaveletThreads) whole[k] = x[k * sx];
  __syncthreads();
  for (; level > 0; --level, m *= 2) {
    for (int k = threadIdx.x; k < m; k += kWaveletThreads) {
      a[k] = whole[k] * T(1 / W::approximation_scale);
      d[k] = x[(m + k) * sx] * T(1 / W::details_scale);
    }
    __syncthreads();
    lift_all<W, W::count - 1, true>(a, d, m);
    for (int k = threadIdx.x; k < m; k += kWaveletThreads) {
      whole[wrapped(2 * k + W::approximation, 2 * m)] = a[k];
      whole[wrapped(2 * k + W::details, 2 * m)] = d[k];
    }
    __syncthreads();
  }
  for (int k = threadIdx.x; k < n; k += kWaveletThreads) y[k * sy] = whole[k];
  __syncthreads();
}

}  // namespace tsr
