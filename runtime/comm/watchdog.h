// A thread per rank that notices when another one has died, or has not come to an exchange in time. It says which rank is
// missing, in which exchange and for which line of the source, tells all ranks, and ends the process with code 75.
#pragma once
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "backend.h"
#include "control.h"

namespace tsr {
namespace comm {

constexpr int kExitLost = 75;  // EX_TEMPFAIL: start the job again, it goes on from its last checkpoint

// The exchange that a device is in (axis -1: none), its number on that axis, and how many seconds it may take.
struct Inside {
  int axis = -1;
  int64_t number = 0;
  double limit = 0;
};

class Watchdog {
 public:
  // `look`: what the device of this rank does; called again and again.
  Watchdog(const Mesh& mesh, int rank, Control* control, Board* board, Backend* backend, std::vector<Group> groups, std::function<Inside()> look)
      : mesh_(mesh), rank_(rank), control_(control), board_(board), backend_(backend), groups_(std::move(groups)), look_(std::move(look)) {
    thread_ = std::thread([this] { watch(); });
  }
  ~Watchdog() {
    ending_ = true;
    thread_.join();
  }

  // An exchange over `axis` begins; it may take `limit` seconds.
  void begin(int axis, double limit) {
    limit_ = limit;
    axis_ = axis;
    since_ = clock_seconds();
  }
  void end() { since_ = 0; }

  // This rank gives up for a reason that it prints itself.
  bool give_up() {
    ending_ = true;
    return board_->stop();
  }

 private:
  void watch() {
    sigset_t all;  // signals are the main thread's
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, nullptr);
    while (!ending_) {
      const int gone = control_->lost(0.1);
      if (ending_) return;
      if (gone >= 0 && !board_->stopped()) {
        usleep(200000);  // a rank that gave up says so first
        stop([&] { return format("rank %d%s has died", gone, whereabouts(gone).c_str()) + standing(gone); });
      }
      if (board_->stopped()) leave();
      const double now = clock_seconds(), since = since_;
      if (since > 0 && now - since > limit_) stop([&] { return late(axis_, now - since); });
      watch_device(now);
      board_->tick();
      if (gone < 0) usleep(20000);
    }
  }

  void watch_device(double now) {
    const Inside inside = look_();
    if (inside.axis != device_.axis || inside.number != device_.number) device_ = inside, device_since_ = now;
    if (device_.axis >= 0 && now - device_since_ > device_.limit) stop([&] { return late(device_.axis, now - device_since_); });
  }

  std::string whereabouts(int rank) const {
    const Peer& peer = control_->peers()[static_cast<size_t>(rank)];
    return format(" (pid %ld on ", peer.pid) + short_name(peer.host) + ")";
  }

  std::string axis_name(int axis) const { return axis < mesh_.axis_count ? mesh_.names[axis] : "all ranks"; }

  // "all_reduce 3 over tp (gpt.py:21)"
  std::string exchange(int number, int axis) const {
    if (number < 0 || number >= mesh_.collective_count) return "an exchange of the runtime over " + axis_name(axis);
    const Collective& item = mesh_.collectives[number];
    return std::string(item.kind) + format(" %d over ", number) + axis_name(axis) + " (" + item.source + ")";
  }

  // What a lost rank was at, and what others wait for.
  std::string standing(int rank) const {
    const Position at = board_->of(rank), here = board_->of(rank_);
    std::string out;
    if (at.step >= 0) out = format(" in step %lld", static_cast<long long>(at.step + 1));
    if (at.axis >= 0 && at.axis <= kMaxAxes && at.entered[at.axis] > at.left[at.axis]) out += ", in " + exchange(at.collective, at.axis);
    else if (at.axis >= 0 && at.axis <= kMaxAxes && at.entered[at.axis] > 0) out += ", after " + exchange(at.collective, at.axis);
    if (since_ > 0 || device_.axis >= 0) out += format("; rank %d waits in ", rank_) + exchange(here.collective, here.axis);
    return out;
  }

  std::string late(int axis, double waited) const {
    const Group& group = groups_[static_cast<size_t>(axis)];
    const Position here = board_->of(rank_);
    const std::string where = exchange(here.collective, here.axis);
    if (const int silent = board_->silent(); silent >= 0) return format("rank %d", silent) + whereabouts(silent) + format(" does not answer; rank %d has waited %.0f s in ", rank_, waited) + where;
    std::vector<std::string> missing;
    for (const int other : group.ranks)
      if (board_->of(other).entered[group.axis] < here.entered[group.axis]) missing.push_back(format("rank %d", other) + whereabouts(other) + standing_short(other));
    if (missing.empty())
      if (const std::string still = standing_still(group); !still.empty()) return still + format("; rank %d has waited %.0f s in ", rank_, waited) + where + ", which all ranks have reached";
    if (missing.empty()) return format("rank %d has waited %.0f s in ", rank_, waited) + where + ", which all ranks have reached";
    return joined(missing, " and ") + (missing.size() > 1 ? " have" : " has") + " not come to " + where + format(" in step %lld within %.0f s", static_cast<long long>(here.step + 1), waited);
  }

  // The ranks whose watchdogs do not run: all have come to an exchange, and one was stopped in the middle of it.
  std::string standing_still(const Group& group) const {
    std::vector<int64_t> before;
    for (const int other : group.ranks) before.push_back(board_->beats(other));
    usleep(1000000);  // many beats, however busy the machine is
    std::vector<std::string> out;
    for (size_t i = 0; i < before.size(); ++i)
      if (group.ranks[i] != rank_ && before[i] > 0 && board_->beats(group.ranks[i]) == before[i]) out.push_back(format("rank %d", group.ranks[i]) + whereabouts(group.ranks[i]));
    return out.empty() ? std::string() : joined(out, " and ") + (out.size() > 1 ? " stand" : " stands") + " still";
  }

  std::string standing_short(int rank) const {
    const Position at = board_->of(rank);
    if (at.axis < 0 || at.axis > kMaxAxes || at.entered[at.axis] == at.left[at.axis]) return "";
    return ", in " + exchange(at.collective, at.axis) + ",";
  }

  // The first rank that notices tells; the others end when they see that they are told to.
  template <class What>
  [[noreturn]] void stop(const What& what) {
    if (board_->stop()) {
      const Error error("T0944", what() + "; all ranks stop", "start the same command again with --resume: it goes on from the last checkpoint");
      fputs(error.text().c_str(), stderr);
    }
    leave();
  }
  [[noreturn]] void leave() {
    if (ending_) for (;;) ::pause();  // the main thread is on its way out with a code of its own
    fflush(stderr);
    std::atomic<bool> aborted{false};
    std::thread([&] { backend_->abort(), aborted = true; }).detach();
    for (int tenths = 0; tenths < 100 && !aborted; ++tenths) usleep(100000);
    usleep(300000);  // a launcher that ends all ranks with the first lets the message out
    _exit(kExitLost);
  }

  const Mesh& mesh_;
  int rank_;
  Control* control_;
  Board* board_;
  Backend* backend_;
  std::vector<Group> groups_;
  std::atomic<double> since_{0}, limit_{0};
  std::atomic<int> axis_{0};
  std::atomic<bool> ending_{false};
  std::function<Inside()> look_;
  Inside device_{};  // since when the device is in one exchange
  double device_since_ = 0;
  std::thread thread_;
};

}  // namespace comm
}  // namespace tsr
