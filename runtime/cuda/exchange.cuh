// What kernels of a program on a mesh of GPUs do with other ranks: runtime/exchange.h, with tensors in device memory. Tensors
// are packed and unpacked by one kernel for many of them, which also writes down where the device is; between the two
// stands an exchange of NCCL's. All of it is work on the program's stream, in the program's order, and can be captured. Only
// what begins early is work on a second stream, which forks from that one and joins it again: within a graph, two branches.
#pragma once
#include <algorithm>
#include <climits>
#include <deque>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "../dtype.h"
#include "../exchange.h"
#include "arena.cuh"

namespace tsr::cuda {

/// Copies `count` elements from one grid to another of the same sizes; zeros where `from` is null.
struct Piece {
  const void* from;
  void* to;
  int64_t count;
  int rank;
  int sizes[kMaxRank];
  int64_t from_strides[kMaxRank], to_strides[kMaxRank];
};

/// An exchange begins or has ended.
struct Note {
  enum Kind : int { nothing, entered, left } kind;
  int axis, collective;  // the axis in the books; the collective's number, or Ranks::kOwn
  int64_t bytes;
};

constexpr int kPieces = 16;  // of one launch, whose parameters are 4 kB at most

struct Pieces {
  Piece piece[kPieces];
  Note note;
};

/// One thread writes, in the device's books and in those that it shows.
__device__ inline void write_down(const Note& note, const Books& books) {
  Ledger& own = *books.own;
  volatile Ledger& shown = *books.shown;
  if (note.kind == Note::entered) {
    shown.collective = note.collective, shown.axis = note.axis;
    __threadfence_system();
    shown.entered[note.axis] = ++own.entered[note.axis];
    return;
  }
  shown.left[note.axis] = ++own.left[note.axis];
  if (note.collective < 0) return;
  Traffic& sum = books.own_traffic[note.collective];
  volatile Traffic& told = books.shown_traffic[note.collective];
  told.calls = ++sum.calls, told.bytes = sum.bytes += note.bytes;
}

template <class T, class Index>
__device__ inline void move_piece(const Piece& piece) {
  const T* const from = static_cast<const T*>(piece.from);
  T* const to = static_cast<T*>(piece.to);
  for (int64_t i = int64_t(blockIdx.x) * 256 + threadIdx.x; i < piece.count; i += int64_t(gridDim.x) * 256) {
    Index rest = Index(i);
    int64_t source = 0, target = 0;
    for (int d = piece.rank - 1; d > 0; --d) {
      const Index at = rest % Index(piece.sizes[d]);
      rest /= Index(piece.sizes[d]);
      source += at * piece.from_strides[d], target += at * piece.to_strides[d];
    }
    source += rest * piece.from_strides[0], target += rest * piece.to_strides[0];
    to[target] = from == nullptr ? T(0) : from[source];
  }
}

/// A row of blocks per piece.
template <class T>
__global__ void __launch_bounds__(256) move_pieces(const __grid_constant__ Pieces table, const Books books) {
  const Piece& piece = table.piece[blockIdx.y];
  if (piece.count <= INT_MAX) move_piece<T, unsigned>(piece);
  else move_piece<T, int64_t>(piece);
  if (table.note.kind != Note::nothing && blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0) write_down(table.note, books);
}

/// Where the rows of each of this rank's experts begin among those that it receives: exchange::expert_offsets. One block.
template <class I>
__global__ void __launch_bounds__(256) own_offsets(const I* __restrict__ offsets, int64_t stride, int ranks, int first, int experts, I* __restrict__ out) {
  for (int e = threadIdx.x; e <= experts; e += 256) {
    I end = 0;
    for (int k = 0; k < ranks; ++k) end += offsets[k * stride + first + e] - offsets[k * stride + first];
    out[e] = end;
  }
}

template <class T>
__global__ void set_number(T* __restrict__ out, T value) { *out = value; }

/// A point in a stream's work.
class Mark {
 public:
  explicit Mark(Context& context) : context_(context) { context.need(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "cudaEventCreateWithFlags"); }
  ~Mark() { cudaEventDestroy(event_); }
  Mark(const Mark&) = delete;
  Mark& operator=(const Mark&) = delete;

  /// Here.
  void set(cudaStream_t stream) { context_.check(cudaEventRecord(event_, stream), "cudaEventRecord"); }
  /// What is put on the stream from now on comes behind it.
  void await(cudaStream_t stream) const { context_.check(cudaStreamWaitEvent(stream, event_, 0), "cudaStreamWaitEvent"); }

 private:
  Context& context_;
  cudaEvent_t event_ = nullptr;
};

/// Exchanges of one program, as Ranks has them, put on its stream. Copies wait in a table until they are needed. Exchanges
/// never overlap each other: one on the program's stream comes behind all that have begun beside it.
class OnStream {
 public:
  OnStream(Context& context, const Mesh& mesh, Ranks& ranks) : context_(context), mesh_(mesh), ranks_(ranks), stream_(*ranks.on_stream()) {}
  ~OnStream() {
    if (beside_ != nullptr) cudaStreamDestroy(beside_);
  }
  OnStream(const OnStream&) = delete;
  OnStream& operator=(const OnStream&) = delete;

  int size(int axis) const { return ranks_.size(axis); }
  int coordinate(int axis) const { return ranks_.coordinate(axis); }
  bool held(int collective) const { return ranks_.held(collective); }
  /// Whether any exchange is held back.
  bool holding() const { return mesh_.bucket_count > 0 && held(mesh_.buckets[0].reduce); }

  void all_reduce(int collective, int axis, Reduce kind, DType type, void* data, int64_t count) {
    if (held(collective)) return flush();
    around(collective, axis, count * int64_t(dtype_size(type)), [&] { stream_.all_reduce_on(context_.stream, axis, kind, type, data, count); });
  }
  /// Begins behind what is on the program's stream by now, and goes on beside what follows there.
  void all_reduce_begin(int collective, int axis, Reduce kind, DType type, void* data, int64_t count) {
    if (!stream_.early() || held(collective)) return all_reduce(collective, axis, kind, type, data, count);
    begin(collective, axis, count * int64_t(dtype_size(type)), [&] { stream_.all_reduce_on(beside_, axis, kind, type, data, count); });
  }
  /// What follows on the program's stream comes behind it.
  void all_reduce_end(int collective) {
    if (std::find(begun_.begin(), begun_.end(), collective) == begun_.end()) return;
    mark(collective).await(context_.stream);
    int done = Ranks::kOwn;
    while (done != collective) done = begun_.front(), begun_.pop_front();
  }
  void all_gather(int collective, int axis, const void* in, void* out, size_t bytes) {
    around(collective, axis, int64_t(bytes), [&] { stream_.all_gather_on(context_.stream, axis, in, out, bytes); });
  }
  void reduce_scatter(int collective, int axis, Reduce kind, DType type, const void* in, void* out, int64_t count) {
    const int64_t bytes = count * ranks_.size(axis) * int64_t(dtype_size(type));
    around(collective, axis, bytes, [&] { stream_.reduce_scatter_on(context_.stream, axis, kind, type, in, out, count); });
  }
  void reduce_scatter_begin(int collective, int axis, Reduce kind, DType type, const void* in, void* out, int64_t count) {
    if (!stream_.early()) return reduce_scatter(collective, axis, kind, type, in, out, count);
    const int64_t bytes = count * ranks_.size(axis) * int64_t(dtype_size(type));
    begin(collective, axis, bytes, [&] { stream_.reduce_scatter_on(beside_, axis, kind, type, in, out, count); });
  }
  void all_to_all(int collective, int axis, const void* in, void* out, size_t bytes) {
    const std::vector<size_t> each(size_t(ranks_.size(axis)), bytes);
    all_to_all_v(collective, axis, in, each.data(), out, each.data());
  }
  void all_to_all_v(int collective, int axis, const void* in, const size_t* in_bytes, void* out, const size_t* out_bytes) {
    int64_t bytes = 0;
    for (int k = 0; k < ranks_.size(axis); ++k) bytes += int64_t(in_bytes[k]);
    around(collective, axis, bytes, [&] { stream_.all_to_all_v_on(context_.stream, axis, in, in_bytes, out, out_bytes); });
  }

  /// Puts what waits on the stream.
  void flush() { put(context_.stream); }
  /// Adds a copy between grids of the same sizes, or of zeros. Those that wait together may run in any order.
  template <class T>
  void move(const T* from, const Grid& from_grid, T* to, const Grid& to_grid) {
    if (exchange::elements(to_grid) == 0) return;
    if (count_ == kPieces || (count_ > 0 && size_ != sizeof(T))) flush();
    size_ = sizeof(T);
    table_.piece[count_++] = piece_of(from, from_grid, to, to_grid);
  }

  /// What the host has to do in between, knowing numbers that the device has computed: see Context::on_host.
  template <class Action>
  void on_host(const Action& action) {
    join();  // a graph ends here
    flush();
    context_.on_host(action);
  }
  /// For such an action: a copy of an array in device memory, until the next one.
  const int32_t* read(const int32_t* from, int64_t count) {
    const size_t bytes = size_t(count) * sizeof(int32_t);
    if (room_ < bytes) pinned_.reset(new Pinned(context_, bytes)), room_ = bytes;
    context_.check(cudaMemcpyAsync(pinned_->at(0), from, bytes, cudaMemcpyDeviceToHost, context_.stream), "reading the rows of experts");
    context_.wait();
    return reinterpret_cast<const int32_t*>(pinned_->at(0));
  }
  template <class T>
  void set(T* out, T value) {
    set_number<T><<<1, 1, 0, context_.stream>>>(out, value);
  }
  template <class Launch>
  void launch(const Launch& launch) {
    flush();
    launch(context_.stream);
    context_.check(cudaGetLastError(), "counting the rows of experts");
  }

 private:
  void put(cudaStream_t stream) {
    if (count_ == 0 && table_.note.kind == Note::nothing) return;
    int64_t most = 1;
    for (int i = 0; i < count_; ++i) most = std::max(most, table_.piece[i].count);
    if (count_ == 0) table_.piece[0] = Piece{};
    const dim3 grid(unsigned(std::min<int64_t>((most + 255) / 256, 2048)), unsigned(std::max(count_, 1)));
    switch (size_) {
      case 1: move_pieces<int8_t><<<grid, 256, 0, stream>>>(table_, stream_.books()); break;
      case 2: move_pieces<int16_t><<<grid, 256, 0, stream>>>(table_, stream_.books()); break;
      case 4: move_pieces<int32_t><<<grid, 256, 0, stream>>>(table_, stream_.books()); break;
      default: move_pieces<int64_t><<<grid, 256, 0, stream>>>(table_, stream_.books()); break;
    }
    context_.check(cudaGetLastError(), "packing what ranks exchange");
    count_ = 0;
    table_.note = Note{};
  }

  /// Awaits everything that has begun.
  void join() {
    if (!begun_.empty()) all_reduce_end(begun_.back());
  }
  /// Where an exchange has ended on the second stream, or (kOwn) where that forks.
  Mark& mark(int collective) {
    std::unique_ptr<Mark>& found = marks_[collective];
    if (found == nullptr) found.reset(new Mark(context_));
    return *found;
  }
  int place(int axis) const { return axis == Ranks::kWorld ? mesh_.axis_count : axis; }

  /// Grids with as few dimensions as both can be written with.
  static Piece piece_of(const void* from, const Grid& from_grid, void* to, const Grid& to_grid) {
    Piece out{from, to, exchange::elements(to_grid), 0, {}, {}, {}};
    for (int d = 0; d < to_grid.rank; ++d) {
      const int64_t size = to_grid.sizes[d], f = from_grid.strides[d], t = to_grid.strides[d];
      if (size == 1) continue;
      const int last = out.rank - 1;
      if (last >= 0 && out.from_strides[last] == f * size && out.to_strides[last] == t * size && out.sizes[last] * size <= INT_MAX) out.sizes[last] *= int(size);
      else out.sizes[out.rank++] = int(size);
      out.from_strides[out.rank - 1] = f, out.to_strides[out.rank - 1] = t;
    }
    if (out.rank == 0) out.rank = 1, out.sizes[0] = 1;
    return out;
  }

  template <class Exchange>
  void begin(int collective, int axis, int64_t bytes, const Exchange& exchange) {
    flush();
    if (beside_ == nullptr) context_.need(cudaStreamCreateWithFlags(&beside_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    mark(Ranks::kOwn).set(context_.stream);
    mark(Ranks::kOwn).await(beside_);
    table_.note = {Note::entered, place(axis), collective, bytes};
    put(beside_);
    exchange();
    table_.note = {Note::left, place(axis), collective, bytes};
    put(beside_);
    mark(collective).set(beside_);
    begun_.push_back(collective);
  }

  template <class Exchange>
  void around(int collective, int axis, int64_t bytes, const Exchange& exchange) {
    join();
    if (table_.note.kind != Note::nothing) flush();
    table_.note = {Note::entered, place(axis), collective, bytes};
    flush();
    exchange();
    table_.note = {Note::left, place(axis), collective, bytes};
  }

  Context& context_;
  const Mesh& mesh_;
  Ranks& ranks_;
  StreamRanks& stream_;
  Pieces table_{};
  int count_ = 0;       // pieces that wait
  size_t size_ = 4;     // bytes of their elements
  std::unique_ptr<Pinned> pinned_;
  size_t room_ = 0;
  cudaStream_t beside_ = nullptr;
  std::map<int, std::unique_ptr<Mark>> marks_;
  std::deque<int> begun_;  // exchanges that the program's stream does not come behind yet
};

inline void settle(OnStream& ranks) { ranks.flush(); }

/// Dense arrays as grids.
inline Grid dense_grid(const Grid& like) {
  Grid out = like;
  int64_t stride = 1;
  for (int d = like.rank - 1; d >= 0; stride *= like.sizes[d--]) out.strides[d] = stride;
  return out;
}

template <class T>
inline T* pack(OnStream& ranks, const Grid& grid, const T* from, T* dense) {
  ranks.move(from, grid, dense, dense_grid(grid));
  return dense + exchange::elements(grid);
}
template <class T>
inline const T* unpack(OnStream& ranks, const Grid& grid, const T* dense, T* to) {
  ranks.move(dense, dense_grid(grid), to, grid);
  return dense + exchange::elements(grid);
}
template <class T>
inline void clear(OnStream& ranks, const Grid& grid, T* at) {
  ranks.move<T>(nullptr, grid, at, grid);
  ranks.flush();  // other copies may go to the same place
}
template <class T>
inline void copy(OnStream& ranks, const Grid& from_grid, const T* from, const Grid& to_grid, T* to) {
  Grid sizes = from_grid;
  for (int d = 0; d < to_grid.rank; ++d) sizes.sizes[d] = to_grid.sizes[d];
  ranks.move(from, sizes, to, to_grid);
}

}  // namespace tsr::cuda

namespace tsr::exchange {

inline void expert_offsets(cuda::OnStream& ranks, int axis, const int32_t* in, const Grid& in_grid, int32_t* out, const Grid&) {
  const int n = ranks.size(axis), each = int(in_grid.sizes[1] - 1) / n, first = ranks.coordinate(axis) * each;
  ranks.launch([&](cudaStream_t stream) { cuda::own_offsets<int32_t><<<1, 256, 0, stream>>>(in, in_grid.strides[0], n, first, each, out); });
}

/// NCCL has to be told how many rows go where, and the device has counted them: the host reads the counts, and the exchange
/// stands between two graphs of the step.
template <class T>
inline void exchange_rows(cuda::OnStream& ranks, int axis, int number, int back, const T* in, const Grid& in_grid, const int32_t* offsets, const Grid& offsets_grid, T* out, const Grid& out_grid, T* work) {
  ranks.on_host([=, &ranks] {
    const int64_t count = (offsets_grid.sizes[0] - 1) * offsets_grid.strides[0] + offsets_grid.sizes[1];
    exchange_counted_rows(ranks, axis, number, back, in, in_grid, ranks.read(offsets, count), offsets_grid, out, out_grid, work);
    ranks.flush();
  });
}

inline void axis_index(cuda::OnStream& ranks, int axis, int32_t* out) { ranks.set<int32_t>(out, ranks.coordinate(axis)); }

}  // namespace tsr::exchange
