// What kernels of a program on a mesh do with other ranks, or because they know their coordinate: tensors in padded rows
// are packed, exchanged as dense arrays, and unpacked where they belong. `work` is memory for the dense arrays. R is Ranks,
// or what has its calls for the memory of a device and overloads of pack, unpack, clear and copy.
#pragma once
#include <cstdint>
#include <cstring>
#include <vector>

#include "exchange_grid.h"
#include "ranks.h"

namespace tsr {

namespace exchange {

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
template <class R, class Terms, class T>
inline void all_reduce(R& ranks, int axis, int number, Reduce kind, const Terms& terms, T* work) {
  T* end = work;
  for (const Term<T>& term : terms) end = pack(ranks, term.in_grid, term.in, end);
  ranks.all_reduce(number, axis, kind, type_of<T>(), work, end - work);
  const T* dense = work;
  for (const Term<T>& term : terms) dense = unpack(ranks, term.out_grid, dense, term.out);
}

// Scalars of every rank's share of so many.
template <class R>
inline int64_t share_of(const R& ranks, int axis, int64_t count) { return (count + ranks.size(axis) - 1) / ranks.size(axis); }

// The sums of this rank's share lie behind those of all: they go to their place there, and all others become zeros.
template <class R, class T>
inline void place_share(R& ranks, int axis, int64_t share, T* work) {
  const int64_t all = share * ranks.size(axis), first = ranks.coordinate(axis) * share;
  unpack(ranks, line(share), work + all, work + first);
  clear(ranks, line(first), work);
  clear(ranks, line(all - first - share), work + first + share);
}

// Of the sums over the ranks of an axis of several tensors, one behind the other, this rank's share: zeros elsewhere.
template <class R, class Terms, class T>
inline void reduce_shares(R& ranks, int axis, int number, Reduce kind, const Terms& terms, T* work) {
  T* end = work;
  for (const Term<T>& term : terms) end = pack(ranks, term.in_grid, term.in, end);
  if (ranks.held(number)) {
    settle(ranks);
  } else {
    const int64_t count = end - work, share = share_of(ranks, axis, count), all = share * ranks.size(axis);
    clear(ranks, line(all - count), end);
    ranks.reduce_scatter(number, axis, kind, type_of<T>(), work, work + all, share);
    place_share(ranks, axis, share, work);
  }
  const T* dense = work;
  for (const Term<T>& term : terms) dense = unpack(ranks, term.out_grid, dense, term.out);
}

// One of several tensors that an exchange takes in where they lie one behind the other: from elsewhere to its place.
template <class R, class T>
inline void bring(R& ranks, const Grid& grid, const T* from, T* to) { pack(ranks, grid, from, to); }

// One of several tensors.
template <class T>
struct Source { const T* at; Grid grid; };
template <class T>
struct Target { T* at; Grid grid; };

// An all-reduce of several tensors in two halves. Between them the bucket belongs to the exchange, which goes on beside
// whatever the program does.
template <class R, class T, int N>
inline void all_reduce_begin(R& ranks, int axis, int number, Reduce kind, const Source<T> (&terms)[N], T* bucket) {
  T* end = bucket;
  for (const Source<T>& term : terms) end = pack(ranks, term.grid, term.at, end);
  ranks.all_reduce_begin(number, axis, kind, type_of<T>(), bucket, end - bucket);
}
template <class R, class T, int N>
inline void all_reduce_end(R& ranks, int number, const T* bucket, const Target<T> (&terms)[N]) {
  ranks.all_reduce_end(number);
  for (const Target<T>& term : terms) bucket = unpack(ranks, term.grid, bucket, term.at);
}

// The same of reduce_shares. The bucket has room for all shares, and for this rank's once more.
template <class R, class T, int N>
inline void reduce_shares_begin(R& ranks, int axis, int number, Reduce kind, const Source<T> (&terms)[N], T* bucket) {
  T* end = bucket;
  for (const Source<T>& term : terms) end = pack(ranks, term.grid, term.at, end);
  if (ranks.held(number)) return settle(ranks);
  const int64_t count = end - bucket, share = share_of(ranks, axis, count), all = share * ranks.size(axis);
  clear(ranks, line(all - count), end);
  ranks.reduce_scatter_begin(number, axis, kind, type_of<T>(), bucket, bucket + all, share);
}
template <class R, class T, int N>
inline void reduce_shares_end(R& ranks, int axis, int number, T* bucket, const Target<T> (&terms)[N]) {
  int64_t count = 0;
  for (const Target<T>& term : terms) count += elements(term.grid);
  ranks.all_reduce_end(number);
  if (!ranks.held(number)) place_share(ranks, axis, share_of(ranks, axis, count), bucket);
  const T* dense = bucket;
  for (const Target<T>& term : terms) dense = unpack(ranks, term.grid, dense, term.at);
}

// The parts of all ranks one after another along `dim`.
template <class R, class T>
inline void all_gather(R& ranks, int axis, int number, int dim, const T* in, const Grid& in_grid, T* out, const Grid& out_grid, T* work) {
  T* const whole = pack(ranks, in_grid, in, work);
  ranks.all_gather(number, axis, work, whole, static_cast<size_t>(whole - work) * sizeof(T));
  const Grid part = part_of(out_grid, dim, ranks.size(axis));
  const T* dense = whole;
  for (int k = 0; k < ranks.size(axis); ++k) dense = unpack(ranks, part, dense, out + start_of(part, dim, k));
}

// This rank's part along `dim` of the sum over the ranks.
template <class R, class T>
inline void reduce_scatter(R& ranks, int axis, int number, int dim, const T* in, const Grid& in_grid, T* out, const Grid& out_grid, T* work) {
  const Grid part = part_of(in_grid, dim, ranks.size(axis));
  T* end = work;
  for (int k = 0; k < ranks.size(axis); ++k) end = pack(ranks, part, in + start_of(part, dim, k), end);
  ranks.reduce_scatter(number, axis, Reduce::sum, type_of<T>(), work, end, elements(part));
  unpack(ranks, out_grid, end, out);
}

// What was cut along `concat` is cut along `split` instead.
template <class R, class T>
inline void all_to_all(R& ranks, int axis, int number, int split, int concat, const T* in, const Grid& in_grid, T* out, const Grid& out_grid, T* work) {
  const int n = ranks.size(axis);
  const Grid mine = part_of(in_grid, split, n), theirs = part_of(out_grid, concat, n);
  T* end = work;
  for (int k = 0; k < n; ++k) end = pack(ranks, mine, in + start_of(mine, split, k), end);
  ranks.all_to_all(number, axis, work, end, static_cast<size_t>(elements(mine)) * sizeof(T));
  const T* dense = end;
  for (int k = 0; k < n; ++k) dense = unpack(ranks, theirs, dense, out + start_of(theirs, concat, k));
}

// Which of `parts` parts of an axis belongs to this rank.
template <class R>
inline int place(const R& ranks, int axis, int parts) { return ranks.coordinate(axis) * parts / ranks.size(axis); }

template <class R, class T>
inline void shard_slice(R& ranks, int axis, int dim, int parts, const T* in, const Grid& in_grid, T* out, const Grid& out_grid) {
  const Grid part = part_of(in_grid, dim, parts);
  copy(ranks, part, in + start_of(part, dim, place(ranks, axis, parts)), out_grid, out);
}

template <class R, class T>
inline void shard_embed(R& ranks, int axis, int dim, int parts, const T* in, const Grid& in_grid, T* out, const Grid& out_grid) {
  clear(ranks, out_grid, out);
  const Grid part = part_of(out_grid, dim, parts);
  copy(ranks, in_grid, in, part, out + start_of(part, dim, place(ranks, axis, parts)));
}

template <class R, class T>
inline void keep_first(R& ranks, int axis, const T* in, const Grid& in_grid, T* out, const Grid& out_grid) {
  if (ranks.coordinate(axis) == 0) copy(ranks, in_grid, in, out_grid, out);
  else clear(ranks, out_grid, out);
}

// Of the tensors of all experts, which have the same sizes, those of this rank's.
template <class R, class T, int N, int M>
inline void own_experts(R& ranks, int axis, const Source<T> (&in)[N], const Target<T> (&out)[M]) {
  const Source<T>* const mine = in + ranks.coordinate(axis) * M;
  for (int e = 0; e < M; ++e) copy(ranks, mine[e].grid, mine[e].at, out[e].grid, out[e].at);
}

// The tensors of this rank's experts in their places among all, zeros in the others.
template <class R, class T, int N, int M>
inline void spread_experts(R& ranks, int axis, const Source<T> (&in)[N], const Target<T> (&out)[M]) {
  const int first = ranks.coordinate(axis) * N;
  for (int e = 0; e < M; ++e) {
    if (e >= first && e < first + N) copy(ranks, in[e - first].grid, in[e - first].at, out[e].grid, out[e].at);
    else clear(ranks, out[e].grid, out[e].at);
  }
}

// Rows per expert that every rank has, from the offsets of all ranks: row k of `offsets` is rank k's.
struct Routing {
  const int32_t* offsets;
  Grid grid;
  int experts, each;

  template <class R>
  Routing(const R& ranks, int axis, const int32_t* at, const Grid& g)
      : offsets(at), grid(g), experts(static_cast<int>(g.sizes[1]) - 1), each(experts / ranks.size(axis)) {}
  int64_t start(int rank, int expert) const { return offsets[rank * grid.strides[0] + expert * grid.strides[1]]; }
  int64_t count(int rank, int expert) const { return start(rank, expert + 1) - start(rank, expert); }
  // Rows that `from` has for the experts of `owner`.
  int64_t between(int from, int owner) const { return start(from, (owner + 1) * each) - start(from, owner * each); }
};

// Where the rows of each of this rank's experts begin among those that it receives.
inline void expert_offsets(Ranks& ranks, int axis, const int32_t* in, const Grid& in_grid, int32_t* out, const Grid& out_grid) {
  const Routing routing(ranks, axis, in, in_grid);
  const int first = ranks.coordinate(axis) * routing.each;
  int64_t end = 0;
  for (int e = 0; e < routing.each; ++e) {
    out[e * out_grid.strides[0]] = static_cast<int32_t>(end);
    for (int k = 0; k < ranks.size(axis); ++k) end += routing.count(k, first + e);
  }
  out[routing.each * out_grid.strides[0]] = static_cast<int32_t>(end);
}

// Some rows of a tensor, one after another, to a dense array or from it; both return its end.
template <class R, class T>
inline T* pack_rows(R& ranks, const Grid& grid, const T* from, int64_t first, int64_t count, T* dense) {
  Grid some = grid;
  some.sizes[0] = count;
  return pack(ranks, some, from + first * grid.strides[0], dense);
}
template <class R, class T>
inline const T* unpack_rows(R& ranks, const Grid& grid, const T* dense, T* to, int64_t first, int64_t count) {
  Grid some = grid;
  some.sizes[0] = count;
  return unpack(ranks, some, dense, to + first * grid.strides[0]);
}

// Rows that a rank has sorted by expert go to the ranks of their experts, where they are sorted by expert and rank; or
// `back`, in the same ways. What rows remain are zeros. `offsets` is the host's.
template <class R, class T>
inline void exchange_counted_rows(R& ranks, int axis, int number, int back, const T* in, const Grid& in_grid, const int32_t* offsets, const Grid& offsets_grid, T* out, const Grid& out_grid, T* work) {
  const Routing routing(ranks, axis, offsets, offsets_grid);
  const int n = ranks.size(axis), me = ranks.coordinate(axis), each = routing.each;
  int64_t row = 1;
  for (int d = 1; d < in_grid.rank; ++d) row *= in_grid.sizes[d];
  std::vector<size_t> sent, received;
  for (int k = 0; k < n; ++k) {
    const size_t away = static_cast<size_t>(routing.between(me, k) * row) * sizeof(T);
    const size_t here = static_cast<size_t>(routing.between(k, me) * row) * sizeof(T);
    sent.push_back(back ? here : away);
    received.push_back(back ? away : here);
  }
  T* end = work;
  // This rank's own rows lie by expert, so those for a rank are one piece; those of its experts lie by expert, then rank.
  for (int k = 0; k < n; ++k) {
    if (!back) end = pack_rows(ranks, in_grid, in, routing.start(me, k * each), routing.between(me, k), end);
    for (int e = 0, at = 0; back && e < each; ++e)
      for (int j = 0; j < n; ++j) {
        const int64_t count = routing.count(j, me * each + e);
        if (j == k) end = pack_rows(ranks, in_grid, in, at, count, end);
        at += static_cast<int>(count);
      }
  }
  ranks.all_to_all_v(number, axis, work, sent.data(), end, received.data());
  clear(ranks, out_grid, out);
  const T* dense = end;
  for (int k = 0; k < n; ++k) {
    if (back) dense = unpack_rows(ranks, out_grid, dense, out, routing.start(me, k * each), routing.between(me, k));
    for (int e = 0, at = 0; !back && e < each; ++e)
      for (int j = 0; j < n; ++j) {
        const int64_t count = routing.count(j, me * each + e);
        if (j == k) dense = unpack_rows(ranks, out_grid, dense, out, at, count);
        at += static_cast<int>(count);
      }
  }
}

template <class T>
inline void exchange_rows(Ranks& ranks, int axis, int number, int back, const T* in, const Grid& in_grid, const int32_t* offsets, const Grid& offsets_grid, T* out, const Grid& out_grid, T* work) {
  exchange_counted_rows(ranks, axis, number, back, in, in_grid, offsets, offsets_grid, out, out_grid, work);
}

inline void axis_index(Ranks& ranks, int axis, int32_t* out) { *out = ranks.coordinate(axis); }

}  // namespace exchange
}  // namespace tsr
