// What a training run prints: a progress line on a terminal, JSON lines elsewhere and in --log.
// Formats into buffers sized once; a step allocates nothing.
#pragma once
#include <time.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "error.h"
#include "io.h"
#include "json.h"
#include "session.h"

namespace tsr {

// Seconds of a clock that never jumps.
inline double seconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

struct StepRecord {
  int64_t step;  // counted from 1
  double grad_norm, lr, ms;
  int64_t evaluations = 0;  // of the loss so far, where an optimizer chooses how many (0: one a step)
};

class Report {
 public:
  // batches: of one step.
  Report(const Program& program, const Scalars& scalars, int64_t steps, int64_t batches, bool quiet, double peak)
      : scalars_(scalars), steps_(steps), quiet_(quiet), terminal_(isatty(1) == 1), peak_(peak), flops_(program.train->flops * static_cast<double>(batches)),
        digits_(real_type(program) == DType::f64 ? 17 : 9) {
    for (int i = 1; i < scalars.count(); ++i) keys_.push_back((i > 1 ? "," : "") + json_string(scalars.name(i)) + ":");
    size_t room = 512;
    for (const std::string& key : keys_) room += key.size() + 64;
    line_.resize(room);
    count_units(*program.train);
    units_ *= static_cast<double>(batches);
  }
  ~Report() { if (log_) fclose(log_); }
  Report(const Report&) = delete;
  Report& operator=(const Report&) = delete;

  // Appends to `path`; after resuming at `step`, lines of later steps (of the killed run) are cut off.
  void open_log(const std::string& path, int64_t step, bool resumed) {
    log_path_ = path;
    log_ = fopen(path.c_str(), resumed ? "r+e" : "we");
    if (!log_ && resumed && errno == ENOENT) log_ = fopen(path.c_str(), "we");
    if (!log_) throw write_error(path, errno);
    if (resumed) cut_log(step);
  }

  void step(const StepRecord& record) {
    const bool show = !quiet_ && (!terminal_ || record.step == 1 || record.step == steps_ || seconds() - shown_ >= 0.5);
    if (!log_ && !show) return;
    if (log_ || !terminal_) json_line(record);
    if (log_) write_line(log_);
    if (!show) return;
    if (terminal_) progress(record);
    else write_line(stdout);
    shown_ = seconds();
  }

  void validation(int64_t step, double loss) {
    char number[32];
    snprintf(line_.data(), line_.size(), "{\"step\":%lld,\"val_loss\":%s}\n", static_cast<long long>(step), json_number(loss, number, digits_));
    if (log_) write_line(log_);
    if (quiet_) return;
    if (terminal_) printf("step %7lld  validation loss %.5g\n", static_cast<long long>(step), loss);
    else write_line(stdout);
  }

  bool terminal() const { return terminal_ && !quiet_; }

 private:
  void count_units(const Function& train) {
    units_ = static_cast<double>(train.batch), unit_ = "samples";
    for (int i = 0; i < train.input_count; ++i) {
      const Tensor& input = train.inputs[i];
      if (!is_integer(input.dtype) || !input.batched || input.rank != 2) continue;
      units_ = static_cast<double>(elements(input)), unit_ = "tokens";
      return;
    }
  }

  void cut_log(int64_t step) {
    char* text = nullptr;
    size_t room = 0;
    long good = 0;
    while (getline(&text, &room, log_) > 0) {
      long long at;
      if (sscanf(text, "{\"step\":%lld", &at) != 1 || at > step || !strchr(text, '\n')) break;
      good = ftell(log_);
    }
    free(text);
    fseek(log_, good, SEEK_SET);
    if (ftruncate(fileno(log_), good) != 0) throw write_error(log_path_, errno);
  }

  void json_line(const StepRecord& record) {
    char number[32];
    char* at = line_.data();
    at += snprintf(at, 128, "{\"step\":%lld,\"loss\":%s,\"metrics\":{", static_cast<long long>(record.step), json_number(scalars_.value(0), number, digits_));
    for (size_t i = 0; i < keys_.size(); ++i) {
      memcpy(at, keys_[i].data(), keys_[i].size());
      at += keys_[i].size();
      at += snprintf(at, 32, "%s", json_number(scalars_.value(static_cast<int>(i) + 1), number, digits_));
    }
    at += snprintf(at, 64, "},\"grad_norm\":%s", json_number(record.grad_norm, number));
    at += snprintf(at, 64, ",\"lr\":%s", json_number(record.lr, number));
    if (record.evaluations > 0) at += snprintf(at, 64, ",\"evaluations\":%lld", static_cast<long long>(record.evaluations));
    snprintf(at, 64, ",\"ms\":%s}\n", json_number(record.ms, number, 6));
  }

  void write_line(FILE* to) {
    if (fputs(line_.data(), to) < 0 || fflush(to) != 0) throw write_error(to == stdout ? "standard output" : log_path_, errno);
  }

  void progress(const StepRecord& record) {
    const double rate = units_ / (record.ms * 1e-3), gflops = flops_ / (record.ms * 1e6);
    printf("step %7lld/%lld  loss %-9.5g", static_cast<long long>(record.step), static_cast<long long>(steps_), scalars_.value(0));
    for (int i = 1; i < scalars_.count(); ++i) printf(" %s %-9.4g", scalars_.name(i), scalars_.value(i));
    printf(" |g| %-8.3g lr %-9.3g %8.2f ms  %.3g %s/s", record.grad_norm, record.lr, record.ms, rate, unit_);
    if (peak_ > 0 && flops_ > 0) printf("  %.0f%% of %.0f GFLOP/s (FMA loop)", 100 * gflops / peak_, peak_);
    printf("\n");
    fflush(stdout);
  }

  const Scalars& scalars_;
  int64_t steps_;
  bool quiet_, terminal_;
  double peak_, flops_, units_ = 1, shown_ = -1;
  const char* unit_ = "samples";
  int digits_;
  std::vector<std::string> keys_;
  std::vector<char> line_;
  FILE* log_ = nullptr;
  std::string log_path_;
};

}  // namespace tsr
