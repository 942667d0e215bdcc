// Orthonormal wavelet transforms along a line by one block, periodic, packed as runtime/wavelet.h packs them: the same lattice
// of rotations of even and odd numbers (Vaidyanathan and Hoang 1988), whose rotations of one step are independent.
#pragma once
#include "context.cuh"
#include "math.cuh"

namespace tsr {

constexpr int kWaveletThreads = 128;

struct Haar {
  static constexpr int steps = 1, shift = 0;
  static constexpr double scale = 0.7071067811865475244;
  __device__ static double turn(int) { return 1.0; }
};
struct Db2 {
  static constexpr int steps = 2, shift = 1;
  static constexpr double scale = 0.48296291314453414337;
  __device__ static double turn(int s) { return s == 0 ? 1.7320508075688772935 : 0.26794919243112270647; }
};
struct Db4 {
  static constexpr int steps = 4, shift = 3;
  static constexpr double scale = 0.23037781330889650086;
  __device__ static double turn(int s) { return s == 0 ? 3.1029314858303258947 : s == 1 ? 0.81093134449390483858 : s == 2 ? -0.25929388162988974607 : 0.046000097113777892609; }
};

/// One step of rotations of m pairs. Every step but the first shifts the pairs' second numbers by one; they stay where they
/// are, and what belongs to a[k] after step s lies in d[(k + s) % m].
template <class W, bool Back, class T>
__device__ inline void rotate_pairs(T* a, T* d, int m, int step) {
  const T turn = T(W::turn(step)), scale = step == (Back ? 0 : W::steps - 1) ? T(W::scale) : T(1);
  for (int k = threadIdx.x; k < m; k += kWaveletThreads) {
    const int partner = (k + step) % m;
    const T u = a[k], v = d[partner];
    if (step == 0) a[k] = (u + turn * v) * scale, d[partner] = (turn * u - v) * scale;
    else if (Back) a[k] = u - turn * v, d[partner] = v + turn * u;
    else a[k] = (u + turn * v) * scale, d[partner] = (v - turn * u) * scale;
  }
  __syncthreads();
}

/// y = the wavelet transform of x, `level` times; 2^level divides n. `work` is the block's own memory of 2 n numbers.
template <class W, class T>
__device__ inline void wavelet_line(T* work, const T* x, int64_t sx, T* y, int64_t sy, int n, int level) {
  T *const whole = work, *const a = work + n, *const d = a + n / 2;
  for (int k = threadIdx.x; k < n; k += kWaveletThreads) whole[k] = x[k * sx];
  __syncthreads();
  for (int m = n / 2; level > 0; --level, m /= 2) {
    for (int k = threadIdx.x; k < m; k += kWaveletThreads) {
      const int at = (2 * k + 2 * m - W::shift % (2 * m)) % (2 * m);
      a[k] = whole[at], d[k] = whole[(at + 1) % (2 * m)];
    }
    __syncthreads();
    for (int s = 0; s < W::steps; ++s) rotate_pairs<W, false>(a, d, m, s);
    for (int k = threadIdx.x; k < m; k += kWaveletThreads) {
      whole[k] = a[k], y[(m + k) * sy] = d[(k + W::steps - 1) % m];
      if (level == 1) y[k * sy] = a[k];
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
    for (int k = threadIdx.x; k < m; k += kWaveletThreads) a[k] = whole[k], d[(k + W::steps - 1) % m] = x[(m + k) * sx];
    __syncthreads();
    for (int s = W::steps - 1; s >= 0; --s) rotate_pairs<W, true>(a, d, m, s);
    for (int k = threadIdx.x; k < m; k += kWaveletThreads) {
      const int at = (2 * k + 2 * m - W::shift % (2 * m)) % (2 * m);
      whole[at] = a[k], whole[(at + 1) % (2 * m)] = d[k];
    }
    __syncthreads();
  }
  for (int k = threadIdx.x; k < n; k += kWaveletThreads) y[k * sy] = whole[k];
  __syncthreads();
}

}  // namespace tsr
