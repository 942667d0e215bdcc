// L-BFGS: Nocedal and Wright, "Numerical Optimization" (2nd edition), algorithms 7.4 (two-loop recursion, scaled by
// (7.20)) and 7.5, with the line search of wolfe.h. It minimises the loss on the batch at hand; when the batch changes,
// gradients before and after cannot be compared, and the history starts anew.
#pragma once
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "chunks.h"
#include "error.h"
#include "optimizer.h"
#include "session.h"
#include "wolfe.h"

namespace tsr {

class Lbfgs {
 public:
  enum class State {
    going,
    converged,   // the gradient is as small as was asked for
    exhausted,   // the evaluations are used up
    stuck        // no lower loss was found, not even straight down the gradient
  };
  struct Progress {
    State state;
    double loss, norm, step;  // at the end of the iteration; step: length taken along the direction
  };

  Lbfgs(const Program& program, const OptimizerSettings& settings, int workers)
      : settings_(settings), vectors_(program, workers), history_(settings.history), alpha_(static_cast<size_t>(history_)), rho_(static_cast<size_t>(history_)) {
    const double unit = real_type(program) == DType::f64 ? 0x1p-52 : 0x1p-23;
    wolfe_.noise = 4 * unit;
    parallel_ = unit;
  }

  // Before Session::map(): workspace that no checkpoint holds.
  void reserve(const Program& program, Arena* arena) {
    for (size_t& offset : offsets_) offset = arena->reserve(program.param_bytes);
  }
  void bind(Session* session) {
    session_ = session;
    direction_ = session->arena().at(offsets_[0]), start_ = session->arena().at(offsets_[1]), before_ = session->arena().at(offsets_[2]);
  }

  // What a checkpoint keeps beside the pairs themselves, and taking it back: "pairs next evaluations draw".
  std::string state() const { return format("%d %d %lld %llu", pairs_, next_, static_cast<long long>(evaluations_), static_cast<unsigned long long>(draw_)); }
  bool restore(const std::string& text) {
    long long evaluations;
    unsigned long long draw;
    if (sscanf(text.c_str(), "%d %d %lld %llu", &pairs_, &next_, &evaluations, &draw) != 4 || pairs_ < 0 || pairs_ > history_ || next_ < 0 || next_ >= history_) return false;
    evaluations_ = evaluations, draw_ = draw;
    for (int age = 0; age < pairs_; ++age) rho_[static_cast<size_t>(slot(age))] = 1 / vectors_.dot(s(slot(age)), y(slot(age)));
    return counted_ = true;
  }
  int64_t evaluations() const { return evaluations_; }
  // The gradients of the session are no longer those of its parameters.
  void forget() { known_ = false; }

  // One iteration on the batch number `draw`. `evaluate()` computes the loss and session->grads() at session->params().
  template <class Evaluate>
  Progress iterate(uint64_t draw, const Evaluate& evaluate) {
    if (!known_ || draw != draw_) {
      if (draw != draw_) pairs_ = next_ = 0;
      if (!counted_ || draw != draw_) ++evaluations_;
      loss_ = evaluate();
      known_ = counted_ = true, draw_ = draw;
    }
    double norm = gradient_norm();
    if (!std::isfinite(loss_) || !std::isfinite(norm)) return {State::going, loss_, norm, 0};
    if (norm <= settings_.tolerance) return {State::converged, loss_, norm, 0};
    double length = 0;
    while (!(length > 0)) {
      const int64_t left = settings_.max_evaluations > 0 ? settings_.max_evaluations - evaluations_ : wolfe_.evaluations;
      if (left <= 0) return {State::exhausted, loss_, norm, 0};
      const bool steepest = pairs_ == 0;
      length = search(evaluate, left);
      if (!(length > 0) && steepest) return {State::stuck, loss_, norm, 0};
      if (!(length > 0)) pairs_ = next_ = 0;  // the curvature seen so far misleads here: straight down the gradient once
    }
    norm = gradient_norm();
    return {norm <= settings_.tolerance ? State::converged : State::going, loss_, norm, length};
  }

 private:
  double gradient_norm() { return std::sqrt(vectors_.dot(session_->grads(), session_->grads())); }
  int slot(int age) const { return (next_ - 1 - age + history_) % history_; }  // age 0: the newest pair
  char* s(int slot) const { return session_->moments()[slot]; }
  char* y(int slot) const { return session_->moments()[history_ + slot]; }

  // Moves the parameters along the direction to a lower loss; returns the step length, 0 when there is none.
  template <class Evaluate>
  double search(const Evaluate& evaluate, int64_t left) {
    double slope = descend();
    if (!(slope < 0)) {
      pairs_ = next_ = 0;
      slope = descend();
    }
    vectors_.copy(session_->params(), start_);
    vectors_.copy(session_->grads(), before_);
    const auto at = [&](double step) {
      vectors_.combine(1, start_, step, direction_, session_->params());
      const double value = evaluate();
      return LinePoint{step, value, vectors_.dot(session_->grads(), direction_)};
    };
    WolfeSettings wolfe = wolfe_;
    if (left < wolfe.evaluations) wolfe.evaluations = static_cast<int>(left);
    LinePoint end;
    int used;
    const double first = pairs_ > 0 ? 1 : std::fmin(1, 1 / std::sqrt(-slope));  // without curvature the length of the gradient says nothing
    const SearchEnd how = strong_wolfe(at, {0, loss_, slope}, first, wolfe, &end, &used);
    evaluations_ += used;
    if (how == SearchEnd::none) return 0;
    loss_ = end.value;
    remember();
    return end.step;
  }

  // direction = -H gradient by the two-loop recursion; returns its slope.
  double descend() {
    vectors_.copy(session_->grads(), direction_);
    for (int age = 0; age < pairs_; ++age) {
      const int at = slot(age);
      alpha_[static_cast<size_t>(at)] = rho_[static_cast<size_t>(at)] * vectors_.dot(s(at), direction_);
      vectors_.combine(1, direction_, -alpha_[static_cast<size_t>(at)], y(at), direction_);
    }
    const int newest = slot(0);
    vectors_.scale(pairs_ > 0 ? -1 / (rho_[static_cast<size_t>(newest)] * vectors_.dot(y(newest), y(newest))) : -1, direction_);
    for (int age = pairs_; age-- > 0;) {
      const int at = slot(age);
      const double beta = rho_[static_cast<size_t>(at)] * vectors_.dot(y(at), direction_);
      vectors_.combine(1, direction_, -alpha_[static_cast<size_t>(at)] - beta, s(at), direction_);
    }
    return vectors_.dot(session_->grads(), direction_);
  }

  // The pair of this step, unless rounding left no curvature in it.
  void remember() {
    char* const step = s(next_);
    char* const change = y(next_);
    vectors_.combine(1, session_->params(), -1, start_, step);
    vectors_.combine(1, session_->grads(), -1, before_, change);
    const double product = vectors_.dot(step, change);
    if (!(product > parallel_ * std::sqrt(vectors_.dot(step, step) * vectors_.dot(change, change)))) {
      if (pairs_ == history_) --pairs_;  // the oldest pair was in that place
      return;
    }
    rho_[static_cast<size_t>(next_)] = 1 / product;
    next_ = (next_ + 1) % history_;
    if (pairs_ < history_) ++pairs_;
  }

  OptimizerSettings settings_;
  Vectors vectors_;
  WolfeSettings wolfe_;
  int history_, pairs_ = 0, next_ = 0;
  std::vector<double> alpha_, rho_;
  double parallel_, loss_ = 0;
  bool known_ = false, counted_ = false;  // loss and gradients are at hand; their evaluation is in evaluations_
  uint64_t draw_ = 0;
  int64_t evaluations_ = 0;
  size_t offsets_[3] = {0, 0, 0};
  Session* session_ = nullptr;
  char *direction_ = nullptr, *start_ = nullptr, *before_ = nullptr;
};

}  // namespace tsr
