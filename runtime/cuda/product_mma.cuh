// Matrix products on tensor cores (sm_80): bf16 or fp16 operands, or float ones rounded to tf32, with sums in float. For products
// that take more along than cuBLASLt does: what writes the result may do anything with it. Sums over the terms run in rising
// order, in steps of one multiplication, whatever the tile.
//
// The warps of a block share a tile of the result. The operands come through a ring of stages in shared memory, copied
// ahead of the stage that is computed with.
//
// A product is a type P, passed to the kernel, with
//   Element                     of the operands
//   shape                       a Shape
//   left_along, right_along     whether the terms of a row of a, of a column of b, lie side by side
//   aligned                     whether every line of both begins at a multiple of 16 bytes
//   maps                        whether elements of a pass through map(item, row, term, x) when they are read
//   left(item), right(item)     where the operands of product `item` of the batch lie
//   write(item, row, column, product, both)
//                               takes two neighbouring elements of a row, of which the second may lie beyond it
#pragma once
#include <type_traits>

#include "product_operand.cuh"

namespace tsr::mma {

/// c (m x n) = a (m x k) times b (k x n), `batch` times; lda, ldb: distance of lines in memory.
struct Shape {
  int64_t m, n, k;
  int64_t lda, ldb;
  int64_t batch;
};

/// A block's tile of the result is Rows x Columns; its warps, Down x Across, share it. At least `Blocks` fit a multiprocessor.
template <int Rows, int Columns, int Down, int Across, int Blocks>
struct ProductCut {
  static constexpr int rows = Rows, columns = Columns, across = Across, threads = 32 * Down * Across, blocks = Blocks;
  static constexpr int stages = 4, stage_bytes = 64;  // of a line, along the terms
  static constexpr int warp_rows = Rows / Down, warp_columns = Columns / Across;
};

/// Lines of an operand: rows of the left one, columns of the right one. A tile begins at line `first`; there are `count`, `stride` apart
/// (or, where lines lie side by side, their terms are).
template <class E>
struct Lines {
  const E* data;
  int64_t stride;
  int first, count;
};

/// An element that is used as it is read.
struct AsItIs {};

/// A tile of a product, computed by a block. LeftAlong, RightAlong, Aligned: as above.
template <class Cut, class E, bool LeftAlong, bool RightAlong, bool Aligned>
struct BlockProduct {
  static constexpr int depth = Cut::stage_bytes / int(sizeof(E)), M = Cut::warp_rows / 16, N = Cut::warp_columns / 8;
  using Left = Operand<E, LeftAlong, Cut::rows, depth>;
  using Right = Operand<E, RightAlong, Cut::columns, depth>;
  static constexpr int stage = Left::kBytes + Right::kBytes, bytes = Cut::stages * stage;
  using Sums = float[M][N][4];

  __device__ static int own_row() { return threadIdx.x / 32 / Cut::across * Cut::warp_rows; }
  __device__ static int own_column() { return threadIdx.x / 32 % Cut::across * Cut::warp_columns; }

  /// sums += a b over their terms. `map`: (row in the tile, term, x) -> x' for elements of a, or AsItIs. All threads call it.
  template <class Map>
  __device__ static void add(char* memory, const Lines<E>& a, const Lines<E>& b, int terms, Sums& sums, const Map& map) {
    const int steps = (terms + depth - 1) / depth;
    auto fetch = [&](int step) {
      if (step < steps) {
        char* const at = memory + step % Cut::stages * stage;
        Left(at).template fetch<Aligned, Cut::threads>(a.data, a.stride, a.first, a.count, step * depth, terms);
        Right(at + Left::kBytes).template fetch<Aligned, Cut::threads>(b.data, b.stride, b.first, b.count, step * depth, terms);
      }
      ptx::copy_async_commit();
    };
    __syncthreads();  // what was computed from this memory before is done with
    for (int ahead = 0; ahead < Cut::stages - 1; ++ahead) fetch(ahead);
    for (int step = 0; step < steps; ++step) {
      ptx::copy_async_wait<Cut::stages - 2>();
      __syncthreads();  // the stage is here for all, and the one before it is done with
      fetch(step + Cut::stages - 1);
      const Left left(memory + step % Cut::stages * stage);
      const Right right(memory + step % Cut::stages * stage + Left::kBytes);
#pragma unroll
      for (int part = 0; part < depth / Left::kStep; ++part) {
        uint32_t fragments[M][4];
#pragma unroll
        for (int m = 0; m < M; ++m) {
          left.left(fragments[m], own_row() + 16 * m, part);
          if constexpr (!std::is_same_v<Map, AsItIs>)
            Left::map(fragments[m], [&](int i, int j, float x) { return map(own_row() + 16 * m + i, step * depth + part * Left::kStep + j, x); });
          Left::round(fragments[m]);
        }
#pragma unroll
        for (int n = 0; n < N; n += 2) {
          Columns pair = right.right(own_column() + 8 * n, part);
          Right::round(pair);
#pragma unroll
          for (int m = 0; m < M; ++m) {
            Left::multiply(sums[m][n], fragments[m], pair.b[0]);
            Left::multiply(sums[m][n + 1], fragments[m], pair.b[1]);
          }
        }
      }
    }
  }

  /// f(row, column, x, y) for pairs of neighbouring results, by their places in the tile.
  template <class F>
  __device__ static void for_pairs(const Sums& sums, const F& f) {
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int n = 0; n < N; ++n)
          f(own_row() + 16 * m + int(threadIdx.x) % 32 / 4 + 8 * half, own_column() + 8 * n + int(threadIdx.x) % 4 * 2, sums[m][n][2 * half], sums[m][n][2 * half + 1]);
  }
};

template <class Cut, class P>
using BlockProductOf = BlockProduct<Cut, typename P::Element, P::left_along, P::right_along, P::aligned>;

/// Grid: tiles of the result, batch.
template <class Cut, class P>
__global__ void __launch_bounds__(Cut::threads, Cut::blocks) product(P p) {
  using Block = BlockProductOf<Cut, P>;
  constexpr int high = 8;
  extern __shared__ __align__(128) char memory[];
  const int rows = int(p.shape.m), columns = int(p.shape.n), terms = int(p.shape.k);
  // Neighbouring blocks take tiles of `high` rows below each other, so that what they read is read by several of them.
  const int down = (rows + Cut::rows - 1) / Cut::rows, across = (columns + Cut::columns - 1) / Cut::columns;
  const int top = blockIdx.x / (high * across) * high, within = blockIdx.x % (high * across), height = down - top < high ? down - top : high;
  const int row = (top + within % height) * Cut::rows, column = within / height * Cut::columns;
  for (int item = blockIdx.y; item < p.shape.batch; item += gridDim.y) {
    typename Block::Sums sums = {};
    const Lines<typename P::Element> a{p.left(item), p.shape.lda, row, rows}, b{p.right(item), p.shape.ldb, column, columns};
    if constexpr (P::maps) Block::add(memory, a, b, terms, sums, [&](int i, int term, float x) { return p.map(item, row + i, term, x); });
    else Block::add(memory, a, b, terms, sums, AsItIs());
    Block::for_pairs(sums, [&](int i, int j, float x, float y) {
      if (row + i < rows && column + j < columns) p.write(item, row + i, column + j, {{x, y}}, column + j + 1 < columns);
    });
  }
}

template <class Cut, class P>
void launch_product(cudaStream_t stream, const P& p) {
  constexpr int bytes = BlockProductOf<Cut, P>::bytes;
  const int64_t tiles = ((p.shape.m + Cut::rows - 1) / Cut::rows) * ((p.shape.n + Cut::columns - 1) / Cut::columns);
  const dim3 grid(unsigned(tiles), unsigned(p.shape.batch < 65535 ? p.shape.batch : 65535));
  if (bytes > 48 * 1024) cudaFuncSetAttribute(product<Cut, P>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  product<Cut, P><<<grid, Cut::threads, bytes, stream>>>(p);
}

using LargeCut = ProductCut<128, 128, 2, 4, 1>;
using SmallCut = ProductCut<64, 64, 2, 2, 3>;
/// Whether a product has a block of large tiles for most multiprocessors. Smaller ones take smaller tiles, and occupy more of them.
constexpr bool has_large_tiles(const Shape& s) { return (s.m + 127) / 128 * ((s.n + 127) / 128) * s.batch >= 128; }

/// Puts a product on a stream whose sizes are known when it is compiled: P::shape is a constant.
template <class P>
void product_mma(cudaStream_t stream, const P& p) {
  if constexpr (has_large_tiles(P::shape)) launch_product<LargeCut>(stream, p);
  else launch_product<SmallCut>(stream, p);
}

}  // namespace tsr::mma
