// Which optimizer, with which settings: what host code and a device's kernels agree on.
#pragma once
#include <cstdint>
#include <string>

namespace tsr {

// The first four are updates from one gradient; lbfgs evaluates the loss as often as it must (see lbfgs.h).
enum class Rule : int { sgd, momentum, adam, adamw, lbfgs };
constexpr const char* kRuleNames[] = {"sgd", "momentum", "adam", "adamw", "lbfgs"};
constexpr int kUpdateRules = 4;

inline bool parse_rule(const std::string& name, Rule* out) {
  for (int i = 0; i < kUpdateRules; ++i)
    if (name == kRuleNames[i]) { *out = static_cast<Rule>(i); return true; }
  return false;
}

struct OptimizerSettings {
  Rule rule = Rule::adamw;
  double lr = 1e-3, momentum = 0.9, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0;
  double clip = 0;  // largest global gradient norm; 0: no clipping
  int history = 10;             // lbfgs: pairs of steps and gradient differences kept
  int64_t max_evaluations = 0;  // lbfgs: of the loss, in the whole run; 0: any number
  double tolerance = 0;         // lbfgs: the gradient norm that ends it
};

// Arenas of the parameters' size that an optimizer carries from step to step, and writes to checkpoints.
inline int moments_of(const OptimizerSettings& settings) {
  switch (settings.rule) {
    case Rule::sgd: return 0;
    case Rule::momentum: return 1;
    case Rule::adam: case Rule::adamw: return 2;
    case Rule::lbfgs: return 2 * settings.history;
  }
  return 0;
}

// "m" and "v" of Adam, "s3" and "y3" of L-BFGS.
inline std::string moment_name(const OptimizerSettings& settings, int moment) {
  if (settings.rule != Rule::lbfgs) return moment == 0 ? "m" : "v";
  return (moment < settings.history ? "s" : "y") + std::to_string(moment % settings.history);
}

// Defaults of each rule (those of the PyTorch optimizers, except that SGD's rate is 0.01).
inline OptimizerSettings default_settings(Rule rule) {
  OptimizerSettings out;
  out.rule = rule;
  if (rule == Rule::sgd || rule == Rule::momentum) out.lr = 0.01;
  if (rule == Rule::sgd) out.momentum = 0;
  if (rule == Rule::adamw) out.weight_decay = 0.01;
  if (rule == Rule::lbfgs) out.lr = 1;
  return out;
}

}  // namespace tsr
