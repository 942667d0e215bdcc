// The learning rate of each step: linear warm-up, then constant, linear or cosine down to a floor.
#pragma once
#include <cmath>
#include <cstdint>

namespace tsr {

enum class Decay : int { constant, linear, cosine };

struct Schedule {
  Decay decay = Decay::constant;
  int64_t warmup = 0;   // steps; step s of them has the factor (s + 1) / warmup
  int64_t steps = 0;    // length of the whole run
  double lr = 0;        // the peak
  double min_lr = 0;    // where linear and cosine end

  // The rate of step `step`, counted from 0.
  double at(int64_t step) const {
    if (step < warmup) return lr * static_cast<double>(step + 1) / static_cast<double>(warmup);
    if (decay == Decay::constant) return lr;
    const double span = static_cast<double>(steps - warmup);
    double progress = span > 0 ? static_cast<double>(step - warmup) / span : 1;
    if (progress > 1) progress = 1;
    const double factor = decay == Decay::linear ? 1 - progress : 0.5 * (1 + std::cos(3.141592653589793 * progress));
    return min_lr + (lr - min_lr) * factor;
  }
};

}  // namespace tsr
