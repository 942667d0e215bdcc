// Matrix product C = A B on row-major operands, with every size and leading dimension a compile-time constant and the
// destination left to an epilogue, so that bias, activation, residual and loss terms cost no extra pass over memory.
//
//   using FeedForward = Shape</*M*/ 256, /*N*/ 1024, /*K*/ 256, /*lda*/ 272, /*ldb*/ 1040>;
//   gemm<FeedForward>(x, W, [&](auto c, int row, Vec<float> v) { c.store(y + row * 1040, vgelu(v + c.load(bias))); });
//   gemm<Shape<256, 1024, 256, 272, 1040, kTransposed>>(x, dy, Accumulate<float>{dW, 1040});   // dW += x^T dy
//
// A tile of C is kept in registers over K (12 x 2 vectors with 32 registers, 6 x 2 with 16), written once to a small buffer
// and handed to the epilogue row by row. Nothing is packed: a leading dimension of an odd number of cache
// lines keeps the rows of A and of B in different cache sets, which makes packing unnecessary (padded()).
#pragma once
#include "simd.h"

namespace tsr {

constexpr bool kRows = false;       ///< A element (i, k) at A[i * lda + k]
constexpr bool kTransposed = true;  ///< A element (i, k) at A[k * lda + i]: the product A^T B of a stored K x M matrix

/// Sizes of C[M, N] = op(A)[M, K] B[K, N]; B element (k, n) at B[k * ldb + n]. All sizes >= 1.
template <int M, int N, int K, int Lda, int Ldb, bool TransposeA = kRows>
struct Shape {
  static constexpr int m = M, n = N, k = K, lda = Lda, ldb = Ldb;
  static constexpr bool transpose_a = TransposeA;
  static_assert(M > 0 && N > 0 && K > 0, "empty product");
  static_assert(Lda >= (TransposeA ? M : K) && Ldb >= N, "rows overlap: leading dimension too small");
};

/// Leading dimension for rows of n elements: the least odd number of 64-byte lines that holds them.
template <class T>
constexpr int padded(long n) {
  constexpr int line = 64 / int(sizeof(T));
  const long lines = (n + line - 1) / line;
  return int((lines % 2 == 1 ? lines : lines + 1) * line);
}

/// The part of C to compute. Row and column limits are multiples of Tiling's rows and columns, or the end of C;
/// depth >= 1 is the number of terms of each sum.
struct Region {
  int row_begin, row_end;
  int column_end;
  int depth;
};

/// Register tile and cache blocking chosen for a shape. Sums are held as Computed<T>.
template <class T, class S>
struct Tiling {
  static constexpr int L = lanes<Computed<T>>;
  // Besides the sums and a row of B: an element of A, an address or two; pairs of bf16 need two more.
  static constexpr int registers = kVectorRegisters - (std::is_same_v<T, Computed<T>> ? 2 : 4);
  static constexpr int full_rows = kVectorRegisters >= 32 ? 12 : 6;
  static constexpr int vectors = (S::n + L - 1) / L;  // columns of C in vectors
  static constexpr int rows = S::m < full_rows ? S::m : full_rows;  // rows of a register tile
  static constexpr int fitting = registers / (rows + 1) < 8 ? registers / (rows + 1) : 8;
  static constexpr int width = fitting < vectors ? fitting : vectors;  // vectors of a register tile
  static constexpr int columns = width * L;
  // Rows of A that stay in the L2 cache while all of B passes by.
  static constexpr int cached_rows = (256 << 10) / int(sizeof(T)) / S::k;
  // Where all of B stays there, C is what passes by: few rows at a time, so that it does so along its rows.
  static constexpr bool small_b = S::k <= 64 && long(S::k) * S::n * long(sizeof(T)) <= (384 << 10);
  static constexpr int block_rows = cached_rows < 2 * rows || small_b ? 2 * rows : cached_rows / rows * rows;
  // Where B does not stay there, the next panel of it is fetched while one is at work.
  static constexpr bool far_b = long(S::k) * S::n * long(sizeof(T)) > (384 << 10);
  // Longer sums are cut, so that rounding grows with the length of a piece rather than with K.
  static constexpr int max_depth = 1024;
  static constexpr int short_depth = 512;
  // Where B is larger than the L2 cache, sums are formed in pieces: a block of A and the sums of a group of panels stay in
  // the cache, and every row of B that comes from afar serves a few hundred rows of A instead of a few dozen.
  static constexpr int piece = 1024 / int(sizeof(T));
  static constexpr bool pieces = S::k > piece && S::m >= 4 * rows && long(S::k) * S::n * long(sizeof(T)) >= (2 << 20);
  static constexpr int piece_rows = (256 << 10) / int(sizeof(T)) / piece / rows * rows;
  static constexpr int most_rows = S::m < piece_rows ? (S::m + rows - 1) / rows * rows : piece_rows;
  static constexpr int group = (256 << 10) / int(sizeof(Computed<T>)) / (most_rows * columns);  // panels
};

/// All of C.
template <class S>
constexpr Region whole_region() {
  return {0, S::m, S::n, S::k};
}

/// Share `part` of `parts` of the rows of C, for a team of threads; may be empty.
template <class T, class S>
constexpr Region row_share(int part, int parts) {
  constexpr int tile = Tiling<T, S>::rows, tiles = (S::m + tile - 1) / tile;
  int begin = int(long(tiles) * part / parts) * tile, end = int(long(tiles) * (part + 1) / parts) * tile;
  return {begin, end < S::m ? end : S::m, S::n, S::k};
}

namespace detail {

// acc[i][j] = sum over k of A[i][k] B[k][j], for Rows rows and Width vectors, of which the last holds Last lanes.
// gemm_bf16.h specializes it.
template <class T>
struct TileSums {
  template <int Rows, int Width, int Last, bool TransposeA, int Lda, int Ldb>
  static TSR_INLINE void form(const T* a, const T* b, int depth, Vec<T> (&acc)[Rows][Width]);
};

// About as long as a line takes from the L3 cache.
constexpr int kRowsAhead = 16;

template <class T>
template <int Rows, int Width, int Last, bool TransposeA, int Lda, int Ldb>
TSR_INLINE void TileSums<T>::form(const T* a, const T* b, int depth, Vec<T> (&acc)[Rows][Width]) {
  constexpr int L = lanes<T>;
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 16
    for (int j = 0; j < Width; ++j) acc[i][j] = Vec<T>{};
#pragma GCC unroll 1
  for (int k = 0; k < depth; ++k) {
    Vec<T> row[Width];
    if (TransposeA) __builtin_prefetch(a + kRowsAhead * Lda), __builtin_prefetch(a + kRowsAhead * Lda + Rows - 1);
#pragma GCC unroll 16
    for (int j = 0; j < Width; ++j) {
      __builtin_prefetch(b + kRowsAhead * Ldb + j * L);  // rows lie further apart than a cache's own look ahead reaches
      if (Last != L && j == Width - 1) row[j] = load_first(b + j * L, Last);
      else row[j] = load(b + j * L);
    }
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      const Vec<T> x = broadcast(TransposeA ? a[i] : a[long(i) * Lda]);
#pragma GCC unroll 16
      for (int j = 0; j < Width; ++j) acc[i][j] += x * row[j];
    }
    a += TransposeA ? Lda : 1;
    b += Ldb;
  }
}

// The sums in memory, or added to it. Not inlined: one instance serves every product with these strides, and an epilogue's
// constants cannot be hoisted into the k loop, where all registers are taken.
template <class T, int Rows, int Width, int Last, bool TransposeA, int Lda, int Ldb>
__attribute__((noinline)) void tile_product(const T* a, const T* b, int depth, Computed<T>* tile, bool add) {
  Vec<Computed<T>> acc[Rows][Width];
  TileSums<T>::template form<Rows, Width, Last, TransposeA, Lda, Ldb>(a, b, depth, acc);
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 16
    for (int j = 0; j < Width; ++j) {
      Computed<T>* out = tile + (i * Width + j) * lanes<Computed<T>>;
      store(out, add ? acc[i][j] + load(out) : acc[i][j]);
    }
}

// An epilogue of a few instructions without constants says so by `static constexpr bool from_registers = true`. It is then
// inlined behind sums of up to short_depth terms, where the way through memory would cost up to a tenth of the time.
template <class Epilogue, class = void>
struct FromRegisters : std::false_type {};
template <class Epilogue>
struct FromRegisters<Epilogue, std::enable_if_t<Epilogue::from_registers>> : std::true_type {};

template <class Epilogue, class = void>
struct HasPrefetch : std::false_type {};
template <class Epilogue>
struct HasPrefetch<Epilogue, std::void_t<decltype(std::declval<Epilogue&>().prefetch(0, 0, 0, 0))>> : std::true_type {};

// Finished sums from memory to the epilogue.
template <class C, int Rows, int Width, int Last, class Epilogue>
TSR_INLINE void hand_over(const C* tile, Epilogue& epilogue, int row, int column) {
  constexpr int L = lanes<C>;
#pragma GCC unroll 1
  for (int i = 0; i < Rows; ++i) {
    const C* v = tile + i * Width * L;
#pragma GCC unroll 1
    for (int j = 0; j < Width - (Last != L); ++j) epilogue(Full<C>{column + j * L, L}, row + i, load(v + j * L));
    if constexpr (Last != L) epilogue(Tail<C, Last>{column + (Width - 1) * L, Last}, row + i, load(v + (Width - 1) * L));
  }
}

// Terms of the sums to form: `count` from `begin` on. `last`: the sums are then complete.
struct Terms {
  int begin, count;
  bool last;
};

// `sums`: where a tile's sums are between pieces, if the tiling has them.
template <class T, class S, int Rows, int Width, int Last, class Epilogue>
TSR_INLINE void finish_tile(const T* A, const T* B, Epilogue& epilogue, int row, int column, Terms terms, Computed<T>* sums) {
  using C = Computed<T>;
  constexpr int L = lanes<C>, piece = Tiling<T, S>::max_depth;
  constexpr auto product = tile_product<T, Rows, Width, Last, S::transpose_a, S::lda, S::ldb>;
  if constexpr (HasPrefetch<Epilogue>::value)
    if (terms.last) epilogue.prefetch(row, Rows, column, Width * L);
  const int depth = terms.count;
  const T* a = A + (S::transpose_a ? long(terms.begin) * S::lda + row : long(row) * S::lda + terms.begin);
  const T* b = B + long(terms.begin) * S::ldb + column;
  if constexpr (Tiling<T, S>::pieces) {
    product(a, b, depth, sums, terms.begin > 0);
    if (terms.last) hand_over<C, Rows, Width, Last>(sums, epilogue, row, column);
  } else if constexpr (FromRegisters<std::remove_const_t<Epilogue>>::value && S::k <= Tiling<T, S>::short_depth) {
    Vec<C> acc[Rows][Width];
    TileSums<T>::template form<Rows, Width, Last, S::transpose_a, S::lda, S::ldb>(a, b, depth, acc);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 16
      for (int j = 0; j < Width; ++j) {
        if (Last != L && j == Width - 1) epilogue(Tail<C, Last>{column + j * L, Last}, row + i, acc[i][j]);
        else epilogue(Full<C>{column + j * L, L}, row + i, acc[i][j]);
      }
  } else {
    alignas(64) C tile[Rows * Width * L];
    product(a, b, depth < piece ? depth : piece, tile, false);
    if constexpr (S::k > piece)
      for (int k = piece; k < depth; k += piece)
        product(a + (S::transpose_a ? long(k) * S::lda : long(k)), b + long(k) * S::ldb, depth - k < piece ? depth - k : piece, tile, true);
    hand_over<C, Rows, Width, Last>(tile, epilogue, row, column);
  }
}

/// Asks for rows [begin, end) of a panel of B: the next one, while this one is at work.
template <class T, class S>
TSR_INLINE void fetch_rows(const T* panel, long begin, long end) {
  constexpr int bytes = Tiling<T, S>::columns * int(sizeof(T));
  for (long k = begin; k < end; ++k)
    for (int line = 0; line < bytes; line += 64)
      __builtin_prefetch(reinterpret_cast<const char*>(panel + k * S::ldb) + line, 0, 2);
}

// One panel of columns, down the rows of a cache block. `next` is the panel after it, or null.
template <class T, class S, int Width, int Last, class Epilogue>
TSR_INLINE void panel(const T* A, const T* B, Epilogue& epilogue, int row, int row_end, int column, Terms terms, Computed<T>* sums, const T* next) {
  using Tile = Tiling<T, S>;
  constexpr int tile = Tile::rows, rest = S::m % tile, step = Tile::pieces ? tile * Tile::columns : 0;
  const int tiles = (row_end - row) / tile;
  for (int done = 0; row + tile <= row_end; row += tile, sums += step, ++done) {
    if (Tile::far_b && next) fetch_rows<T, S>(next + long(terms.begin) * S::ldb, terms.count * done / tiles, terms.count * (done + 1) / tiles);
    finish_tile<T, S, tile, Width, Last>(A, B, epilogue, row, column, terms, sums);
  }
  if constexpr (rest != 0)
    if (row < row_end) finish_tile<T, S, rest, Width, Last>(A, B, epilogue, row, column, terms, sums);
}

}  // namespace detail

/// The region of C = op(A) B, each finished vector handed to epilogue(c, row, v): c is the Columns object (c.begin = first
/// column), v the sums. Long sums are added as partial sums of at most 1024 terms. A and B must not overlap what the
/// epilogue writes. An epilogue with a member prefetch(row, rows, column, columns) is told of each tile before its sums.
template <class S, class T, class Epilogue>
void gemm(const T* A, const T* B, Epilogue&& epilogue, Region region) {
  using Tile = Tiling<T, S>;
  constexpr int L = lanes<Computed<T>>;
  constexpr int last_width = Tile::vectors % Tile::width, last_lanes = S::n % L;
  // Panels of Width whole vectors, then at most one narrower or partial panel.
  constexpr int whole_panels = (last_width != 0 || last_lanes == 0) ? Tile::vectors / Tile::width : Tile::vectors / Tile::width - 1;
  constexpr int rest_width = last_width != 0 ? last_width : Tile::width, rest_lanes = last_lanes != 0 ? last_lanes : L;
  constexpr int panels = whole_panels + (whole_panels * Tile::columns < S::n);
  constexpr int block = Tile::pieces ? Tile::most_rows : Tile::block_rows, group = Tile::pieces ? Tile::group : panels;
  constexpr int piece = Tile::pieces ? Tile::piece : S::k, panel_sums = Tile::pieces ? block * Tile::columns : 0;
  const int end_panel = region.column_end == S::n ? panels : region.column_end / Tile::columns;
  alignas(64) Computed<T> sums[Tile::pieces ? group * panel_sums : 1];
  for (int row = region.row_begin; row < region.row_end; row += block) {
    const int end = region.row_end - row < block ? region.row_end : row + block;
    for (int first = 0; first < end_panel; first += group)
      for (int k = 0; k < region.depth; k += piece) {
        const int left = region.depth - k;
        const detail::Terms terms{k, left < piece ? left : piece, left <= piece};
        for (int p = first; p < end_panel && p < first + group; ++p) {
          Computed<T>* const at = sums + (p - first) * panel_sums;
          const int after = p + 1 < end_panel && p + 1 < first + group ? p + 1 : first;
          const T* const next = after < whole_panels ? B + after * Tile::columns : nullptr;
          if (p < whole_panels) detail::panel<T, S, Tile::width, L>(A, B, epilogue, row, end, p * Tile::columns, terms, at, next);
          else detail::panel<T, S, rest_width, rest_lanes>(A, B, epilogue, row, end, p * Tile::columns, terms, at, next);
        }
      }
  }
}

/// All of C = op(A) B.
template <class S, class T, class Epilogue>
void gemm(const T* A, const T* B, Epilogue&& epilogue) {
  gemm<S>(A, B, epilogue, whole_region<S>());
}

namespace detail {
// Asks for a tile of C that will be written.
template <class T>
TSR_INLINE void fetch_tile(T* C, long ldc, int row, int rows, int column, int columns) {
  for (int i = row; i < row + rows; ++i)
    for (int j = column; j < column + columns; j += 64 / int(sizeof(T))) __builtin_prefetch(C + i * ldc + j, 1);
}
}  // namespace detail

/// Epilogue C = A B. Fetches the tile of C while its sums are formed.
template <class T>
struct Store {
  static constexpr bool from_registers = true;
  T* C;
  long ldc;
  TSR_INLINE void prefetch(int row, int rows, int column, int columns) const { detail::fetch_tile(C, ldc, row, rows, column, columns); }
  template <class C_>
  TSR_INLINE void operator()(C_ c, int row, Vec<T> v) const {
    c.store(C + row * ldc, v);
  }
};

/// Epilogue C += A B, which does, too.
template <class T>
struct Accumulate {
  static constexpr bool from_registers = true;
  T* C;
  long ldc;
  TSR_INLINE void prefetch(int row, int rows, int column, int columns) const { detail::fetch_tile(C, ldc, row, rows, column, columns); }
  template <class C_>
  TSR_INLINE void operator()(C_ c, int row, Vec<T> v) const {
    c.store(C + row * ldc, c.load(C + row * ldc) + v);
  }
};

}  // namespace tsr
