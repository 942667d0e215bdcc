// A 64 x 64 tile of a matrix product by a block of 256 threads, 4 x 4 results per thread. Which tile of which matrices is
// the caller's affair: see grouped.cuh.
#pragma once
#include "math.cuh"

namespace tsr {

constexpr int kTileRows = 64, kTileColumns = 64, kTileDepth = 16, kTileThreads = 256;

/// Element (i, j) lies at data[i * down + j * across]; outside of rows x columns there are zeros.
template <class T>
struct TileOperand {
  const T* data;
  int64_t down, across;
  int64_t rows, columns;
  template <class Real>
  __device__ Real at(int64_t i, int64_t j) const { return i < rows && j < columns ? Real(data[i * down + j * across]) : Real(0); }
};

/// Row and column, within the tile, of a thread's result (i, j).
__device__ inline int tile_row(int i) { return threadIdx.x / 16 * 4 + i; }
__device__ inline int tile_column(int j) { return j * 16 + threadIdx.x % 16; }

/// sum[i][j] += the sum over p of a(tile_row(i), p) * b(p, tile_column(j)), p rising. All threads of the block must call it.
template <class Real, class T>
__device__ inline void multiply_tile(const TileOperand<T>& a, const TileOperand<T>& b, Real (&sum)[4][4]) {
  __shared__ Real a_tile[kTileDepth][kTileRows + 1], b_tile[kTileDepth][kTileColumns + 1];
  for (int64_t first = 0; first < a.columns; first += kTileDepth) {
    for (int i = threadIdx.x; i < kTileRows * kTileDepth; i += kTileThreads) {
      // Neighbouring threads read neighbouring elements, along whichever axis those lie.
      const int r = a.down == 1 ? i % kTileRows : i / kTileDepth, p = a.down == 1 ? i / kTileRows : i % kTileDepth;
      a_tile[p][r] = a.template at<Real>(r, first + p);
      const int q = b.down == 1 ? i % kTileDepth : i / kTileColumns, c = b.down == 1 ? i / kTileDepth : i % kTileColumns;
      b_tile[q][c] = b.template at<Real>(first + q, c);
    }
    __syncthreads();
#pragma unroll
    for (int p = 0; p < kTileDepth; ++p)
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) sum[i][j] += a_tile[p][tile_row(i)] * b_tile[p][tile_column(j)];
    __syncthreads();
  }
}

}  // namespace tsr
