// Products and sums over rows sorted by expert. Expert e has the rows offsets[e] .. offsets[e + 1]; how many those are is
// known on the device alone, so a grid has as many blocks as any routing may need, and a block finds its expert and its
// rows by itself. Rows are not padded, the host waits for nothing, and sums have an order that depends on the rows alone.
#pragma once
#include "context.cuh"
#include "product_tile.cuh"

namespace tsr {

/// An expert's matrix or vector and the distance of its rows; null for an expert that has none.
template <class T>
struct OwnRows {
  T* data;
  int64_t distance;
};
/// Those of all experts, by number. Read on the device, passed with the launch.
template <class T, int Count>
struct Experts {
  OwnRows<T> own[Count];
};

/// Sizes: `rows` of all experts together, of `width` elements; results have `columns`. Distances of rows in memory.
struct Grouped {
  int64_t rows, width, columns;
  int64_t next_x, next_y;
  bool transposed;  // a matrix is stored as columns x width
};

/// Rows row .. row + rows of one expert.
struct RowTile {
  int expert;
  int64_t row, rows;
};

/// Finds tile number `tile` among all tiles of at most `most` rows of one expert; rows behind the last expert's belong to
/// number `count`. False if there are fewer tiles.
__device__ inline bool find_rows(const int* offsets, int count, int64_t all, int most, int64_t tile, RowTile& found) {
  int64_t begin = 0;
  for (int e = 0; e <= count; ++e) {
    const int64_t end = e < count ? offsets[e + 1] : all, tiles = (end - begin + most - 1) / most;
    if (tile < tiles) {
      const int64_t row = begin + tile * most;
      found = {e, row, end - row < most ? end - row : int64_t(most)};
      return true;
    }
    tile -= tiles;
    begin = end;
  }
  return false;
}
/// The largest number of tiles that find_rows may find.
inline int64_t most_row_tiles(int64_t rows, int count, int most) { return rows / most + count + 1; }

/// out[r] = x[r] times the matrix of the expert of row r; zeros where it has none. Grid: tiles of rows, tiles of columns.
template <class T, int Count>
__global__ void __launch_bounds__(kTileThreads) grouped_contract_tiles(Grouped s, const T* __restrict__ x, const int* __restrict__ offsets, Experts<const T, Count> experts, T* __restrict__ out) {
  RowTile tile;
  if (!find_rows(offsets, Count, s.rows, kTileRows, blockIdx.x, tile)) return;  // the whole block
  const int64_t column = int64_t(blockIdx.y) * kTileColumns;
  const OwnRows<const T> own = tile.expert < Count ? experts.own[tile.expert] : OwnRows<const T>{nullptr, 0};
  T sum[4][4] = {};
  if (own.data != nullptr) {
    const int64_t down = s.transposed ? 1 : own.distance, across = s.transposed ? own.distance : 1;
    multiply_tile(TileOperand<T>{x + tile.row * s.next_x, s.next_x, 1, tile.rows, s.width}, TileOperand<T>{own.data + column * across, down, across, s.width, s.columns - column}, sum);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (tile_row(i) < tile.rows && column + tile_column(j) < s.columns) out[(tile.row + tile_row(i)) * s.next_y + column + tile_column(j)] = sum[i][j];
}

/// The expert's matrix = x^T y over its rows. Grid: tiles of the matrix, experts.
template <class T, int Count>
__global__ void __launch_bounds__(kTileThreads) grouped_outer_tiles(Grouped s, const T* __restrict__ x, const T* __restrict__ y, const int* __restrict__ offsets, Experts<T, Count> experts) {
  const OwnRows<T> own = experts.own[blockIdx.y];
  if (own.data == nullptr) return;  // the whole block
  const int64_t begin = offsets[blockIdx.y], rows = offsets[blockIdx.y + 1] - begin;
  const int64_t across = (s.columns + kTileColumns - 1) / kTileColumns;
  const int64_t row = blockIdx.x / across * kTileRows, column = blockIdx.x % across * kTileColumns;
  T sum[4][4] = {};
  multiply_tile(TileOperand<T>{x + begin * s.next_x + row, 1, s.next_x, s.width - row, rows}, TileOperand<T>{y + begin * s.next_y + column, s.next_y, 1, rows, s.columns - column}, sum);
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (row + tile_row(i) < s.width && column + tile_column(j) < s.columns) own.data[(row + tile_row(i)) * own.distance + column + tile_column(j)] = sum[i][j];
}

/// The expert's vector = the sum of its rows. Grid: 32 columns, experts; blocks of 32 x 8, eight threads per result.
template <class T, int Count>
__global__ void __launch_bounds__(256) grouped_sum_columns(Grouped s, const T* __restrict__ x, const int* __restrict__ offsets, Experts<T, Count> experts) {
  __shared__ T of_slice[8][32];
  const OwnRows<T> own = experts.own[blockIdx.y];
  if (own.data == nullptr) return;  // the whole block
  const int64_t column = int64_t(blockIdx.x) * 32 + threadIdx.x, end = offsets[blockIdx.y + 1];
  T sum = 0;
  if (column < s.columns)
    for (int64_t row = offsets[blockIdx.y] + threadIdx.y; row < end; row += 8) sum += x[row * s.next_x + column];
  of_slice[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= s.columns) return;
  for (int slice = 1; slice < 8; ++slice) sum += of_slice[slice][threadIdx.x];
  own.data[column] = sum;
}

/// number[row] = the expert of the row, `count` where it has none.
template <class I>
__global__ void __launch_bounds__(256) grouped_number_rows(const I* __restrict__ offsets, int count, int64_t rows, I* __restrict__ number) {
  for (int64_t row = int64_t(blockIdx.x) * 256 + threadIdx.x; row < rows; row += int64_t(gridDim.x) * 256) {
    int low = 0, high = count;  // the first expert that ends behind the row
    while (low < high) {
      const int middle = (low + high) / 2;
      if (row < offsets[middle + 1]) high = middle;
      else low = middle + 1;
    }
    number[row] = I(low);
  }
}

/// Row e of a table = the vector of expert e, zeros where it has none. Grid: 256 columns, rows of the table.
template <class T, int Count>
__global__ void __launch_bounds__(256) grouped_table_rows(Grouped s, Experts<const T, Count> experts, T* __restrict__ out) {
  const int64_t column = int64_t(blockIdx.x) * 256 + threadIdx.x;
  const T* const own = blockIdx.y < Count ? experts.own[blockIdx.y].data : nullptr;
  if (column < s.columns) out[blockIdx.y * s.next_y + column] = own != nullptr ? own[column] : T(0);
}

namespace cuda {

/// The vectors of all experts as rows of a table.
template <class T, int Count>
void grouped_table(cudaStream_t stream, const Grouped& s, const Experts<const T, Count>& experts, T* out) {
  grouped_table_rows<T, Count><<<dim3(unsigned((s.columns + 255) / 256), unsigned(s.rows)), 256, 0, stream>>>(s, experts, out);
}

/// The expert of every row.
template <class I>
void grouped_number(cudaStream_t stream, const I* offsets, int count, int64_t rows, I* number) {
  grouped_number_rows<I><<<unsigned((rows + 255) / 256), 256, 0, stream>>>(offsets, count, rows, number);
}

/// Rows times the matrices of their experts.
template <class T, int Count>
void grouped_contract(cudaStream_t stream, const Grouped& s, const T* x, const int* offsets, const Experts<const T, Count>& experts, T* out) {
  const dim3 grid(unsigned(most_row_tiles(s.rows, Count, kTileRows)), unsigned((s.columns + kTileColumns - 1) / kTileColumns));
  grouped_contract_tiles<T, Count><<<grid, kTileThreads, 0, stream>>>(s, x, offsets, experts, out);
}

/// The gradients of those matrices.
template <class T, int Count>
void grouped_outer(cudaStream_t stream, const Grouped& s, const T* x, const T* y, const int* offsets, const Experts<T, Count>& experts) {
  const int64_t tiles = ((s.width + kTileRows - 1) / kTileRows) * ((s.columns + kTileColumns - 1) / kTileColumns);
  grouped_outer_tiles<T, Count><<<dim3(unsigned(tiles), Count), kTileThreads, 0, stream>>>(s, x, y, offsets, experts);
}

/// Sums of the rows of every expert.
template <class T, int Count>
void grouped_sum(cudaStream_t stream, const Grouped& s, const T* x, const int* offsets, const Experts<T, Count>& experts) {
  grouped_sum_columns<T, Count><<<dim3(unsigned((s.columns + 31) / 32), Count), dim3(32, 8), 0, stream>>>(s, x, offsets, experts);
}

}  // namespace cuda
}  // namespace tsr
