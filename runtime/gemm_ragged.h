// Matrix products whose number of rows, or of terms, is known only at run time: the rows of one expert. Shape's M or K is
// then the largest number there can be, and Part says how much of the product there is and which of it is a thread's own.
//
//   using Hidden = Shape</*M*/ 512, /*N*/ 1024, /*K*/ 256, /*lda*/ 272, /*ldb*/ 1040>;
//   #pragma omp parallel
//   gemm<Hidden>(x, W, Store<float>{y, 1040}, share_of_rows<float, Hidden>(rows, omp_get_thread_num(), omp_get_num_threads()));
//
// No row is padded: what 12 rows do not divide is done by tiles of 8, 4, 2 and 1 rows. Threads take columns first: each
// streams its own part of B, which may come from memory, exactly once, and any number of rows gives every thread as much.
#pragma once
#include "gemm.h"

namespace tsr {

/// Rows [row_begin, row_end) and columns [column_begin, column_end) of a product of `depth` terms. Column limits are
/// multiples of the tiling's columns, or N. Nothing is computed where a range is empty; without terms the sums are 0.
struct Part {
  long row_begin, row_end;
  int column_begin, column_end;
  long depth;
};

namespace detail {

/// [begin, end) of piece `part` of `parts` of n units.
struct Range {
  long begin, end;
};
constexpr Range piece_of(long n, int part, int parts) { return {n * part / parts, n * (part + 1) / parts}; }

/// Teams that share the columns: the largest divisor of `parts` that leaves each of them a panel.
constexpr int column_teams(int panels, int parts) {
  int teams = parts < panels ? parts : panels;
  while (parts % teams != 0) --teams;
  return teams;
}

template <class T, class S>
constexpr Part share(long rows, long depth, int part, int parts) {
  using Tile = Tiling<T, S>;
  constexpr int panels = (S::n + Tile::columns - 1) / Tile::columns;
  const int teams = column_teams(panels, parts), members = parts / teams;
  const Range panel = piece_of(panels, part / members, teams);
  const Range tile = piece_of((rows + Tile::rows - 1) / Tile::rows, part % members, members);
  const long last_row = tile.end * Tile::rows, last_column = panel.end * Tile::columns;
  return {tile.begin * Tile::rows, last_row < rows ? last_row : rows, int(panel.begin) * Tile::columns,
          int(last_column < S::n ? last_column : S::n), depth};
}

template <class T, class S, int Rows, int Width, int Last, class Epilogue>
TSR_INLINE void ragged_tile(const T* A, const T* B, Epilogue& epilogue, long row, int column, long depth) {
  using C = Computed<T>;
  constexpr int L = lanes<C>, piece = Tiling<T, S>::max_depth;
  if constexpr (HasPrefetch<Epilogue>::value) epilogue.prefetch(int(row), Rows, column, Width * L);
  const T* a = A + (S::transpose_a ? row : row * S::lda);
  const T* b = B + column;
  alignas(64) C tile[Rows * Width * L];
  constexpr auto product = tile_product<T, Rows, Width, Last, S::transpose_a, S::lda, S::ldb>;
  product(a, b, int(depth < piece ? depth : piece), tile, false);
  if constexpr (S::k > piece)
    for (long k = piece; k < depth; k += piece)
      product(a + (S::transpose_a ? k * S::lda : k), b + k * S::ldb, int(depth - k < piece ? depth - k : piece), tile, true);
#pragma GCC unroll 1
  for (int i = 0; i < Rows; ++i) {
    const C* v = tile + i * Width * L;
#pragma GCC unroll 1
    for (int j = 0; j < Width - (Last != L); ++j) epilogue(Full<C>{column + j * L, L}, int(row) + i, load(v + j * L));
    if constexpr (Last != L) epilogue(Tail<C, Last>{column + (Width - 1) * L, Last}, int(row) + i, load(v + (Width - 1) * L));
  }
}

/// All rows of one panel of columns; `next` is the panel after it, or null.
template <class T, class S, int Width, int Last, class Epilogue>
TSR_INLINE void ragged_panel(const T* A, const T* B, Epilogue& epilogue, int column, const Part& part, const T* next) {
  constexpr int rows = Tiling<T, S>::rows;
  long row = part.row_begin;
  const long tiles = (part.row_end - row + rows - 1) / rows;
  for (long tile = 0; row + rows <= part.row_end; row += rows, ++tile) {
    if (next) fetch_rows<T, S>(next, part.depth * tile / tiles, part.depth * (tile + 1) / tiles);
    ragged_tile<T, S, rows, Width, Last>(A, B, epilogue, row, column, part.depth);
  }
  if (next && row < part.row_end) fetch_rows<T, S>(next, part.depth * (tiles - 1) / tiles, part.depth);
  auto rest = [&](auto count) {
    if constexpr (count.value < rows)
      for (; row + count.value <= part.row_end; row += count.value)
        ragged_tile<T, S, count.value, Width, Last>(A, B, epilogue, row, column, part.depth);
  };
  rest(std::integral_constant<int, 8>{});
  rest(std::integral_constant<int, 4>{});
  rest(std::integral_constant<int, 2>{});
  rest(std::integral_constant<int, 1>{});
}

}  // namespace detail

/// Share `part` of `parts` of the first `rows` rows of C.
template <class T, class S>
constexpr Part share_of_rows(long rows, int part, int parts) {
  return detail::share<T, S>(rows, S::k, part, parts);
}

/// Share `part` of `parts` of C, the sums cut to their first `depth` terms.
template <class T, class S>
constexpr Part share_of_terms(long depth, int part, int parts) {
  return detail::share<T, S>(S::m, depth, part, parts);
}

/// A part of C = op(A) B, handed to the epilogue as by gemm() of gemm.h. Every element of C is formed by one thread in the
/// same order whatever the share, so that results do not depend on the number of threads.
template <class S, class T, class Epilogue>
void gemm(const T* A, const T* B, Epilogue&& epilogue, Part part) {
  using Tile = Tiling<T, S>;
  constexpr int L = lanes<Computed<T>>;
  constexpr int last_width = Tile::vectors % Tile::width, last_lanes = S::n % L;
  constexpr int whole_panels = (last_width != 0 || last_lanes == 0) ? Tile::vectors / Tile::width : Tile::vectors / Tile::width - 1;
  const int whole_end = part.column_end < whole_panels * Tile::columns ? part.column_end : whole_panels * Tile::columns;
  int column = part.column_begin;
  for (; column < whole_end; column += Tile::columns) {
    const bool more = column + 2 * Tile::columns <= part.column_end;  // another whole panel: a partial one is not fetched
    detail::ragged_panel<T, S, Tile::width, L>(A, B, epilogue, column, part, more ? B + column + Tile::columns : nullptr);
  }
  if constexpr (whole_panels * Tile::columns < S::n)
    if (column < part.column_end)
      detail::ragged_panel<T, S, last_width != 0 ? last_width : Tile::width, last_lanes != 0 ? last_lanes : L>(
          A, B, epilogue, column, part, nullptr);
}

}  // namespace tsr
