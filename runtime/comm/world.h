// The ranks of this job: groups by axis, counted exchanges, and the watchdog around every one of them.
#pragma once
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "../dtype.h"
#include "backend.h"
#include "beside.h"
#include "watchdog.h"

namespace tsr {
namespace comm {

// Ranks row-major over the axes; `axis` == axis_count: all of them.
inline Group group_of(const Mesh& mesh, int rank, int axis) {
  Group out;
  out.axis = axis;
  int size = 1, stride = 1;
  for (int a = 0; a < mesh.axis_count; ++a) {
    size *= mesh.sizes[a];
    if (a > axis) stride *= mesh.sizes[a];
  }
  if (axis == mesh.axis_count) {
    out.me = rank;
    for (int r = 0; r < size; ++r) out.ranks.push_back(r);
    return out;
  }
  const int length = mesh.sizes[axis];
  out.me = rank / stride % length;
  out.index = rank / (stride * length) * stride + rank % stride;
  for (int k = 0; k < length; ++k) out.ranks.push_back(rank + (k - out.me) * stride);
  return out;
}

// A rank's groups: one per axis, and last all ranks.
inline std::vector<Group> groups_of(const Mesh& mesh, int rank) {
  std::vector<Group> out;
  for (int axis = 0; axis <= mesh.axis_count; ++axis) out.push_back(group_of(mesh, rank, axis));
  return out;
}

class World : public Ranks {
 public:
  // `board` belongs to `backend`. `limit`: seconds an exchange may wait, 0: chosen by the time that steps take.
  World(const Mesh& mesh, int rank, std::unique_ptr<Control> control, std::unique_ptr<Backend> backend, Board* board, double limit)
      : mesh_(mesh), rank_(rank), fixed_(limit > 0), limit_(limit > 0 ? limit : kFirst), control_(std::move(control)), backend_(std::move(backend)), board_(board),
        early_(backend_->any_thread() && !waits_at_once()), groups_(groups_of(mesh, rank)), traffic_(static_cast<size_t>(mesh.collective_count)) {
    board_->mine()->collective = kOwn;
    board_->mine()->axis = mesh.axis_count;
    board_->publish();
    if (size() > 1) watchdog_.reset(new Watchdog(mesh, rank, control_.get(), board_, backend_.get(), groups_, [this] { return look(); }));
  }
  ~World() override {
    if (beside_ && !beside_->idle(2)) {  // an exchange that will never end: ranks are lost
      fflush(nullptr);
      _exit(kExitLost);
    }
    if (!board_->stopped() && std::uncaught_exceptions() == 0) end_exchanges();
    watchdog_.reset();
    control_->goodbye();
  }

  int rank() const override { return rank_; }
  int size() const override { return groups_.back().size(); }
  int size(int axis) const override { return group(axis).size(); }
  int coordinate(int axis) const override { return group(axis).me; }

  void hold(bool on) override { holding_ = on; }
  bool held(int collective) const override {
    bool found = false;
    for (int b = 0; holding_ && b < mesh_.bucket_count; ++b) found = found || mesh_.buckets[b].reduce == collective;
    return found;
  }
  void all_reduce(int collective, int axis, Reduce kind, DType type, void* data, int64_t count) override {
    if (held(collective)) return;
    during(collective, axis, count * static_cast<int64_t>(dtype_size(type)), [&](const Group& group) { backend_->all_reduce(group, kind, type, data, count); });
  }
  void all_reduce_begin(int collective, int axis, Reduce kind, DType type, void* data, int64_t count) override {
    if (!early_ || size() == 1 || held(collective)) return all_reduce(collective, axis, kind, type, data, count);
    begin(collective, axis, count * static_cast<int64_t>(dtype_size(type)), [=](const Group& members) { backend_->all_reduce(members, kind, type, data, count); });
  }
  void reduce_scatter_begin(int collective, int axis, Reduce kind, DType type, const void* in, void* out, int64_t count) override {
    if (!early_ || size() == 1) return reduce_scatter(collective, axis, kind, type, in, out, count);
    const int64_t bytes = count * group(axis).size() * static_cast<int64_t>(dtype_size(type));
    begin(collective, axis, bytes, [=](const Group& members) { backend_->reduce_scatter(members, kind, type, in, out, count); });
  }
  void all_reduce_end(int collective) override {
    if (!beside_ || held(collective)) return;
    const double begin = clock_seconds();
    beside_->end(collective);
    traffic_[static_cast<size_t>(collective)].waited += clock_seconds() - begin;
  }
  void all_gather(int collective, int axis, const void* in, void* out, size_t bytes) override {
    during(collective, axis, static_cast<int64_t>(bytes), [&](const Group& group) { backend_->all_gather(group, in, out, bytes); });
  }
  void reduce_scatter(int collective, int axis, Reduce kind, DType type, const void* in, void* out, int64_t count) override {
    const int64_t bytes = count * group(axis).size() * static_cast<int64_t>(dtype_size(type));
    during(collective, axis, bytes, [&](const Group& group) { backend_->reduce_scatter(group, kind, type, in, out, count); });
  }
  void all_to_all(int collective, int axis, const void* in, void* out, size_t bytes) override {
    const std::vector<size_t> each(static_cast<size_t>(group(axis).size()), bytes);
    all_to_all_v(collective, axis, in, each.data(), out, each.data());
  }
  void all_to_all_v(int collective, int axis, const void* in, const size_t* in_bytes, void* out, const size_t* out_bytes) override {
    int64_t bytes = 0;
    for (int k = 0; k < group(axis).size(); ++k) bytes += static_cast<int64_t>(in_bytes[k]);
    during(collective, axis, bytes, [&](const Group& group) { backend_->all_to_all_v(group, in, in_bytes, out, out_bytes); });
  }
  void broadcast(int collective, int axis, void* data, size_t bytes, int root) override {
    during(collective, axis, static_cast<int64_t>(bytes), [&](const Group& group) { backend_->broadcast(group, data, bytes, root); });
  }
  void barrier(int axis) override {
    during(kOwn, axis, 0, [&](const Group& group) { backend_->barrier(group); });
  }

  void in_order() override { backend_->in_order(); }
  Traffic traffic(int collective) const override { return traffic_[static_cast<size_t>(collective)]; }
  void at_step(int64_t step) override {
    const std::lock_guard<std::mutex> lock(position_);
    board_->mine()->step = step;
    board_->publish();
  }
  void patience(double seconds) override {
    if (!fixed_) limit_ = seconds > 0 ? seconds : kFirst;
  }
  bool fail() override { return !watchdog_ || watchdog_->give_up(); }
  std::string backend() const override { return backend_->name(); }

 protected:
  const Group& group(int axis) const { return axis == kWorld ? groups_.back() : groups_[static_cast<size_t>(axis)]; }
  // Where a device shows what it does; null: nowhere any more.
  void watch(const Ledger* shown) {
    const std::lock_guard<std::mutex> lock(position_);
    shown_ = shown;
  }
  // TSR_OVERLAP=0: to see what it is worth.
  static bool waits_at_once() {
    const char* const text = getenv("TSR_OVERLAP");
    return text && strcmp(text, "0") == 0;
  }

 private:
  void end_exchanges() {
    if (watchdog_) watchdog_->begin(mesh_.axis_count, limit_);
    try {
      backend_->finish();
    } catch (const Error&) {
      // the run is over: what was to be exchanged has been
    }
    if (watchdog_) watchdog_->end();
  }

  static constexpr double kFirst = 600;  // the first step may read data and fault memory in

  // Tells the others what the device has done since the last look; the exchange that it is in. Called by the watchdog.
  Inside look() {
    const std::lock_guard<std::mutex> lock(position_);
    Inside out;
    if (!shown_) return out;
    const volatile Ledger& now = *shown_;
    Position* const at = board_->mine();
    for (int axis = 0; axis <= mesh_.axis_count; ++axis) {
      const int64_t left = now.left[axis], entered = now.entered[axis];  // in the other order as they are written
      if (entered > left) out = {axis, entered, limit_};
      if (entered == seen_.entered[axis] && left == seen_.left[axis]) continue;
      at->entered[axis] += entered - seen_.entered[axis], at->left[axis] += left - seen_.left[axis];
      seen_.entered[axis] = entered, seen_.left[axis] = left;
      at->collective = now.collective, at->axis = now.axis;
      board_->publish();
    }
    return out;
  }

  // An exchange that the caller waits for, behind all that have begun before.
  template <class Body>
  void during(int collective, int axis, int64_t bytes, const Body& body) {
    const double begin = clock_seconds();
    if (beside_) beside_->end();
    const Group& members = group(axis);
    exchange(collective, members, bytes, [&] { body(members); });
    if (collective != kOwn) traffic_[static_cast<size_t>(collective)].waited += clock_seconds() - begin;
  }

  // An exchange that goes on beside the caller.
  void begin(int collective, int axis, int64_t bytes, std::function<void(const Group&)> body) {
    if (!beside_) beside_.reset(new Beside);
    beside_->begin(collective, [=] {
      const Group& members = group(axis);
      exchange(collective, members, bytes, [&] { body(members); });
    });
  }

  // One at a time, by whichever thread.
  template <class Body>
  void exchange(int collective, const Group& members, int64_t bytes, const Body& body) {
    {
      const std::lock_guard<std::mutex> lock(position_);
      Position* const at = board_->mine();
      at->collective = collective, at->axis = members.axis, ++at->entered[members.axis];
      board_->publish();
    }
    const double begin = clock_seconds();
    if (watchdog_) watchdog_->begin(members.axis, limit_);
    body();
    if (watchdog_) watchdog_->end();
    {
      const std::lock_guard<std::mutex> lock(position_);
      ++board_->mine()->left[members.axis];
      board_->publish();
    }
    if (collective == kOwn) return;
    Traffic& traffic = traffic_[static_cast<size_t>(collective)];
    ++traffic.calls, traffic.bytes += bytes, traffic.seconds += clock_seconds() - begin;
  }

  const Mesh& mesh_;
  int rank_;
  bool fixed_;
  double limit_;
  std::unique_ptr<Control> control_;
  std::unique_ptr<Backend> backend_;
  Board* board_;
  bool holding_ = false;
  bool early_;  // exchanges can go on beside the main thread
  std::vector<Group> groups_;
  std::vector<Traffic> traffic_;
  std::mutex position_;  // of this rank, on the board
  const Ledger* shown_ = nullptr;
  Ledger seen_{};
  std::unique_ptr<Watchdog> watchdog_;
  std::unique_ptr<Beside> beside_;
};

}  // namespace comm
}  // namespace tsr
