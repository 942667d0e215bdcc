// Tiles of 16-bit floats in shared memory, and products of a warp on them (tensor cores, sm_80).
//
// A warp multiplies fragments: 16 x 16 of a left operand, 16 x 8 of a right one, 16 x 8 sums in float. Lane i holds of the sums
// rows i / 4 and i / 4 + 8, columns 2 (i % 4) and the next: sums[0], sums[1] in the first row, sums[2], sums[3] in the second.
// So the sums of two neighbouring fragments, rounded, are a left operand of the next product where they lie.
#pragma once
#include <cstdint>

#include "math.cuh"
#include "ptx.cuh"
#ifndef TSR_EMULATION  // which declares the types itself
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace tsr::mma {

/// What tensor cores do with elements of type E.
template <class E>
struct Unit;
template <>
struct Unit<__nv_bfloat16> {
  __device__ static void multiply(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { ptx::mma_bf16(sums, a, b); }
  __device__ static uint32_t pack(float low, float high) { return ptx::pack_bf16(low, high); }
};
template <>
struct Unit<__half> {
  __device__ static void multiply(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { ptx::mma_f16(sums, a, b); }
  __device__ static uint32_t pack(float low, float high) { return ptx::pack_f16(low, high); }
};

template <class T>
__device__ inline void store_two(T* p, float x, float y) { *reinterpret_cast<uint32_t*>(p) = Unit<T>::pack(x, y); }
template <>
__device__ inline void store_two(float* p, float x, float y) { p[0] = x, p[1] = y; }  // rows of floats may begin anywhere

constexpr int rounded_up(int n, int unit) { return (n + unit - 1) / unit * unit; }
/// The largest power of two that divides n, 8 at most.
constexpr int power_in(int n) { return n % 8 == 0 ? 8 : n % 4 == 0 ? 4 : n % 2 == 0 ? 2 : 1; }

/// A right operand's fragments for 16 columns: 8 and the 8 behind them.
struct Columns {
  uint32_t b[2][2];
};

/// `Rows` x `Width` elements, in pieces of 16 bytes. Where in a row a piece lies depends on the row: so the 8 rows that ldmatrix
/// reads at once, at the same column, fall into different banks. Width is a multiple of 16.
template <class E, int Rows, int Width>
struct Tile {
  static_assert(Rows % 16 == 0 && Width % 16 == 0, "whole fragments");
  static constexpr int kRows = Rows, kWidth = Width, kPieces = Width / 8, kElements = Rows * Width;
  static constexpr int kPower = power_in(kPieces);
  E* data;

  /// The piece of 8 elements from column 8 `piece` on.
  __device__ E* at(int row, int piece) const { return data + (row * kPieces + (piece ^ (row / (8 / kPower) % kPower))) * 8; }

  /// Starts to copy rows [first, first + Rows) of x, of which there are `rows`, and `columns` (a multiple of 8) in each; zeros beyond.
  template <int Threads>
  __device__ void fetch(const E* x, int64_t stride, int first, int rows, int columns) const {
#pragma unroll
    for (int i = threadIdx.x; i < Rows * kPieces; i += Threads) {
      const int r = i / kPieces, piece = i % kPieces;
      const bool inside = first + r < rows && piece * 8 < columns;
      ptx::copy_async<16>(at(r, piece), inside ? x + (first + r) * stride + piece * 8 : x, inside ? 16 : 0);
    }
  }

  /// Rows [row, row + 16) and columns [16 step, 16 step + 16) as a left operand.
  __device__ void load_left(uint32_t (&a)[4], int row, int step) const {
    const int lane = threadIdx.x % 32;
    ptx::ldmatrix_x4(a, at(row + lane % 16, 2 * step + lane / 16));
  }
  /// The transpose of rows [16 step, 16 step + 16) and 16 columns from piece `piece` on, as a left operand.
  __device__ void load_left_transposed(uint32_t (&a)[4], int step, int piece) const {
    const int lane = threadIdx.x % 32;
    ptx::ldmatrix_x4_transposed(a, at(16 * step + lane % 8 + lane / 16 * 8, piece + lane / 8 % 2));
  }
  /// The transpose of rows [row, row + 16) and columns [16 step, 16 step + 16), as a right operand.
  __device__ Columns load_right_transposed(int row, int step) const {
    const int lane = threadIdx.x % 32;
    uint32_t r[4];
    ptx::ldmatrix_x4(r, at(row + lane % 8 + lane / 16 * 8, 2 * step + lane / 8 % 2));
    return {{{r[0], r[1]}, {r[2], r[3]}}};
  }
  /// Rows [16 step, 16 step + 16) and 16 columns from piece `piece` on, as a right operand.
  __device__ Columns load_right(int step, int piece) const {
    const int lane = threadIdx.x % 32;
    uint32_t r[4];
    ptx::ldmatrix_x4_transposed(r, at(16 * step + lane % 16, piece + lane / 16));
    return {{{r[0], r[1]}, {r[2], r[3]}}};
  }
};

/// sums[m][n] += rows [row + 16 m, ...) of x times rows [8 n, ...) of y, over their columns.
template <int M, int N, class E, int XRows, int YRows, int Width>
__device__ inline void add_dots(float (&sums)[M][N][4], const Tile<E, XRows, Width>& x, int row, const Tile<E, YRows, Width>& y) {
#pragma unroll
  for (int step = 0; step < Width / 16; ++step) {
    uint32_t a[M][4];
#pragma unroll
    for (int m = 0; m < M; ++m) x.load_left(a[m], row + 16 * m, step);
#pragma unroll
    for (int n = 0; n < N; n += 2) {
      const Columns right = y.load_right_transposed(8 * n, step);
#pragma unroll
      for (int m = 0; m < M; ++m) {
        Unit<E>::multiply(sums[m][n], a[m], right.b[0]);
        Unit<E>::multiply(sums[m][n + 1], a[m], right.b[1]);
      }
    }
  }
}

/// sums[m][n] += weights (rounded to E) times y, for the columns of y from 8 `piece` on.
template <int M, int N, int K, class E, int YRows, int Width>
__device__ inline void add_weighted(float (&sums)[M][N][4], const float (&weights)[M][K][4], const Tile<E, YRows, Width>& y, int piece) {
  static_assert(K * 8 == YRows, "a weight per row");
#pragma unroll
  for (int step = 0; step < K / 2; ++step) {
    uint32_t a[M][4];
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float(&w)[4] = weights[m][2 * step + i / 2];
        a[m][i] = Unit<E>::pack(w[i % 2 * 2], w[i % 2 * 2 + 1]);
      }
#pragma unroll
    for (int n = 0; n < N; n += 2) {
      if (N * 8 != Width && piece + n >= Tile<E, YRows, Width>::kPieces) break;  // the last of several parts may be narrower
      const Columns right = y.load_right(step, piece + n);
#pragma unroll
      for (int m = 0; m < M; ++m) {
        Unit<E>::multiply(sums[m][n], a[m], right.b[0]);
        Unit<E>::multiply(sums[m][n + 1], a[m], right.b[1]);
      }
    }
  }
}

}  // namespace tsr::mma
