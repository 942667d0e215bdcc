// What moves the bytes. A back end knows groups of ranks and dense arrays, nothing of meshes, plans or messages.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "../dtype.h"
#include "../ranks.h"

namespace tsr {
namespace comm {

// Ranks that exchange with each other: `ranks` in the order of their coordinate, `me` the place of this rank among them.
// `index` tells the groups of one axis apart; `axis` counts from 0, all ranks come last.
struct Group {
  int axis = 0, index = 0, me = 0;
  std::vector<int> ranks;
  int size() const { return static_cast<int>(ranks.size()); }
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual const char* name() const = 0;
  virtual void all_reduce(const Group& group, Reduce kind, DType type, void* data, int64_t count) = 0;
  virtual void all_gather(const Group& group, const void* in, void* out, size_t bytes) = 0;
  virtual void reduce_scatter(const Group& group, Reduce kind, DType type, const void* in, void* out, int64_t count) = 0;
  virtual void all_to_all_v(const Group& group, const void* in, const size_t* in_bytes, void* out, const size_t* out_bytes) = 0;
  virtual void broadcast(const Group& group, void* data, size_t bytes, int root) = 0;
  virtual void barrier(const Group& group) = 0;
  // Whether calls may come from any thread, one at a time; otherwise all come from the one that made the back end.
  virtual bool any_thread() const { return true; }
  // From now on sums are taken in the order of the ranks, at whatever cost; those of local and mpi always are.
  virtual void in_order() {}
  // The last call, of all ranks, unless some are lost.
  virtual void finish() {}
  // Ends what other threads wait for in a call, before the process ends; may take its time.
  virtual void abort() {}
};

// What every rank tells about itself, where all can see it. Only the owner writes.
struct Position {
  int64_t entered[kMaxAxes + 1];  // exchanges begun, per axis
  int64_t left[kMaxAxes + 1];     // and completed
  int32_t collective;             // the number of the last one begun
  int32_t axis;
  int64_t step;                   // counted from 0; -1: nothing is known of this rank
};

// A place where ranks see each other's positions and where one tells the others to stop.
class Board {
 public:
  virtual ~Board() = default;
  virtual Position* mine() = 0;
  virtual void publish() {}  // makes what mine() holds visible to the others
  virtual Position of(int rank) const = 0;
  // True for the first rank alone that calls it.
  virtual bool stop() = 0;
  virtual bool stopped() const = 0;
  // Called by the watchdog every few milliseconds.
  virtual void tick() {}
  // A rank that does not answer, without whose answer the positions of others are unknown; -1: all are known.
  virtual int silent() const { return -1; }
  // A number that grows while the rank's process runs, whatever it does; 0: unknown.
  virtual int64_t beats(int) const { return 0; }
};

// One rank: nothing to exchange.
class Self : public Backend, public Board {
 public:
  const char* name() const override { return "self"; }
  void all_reduce(const Group&, Reduce, DType, void*, int64_t) override {}
  void all_gather(const Group&, const void* in, void* out, size_t bytes) override { copy(in, out, bytes); }
  void reduce_scatter(const Group&, Reduce, DType type, const void* in, void* out, int64_t count) override { copy(in, out, static_cast<size_t>(count) * dtype_size(type)); }
  void all_to_all_v(const Group&, const void* in, const size_t* in_bytes, void* out, const size_t*) override { copy(in, out, in_bytes[0]); }
  void broadcast(const Group&, void*, size_t, int) override {}
  void barrier(const Group&) override {}
  Position* mine() override { return &position_; }
  Position of(int) const override { return position_; }
  bool stop() override {
    const bool first = !stopped_;
    stopped_ = true;
    return first;
  }
  bool stopped() const override { return stopped_; }

 private:
  static void copy(const void* in, void* out, size_t bytes) {
    if (in != out) memmove(out, in, bytes);
  }
  Position position_{};
  bool stopped_ = false;
};

}  // namespace comm
}  // namespace tsr
