// `train`: its flags, and how they become TrainOptions.
#pragma once
#include <cmath>
#include <string>
#include <vector>

#include "options.h"
#include "train.h"

namespace tsr {
namespace cli {

constexpr Flag kTrainFlags[] = {
    {"--data", "KEY=SPEC", "where input KEY comes from (once per input; see below)"},
    {"--resample", "K", "keep every batch for K steps before the next is drawn (1; 0: the first one throughout; lbfgs 0)"},
    {"--accumulate", "K", "batches whose gradients make one step, as their mean (1); --resample counts batches"},
    {"--steps", "N", "train until step N, counted from the start of training (100)"},
    {"--optimizer", "NAME", "sgd, momentum, adam, adamw or lbfgs (adamw)"},
    {"--lr", "X", "peak learning rate (adam, adamw 0.001; sgd, momentum 0.01)"},
    {"--lbfgs-history", "N", "steps that lbfgs learns the curvature from (10)"},
    {"--max-evaluations", "N", "of the loss by lbfgs, after which it ends (0: any number)"},
    {"--tolerance", "X", "norm of the gradient at which lbfgs ends (0)"},
    {"--momentum", "X", "of momentum (0.9)"},
    {"--beta1", "X", "of adam and adamw (0.9)"},
    {"--beta2", "X", "of adam and adamw (0.999)"},
    {"--eps", "X", "of adam and adamw (1e-8)"},
    {"--weight-decay", "X", "on parameters of rank 2 and more (adamw 0.01, else 0)"},
    {"--clip", "NORM", "scale gradients down to this global norm (off)"},
    {"--warmup", "N", "linear warm-up over N steps (0)"},
    {"--schedule", "NAME", "constant, linear or cosine, over --steps (constant)"},
    {"--min-lr", "X", "where linear and cosine end (0)"},
    {"--weights", "FILE", "start from these weights (safetensors, or a checkpoint)"},
    {"--save", "FILE", "write the final weights (safetensors)"},
    {"--checkpoint", "DIR", "folder of checkpoints; one is written at the end"},
    {"--save-every", "N", "also write one every N steps (0: only at the end)"},
    {"--keep", "N", "keep the newest N checkpoints (3; 0: all)"},
    {"--resume", nullptr, "go on from the newest checkpoint; start afresh when there is none"},
    {"--val", "KEY=SPEC", "validation data, as --data"},
    {"--val-every", "N", "validate every N steps (100)"},
    {"--val-batches", "N", "batches per validation (10)"},
    {"--log", "FILE", "write one JSON line per step"},
    {"--seed", "N", "of initial weights, shuffling, samplers and dropout (0)"},
    {"--threads", "N", "threads (OMP_NUM_THREADS, else the processors available)"},
    {"--reproducible", nullptr, "add what ranks have in their order, whatever exchanges it (processors always do)"},
        {"--check-finite", nullptr, "stop at the first NaN or infinity in loss or gradients"},
    {"--quiet", nullptr, "print nothing but errors"},
};

constexpr Command kTrain = {"train", "Trains the program.", kTrainFlags, sizeof kTrainFlags / sizeof kTrainFlags[0], nullptr,
    "SPEC  file.npy           memory-mapped; first axis = samples, in a seeded order, epoch by epoch;\n"
    "                         an array of exactly one batch is used in every step\n"
    "      file.u16           little-endian 16-bit tokens; any other file: its bytes as tokens. Windows at\n"
    "                         seeded positions; a second integer input of the same shape that has no --data\n"
    "                         of its own gets the tokens that follow\n"
    "      uniform:LO:HI  normal:MEAN:STD  randint:N   drawn anew for every batch\n"
    "      const:V  zeros     the same everywhere\n"
    "      grid:LO:HI:N       evenly spaced; several span a tensor grid, whose points are samples as in a file\n"
    "Runs with equal flags, threads included, are equal bit for bit, interrupted and resumed or not."};

inline Error meaningless(const char* flag, Rule rule) {
  return Error("T0921", std::string(flag) + " means nothing to " + kRuleNames[static_cast<int>(rule)], "drop the flag or choose another --optimizer", kExitUsage);
}

// The optimizer: what the source fixed stays; a flag that says otherwise is an error.
// `rules`: how many of kRuleNames the command offers.
inline OptimizerSettings optimizer_settings(const Program& program, const Arguments& arguments, int rules = kUpdateRules) {
  const Optimizer& fixed = program.optimizer;
  Rule rule = Rule::adamw;
  if (fixed.kind) {
    if (!parse_rule(fixed.kind, &rule)) throw Error("T0924", std::string("the program asks for an unknown optimizer '") + fixed.kind + "'", "", kExitInternal);
    if (rule == Rule::sgd && fixed.momentum > 0) rule = Rule::momentum;
  }
  const std::vector<std::string> names(kRuleNames, kRuleNames + rules);
  const Rule chosen = static_cast<Rule>(arguments.choice("--optimizer", static_cast<int>(rule), names));
  if (fixed.kind && chosen != rule)
    throw Error("T0922", std::string("--optimizer ") + kRuleNames[static_cast<int>(chosen)] + " contradicts the source, which fixes " + fixed.kind,
                std::string("drop the flag, or the optimizer from ") + program.source_file, kExitUsage);
  OptimizerSettings out = default_settings(chosen);
  struct Setting { const char* flag; double* value; double from_source; double low, high; bool applies; };
  const bool adaptive = chosen == Rule::adam || chosen == Rule::adamw, lbfgs = chosen == Rule::lbfgs;
  const Setting settings[] = {{"--lr", &out.lr, fixed.lr, 0, 1e300, !lbfgs}, {"--momentum", &out.momentum, fixed.momentum, 0, 1, chosen == Rule::momentum},
                              {"--beta1", &out.beta1, fixed.beta1, 0, 0.999999999, adaptive}, {"--beta2", &out.beta2, fixed.beta2, 0, 0.999999999, adaptive},
                              {"--eps", &out.eps, fixed.eps, 0, 1e300, adaptive}, {"--weight-decay", &out.weight_decay, fixed.weight_decay, 0, 1e300, !lbfgs}};
  for (const Setting& setting : settings) {
    if (!setting.applies) {
      if (arguments.has(setting.flag)) throw meaningless(setting.flag, chosen);
      continue;
    }
    const bool is_fixed = fixed.kind && !std::isnan(setting.from_source);
    if (is_fixed) *setting.value = setting.from_source;
    const double wanted = arguments.real(setting.flag, *setting.value, setting.low, setting.high);
    if (is_fixed && wanted != setting.from_source)
      throw Error("T0922", std::string(setting.flag) + format(" %g contradicts the source, which fixes %g", wanted, setting.from_source),
                  std::string("drop the flag, or change ") + program.source_file, kExitUsage);
    *setting.value = wanted;
  }
  if (rules > kUpdateRules) {
    for (const char* const flag : {"--lbfgs-history", "--max-evaluations", "--tolerance"})
      if (!lbfgs && arguments.has(flag)) throw meaningless(flag, chosen);
    for (const char* const flag : {"--clip", "--warmup", "--schedule", "--min-lr"})
      if (lbfgs && arguments.has(flag)) throw meaningless(flag, chosen);
    out.history = static_cast<int>(arguments.integer("--lbfgs-history", out.history, 1, 1000));
    out.max_evaluations = arguments.integer("--max-evaluations", 0, 0);
    out.tolerance = arguments.real("--tolerance", 0, 0);
  }
  out.clip = arguments.real("--clip", 0, 0);
  return out;
}

// What a resumed run should share with the run before.
inline Metadata settings_record(const Arguments& arguments, const OptimizerSettings& o, const Schedule& s, int64_t resample, int64_t accumulate) {
  Metadata out = {{"lr", format("%.17g", s.lr)}, {"min_lr", format("%.17g", s.min_lr)}, {"warmup", format("%lld", static_cast<long long>(s.warmup))},
                  {"schedule", s.decay == Decay::constant ? "constant" : s.decay == Decay::linear ? "linear" : "cosine"},
                  {"weight_decay", format("%.17g", o.weight_decay)}, {"clip", format("%.17g", o.clip)}, {"eps", format("%.17g", o.eps)},
                  {"momentum", format("%.17g", o.momentum)}, {"betas", format("%.17g %.17g", o.beta1, o.beta2)}, {"data", joined(arguments.all("--data"), " ")},
                  {"resample", format("%lld", static_cast<long long>(resample))}, {"accumulate", format("%lld", static_cast<long long>(accumulate))}};
  if (s.decay != Decay::constant) out.emplace_back("steps", format("%lld", static_cast<long long>(s.steps)));
  return out;
}

inline TrainOptions train_options(const Program& program, const Arguments& arguments) {
  TrainOptions out;
  for (const std::string& spec : arguments.all("--data")) out.data.push_back(parse_spec("--data", spec));
  for (const std::string& spec : arguments.all("--val")) out.validation.push_back(parse_spec("--val", spec));
  out.optimizer = optimizer_settings(program, arguments, kUpdateRules + 1);
  out.schedule.lr = out.optimizer.lr;
  out.schedule.steps = arguments.integer("--steps", 100, 0);
  out.schedule.warmup = arguments.integer("--warmup", 0, 0);
  out.schedule.decay = static_cast<Decay>(arguments.choice("--schedule", 0, {"constant", "linear", "cosine"}));
  out.schedule.min_lr = arguments.real("--min-lr", 0, 0);
  out.seed = static_cast<uint64_t>(arguments.integer("--seed", 0, 0));
  out.threads = thread_count(arguments);
  out.resample = arguments.integer("--resample", out.optimizer.rule == Rule::lbfgs ? 0 : 1, 0);
  out.accumulate = arguments.integer("--accumulate", 1, 1);
  if (out.accumulate > 1 && out.optimizer.rule == Rule::lbfgs) throw meaningless("--accumulate", Rule::lbfgs);
  out.checkpoint = arguments.text("--checkpoint");
  while (out.checkpoint.size() > 1 && out.checkpoint.back() == '/') out.checkpoint.pop_back();
  out.save_every = arguments.integer("--save-every", 0, 0);
  out.keep = arguments.integer("--keep", 3, 0);
  out.resume = arguments.has("--resume");
  out.validate_every = arguments.integer("--val-every", 100, 1);
  out.validation_batches = arguments.integer("--val-batches", 10, 1);
  out.weights = arguments.text("--weights");
  out.save = arguments.text("--save");
  out.log = arguments.text("--log");
  out.quiet = arguments.has("--quiet");
  out.check_finite = arguments.has("--check-finite");
  if (out.resume && out.checkpoint.empty()) throw usage_error("train: --resume needs --checkpoint DIR", "name the folder of the checkpoints");
  out.settings = settings_record(arguments, out.optimizer, out.schedule, out.resample, out.accumulate);
  return out;
}

inline int train_command(const Program& program, const Arguments& arguments) {
  if (!program.train) throw Error("T0924", std::string(program.name) + " has no training step", "define one with @graph.training_step or @graph.loss in the source, or build with --loss mse:OUTPUT,KEY", kExitUsage);
  TrainOptions options = train_options(program, arguments);
  if (process_ranks() && process_ranks()->rank() != 0) options.quiet = true, options.log.clear();
  Trainer trainer(program, options);
  trainer.run();
  return trainer.stopped() ? kExitAgain : kExitOk;
}

}  // namespace cli
}  // namespace tsr
