// The board of ranks that share no memory: what they tell each other about themselves goes through the control sockets,
// which all lead to rank 0. It collects the positions of the others, and decides who may speak when a rank is lost.
#pragma once
#include <atomic>
#include <cstring>
#include <mutex>
#include <string>
#include <vector>

#include "backend.h"
#include "control.h"

namespace tsr {
namespace comm {

class Wires : public Board {
 public:
  // `control` outlives this.
  Wires(Control* control, int rank, int world) : control_(control), rank_(rank), table_(static_cast<size_t>(world), unknown()) {
    control_->limit_sends(2);
    control_->on_word([this](int from, const std::string& word) { hear(from, word); });
  }
  ~Wires() override { control_->on_word(nullptr); }

  Position* mine() override { return &own_; }
  void publish() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    table_[static_cast<size_t>(rank_)] = own_;
    changed_ = true;
  }
  Position of(int rank) const override {
    const std::lock_guard<std::mutex> lock(mutex_);
    return table_[static_cast<size_t>(rank)];
  }

  // Rank 0 is asked, and answers the first one that asks with the positions of all.
  bool stop() override {
    if (rank_ == 0) {
      if (stopped_.exchange(true)) return false;
      control_->tell(kStop);
      return true;
    }
    const double until = clock_seconds() + kPatience;
    if (!stopped_ && control_->send(0, kMayI))
      while (!granted_ && !stopped_ && control_->linked() && clock_seconds() < until) control_->lost(0.05);
    if (!granted_ && !stopped_) silent_ = 0;
    const bool first = !stopped_.exchange(true);
    return first || granted_;
  }
  bool stopped() const override { return stopped_; }
  int silent() const override { return silent_; }

  // Sends this rank's position when it has changed, a few times per second.
  void tick() override {
    const double now = clock_seconds();
    if (rank_ == 0 || !changed_ || now < sent_ + 0.25) return;
    sent_ = now;
    changed_ = false;
    const Position at = of(rank_);
    control_->send(0, kAt + std::string(reinterpret_cast<const char*>(&at), sizeof at));
  }

 private:
  static constexpr const char *kAt = "at", *kMayI = "lost", *kSpeak = "speak", *kStop = "stop";
  static constexpr double kPatience = 3;  // seconds that rank 0 has to answer

  static Position unknown() {
    Position out{};
    out.step = -1;
    return out;
  }

  void hear(int from, const std::string& word) {
    if (word == kStop) {
      stopped_ = true;
    } else if (word == kMayI) {
      if (stopped_.exchange(true)) return;  // all have been told
      std::string table = kSpeak;
      {
        const std::lock_guard<std::mutex> lock(mutex_);
        table.append(reinterpret_cast<const char*>(table_.data()), table_.size() * sizeof(Position));
      }
      control_->send(from, table);
      control_->tell(kStop, from);
    } else if (word.compare(0, 2, kAt) == 0 && word.size() == 2 + sizeof(Position)) {
      const std::lock_guard<std::mutex> lock(mutex_);
      memcpy(&table_[static_cast<size_t>(from)], word.data() + 2, sizeof(Position));
    } else if (word.compare(0, 5, kSpeak) == 0 && word.size() == 5 + table_.size() * sizeof(Position)) {
      const std::lock_guard<std::mutex> lock(mutex_);
      const Position own = table_[static_cast<size_t>(rank_)];
      memcpy(table_.data(), word.data() + 5, table_.size() * sizeof(Position));
      table_[static_cast<size_t>(rank_)] = own;
      granted_ = true;
    }
  }

  Control* control_;
  int rank_;
  mutable std::mutex mutex_;  // of table_
  std::vector<Position> table_;
  Position own_{};
  std::atomic<bool> changed_{false}, stopped_{false}, granted_{false};
  std::atomic<int> silent_{-1};
  double sent_ = 0;
};

}  // namespace comm
}  // namespace tsr
