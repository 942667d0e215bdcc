// Sums, maxima and minima over a warp and over a block, and the second phases of sums over rows. Every result is
// combined in an order that depends on the sizes alone: no atomics, bitwise the same in every run.
#pragma once
#include "math.cuh"

namespace tsr {

struct SumOf {
  template <class T>
  __device__ static T identity() { return T(0); }
  template <class T>
  __device__ static T combine(T a, T b) { return a + b; }
};
struct MaxOf {
  template <class T>
  __device__ static T identity() { return -infinity<T>(); }
  template <class T>
  __device__ static T combine(T a, T b) { return tsr_max(a, b); }
};
struct MinOf {
  template <class T>
  __device__ static T identity() { return infinity<T>(); }
  template <class T>
  __device__ static T combine(T a, T b) { return tsr_min(a, b); }
};

constexpr unsigned kWholeWarp = 0xffffffffu;

/// All 32 values of a warp combined; every lane gets the result. All lanes must call it.
template <class Op, class T>
__device__ inline T warp_reduce(T x) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) x = Op::combine(x, __shfl_xor_sync(kWholeWarp, x, distance));
  return x;
}

/// The values of all threads of a one-dimensional block combined; every thread gets the result. All threads must call it.
template <class Op, int Threads, class T>
__device__ inline T block_reduce(T x) {
  static_assert(Threads % 32 == 0 && Threads <= 1024, "whole warps");
  __shared__ T of_warp[Threads / 32];
  x = warp_reduce<Op>(x);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = x;
  __syncthreads();
  T result = of_warp[0];
#pragma unroll
  for (int w = 1; w < Threads / 32; ++w) result = Op::combine(result, of_warp[w]);
  __syncthreads();  // before the next call writes of_warp
  return result;
}

template <class T>
__device__ inline T warp_sum(T x) { return warp_reduce<SumOf>(x); }
template <class T>
__device__ inline T warp_max(T x) { return warp_reduce<MaxOf>(x); }
template <class T>
__device__ inline T warp_min(T x) { return warp_reduce<MinOf>(x); }
template <int Threads, class T>
__device__ inline T block_sum(T x) { return block_reduce<SumOf, Threads>(x); }
template <int Threads, class T>
__device__ inline T block_max(T x) { return block_reduce<MaxOf, Threads>(x); }
template <int Threads, class T>
__device__ inline T block_min(T x) { return block_reduce<MinOf, Threads>(x); }

/// *out = all `count` partial results combined. One block of 256 threads.
template <class Op, class T, class P>
__global__ void __launch_bounds__(256) combine_blocks(const P* __restrict__ partial, int count, T* __restrict__ out) {
  P value = Op::template identity<P>();
  for (int i = threadIdx.x; i < count; i += 256) value = Op::combine(value, partial[i]);
  value = block_reduce<Op, 256>(value);
  if (threadIdx.x == 0) *out = T(value);
}

/// out[c * stride] = partial[0][c], partial[1][c], ... combined, for c < columns. Blocks of 32 x 8 threads, one thread
/// column per result.
template <class Op, class T>
__global__ void __launch_bounds__(256) combine_rows(const T* __restrict__ partial, int rows, int columns, int64_t stride, T* __restrict__ out) {
  __shared__ T of_slice[8][32];
  const int c = blockIdx.x * 32 + threadIdx.x;
  T value = Op::template identity<T>();
  if (c < columns)
    for (int row = threadIdx.y; row < rows; row += 8) value = Op::combine(value, partial[int64_t(row) * columns + c]);
  of_slice[threadIdx.y][threadIdx.x] = value;
  __syncthreads();
  if (threadIdx.y != 0 || c >= columns) return;
  for (int slice = 1; slice < 8; ++slice) value = Op::combine(value, of_slice[slice][threadIdx.x]);
  out[c * stride] = value;
}

/// Row r of a table (r = blockIdx.x) becomes the sum of the rows t of `values` with place[t] == r, added in rising order
/// of t; zero if there is none. blockIdx.y counts columns in steps of the block's 128 threads.
template <class T>
__global__ void __launch_bounds__(128) scatter_rows(const int* __restrict__ place, const T* __restrict__ values, int64_t rows, int64_t distance, int columns,
                                                    T* __restrict__ table, int64_t row_stride, int64_t column_stride) {
  __shared__ unsigned hits[4];
  const int c = blockIdx.y * 128 + threadIdx.x;
  T sum = 0;
  for (int64_t first = 0; first < rows; first += 128) {
    const int64_t t = first + threadIdx.x;
    const bool hit = t < rows && place[t] == int(blockIdx.x);
    if (__syncthreads_or(hit) == 0) continue;
    const unsigned lanes = __ballot_sync(kWholeWarp, hit);
    if (threadIdx.x % 32 == 0) hits[threadIdx.x / 32] = lanes;
    __syncthreads();
    if (c < columns)
      for (int w = 0; w < 4; ++w)
        for (unsigned left = hits[w]; left != 0; left &= left - 1) sum += values[(first + w * 32 + __ffs(int(left)) - 1) * distance + c];
    __syncthreads();  // before the next round writes hits
  }
  if (c < columns) table[blockIdx.x * row_stride + c * column_stride] = sum;
}

}  // namespace tsr
