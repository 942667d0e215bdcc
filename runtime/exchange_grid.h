// Tensors in padded rows as exchanges see them: cut into parts, packed into dense arrays and unpacked.
#pragma once
#include <cstdint>
#include <cstring>

#include "ranks.h"

namespace tsr {

// Sizes and strides (in elements) of a tensor in memory.
struct Grid {
  int rank;
  int64_t sizes[kMaxRank], strides[kMaxRank];
};

namespace exchange {

// A dense array.
inline Grid line(int64_t count) { return {1, {count}, {1}}; }

inline int64_t elements(const Grid& grid) {
  int64_t count = 1;
  for (int d = 0; d < grid.rank; ++d) count *= grid.sizes[d];
  return count;
}

// One of `parts` equal parts along an axis: the grid of each, and where part k begins.
inline Grid part_of(const Grid& grid, int dim, int parts) {
  Grid out = grid;
  out.sizes[dim] /= parts;
  return out;
}
inline int64_t start_of(const Grid& part, int dim, int k) { return k * part.sizes[dim] * part.strides[dim]; }

// Calls f(offset, length) for every run of consecutive elements, in row-major order.
template <class F>
inline void runs(const Grid& grid, const F& f) {
  int64_t length = 1, count = 1;
  int outer = grid.rank;
  while (outer > 0 && (grid.sizes[outer - 1] == 1 || grid.strides[outer - 1] == length)) length *= grid.sizes[--outer];
  for (int d = 0; d < outer; ++d) count *= grid.sizes[d];
  for (int64_t i = 0; i < count; ++i) {
    int64_t offset = 0, rest = i;
    for (int d = outer - 1; d >= 0; --d) offset += rest % grid.sizes[d] * grid.strides[d], rest /= grid.sizes[d];
    f(offset, length);
  }
}

// What was copied so far is there for the copies that follow: a device may do several at a time.
inline void settle(Ranks&) {}

// Both return the end of the dense array.
template <class T>
inline T* pack(Ranks&, const Grid& grid, const T* from, T* dense) {
  runs(grid, [&](int64_t offset, int64_t length) {
    memcpy(dense, from + offset, static_cast<size_t>(length) * sizeof(T));
    dense += length;
  });
  return dense;
}
template <class T>
inline const T* unpack(Ranks&, const Grid& grid, const T* dense, T* to) {
  runs(grid, [&](int64_t offset, int64_t length) {
    memcpy(to + offset, dense, static_cast<size_t>(length) * sizeof(T));
    dense += length;
  });
  return dense;
}
// The other way round for a dense array that lies no further ahead than `to`, which may overlap with it.
template <class T>
inline void spread(Ranks&, const Grid& grid, const T* dense, T* to) {
  Grid rows = grid;  // all runs are equally long: the last one moves first
  int64_t length = 1;
  while (rows.rank > 0 && (rows.sizes[rows.rank - 1] == 1 || rows.strides[rows.rank - 1] == length)) length *= rows.sizes[--rows.rank];
  for (int64_t row = elements(rows); row-- > 0;) {
    int64_t offset = 0, rest = row;
    for (int d = rows.rank - 1; d >= 0; --d) offset += rest % rows.sizes[d] * rows.strides[d], rest /= rows.sizes[d];
    memmove(to + offset, dense + row * length, static_cast<size_t>(length) * sizeof(T));
  }
}
template <class T>
inline void clear(Ranks&, const Grid& grid, T* at) {
  runs(grid, [&](int64_t offset, int64_t length) { memset(at + offset, 0, static_cast<size_t>(length) * sizeof(T)); });
}
template <class T>
inline void copy(Ranks&, const Grid& from_grid, const T* from, const Grid& to_grid, T* to) {
  int64_t at[kMaxRank] = {};
  for (int64_t left = elements(to_grid); left > 0; --left) {
    int64_t source = 0, target = 0;
    for (int d = 0; d < to_grid.rank; ++d) source += at[d] * from_grid.strides[d], target += at[d] * to_grid.strides[d];
    to[target] = from[source];
    for (int d = to_grid.rank - 1; d >= 0 && ++at[d] == to_grid.sizes[d]; --d) at[d] = 0;
  }
}

}  // namespace exchange
}  // namespace tsr
