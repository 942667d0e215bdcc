// `bench` and `profile`: time of a step on synthetic data.
#pragma once
#include <sys/resource.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "accumulate.h"
#include "dataset.h"
#include "init.h"
#include "json.h"
#include "optimizer.h"
#include "options.h"
#include "report.h"
#include "session.h"
#include "trace.h"
#include "train_command.h"

namespace tsr {
namespace cli {

constexpr Flag kBenchFlags[] = {
    {"--steps", "N", "timed steps (20)"},
    {"--warmup", "N", "steps before timing (3)"},
    {"--infer", nullptr, "time the forward function instead of the training step"},
    {"--optimizer", "NAME", "sgd, momentum, adam or adamw (the source's, else adamw); part of the step"},
    {"--weights", "FILE", "weights to start from (initial values)"},
    {"--reproducible", nullptr, "add what ranks have in their order, whatever exchanges it (processors always do)"},
    {"--accumulate", "K", "batches whose gradients make one step, as their mean (1)"},
    {"--json", nullptr, "one JSON object instead of text"},
    {"--seed", "N", "of weights and data (0)"},
    {"--threads", "N", "threads (OMP_NUM_THREADS, else the processors available)"},
};
constexpr Command kBench = {"bench", "Times training steps (gradients and update) on synthetic data.", kBenchFlags, sizeof kBenchFlags / sizeof kBenchFlags[0], nullptr,
    "Peak is measured in the same run by a loop of fused multiply-adds on all threads."};

// normal() for floats, randint over the valid range for integers.
inline std::vector<DataSpec> synthetic_data(const Function& function) {
  std::vector<DataSpec> out;
  for (int i = 0; i < function.input_count; ++i) {
    DataSpec spec;
    spec.key = function.inputs[i].name;
    const bool integer = is_integer(function.inputs[i].dtype);
    spec.kind = integer ? DataSpec::Kind::randint : DataSpec::Kind::normal;
    spec.text = integer ? "randint" : "normal()";
    spec.a = 0, spec.b = 1;
    out.push_back(spec);
  }
  return out;
}

// Steps on one synthetic batch; the batch is made once, so that only the program is timed.
class Exercise {
 public:
  Exercise(const Program& program, const Arguments& arguments, bool infer)
      : program_(program), infer_(infer), function_(infer ? *program.infer : *program.train), threads_(thread_count(arguments)),
        seed_(static_cast<uint64_t>(arguments.integer("--seed", 0, 0))), session_(program, threads_, process_ranks()),
        updater_(program, optimizer_settings(program, arguments), threads_, process_ranks()),
        data_(function_, synthetic_data(function_), seed_, "--data", 1, process_ranks()) {
    const int64_t batches = arguments.integer("--accumulate", 1, 1);
    session_.reserve(!infer, infer, infer ? 0 : moments_of(updater_.settings()), false, !infer && batches > 1);
    if (!infer && batches > 1) {
      scalars_.reset(new Scalars(function_));
      accumulation_.reset(new Accumulation(program, batches, threads_));
      accumulation_->reserve(program, &session_.arena());
    }
    data_.reserve(&session_.arena());
    std::vector<size_t> offsets;
    for (int i = 0; i < function_.output_count; ++i) offsets.push_back(session_.arena().reserve(dense_bytes(function_.outputs[i])));
    session_.map(true);
    for (const size_t offset : offsets) outputs_.push_back(session_.arena().at(offset));
    if (accumulation_) accumulation_->bind(&session_);
    data_.bind(session_.arena());
    data_.fill(0);
    const std::string weights = arguments.text("--weights");
    if (weights.empty()) initialise(program, seed_, session_.params(), session_.ranks());
    else load_weights(program, weights, session_.params(), session_.ranks());
  }
  // Seconds of one step; *update gets the optimizer's share.
  double step(double* update) {
    const double begin = seconds();
    if (infer_) {
      session_.infer(data_.inputs(), outputs_.data(), function_.batch, seed_, done_++);
      return seconds() - begin;
    }
    if (accumulation_) {
      accumulation_->gather(scalars_.get(), [&](int64_t) { session_.train(data_.inputs(), scalars_->pointers(), seed_, done_); });
      session_.update(&updater_, static_cast<int64_t>(done_++), 1e-6);
      *update = updater_.seconds();
      return seconds() - begin;
    }
    session_.step(data_.inputs(), outputs_.data(), seed_, &updater_, static_cast<int64_t>(done_++), 1e-6);
    *update = updater_.seconds();  // on a device, gradients and update are one piece of work: 0
    return seconds() - begin;
  }
  int threads() const { return threads_; }
  const Function& function() const { return function_; }
  double arena_bytes() { return static_cast<double>(session_.arena().bytes()); }
  double peak() const { return program_.peak ? program_.peak(threads_, 0.1) : 0; }

 private:
  const Program& program_;
  bool infer_;
  const Function& function_;
  int threads_;
  uint64_t seed_, done_ = 0;
  Session session_;
  Updater updater_;
  Dataset data_;
  std::vector<void*> outputs_;
  std::unique_ptr<Scalars> scalars_;
  std::unique_ptr<Accumulation> accumulation_;  // of several batches a step
};

inline bool bench_infer(const Program& program, bool wanted) {
  if (wanted && !program.infer) throw Error("T0924", std::string(program.name) + " has no forward outputs", "drop --infer", kExitUsage);
  return wanted || !program.train;
}

inline double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n % 2 ? values[n / 2] : 0.5 * (values[n / 2 - 1] + values[n / 2]);
}

inline long page_faults(double* peak_rss) {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  if (peak_rss) *peak_rss = static_cast<double>(usage.ru_maxrss) * 1024;
  return usage.ru_minflt + usage.ru_majflt;
}

// What exchanges were made, per step, beside what the program says it makes.
inline void print_traffic(const Program& program, const Ranks& ranks, int64_t steps) {
  printf("  ranks     %d (%s)\n", ranks.size(), ranks.backend().c_str());
  for (int i = 0; i < program.mesh->collective_count; ++i) {
    const Collective& planned = program.mesh->collectives[i];
    const Traffic traffic = ranks.traffic(i);
    if (traffic.calls == 0) continue;
    const double calls = static_cast<double>(traffic.calls);
    printf("    %3d %-15s %-4s %-20s %.6g a step of %lld bytes (planned: %lld bytes)", i, planned.kind, program.mesh->names[planned.axis], planned.source,
           calls / static_cast<double>(steps), static_cast<long long>(traffic.bytes / traffic.calls), static_cast<long long>(planned.bytes));
    if (traffic.seconds > 0) printf(" in %.1f us, %.1f of them waiting", traffic.seconds / calls * 1e6, traffic.waited / calls * 1e6);  // not of a device's stream
    printf("\n");
  }
}

// The same as JSON: calls and bytes of a step, this rank's and of all ranks together. A call of all ranks.
inline std::string traffic_json(const Program& program, Ranks* ranks, int64_t steps) {
  std::string out = format(",\"ranks\":%d,\"backend\":", ranks->size()) + json_string(ranks->backend()) + ",\"exchanges\":[";
  const char* separator = "";
  for (int i = 0; i < program.mesh->collective_count; ++i) {
    const Collective& planned = program.mesh->collectives[i];
    const Traffic traffic = ranks->traffic(i);
    double all = static_cast<double>(traffic.bytes);
    ranks->all_reduce(Ranks::kOwn, Ranks::kWorld, Reduce::sum, DType::f64, &all, 1);
    if (traffic.calls == 0) continue;
    const double per = 1 / static_cast<double>(steps);
    out += format("%s{\"number\":%d,\"kind\":\"%s\",\"axis\":", separator, i, planned.kind) + json_string(program.mesh->names[planned.axis]) + format(",\"size\":%d,\"at\":", program.mesh->sizes[planned.axis]) + json_string(planned.source) +
           format(",\"calls\":%.9g,\"bytes\":%.17g,\"bytes_of_all\":%.17g,\"planned_bytes\":%lld,\"us\":%.6g,\"waited_us\":%.6g}", static_cast<double>(traffic.calls) * per, static_cast<double>(traffic.bytes) * per, all * per,
                  static_cast<long long>(planned.bytes), traffic.seconds * per * 1e6, traffic.waited * per * 1e6);
    separator = ",";
  }
  return out + "]";
}

inline int bench_command(const Program& program, const Arguments& arguments) {
  const int64_t steps = arguments.integer("--steps", 20, 1, 1'000'000), warmup = arguments.integer("--warmup", 3, 0, 1'000'000);
  Exercise exercise(program, arguments, bench_infer(program, arguments.has("--infer")));
  std::vector<double> times(static_cast<size_t>(steps)), updates(static_cast<size_t>(steps), 0);
  double ignored = 0, rss = 0;
  const double before = exercise.peak();
  for (int64_t i = 0; i < warmup; ++i) exercise.step(&ignored);
  const long faults = page_faults(nullptr);
  for (size_t i = 0; i < times.size(); ++i) times[i] = exercise.step(&updates[i]);
  const double faults_per_step = static_cast<double>(page_faults(&rss) - faults) / static_cast<double>(steps);
  const double after = exercise.peak(), peak = before > after ? before : after;
  const double middle = median(times), least = *std::min_element(times.begin(), times.end()), most = *std::max_element(times.begin(), times.end());
  const double gflops = exercise.function().flops / middle * 1e-9;
  if (arguments.has("--json")) {
    const std::string exchanged = process_ranks() ? traffic_json(program, process_ranks(), steps + warmup) : std::string();
    printf("{\"program\":%s,\"function\":%s,\"threads\":%d,\"steps\":%lld,\"median_ms\":%.6g,\"min_ms\":%.6g,\"max_ms\":%.6g,\"update_ms\":%.6g,\"gflops\":%.6g,\"peak_gflops\":%.6g,"
           "\"peak_share\":%.6g,\"flops\":%.17g,\"arena_bytes\":%.17g,\"peak_rss_bytes\":%.17g,\"page_faults_per_step\":%.6g%s}\n",
           json_string(program.name).c_str(), json_string(exercise.function().name).c_str(), exercise.threads(), static_cast<long long>(steps), middle * 1e3, least * 1e3, most * 1e3, median(updates) * 1e3,
           gflops, peak, peak > 0 ? gflops / peak : 0, exercise.function().flops, exercise.arena_bytes(), rss, faults_per_step, exchanged.c_str());
    return kExitOk;
  }
  printf("%s %s, %d threads, %lld steps after %lld\n", program.name, exercise.function().name, exercise.threads(), static_cast<long long>(steps), static_cast<long long>(warmup));
  printf("  time      median %.3f ms, min %.3f, max %.3f (update %.3f ms)\n", middle * 1e3, least * 1e3, most * 1e3, median(updates) * 1e3);
  printf("  rate      %.1f GFLOP/s", gflops);
  if (peak > 0) printf(", %.1f%% of %.1f GFLOP/s (FMA loop, same threads)", 100 * gflops / peak, peak);
  printf("\n");
  printf("  memory    arena %s, peak resident %s\n", bytes_text(exercise.arena_bytes()).c_str(), bytes_text(rss).c_str());
  printf("  faults    %.1f pages per step\n", faults_per_step);
  if (process_ranks()) print_traffic(program, *process_ranks(), steps + warmup);
  return kExitOk;
}

}  // namespace cli
}  // namespace tsr
