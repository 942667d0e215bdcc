// The back end of ranks with a GPU each. Communicators do not block: whatever takes long is asked for its state, so that a
// lost rank cannot keep this one inside NCCL. Exchanges of all of them happen one after another (OnStream), in the order of the
// program, which is the same on all ranks: NCCL's condition for several communicators on a device. Included by CUDA programs
// alone, which have the CUDA runtime's declarations.
#pragma once
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "../comm/join.h"
#include "nccl_library.cuh"
#include "nccl_ordered.cuh"

namespace tsr {
namespace comm {

class Nccl : public Backend {
 public:
  // `groups`: this rank's, by axis; the last has all ranks. `board` is kept for World. Every rank has set its device.
  Nccl(const std::vector<Group>& groups, const Nccl218::UniqueId& id, std::unique_ptr<Board> board, double timeout) : board_(std::move(board)), until_(clock_seconds() + timeout) {
    need(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    const Group& all = groups.back();
    Nccl218::Config config;
    Nccl218::Comm whole = nullptr;
    const int code = api_.init(&whole, all.size(), id, all.me, &config);
    start(code, whole);
    for (const Group& group : groups) {
      Nccl218::Comm members = whole;
      if (&group != &all) {
        members = nullptr;
        const int part = api_.split(whole, group.index, group.me, &members, &config);
        start(part, whole);  // `members` is set when this one has done its part
        start(Nccl218::kSuccess, members);
      }
      members_.push_back(members);
    }
    until_ = 0;
  }
  ~Nccl() override {
    cudaFree(terms_);
    cudaStreamDestroy(stream_);
  }

  const char* name() const override { return "nccl"; }
  bool any_thread() const override { return false; }  // a device is current in one thread

  void all_reduce(const Group& group, Reduce kind, DType type, void* data, int64_t count) override {
    Staged at(*this, data, static_cast<size_t>(count) * dtype_size(type), Staged::kBoth);
    put_all_reduce(group, kind, type, at.get(), count, stream_);
    at.finish();
  }
  void all_gather(const Group& group, const void* in, void* out, size_t bytes) override {
    Staged from(*this, in, bytes), to(*this, out, bytes * static_cast<size_t>(group.size()), Staged::kOut);
    put_all_gather(group, from.get(), to.get(), bytes, stream_);
    to.finish();
  }
  void reduce_scatter(const Group& group, Reduce kind, DType type, const void* in, void* out, int64_t count) override {
    const size_t bytes = static_cast<size_t>(count) * dtype_size(type);
    Staged from(*this, in, bytes * static_cast<size_t>(group.size())), to(*this, out, bytes, Staged::kOut);
    put_reduce_scatter(group, kind, type, from.get(), to.get(), count, stream_);
    to.finish();
  }
  void all_to_all_v(const Group& group, const void* in, const size_t* in_bytes, void* out, const size_t* out_bytes) override {
    size_t given = 0, taken = 0;
    for (int k = 0; k < group.size(); ++k) given += in_bytes[k], taken += out_bytes[k];
    Staged from(*this, in, given), to(*this, out, taken, Staged::kOut);
    put_all_to_all_v(group, from.get(), in_bytes, to.get(), out_bytes, stream_);
    to.finish();
  }
  void broadcast(const Group& group, void* data, size_t bytes, int root) override {
    Staged at(*this, data, bytes, Staged::kBoth);
    put(group, [&](Nccl218::Comm c) { return api_.broadcast(at.get(), at.get(), bytes, Nccl218::kInt8, root, c, stream_); });
    at.finish();
  }
  void barrier(const Group& group) override {
    int32_t nothing = 0;
    all_reduce(group, Reduce::sum, DType::i32, &nothing, 1);
  }

  // Arrays in the device's memory, as work on a stream: the communicator has taken it when the call returns.
  void put_all_reduce(const Group& group, Reduce kind, DType type, void* data, int64_t count, void* stream) {
    if (terms_) return add_in_order(group, kind, type, static_cast<const char*>(data), 0, static_cast<char*>(data), count, stream);
    put(group, [&](Nccl218::Comm c) { return api_.all_reduce(data, data, static_cast<size_t>(count), number(type), operation(kind), c, stream); });
  }
  void put_all_gather(const Group& group, const void* in, void* out, size_t bytes, void* stream) {
    put(group, [&](Nccl218::Comm c) { return api_.all_gather(in, out, bytes, Nccl218::kInt8, c, stream); });
  }
  void put_reduce_scatter(const Group& group, Reduce kind, DType type, const void* in, void* out, int64_t count, void* stream) {
    if (terms_) return add_in_order(group, kind, type, static_cast<const char*>(in), static_cast<size_t>(count) * dtype_size(type), static_cast<char*>(out), count, stream);
    put(group, [&](Nccl218::Comm c) { return api_.reduce_scatter(in, out, static_cast<size_t>(count), number(type), operation(kind), c, stream); });
  }
  // What is empty is not sent, but for a rank's message to itself: so every rank takes part.
  void put_all_to_all_v(const Group& group, const void* in, const size_t* in_bytes, void* out, const size_t* out_bytes, void* stream) {
    put(group, [&](Nccl218::Comm c) {
      const char* source = static_cast<const char*>(in);
      char* target = static_cast<char*>(out);
      int code = api_.group_start();
      for (int k = 0; k < group.size(); source += in_bytes[k], target += out_bytes[k], ++k) {
        if ((in_bytes[k] > 0 || k == group.me) && usable(code)) code = api_.send(source, in_bytes[k], Nccl218::kInt8, k, c, stream);
        if ((out_bytes[k] > 0 || k == group.me) && usable(code)) code = api_.receive(target, out_bytes[k], Nccl218::kInt8, k, c, stream);
      }
      const int end = api_.group_end();
      return usable(code) ? end : code;
    });
  }

  // Waits until everything on a stream is done.
  void settle(cudaStream_t stream) {
    for (cudaError_t state; (state = cudaStreamQuery(stream)) != cudaSuccess;) {
      if (state != cudaErrorNotReady) need(state, "an exchange");
      for (const Nccl218::Comm members : members_) check(members);
    }
    for (const Nccl218::Comm members : members_) check(members);
  }
  // T0932 for what the CUDA runtime says.
  static void need(cudaError_t code, const char* what) {
    if (code != cudaSuccess) throw Error("T0932", std::string(what) + ": " + cudaGetErrorString(code), "run it on the emulation (tesserac build --target cuda --emulate) or under compute-sanitizer, which say more");
  }

  // Before the first exchange of a program, which may be captured in a graph.
  void in_order() override {
    if (!terms_) need(cudaMalloc(&terms_, kTerms), "cudaMalloc");
  }

  // Children first: they may share what the communicator of all ranks owns.
  void finish() override {
    for (Nccl218::Comm members : members_) start(api_.finalize(members), members), api_.destroy(members);
    members_.clear();
  }
  // Called by the watchdog's helper, while the main thread may be in a call.
  void abort() override {
    if (aborted_.exchange(true)) return;
    for (Nccl218::Comm members : members_) api_.abort(members);
  }

 private:
  // The device's view of an array: itself, or a copy of one in the host's memory.
  class Staged {
   public:
    enum Use { kIn, kOut, kBoth };
    Staged(Nccl& nccl, const void* data, size_t bytes, Use use = kIn) : nccl_(nccl), data_(const_cast<void*>(data)), bytes_(bytes), use_(use) {
      cudaPointerAttributes about{};
      if (bytes == 0 || (cudaPointerGetAttributes(&about, data) == cudaSuccess && (about.type == cudaMemoryTypeDevice || about.type == cudaMemoryTypeManaged))) return;
      cudaGetLastError();
      need(cudaMalloc(&copy_, bytes), "cudaMalloc");
      if (use != kOut) need(cudaMemcpyAsync(copy_, data, bytes, cudaMemcpyHostToDevice, nccl.stream_), "copying what ranks exchange");
    }
    ~Staged() {
      if (copy_) cudaFree(copy_);
    }
    Staged(const Staged&) = delete;
    Staged& operator=(const Staged&) = delete;
    char* get() const { return static_cast<char*>(copy_ ? copy_ : data_); }
    // Waits for the exchange and brings a result back.
    void finish() {
      if (copy_ && use_ != kIn) need(cudaMemcpyAsync(data_, copy_, bytes_, cudaMemcpyDeviceToHost, nccl_.stream_), "copying what ranks exchange");
      nccl_.settle(nccl_.stream_);
    }

   private:
    Nccl& nccl_;
    void *data_, *copy_ = nullptr;
    size_t bytes_;
    Use use_;
  };

  static bool usable(int code) { return code == Nccl218::kSuccess || code == Nccl218::kInProgress; }
  static int operation(Reduce kind) { return kind == Reduce::sum ? Nccl218::kSum : kind == Reduce::max ? Nccl218::kMax : Nccl218::kMin; }
  static int number(DType type) {
    switch (type) {
      case DType::f32: return Nccl218::kFloat32;
      case DType::f64: return Nccl218::kFloat64;
      case DType::i32: return Nccl218::kInt32;
      case DType::i64: return Nccl218::kInt64;
      default: throw Error("T0924", std::string("ranks cannot add values of type ") + dtype_name(type), "", kExitInternal);
    }
  }

  template <class Work>
  void put(const Group& group, const Work& work) {
    const Nccl218::Comm members = members_[static_cast<size_t>(group.axis)];
    start(work(members), members);
  }

  // The sum of arrays of `count` elements, a piece at a time: those that all ranks have at `in`, or, where blocks for every
  // rank lie `apart` bytes from each other, those that they have for this one.
  void add_in_order(const Group& group, Reduce kind, DType type, const char* in, size_t apart, char* out, int64_t count, void* stream) {
    number(type);  // refuses what has no order
    const size_t n = static_cast<size_t>(group.size()), size = dtype_size(type);
    const int64_t most = static_cast<int64_t>(kTerms / n / size);
    for (int64_t first = 0; first < count; first += most) {
      const int64_t here = count - first < most ? count - first : most;
      const size_t at = static_cast<size_t>(first) * size, bytes = static_cast<size_t>(here) * size;
      put(group, [&](Nccl218::Comm c) {
        if (apart == 0) return api_.all_gather(in + at, terms_, bytes, Nccl218::kInt8, c, stream);
        int code = api_.group_start();
        for (size_t k = 0; k < n; ++k) {
          if (usable(code)) code = api_.send(in + k * apart + at, bytes, Nccl218::kInt8, static_cast<int>(k), c, stream);
          if (usable(code)) code = api_.receive(terms_ + k * bytes, bytes, Nccl218::kInt8, static_cast<int>(k), c, stream);
        }
        const int end = api_.group_end();
        return usable(code) ? end : code;
      });
      need(combine_on(static_cast<cudaStream_t>(stream), type, kind, terms_, out + at, group.size(), here), "adding what ranks have sent");
    }
  }

  // Waits until a communicator has accepted what it was asked for.
  void start(int code, Nccl218::Comm members) {
    if (!usable(code)) failed(code);
    while (members && check(members)) {
      if (until_ > 0 && clock_seconds() > until_) throw no_meeting("NCCL has not connected the ranks in time", "NCCL_DEBUG=INFO shows what it waits for; TSR_INIT_TIMEOUT sets the seconds");
      usleep(200);
    }
  }
  // Whether a communicator is still at work.
  bool check(Nccl218::Comm members) {
    int state = Nccl218::kSuccess;
    const int code = api_.async_error(members, &state);
    if (!usable(code)) failed(code);
    if (!usable(state)) failed(state);
    return state == Nccl218::kInProgress;
  }
  // A remote error means that another rank is gone; the watchdog knows which, says so, and ends the process.
  void failed(int code) {
    for (int tenths = 0; tenths < 20 && until_ == 0; ++tenths) usleep(100000);
    abort();  // nothing can be freed while the device waits for others
    throw Error("T0944", std::string("an exchange over NCCL has failed: ") + api_.error_text(code), "NCCL_DEBUG=WARN shows why; then start the same command again with --resume", kExitLost);
  }

  Nccl218 api_ = nccl_library();
  std::unique_ptr<Board> board_;
  double until_;  // while communicators are made
  cudaStream_t stream_ = nullptr;
  std::vector<Nccl218::Comm> members_;
  static constexpr size_t kTerms = size_t{64} << 20;
  char* terms_ = nullptr;  // of sums in the order of the ranks
  std::atomic<bool> aborted_{false};
};

// Ranks whose programs run on devices: what they do there, the device writes into a ledger that the watchdog reads.
class GpuWorld : public World, public StreamRanks {
 public:
  // Takes `nccl` over.
  GpuWorld(const Mesh& mesh, int rank, std::unique_ptr<Control> control, Nccl* nccl, Board* board, double limit)
      : World(mesh, rank, std::move(control), std::unique_ptr<Backend>(nccl), board, limit), nccl_(*nccl) {
    const size_t traffic = static_cast<size_t>(mesh.collective_count > 0 ? mesh.collective_count : 1) * sizeof(Traffic);
    Nccl::need(cudaMallocHost(&books_.shown, sizeof(Ledger)), "cudaMallocHost"), Nccl::need(cudaMallocHost(&books_.shown_traffic, traffic), "cudaMallocHost");
    Nccl::need(cudaMalloc(&books_.own, sizeof(Ledger)), "cudaMalloc"), Nccl::need(cudaMalloc(&books_.own_traffic, traffic), "cudaMalloc");
    *books_.shown = Ledger{};
    memset(static_cast<void*>(books_.shown_traffic), 0, traffic);
    Nccl::need(cudaMemset(books_.own, 0, sizeof(Ledger)), "cudaMemset"), Nccl::need(cudaMemset(books_.own_traffic, 0, traffic), "cudaMemset");
    Nccl::need(cudaDeviceSynchronize(), "cudaMemset");
    watch(books_.shown);
  }
  ~GpuWorld() override {
    watch(nullptr);
    cudaFree(books_.own), cudaFree(books_.own_traffic), cudaFreeHost(books_.shown), cudaFreeHost(books_.shown_traffic);
  }

  StreamRanks* on_stream() override { return this; }
  Traffic traffic(int collective) const override {
    const Traffic host = World::traffic(collective), device = books_.shown_traffic[collective];
    return {host.calls + device.calls, host.bytes + device.bytes};
  }
  const Books& books() const override { return books_; }

  void all_reduce_on(void* stream, int axis, Reduce kind, DType type, void* data, int64_t count) override { nccl_.put_all_reduce(group(axis), kind, type, data, count, stream); }
  void all_gather_on(void* stream, int axis, const void* in, void* out, size_t bytes) override { nccl_.put_all_gather(group(axis), in, out, bytes, stream); }
  void reduce_scatter_on(void* stream, int axis, Reduce kind, DType type, const void* in, void* out, int64_t count) override {
    nccl_.put_reduce_scatter(group(axis), kind, type, in, out, count, stream);
  }
  void all_to_all_v_on(void* stream, int axis, const void* in, const size_t* in_bytes, void* out, const size_t* out_bytes) override {
    nccl_.put_all_to_all_v(group(axis), in, in_bytes, out, out_bytes, stream);
  }
  void wait(void* stream) override { nccl_.settle(static_cast<cudaStream_t>(stream)); }
  bool early() const override { return !waits_at_once(); }

 private:
  Nccl& nccl_;
  Books books_{};
};

// The GPU of a rank: by its number on this host, or the only one that the launcher lets it see. NCCL refuses ranks that share
// one.
inline void choose_device(const Start& start) {
  int devices = 0;
  const cudaError_t found = cudaGetDeviceCount(&devices);
  const std::string here = format("rank %d is number %d on its host, ", start.rank, start.local + 1);
  if (found != cudaSuccess || devices == 0) throw Error("T0930", here + "where there is no CUDA device: " + cudaGetErrorString(found), "start the ranks where `nvidia-smi` shows devices, or build with --emulate for the processor");
  if (devices > 1 && start.local >= devices) throw Error("T0930", here + format("which has %d GPUs", devices), "start as many ranks per host as it has GPUs, or compile for a smaller --mesh", kExitUsage);
  Nccl::need(cudaSetDevice(start.local % devices), "cudaSetDevice");
}

// Makes this process a rank with a GPU of its own: as join(), for CUDA programs. The emulation gives every process a device.
inline Ranks* join_gpus(const Program& program) {
  const char* const wanted = getenv("TSR_BACKEND");
  if (wanted && *wanted && std::string(wanted) != "nccl") throw environment::wrong("TSR_BACKEND=" + quoted(wanted) + ": ranks with a GPU each exchange by nccl");
  Meeting met = meet(program, "nccl");
  choose_device(met.start);
  const Mesh& mesh = *program.mesh;
  Nccl218::UniqueId id{};
  if (met.start.rank == 0) {
    if (const int code = nccl_library().unique_id(&id)) throw no_meeting("NCCL gives no id to meet by: " + format("code %d", code), "NCCL_DEBUG=WARN shows why");
    met.control->tell(std::string(id.bytes, sizeof id.bytes));
  } else {
    met.control->hear(met.timeout).copy(id.bytes, sizeof id.bytes);
  }
  Wires* const board = new Wires(met.control.get(), met.start.rank, met.start.world);
  Nccl* const nccl = new Nccl(groups_of(mesh, met.start.rank), id, std::unique_ptr<Board>(board), met.timeout);
  return new GpuWorld(mesh, met.start.rank, std::move(met.control), nccl, board, met.limit);
}

}  // namespace comm
}  // namespace tsr
