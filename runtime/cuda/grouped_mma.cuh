// Products over rows sorted by expert on tensor cores (sm_80): operands of 16 bits, sums in float. Blocks find their rows as those of
// grouped.cuh do: no row is padded, and a sum's order depends on the rows of its expert alone.
#pragma once
#include "grouped.cuh"
#include "product_mma.cuh"

namespace tsr::mma {

/// Stores a pair of results where there are two columns; rows of floats may begin anywhere.
__device__ inline void store_pair(float* row, int64_t column, int64_t columns, float x, float y) {
  if (column < columns) row[column] = x;
  if (column + 1 < columns) row[column + 1] = y;
}

/// out[r] = x[r] times the matrix of the expert of row r; zeros where it has none. Along: matrices are stored as columns x width.
/// Grid: tiles of rows, tiles of columns.
template <class Cut, bool Along, bool Aligned, class E, int Count>
__global__ void __launch_bounds__(Cut::threads, Cut::blocks) grouped_contract_blocks(Grouped s, const E* __restrict__ x, const int* __restrict__ offsets, Experts<const E, Count> experts,
                                                                                     float* __restrict__ out) {
  using Block = BlockProduct<Cut, E, true, Along, Aligned>;
  extern __shared__ __align__(128) char memory[];
  RowTile tile;
  if (!find_rows(offsets, Count, s.rows, Cut::rows, blockIdx.x, tile)) return;  // the whole block
  const int column = int(blockIdx.y) * Cut::columns;
  const OwnRows<const E> own = tile.expert < Count ? experts.own[tile.expert] : OwnRows<const E>{nullptr, 0};
  typename Block::Sums sums = {};
  if (own.data != nullptr) {
    const Lines<E> a{x + tile.row * s.next_x, s.next_x, 0, int(tile.rows)}, b{own.data, own.distance, column, int(s.columns)};
    Block::add(memory, a, b, int(s.width), sums, AsItIs());
  }
  Block::for_pairs(sums, [&](int i, int j, float first, float second) {
    if (i < tile.rows) store_pair(out + (tile.row + i) * s.next_y, column + j, s.columns, first, second);
  });
}

/// The expert's matrix = x^T y over its rows. Grid: tiles of the matrix, experts.
template <class Cut, bool Aligned, class E, int Count>
__global__ void __launch_bounds__(Cut::threads, Cut::blocks) grouped_outer_blocks(Grouped s, const E* __restrict__ x, const E* __restrict__ y, const int* __restrict__ offsets,
                                                                                  Experts<float, Count> experts) {
  using Block = BlockProduct<Cut, E, false, false, Aligned>;
  extern __shared__ __align__(128) char memory[];
  const OwnRows<float> own = experts.own[blockIdx.y];
  if (own.data == nullptr) return;  // the whole block
  const int64_t begin = offsets[blockIdx.y];
  const int across = int((s.columns + Cut::columns - 1) / Cut::columns);
  const int row = int(blockIdx.x) / across * Cut::rows, column = int(blockIdx.x) % across * Cut::columns;
  typename Block::Sums sums = {};
  const Lines<E> a{x + begin * s.next_x, s.next_x, row, int(s.width)}, b{y + begin * s.next_y, s.next_y, column, int(s.columns)};
  Block::add(memory, a, b, int(offsets[blockIdx.y + 1] - begin), sums, AsItIs());
  Block::for_pairs(sums, [&](int i, int j, float first, float second) {
    if (row + i < s.width) store_pair(own.data + (row + i) * own.distance, column + j, s.columns, first, second);
  });
}

template <class Cut, bool Along, bool Aligned, class E, int Count>
void launch_grouped_contract(cudaStream_t stream, const Grouped& s, const E* x, const int* offsets, const Experts<const E, Count>& experts, float* out) {
  constexpr int bytes = BlockProduct<Cut, E, true, Along, Aligned>::bytes;
  const dim3 grid(unsigned(most_row_tiles(s.rows, Count, Cut::rows)), unsigned((s.columns + Cut::columns - 1) / Cut::columns));
  if (bytes > 48 * 1024) cudaFuncSetAttribute(grouped_contract_blocks<Cut, Along, Aligned, E, Count>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  grouped_contract_blocks<Cut, Along, Aligned, E, Count><<<grid, Cut::threads, bytes, stream>>>(s, x, offsets, experts, out);
}

template <class Cut, bool Aligned, class E, int Count>
void launch_grouped_outer(cudaStream_t stream, const Grouped& s, const E* x, const E* y, const int* offsets, const Experts<float, Count>& experts) {
  constexpr int bytes = BlockProduct<Cut, E, false, false, Aligned>::bytes;
  const int64_t tiles = ((s.width + Cut::rows - 1) / Cut::rows) * ((s.columns + Cut::columns - 1) / Cut::columns);
  if (bytes > 48 * 1024) cudaFuncSetAttribute(grouped_outer_blocks<Cut, Aligned, E, Count>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  grouped_outer_blocks<Cut, Aligned, E, Count><<<dim3(unsigned(tiles), Count), Cut::threads, bytes, stream>>>(s, x, y, offsets, experts);
}

/// Rows times the matrices of their experts. Large: experts have enough rows on the average to fill large tiles.
template <bool Large, bool Along, bool Aligned, class E, int Count>
void grouped_contract(cudaStream_t stream, const Grouped& s, const E* x, const int* offsets, const Experts<const E, Count>& experts, float* out) {
  launch_grouped_contract<std::conditional_t<Large, LargeCut, SmallCut>, Along, Aligned>(stream, s, x, offsets, experts, out);
}

/// The gradients of those matrices. Large: all of them together have large tiles for most multiprocessors.
template <bool Large, bool Aligned, class E, int Count>
void grouped_outer(cudaStream_t stream, const Grouped& s, const E* x, const E* y, const int* offsets, const Experts<float, Count>& experts) {
  launch_grouped_outer<std::conditional_t<Large, LargeCut, SmallCut>, Aligned>(stream, s, x, y, offsets, experts);
}

}  // namespace tsr::mma
