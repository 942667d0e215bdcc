// What kernels of a program on a mesh do with other ranks, or because they know their coordinate: tensors in padded rows
// are packed, exchanged as dense arrays, and unpacked where they belong. `work` is memory for the dense arrays.
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

// Both return the end of the dense array.
template <class T>
inline T* pack(const Grid& grid, const T* from, T* dense) {
  runs(grid, [&](int64_t offset, int64_t length) {
    memcpy(dense, from + offset, static_cast<size_t>(length) * sizeof(T));
    dense += length;
  });
  return dense;
}
template <class T>
inline const T* unpack(const Grid& grid, const T* dense, T* to) {
  runs(grid, [&](int64_t offset, int64_t length) {
    memcpy(to + offset, dense, static_cast<size_t>(length) * sizeof(T));
    dense += length;
  });
  return dense;
}
template <class T>
inline void clear(const Grid& grid, T* at) {
  runs(grid, [&](int64_t offset, int64_t length) { memset(at + offset, 0, static_cast<size_t>(length) * sizeof(T)); });
}
template <class T>
inline void copy(const Grid& from_grid, const T* from, const Grid& to_grid, T* to) {
  int64_t at[kMaxRank] = {};
  for (int64_t left = elements(to_grid); left > 0; --left) {
    int64_t source = 0, target = 0;
    for (int d = 0; d < to_grid.rank; ++d) source += at[d] * from_grid.strides[d], target += at[d] * to_grid.strides[d];
    to[target] = from[source];
    for (int d = to_grid.rank - 1; d >= 0 && ++at[d] == to_grid.sizes[d]; --d) at[d] = 0;
  }
}

template <class T>
constexpr DType type_of() {
  return sizeof(T) == 8 ? (T(0.5) != T(0) ? DType::f64 : DType::i64) : (T(0.5) != T(0) ? DType::f32 : DType::i32);
}

// A tensor that an exchange over several of them takes in and gives back.
template <class T>
struct Term {
  const T* in;
  Grid in_grid;
  T* out;
  Grid out_grid;
};

// Sums (largest, smallest values) over the ranks of an axis, of several tensors in one go.
template <class T, int N>
inline void all_reduce(Ranks& ranks, int axis, int number, Reduce kind, const Term<T> (&terms)[N], T* work) {
  T* end = work;
  for (const Term<T>& term : terms) end = pack(term.in_grid, term.in, end);
  ranks.all_reduce(number, axis, kind, type_of<T>(), work, end - work);
  const T* dense = work;
  for (const Term<T>& term : terms) dense = unpack(term.out_grid, dense, term.out);
}

// The parts of all ranks one after another along `dim`.
template <class T>
inline void all_gather(Ranks& ranks, int axis, int number, int dim, const T* in, const Grid& in_grid, T* out, const Grid& out_grid, T* work) {
  T* const whole = pack(in_grid, in, work);
  ranks.all_gather(number, axis, work, whole, static_cast<size_t>(whole - work) * sizeof(T));
  const Grid part = part_of(out_grid, dim, ranks.size(axis));
  const T* dense = whole;
  for (int k = 0; k < ranks.size(axis); ++k) dense = unpack(part, dense, out + start_of(part, dim, k));
}

// This rank's part along `dim` of the sum over the ranks.
template <class T>
inline void reduce_scatter(Ranks& ranks, int axis, int number, int dim, const T* in, const Grid& in_grid, T* out, const Grid& out_grid, T* work) {
  const Grid part = part_of(in_grid, dim, ranks.size(axis));
  T* end = work;
  for (int k = 0; k < ranks.size(axis); ++k) end = pack(part, in + start_of(part, dim, k), end);
  ranks.reduce_scatter(number, axis, Reduce::sum, type_of<T>(), work, end, elements(part));
  unpack(out_grid, end, out);
}

// What was cut along `concat` is cut along `split` instead.
template <class T>
inline void all_to_all(Ranks& ranks, int axis, int number, int split, int concat, const T* in, const Grid& in_grid, T* out, const Grid& out_grid, T* work) {
  const int n = ranks.size(axis);
  const Grid mine = part_of(in_grid, split, n), theirs = part_of(out_grid, concat, n);
  T* end = work;
  for (int k = 0; k < n; ++k) end = pack(mine, in + start_of(mine, split, k), end);
  ranks.all_to_all(number, axis, work, end, static_cast<size_t>(elements(mine)) * sizeof(T));
  const T* dense = end;
  for (int k = 0; k < n; ++k) dense = unpack(theirs, dense, out + start_of(theirs, concat, k));
}

// Which of `parts` parts of an axis belongs to this rank.
inline int place(const Ranks& ranks, int axis, int parts) { return ranks.coordinate(axis) * parts / ranks.size(axis); }

template <class T>
inline void shard_slice(Ranks& ranks, int axis, int dim, int parts, const T* in, const Grid& in_grid, T* out, const Grid& out_grid) {
  const Grid part = part_of(in_grid, dim, parts);
  copy(part, in + start_of(part, dim, place(ranks, axis, parts)), out_grid, out);
}

template <class T>
inline void shard_embed(Ranks& ranks, int axis, int dim, int parts, const T* in, const Grid& in_grid, T* out, const Grid& out_grid) {
  clear(out_grid, out);
  const Grid part = part_of(out_grid, dim, parts);
  copy(in_grid, in, part, out + start_of(part, dim, place(ranks, axis, parts)));
}

template <class T>
inline void keep_first(Ranks& ranks, int axis, const T* in, const Grid& in_grid, T* out, const Grid& out_grid) {
  if (ranks.coordinate(axis) == 0) copy(in_grid, in, out_grid, out);
  else clear(out_grid, out);
}

inline void axis_index(Ranks& ranks, int axis, int32_t* out) { *out = ranks.coordinate(axis); }

}  // namespace exchange
}  // namespace tsr
