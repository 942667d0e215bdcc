// The back end of ranks on one host: they pass data through shared memory, a chunk at a time. Every rank has two chunks
// per axis, used in turns, so that one barrier separates writing a chunk from reading it and the next from the last:
// a rank that writes chunk i + 2 has passed the barrier of chunk i + 1, which its readers reached after reading i.
#pragma once
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "combine.h"
#include "shared.h"

namespace tsr {
namespace comm {

// The groups of every axis, and where their chunks lie in the segment. `chunk`: bytes, a multiple of 64 times ranks.
struct Layout {
  int world = 1, axes = 0;  // axes: those of the mesh and, last, all ranks
  size_t chunk = 0;
  static constexpr size_t kHeader = 4096;
  size_t positions() const { return kHeader; }
  size_t barriers() const { return positions() + static_cast<size_t>(world) * sizeof(SharedPosition); }
  size_t chunks() const { return (barriers() + static_cast<size_t>(axes * world) * sizeof(Barrier) + 4095) / 4096 * 4096; }
  size_t bytes() const { return chunks() + static_cast<size_t>(axes) * static_cast<size_t>(world) * 3 * chunk; }
};

class Local : public Backend, public Board {
 public:
  Local(const std::string& path, const Layout& layout, int rank)
      : layout_(layout), rank_(rank), segment_(path, layout.bytes()), turns_(static_cast<size_t>(layout.axes)) {
    cpu_set_t set;
    const int processors = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    spins_ = layout.world <= processors ? 4000 : 0;
  }

  Segment& segment() { return segment_; }
  const char* name() const override { return "local"; }

  // Every rank adds its own share of a chunk, in the order of the ranks, and all take the sums of all shares.
  void all_reduce(const Group& group, Reduce kind, DType type, void* data, int64_t count) override {
    const int64_t size = static_cast<int64_t>(dtype_size(type)), most = static_cast<int64_t>(layout_.chunk) / size;
    for (int64_t first = 0; first < count; first += most) {
      const int64_t n = std::min(most, count - first);
      char* const at = static_cast<char*>(data) + first * size;
      const int turn = next(group);
      memcpy(chunk(group, rank_, turn), at, static_cast<size_t>(n * size));
      arrive(group);
      const int64_t begin = share(n, group.me, group.size()), end = share(n, group.me + 1, group.size());
      char* const sum = chunk(group, rank_, 2) + begin * size;
      memcpy(sum, chunk(group, group.ranks[0], turn) + begin * size, static_cast<size_t>((end - begin) * size));
      for (int k = 1; k < group.size(); ++k) combine(type, kind, sum, chunk(group, group.ranks[static_cast<size_t>(k)], turn) + begin * size, end - begin);
      arrive(group);
      for (int k = 0; k < group.size(); ++k) {
        const int64_t from = share(n, k, group.size()), to = share(n, k + 1, group.size());
        memcpy(at + from * size, chunk(group, group.ranks[static_cast<size_t>(k)], 2) + from * size, static_cast<size_t>((to - from) * size));
      }
    }
  }

  void all_gather(const Group& group, const void* in, void* out, size_t bytes) override {
    for (size_t first = 0; first < bytes; first += layout_.chunk) {
      const size_t n = std::min(layout_.chunk, bytes - first);
      const int turn = next(group);
      memcpy(chunk(group, rank_, turn), static_cast<const char*>(in) + first, n);
      arrive(group);
      for (int k = 0; k < group.size(); ++k)
        memcpy(static_cast<char*>(out) + static_cast<size_t>(k) * bytes + first, chunk(group, group.ranks[static_cast<size_t>(k)], turn), n);
    }
  }

  void reduce_scatter(const Group& group, Reduce kind, DType type, const void* in, void* out, int64_t count) override {
    const int64_t size = static_cast<int64_t>(dtype_size(type)), most = static_cast<int64_t>(layout_.chunk) / size / group.size();
    for (int64_t first = 0; first < count; first += most) {
      const int64_t n = std::min(most, count - first);
      const int turn = next(group);
      for (int k = 0; k < group.size(); ++k)
        memcpy(chunk(group, rank_, turn) + k * n * size, static_cast<const char*>(in) + (k * count + first) * size, static_cast<size_t>(n * size));
      arrive(group);
      char* const sum = static_cast<char*>(out) + first * size;
      memcpy(sum, chunk(group, group.ranks[0], turn) + group.me * n * size, static_cast<size_t>(n * size));
      for (int k = 1; k < group.size(); ++k) combine(type, kind, sum, chunk(group, group.ranks[static_cast<size_t>(k)], turn) + group.me * n * size, n);
    }
  }

  // In rounds of one piece per pair of ranks; how many rounds there are, the rank with the longest block decides.
  void all_to_all_v(const Group& group, const void* in, const size_t* in_bytes, void* out, const size_t* out_bytes) override {
    const size_t n = static_cast<size_t>(group.size()), piece = layout_.chunk / n / 64 * 64;
    int64_t rounds = 0;
    for (size_t k = 0; k < n; ++k) rounds = std::max(rounds, static_cast<int64_t>((in_bytes[k] + piece - 1) / piece));
    all_reduce(group, Reduce::max, DType::i64, &rounds, 1);
    for (int64_t round = 0; round < rounds; ++round) {
      const int turn = next(group);
      const size_t first = static_cast<size_t>(round) * piece;
      const char* from = static_cast<const char*>(in);
      for (size_t k = 0; k < n; from += in_bytes[k++])
        if (first < in_bytes[k]) memcpy(chunk(group, rank_, turn) + k * piece, from + first, std::min(piece, in_bytes[k] - first));
      arrive(group);
      char* to = static_cast<char*>(out);
      for (size_t k = 0; k < n; to += out_bytes[k++])
        if (first < out_bytes[k]) memcpy(to + first, chunk(group, group.ranks[k], turn) + static_cast<size_t>(group.me) * piece, std::min(piece, out_bytes[k] - first));
    }
  }

  void broadcast(const Group& group, void* data, size_t bytes, int root) override {
    for (size_t first = 0; first < bytes; first += layout_.chunk) {
      const size_t n = std::min(layout_.chunk, bytes - first);
      const int turn = next(group);
      if (group.me == root) memcpy(chunk(group, rank_, turn), static_cast<char*>(data) + first, n);
      arrive(group);
      if (group.me != root) memcpy(static_cast<char*>(data) + first, chunk(group, group.ranks[static_cast<size_t>(root)], turn), n);
    }
  }

  void barrier(const Group& group) override { arrive(group); }

  Position* mine() override { return &own_; }
  void publish() override {
    SharedPosition& to = position(rank_);
    for (int a = 0; a <= kMaxAxes; ++a) to.entered[a] = own_.entered[a], to.left[a] = own_.left[a];
    to.collective = own_.collective, to.axis = own_.axis, to.step = own_.step;
  }
  Position of(int rank) const override {
    const SharedPosition& from = position(rank);
    Position out{};
    for (int a = 0; a <= kMaxAxes; ++a) out.entered[a] = from.entered[a], out.left[a] = from.left[a];
    out.collective = from.collective, out.axis = from.axis, out.step = from.step;
    return out;
  }
  void tick() override { ++position(rank_).beats; }
  int64_t beats(int rank) const override { return position(rank).beats; }
  bool stop() override { return stop_flag().exchange(1) == 0; }
  bool stopped() const override { return stop_flag().load() != 0; }

 private:
  static int64_t share(int64_t n, int k, int parts) { return n * k / parts; }
  int next(const Group& group) { return turns_[static_cast<size_t>(group.axis)]++ & 1; }
  // Chunks 0 and 1 hold what a rank gives, chunk 2 the sums of its share.
  char* chunk(const Group& group, int rank, int which) const {
    const size_t number = (static_cast<size_t>(group.axis) * static_cast<size_t>(layout_.world) + static_cast<size_t>(rank)) * 3 + static_cast<size_t>(which);
    return segment_.data() + layout_.chunks() + number * layout_.chunk;
  }
  SharedPosition& position(int rank) const { return reinterpret_cast<SharedPosition*>(segment_.data() + layout_.positions())[rank]; }
  std::atomic<uint32_t>& stop_flag() const { return *reinterpret_cast<std::atomic<uint32_t>*>(segment_.data()); }

  void arrive(const Group& group) {
    Barrier& barrier = reinterpret_cast<Barrier*>(segment_.data() + layout_.barriers())[group.axis * layout_.world + group.index];
    const uint32_t generation = barrier.generation.load(std::memory_order_acquire);
    if (barrier.arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == static_cast<uint32_t>(group.size())) {
      barrier.arrived.store(0, std::memory_order_relaxed);
      barrier.generation.store(generation + 1, std::memory_order_release);
      wake_all(&barrier.generation);
      return;
    }
    wait_for_change(&barrier.generation, generation, spins_, [&] {
      while (stopped()) pause();  // the watchdog ends this process
    });
  }

  Layout layout_;
  int rank_, spins_;
  Segment segment_;
  std::vector<unsigned> turns_;
  Position own_{};
};

}  // namespace comm
}  // namespace tsr
