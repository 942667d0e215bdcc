// The training loop: batch, gradients, update, report, checkpoint. Everything is opened, checked and
// sized before the first step.
#pragma once
#include <signal.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "accumulate.h"
#include "checkpoint.h"
#include "dataset.h"
#include "init.h"
#include "lbfgs.h"
#include "optimizer.h"
#include "report.h"
#include "schedule.h"
#include "session.h"
#include "weights.h"

namespace tsr {

struct TrainOptions {
  std::vector<DataSpec> data, validation;
  OptimizerSettings optimizer;
  Schedule schedule;
  uint64_t seed = 0;
  bool resume = false, quiet = false, check_finite = false;
  int threads = 1;
  int64_t accumulate = 1, resample = 1, save_every = 0, keep = 0, validate_every = 0, validation_batches = 1;
  std::string checkpoint, weights, save, log;
  Metadata settings;   // recorded in checkpoints, compared when resuming
};

class Trainer {
 public:
  Trainer(const Program& program, const TrainOptions& options)
      : program_(program), options_(options), ranks_(process_ranks()), session_(program, options.threads, ranks_), scalars_(*program.train),
        data_(*program.train, options.data, options.seed, "--data", options.resample, ranks_), updater_(program, options.optimizer, options.threads, ranks_),
        checkpoints_(options.checkpoint, ranks_) {
    if (!options.validation.empty()) validation_.reset(new Dataset(program.validate ? *program.validate : *program.train, options.validation, options.seed, "--val", 1, ranks_));
    session_.reserve(true, false, moments_of(options.optimizer), !options.validation.empty(), options.accumulate > 1);
    if (options.optimizer.rule == Rule::lbfgs) {
      if (Shares(program).any()) throw Error("T0921", "L-BFGS needs all gradients on every rank, and this program divides moments among ranks (ZeRO-1)", "choose another --optimizer, or leave [zero] out of plan.toml and build again", kExitUsage);
      for (int i = 0; i < program.param_count; ++i)
        if (program.params[i].cut) throw Error("T0921", "L-BFGS works where every rank has all parameters, and '" + std::string(program.params[i].name) + "' lies in parts", "choose another --optimizer, or a mesh with dp alone", kExitUsage);
      lbfgs_.reset(new Lbfgs(program, options.optimizer, options.threads));
      lbfgs_->reserve(program, &session_.arena());
    }
    if (options.accumulate > 1) {
      accumulation_.reset(new Accumulation(program, options.accumulate, options.threads));
      accumulation_->reserve(program, &session_.arena());
    }
    data_.reserve(&session_.arena());
    if (validation_) validation_->reserve(&session_.arena());
    session_.map(true);
    if (lbfgs_) lbfgs_->bind(&session_);
    if (accumulation_) accumulation_->bind(&session_);
    for (const std::string& note : data_.notes(options.data))
      if (!options.quiet) fprintf(stderr, "note: %s\n", note.c_str());
    data_.bind(session_.arena());
    if (validation_) validation_->bind(session_.arena());
  }

  void run() {
    const int64_t begin = start();
    Report report(program_, scalars_, options_.schedule.steps, options_.accumulate, options_.quiet, peak());
    if (!options_.log.empty()) report.open_log(options_.log, begin, begin > 0);
    bool last = false;
    if (ranks_) signal(SIGTERM, [](int) { stop_asked() = 1; });
    for (int64_t step = begin; step < options_.schedule.steps && !last; ++step) {
      last = step + 1 == options_.schedule.steps;
      if (ranks_) ranks_->at_step(step);
      const StepRecord record = lbfgs_ ? one_iteration(step, &last) : accumulation_ ? accumulated_step(step) : one_step(step);
      report.step(record);
      if (ranks_ && agree_to_stop(record)) last = stopped_ = true;
      if (validation_ && (last || (step + 1) % options_.validate_every == 0)) report.validation(step + 1, validate());
      if (!options_.checkpoint.empty() && (last || (options_.save_every > 0 && (step + 1) % options_.save_every == 0)))
        checkpoints_.save(session_, options_.optimizer, step + 1, state(), options_.keep);
    }
    if (!options_.save.empty()) save_weights(program_, session_.params(), options_.save, ranks_);
  }
  // Whether SIGTERM ended the run before its last step.
  bool stopped() const { return stopped_; }

 private:
  static volatile sig_atomic_t& stop_asked() {
    static volatile sig_atomic_t asked = 0;
    return asked;
  }
  // A signal reaches one rank or all; they stop behind the same step.
  bool agree_to_stop(const StepRecord& record) {
    slowest_ = record.step > 1 && record.ms > slowest_ ? record.ms : slowest_;
    if (slowest_ > 0) ranks_->patience(slowest_ * 0.02 > 60 ? slowest_ * 0.02 : 60);
    int32_t stop = stop_asked();
    ranks_->all_reduce(Ranks::kOwn, Ranks::kWorld, Reduce::max, DType::i32, &stop, 1);
    return stop != 0 && record.step < options_.schedule.steps;
  }

  double peak() const {
    if (options_.quiet || isatty(1) != 1 || !program_.peak) return 0;
    return program_.peak(options_.threads, 0.03);
  }

  Metadata settings() const {
    Metadata out = options_.settings;
    out.emplace_back("seed", format("%llu", static_cast<unsigned long long>(options_.seed)));
    out.emplace_back("threads", format("%d", options_.threads));
    return out;
  }
  Metadata state() const {
    Metadata out = settings();
    if (lbfgs_) out.emplace_back("lbfgs", lbfgs_->state());
    return out;
  }

  // Parameters and moments of the first step; returns how many steps are done already.
  int64_t start() {
    if (!options_.checkpoint.empty()) checkpoints_.prepare();
    if (!options_.save.empty()) together(ranks_, [&] { if (!ranks_ || ranks_->rank() == 0) check_writable(options_.save); });
    const std::vector<int64_t> saved = options_.checkpoint.empty() ? std::vector<int64_t>() : checkpoints_.steps();
    if (!saved.empty() && !options_.resume)
      throw Error("T0923", quoted(options_.checkpoint) + format(" already holds checkpoints up to step %lld", static_cast<long long>(saved.back())),
                  "pass --resume to go on from there, or choose another --checkpoint folder", kExitUsage);
    if (options_.resume) {
      const Resumed resumed = checkpoints_.resume(&session_, options_.optimizer);
      for (const std::string& warning : resumed.warnings) fprintf(stderr, "warning: skipped a checkpoint: %s\n", warning.c_str());
      if (!resumed.path.empty()) return announce(resumed);
      if (!options_.quiet) fprintf(stderr, "note: no checkpoint in %s yet; starting at step 1\n", quoted(options_.checkpoint).c_str());
    }
    initialise(program_, options_.seed, session_.params(), ranks_);
    if (!options_.weights.empty()) load_weights(program_, options_.weights, session_.params(), ranks_);
    return 0;
  }

  int64_t announce(const Resumed& resumed) {
    if (resumed.step > options_.schedule.steps)
      throw Error("T0921", format("--steps %lld lies behind the checkpoint, which has done %lld steps", static_cast<long long>(options_.schedule.steps), static_cast<long long>(resumed.step)),
                  "--steps counts from the start of training", kExitUsage);
    for (const auto& entry : settings()) {
      const std::string was = resumed.meta(entry.first);
      if (was != entry.second)
        fprintf(stderr, "note: %s is %s, the checkpoint was written with %s; the run continues, but not bit for bit\n", entry.first.c_str(), entry.second.c_str(), was.c_str());
    }
    if (lbfgs_ && !lbfgs_->restore(resumed.meta("lbfgs"))) throw Error("T0918", quoted(resumed.path) + " lacks the state of L-BFGS", "start again in another folder");
    if (!options_.quiet) fprintf(stderr, "note: resumed from %s at step %lld\n", quoted(resumed.path).c_str(), static_cast<long long>(resumed.step));
    return resumed.step;
  }

  StepRecord one_step(int64_t step) {
    const double begin = seconds();
    data_.fill(static_cast<uint64_t>(step));
    const double lr = options_.schedule.at(step);
    if (!options_.check_finite) {
      const double norm = session_.step(data_.inputs(), scalars_.pointers(), options_.seed, &updater_, step, lr);
      return {step + 1, norm, lr, (seconds() - begin) * 1e3};
    }
    session_.train(data_.inputs(), scalars_.pointers(), options_.seed, static_cast<uint64_t>(step));
    check_finite_step(step);
    const double norm = session_.update(&updater_, step, lr);
    return {step + 1, norm, lr, (seconds() - begin) * 1e3};
  }

  StepRecord accumulated_step(int64_t step) {
    const double begin = seconds();
    accumulation_->gather(&scalars_, [&](int64_t batch) {
      const uint64_t number = static_cast<uint64_t>(step * options_.accumulate + batch);
      data_.fill(number);
      session_.train(data_.inputs(), scalars_.pointers(), options_.seed, number);
    });
    if (options_.check_finite) check_finite_step(step);
    const double lr = options_.schedule.at(step), norm = session_.update(&updater_, step, lr);
    return {step + 1, norm, lr, (seconds() - begin) * 1e3};
  }

  // One iteration of L-BFGS, which may need several evaluations; *last is set when no further one can help.
  StepRecord one_iteration(int64_t step, bool* last) {
    const double begin = seconds();
    data_.fill(static_cast<uint64_t>(step));
    const uint64_t draw = data_.draw(static_cast<uint64_t>(step));
    const Lbfgs::Progress done = lbfgs_->iterate(draw, [&] {
      session_.train(data_.inputs(), scalars_.pointers(), options_.seed, draw);
      return scalars_.value(0);
    });
    if (!std::isfinite(done.loss) || !std::isfinite(done.norm))
      throw Error("T0925", format("step %lld: the loss is %g, the norm of its gradient %g", static_cast<long long>(step + 1), done.loss, done.norm), "L-BFGS needs a point with a finite loss to start from");
    if (done.state == Lbfgs::State::exhausted || (done.state != Lbfgs::State::going && data_.constant())) {
      *last = true;
      if (!options_.quiet) fprintf(stderr, "note: L-BFGS ends at step %lld: %s\n", static_cast<long long>(step + 1), why(done).c_str());
    }
    return {step + 1, done.norm, done.step, (seconds() - begin) * 1e3, lbfgs_->evaluations()};
  }

  std::string why(const Lbfgs::Progress& done) const {
    if (done.state == Lbfgs::State::exhausted) return format("--max-evaluations %lld are used up", static_cast<long long>(options_.optimizer.max_evaluations));
    if (done.state == Lbfgs::State::converged) return format("the norm of the gradient, %.3g, is within --tolerance %.3g", done.norm, options_.optimizer.tolerance);
    const bool single = real_type(program_) != DType::f64;
    return format("no step lowers the loss %.9g further, not even along its gradient of norm %.3g; %s", done.loss, done.norm,
                  single ? "single precision has no digits left (--precision fp64 has)" : "it is a minimum to the last digit, or not smooth there");
  }

  // Mean loss over the same validation batches every time; parameters stay as they are.
  double validate() {
    double sum = 0;
    for (int64_t batch = 0; batch < options_.validation_batches; ++batch) {
      validation_->fill(static_cast<uint64_t>(batch));
      session_.validate(validation_->inputs(), scalars_.pointers(), options_.seed, static_cast<uint64_t>(batch));
      sum += scalars_.value(0);
    }
    if (lbfgs_ && !program_.validate) lbfgs_->forget();
    return sum / static_cast<double>(options_.validation_batches);
  }

  // One pass for the norm; the search for the tensor at fault only when that is not finite.
  void check_finite_step(int64_t step) {
    std::string culprit;
    if (!std::isfinite(scalars_.value(0))) culprit = format("the loss is %g", scalars_.value(0));
    else if (std::isfinite(updater_.norm(session_.grads()))) return;
    for (int i = 0; i < program_.param_count && culprit.empty(); ++i) {
      const Tensor& param = program_.params[i];
      if (!holds(param, ranks_)) continue;
      const int64_t length = row_length(param), rows = row_count(param);
      const Format scalar = format_of(scalar_type(param.dtype));
      for (int64_t line = 0; line < planes(param) * rows && culprit.empty(); ++line) {
        const char* const at = session_.grads() + row_offset(param, static_cast<int>(line / rows), line % rows);
        for (int64_t i_column = 0; i_column < length; ++i_column) {
          double value;
          load_reals(scalar, at + i_column * scalar.size, &value, 1);
          if (!std::isfinite(value)) { culprit = format("the gradient of '%s' holds %g", param.name, value); break; }
        }
      }
    }
    if (!culprit.empty())
      throw Error("T0925", format("step %lld: ", static_cast<long long>(step + 1)) + culprit, "lower --lr, add --warmup or --clip 1, or look at the data; checkpoints written before are unharmed");
  }

  const Program& program_;
  const TrainOptions& options_;
  Ranks* ranks_;
  double slowest_ = 0;  // step so far, in ms; the first does not count
  bool stopped_ = false;
  Session session_;
  Scalars scalars_;
  Dataset data_;
  std::unique_ptr<Dataset> validation_;
  Updater updater_;
  std::unique_ptr<Lbfgs> lbfgs_;
  std::unique_ptr<Accumulation> accumulation_;
  Checkpoints checkpoints_;
};

}  // namespace tsr
