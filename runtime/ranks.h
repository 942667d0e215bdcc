// The ranks of a program on a mesh, as emitted code and the rest of the runtime see them. runtime/comm/ has the one
// implementation; a program without a mesh never includes it.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "program.h"

namespace tsr {

enum class Reduce : int { sum, max, min };

// What an exchange has cost so far: `seconds` that it took, `waited` those in which this rank did nothing else.
struct Traffic {
  int64_t calls = 0, bytes = 0;
  double seconds = 0, waited = 0;
};

class StreamRanks;

// Calls are collective: the ranks of an axis that differ in its coordinate alone all make them, in one order. Arrays are dense.
// `collective` is the number in Mesh::collectives; kOwn is the runtime's own business and counts nowhere. kWorld as an axis:
// all ranks. Sums are taken in the order of the ranks, or (over NCCL, unless in_order() was called) of the library. A call that cannot
// end because a rank is lost ends the process.
class Ranks {
 public:
  static constexpr int kOwn = -1, kWorld = -1;
  virtual ~Ranks() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual int size(int axis) const = 0;
  virtual int coordinate(int axis) const = 0;

  // data: count elements, replaced by their sum, largest or smallest over the ranks.
  virtual void all_reduce(int collective, int axis, Reduce kind, DType type, void* data, int64_t count) = 0;
  // The same in two halves: the exchange goes on beside what the caller does in between, and the data is its own. Other
  // calls wait until it is done, so that exchanges follow each other in one order on all ranks.
  virtual void all_reduce_begin(int collective, int axis, Reduce kind, DType type, void* data, int64_t count) = 0;
  virtual void all_reduce_end(int collective) = 0;
  // The same of reduce_scatter, which all_reduce_end awaits.
  virtual void reduce_scatter_begin(int collective, int axis, Reduce kind, DType type, const void* in, void* out, int64_t count) = 0;
  // in: bytes of this rank; out: size(axis) times as many, in the order of the ranks.
  virtual void all_gather(int collective, int axis, const void* in, void* out, size_t bytes) = 0;
  // in: size(axis) blocks of count elements; out: the sum (largest, smallest) of the blocks meant for this rank.
  virtual void reduce_scatter(int collective, int axis, Reduce kind, DType type, const void* in, void* out, int64_t count) = 0;
  // in: a block of bytes for every rank; out: the blocks that the ranks have for this one.
  virtual void all_to_all(int collective, int axis, const void* in, void* out, size_t bytes) = 0;
  // The same with blocks of any length, one after another; both sides know their own lengths.
  virtual void all_to_all_v(int collective, int axis, const void* in, const size_t* in_bytes, void* out, const size_t* out_bytes) = 0;
  virtual void broadcast(int collective, int axis, void* data, size_t bytes, int root) = 0;
  virtual void barrier(int axis) = 0;

  // Sums in the order of the ranks by every back end, before the first exchange of a program.
  virtual void in_order() = 0;
  // Between hold(true) and hold(false) the exchanges that reduce Mesh::buckets are left out: what they would reduce remains
  // this rank's term of the sum. held(): whether that is so of one.
  virtual void hold(bool) {}
  virtual bool held(int) const { return false; }

  virtual Traffic traffic(int collective) const = 0;
  // Where this rank is, for messages about lost ranks.
  virtual void at_step(int64_t step) = 0;
  // How long an exchange may wait; 0: until step times are known. A limit that the user set stays.
  virtual void patience(double seconds) = 0;
  // Tells all ranks that this one gives up, so that they end; whether it is the first.
  virtual bool fail() = 0;
  virtual std::string backend() const = 0;
  // The same ranks for programs on a device; null where exchanges are the host's.
  virtual StreamRanks* on_stream() { return nullptr; }
};

// What a device has done of the exchanges on its stream. It writes this itself: the host hears nothing of what a graph does.
struct Ledger {
  int64_t entered[kMaxAxes + 1], left[kMaxAxes + 1];  // by axis, last those of all ranks
  int32_t collective, axis;                           // of the last one entered
};

// The device's own copies, in its memory, and those that it shows to the host; traffic by Mesh::collectives.
struct Books {
  Ledger *own, *shown;
  Traffic *own_traffic, *shown_traffic;
};

// Exchanges of arrays in a device's memory, as work on its stream, which has a type of its own. Calls return before the work
// is done, and can be captured in a graph. They are not counted and not watched: that is for the caller, in the books.
class StreamRanks {
 public:
  virtual ~StreamRanks() = default;
  virtual void all_reduce_on(void* stream, int axis, Reduce kind, DType type, void* data, int64_t count) = 0;
  virtual void all_gather_on(void* stream, int axis, const void* in, void* out, size_t bytes) = 0;
  virtual void reduce_scatter_on(void* stream, int axis, Reduce kind, DType type, const void* in, void* out, int64_t count) = 0;
  virtual void all_to_all_v_on(void* stream, int axis, const void* in, const size_t* in_bytes, void* out, const size_t* out_bytes) = 0;
  // Waits until all work on the stream is done.
  virtual void wait(void* stream) = 0;
  // Whether an exchange in two halves goes on beside other work: not with TSR_OVERLAP=0.
  virtual bool early() const = 0;
  virtual const Books& books() const = 0;
};

// The numbers that a part of a tensor has among the whole one's: where it begins in each dimension. Its lengths are Tensor::shape.
struct Corner { int64_t at[kMaxRank]; };

// Of this rank's part, or of another's: anything with size(axis) and coordinate(axis).
template <class Where>
inline Corner corner_of(const Tensor& tensor, const Where* ranks) {
  Corner out{};
  for (int d = 0; tensor.cut && ranks && d < tensor.rank; ++d) {
    int64_t part = 0;
    for (int axis = 0; axis < kMaxAxes; ++axis)
      if (tensor.cut->axes[d] >> axis & 1u) part = part * ranks->size(axis) + ranks->coordinate(axis);
    out.at[d] = part * tensor.shape[d];
  }
  return out;
}

// Whether this rank, or another, has any of a tensor; without ranks, the first one.
template <class Where>
inline bool holds(const Tensor& tensor, const Where* ranks) {
  if (!tensor.cut || tensor.cut->owner_axis < 0) return true;
  return tensor.cut->owner == (ranks ? ranks->coordinate(tensor.cut->owner_axis) : 0);
}

// The axes along which ranks have different parts of a tensor, or only one has it, as bits.
inline unsigned dividing_axes(const Tensor& tensor) {
  unsigned out = 0;
  for (int d = 0; tensor.cut && d < tensor.rank; ++d) out |= tensor.cut->axes[d];
  if (tensor.cut && tensor.cut->owner_axis >= 0) out |= 1u << tensor.cut->owner_axis;
  return out;
}

// Whether this rank is the one, of those with equal parts of a tensor, that speaks for it: the first along every axis
// that does not divide it, nor is one of `more` as bits.
inline bool speaks_for(const Tensor& tensor, const Mesh& mesh, const Ranks& ranks, unsigned more = 0) {
  const unsigned cut = dividing_axes(tensor) | more;
  for (int axis = 0; axis < mesh.axis_count; ++axis)
    if (!(cut >> axis & 1u) && ranks.coordinate(axis) != 0) return false;
  return true;
}

// The whole tensor that `tensor` is a part of, without a place in an arena.
inline Tensor whole_of(const Tensor& tensor) {
  Tensor out = tensor;
  out.cut = nullptr;
  for (int d = 0; tensor.cut && d < tensor.rank; ++d) out.shape[d] = tensor.cut->shape[d];
  out.row_stride = 0;
  return out;
}

// The numbers that a part's elements have in the whole tensor, row by row: calls f(row, first) for every row (run of the
// last axis) of the part; `first` is the row-major number of its first element in the whole.
template <class F>
inline void each_row(const Tensor& part, const Corner& corner, const F& f) {
  const int64_t* const whole = part.cut ? part.cut->shape : part.shape;
  int64_t rows = 1;
  for (int d = 0; d + 1 < part.rank; ++d) rows *= part.shape[d];
  for (int64_t row = 0; row < rows; ++row) {
    int64_t rest = row, first = 0, stride = 1;
    for (int d = part.rank - 1; d >= 0; --d) {
      const int64_t at = d == part.rank - 1 ? 0 : rest % part.shape[d];
      if (d < part.rank - 1) rest /= part.shape[d];
      first += (corner.at[d] + at) * stride;
      stride *= whole[d];
    }
    f(row, first);
  }
}

template <class F>
inline void each_row(const Tensor& part, const Ranks* ranks, const F& f) { each_row(part, corner_of(part, ranks), f); }

// The part of a dense whole tensor, dense.
inline void cut_out(const Tensor& part, const Ranks* ranks, const char* whole, size_t element, char* out) {
  const size_t length = static_cast<size_t>(part.rank > 0 ? part.shape[part.rank - 1] : 1) * element;
  each_row(part, ranks, [&](int64_t row, int64_t first) { memcpy(out + static_cast<size_t>(row) * length, whole + static_cast<size_t>(first) * element, length); });
}

// The ranks of this process's job: set once by the command line, null in a program without a mesh.
inline Ranks*& process_ranks() {
  static Ranks* ranks = nullptr;
  return ranks;
}

}  // namespace tsr
