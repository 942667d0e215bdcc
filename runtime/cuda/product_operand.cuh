// Tiles of the operands of a matrix product in shared memory, as tensor cores read them: 16-bit floats, or float rounded to tf32.
//
// An operand has lines (rows of the left one, columns of the right one) and terms, over which the product adds. In memory either
// the terms of a line lie side by side (`Along`) or the lines of a term do; both are read without transposing anything first.
#pragma once
#include <cstring>

#include "tile.cuh"

namespace tsr::mma {

/// Copies rows [row, row + tile.kRows) and columns [column, column + tile.kWidth) of x into a tile, zeros beyond rows x columns.
/// Aligned: x and the distance of rows are multiples of 16 bytes, and nothing is waited for; else element by element.
template <bool Aligned, int Threads, class T, class E>
__device__ inline void fetch_tile(const T& tile, const E* x, int64_t stride, int row, int rows, int column, int columns) {
  constexpr int unit = 16 / int(sizeof(E)), pieces = T::kWidth / unit, step = Threads / pieces;
  if constexpr (Aligned) {
    static_assert(Threads % pieces == 0 && T::kRows % step == 0, "a thread copies one piece of every `step`th row");
    const int first = threadIdx.x / pieces, piece = threadIdx.x % pieces, left = columns - column - piece * unit;
    const int valid = left >= unit ? 16 : left > 0 ? left * int(sizeof(E)) : 0;
    const E* const from = x + (row + first) * stride + column + piece * unit;
#pragma unroll
    for (int r = 0; r < T::kRows; r += step) {
      const bool inside = valid > 0 && row + first + r < rows;
      ptx::copy_async<16>(tile.at(first + r, piece), inside ? from + r * stride : x, inside ? valid : 0);
    }
  } else {
    for (int i = threadIdx.x; i < T::kRows * T::kWidth; i += Threads) {
      const int r = i / T::kWidth, c = i % T::kWidth;
      const bool inside = row + r < rows && column + c < columns;
      tile.at(r, c / unit)[c % unit] = inside ? x[(row + r) * stride + column + c] : E(0.0f);
    }
  }
}

/// `Lines` x `Depth` elements of an operand. 16-bit floats; float is below.
template <class E, bool Along, int Lines, int Depth>
struct Operand {
  using Memory = Tile<E, Along ? Lines : Depth, Along ? Depth : Lines>;
  static constexpr int kBytes = Memory::kElements * int(sizeof(E)), kStep = 16;  // terms of one multiplication
  Memory tile;
  __device__ explicit Operand(char* at) : tile{reinterpret_cast<E*>(at)} {}

  template <bool Aligned, int Threads>
  __device__ void fetch(const E* x, int64_t stride, int line, int lines, int term, int terms) const {
    if constexpr (Along) fetch_tile<Aligned, Threads>(tile, x, stride, line, lines, term, terms);
    else fetch_tile<Aligned, Threads>(tile, x, stride, term, terms, line, lines);
  }
  /// Lines [line, line + 16) as the left operand.
  __device__ void left(uint32_t (&a)[4], int line, int step) const {
    if constexpr (Along) tile.load_left(a, line, step);
    else tile.load_left_transposed(a, step, line / 8);
  }
  /// Lines [line, line + 16) as the right operand.
  __device__ Columns right(int line, int step) const {
    if constexpr (Along) return tile.load_right_transposed(line, step);
    else return tile.load_right(step, line / 8);
  }
  /// f(row, term, x) in place of each element x of a left fragment, rounded again; row and term count within the fragment.
  template <class F>
  __device__ static void map(uint32_t (&a)[4], const F& f) {
    const int row = threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      Two<E> pair;
      memcpy(&pair, &a[i], sizeof pair);
      const int r = row + i % 2 * 8, c = column + i / 2 * 8;
      a[i] = Unit<E>::pack(f(r, c, float(pair[0])), f(r, c + 1, float(pair[1])));
    }
  }
  __device__ static void multiply(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { Unit<E>::multiply(sums, a, b); }
  /// What a fragment holds is what tensor cores take.
  __device__ static void round(uint32_t (&)[4]) {}
  __device__ static void round(Columns&) {}
};

/// Rows of floats, with room behind each such that a fragment's elements fall into different banks.
template <int Rows, int Width, int Room>
struct FloatTile {
  static constexpr int kRows = Rows, kWidth = Width, kPitch = Width + Room;
  float* data;
  __device__ float* at(int row, int piece) const { return data + row * kPitch + piece * 4; }
  __device__ uint32_t bits(int row, int column) const { return __float_as_uint(data[row * kPitch + column]); }
};

template <bool Along, int Lines, int Depth>
struct Operand<float, Along, Lines, Depth> {
  using Memory = FloatTile<Along ? Lines : Depth, Along ? Depth : Lines, Along ? 4 : 8>;
  static constexpr int kBytes = Memory::kRows * Memory::kPitch * int(sizeof(float)), kStep = 8;
  Memory tile;
  __device__ explicit Operand(char* at) : tile{reinterpret_cast<float*>(at)} {}

  template <bool Aligned, int Threads>
  __device__ void fetch(const float* x, int64_t stride, int line, int lines, int term, int terms) const {
    if constexpr (Along) fetch_tile<Aligned, Threads>(tile, x, stride, line, lines, term, terms);
    else fetch_tile<Aligned, Threads>(tile, x, stride, term, terms, line, lines);
  }
  __device__ uint32_t element(int line, int term) const {
    if constexpr (Along) return tile.bits(line, term);
    else return tile.bits(term, line);
  }
  __device__ void left(uint32_t (&a)[4], int line, int step) const {
    const int row = threadIdx.x % 32 / 4, column = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] = element(line + row + i % 2 * 8, 8 * step + column + i / 2 * 4);
  }
  __device__ Columns right(int line, int step) const {
    const int row = threadIdx.x % 32 / 4, column = threadIdx.x % 4;
    Columns out;
#pragma unroll
    for (int i = 0; i < 4; ++i) out.b[i / 2][i % 2] = element(line + row + i / 2 * 8, 8 * step + column + i % 2 * 4);
    return out;
  }
  template <class F>
  __device__ static void map(uint32_t (&a)[4], const F& f) {
    const int row = threadIdx.x % 32 / 4, column = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] = __float_as_uint(f(row + i % 2 * 8, column + i / 2 * 4, __uint_as_float(a[i])));
  }
  __device__ static void multiply(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { ptx::mma_tf32(sums, a, b); }
  __device__ static void round(uint32_t (&a)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] = ptx::to_tf32(__uint_as_float(a[i]));
  }
  __device__ static void round(Columns& x) {
#pragma unroll
    for (int i = 0; i < 4; ++i) x.b[i / 2][i % 2] = ptx::to_tf32(__uint_as_float(x.b[i / 2][i % 2]));
  }
};

}  // namespace tsr::mma
