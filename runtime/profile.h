// `profile`: time per kernel, as a table and as a Chrome trace. Needs a binary built with -DTSR_TRACE.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "bench.h"
#include "io.h"
#include "json.h"
#include "options.h"
#include "trace.h"

namespace tsr {
namespace cli {

constexpr Flag kProfileFlags[] = {
    {"--steps", "N", "recorded steps (3)"},
    {"--warmup", "N", "steps before recording (2)"},
    {"--infer", nullptr, "the forward function instead of the training step"},
    {"--seed", "N", "of weights and data (0)"},
    {"--threads", "N", "threads (OMP_NUM_THREADS, else the processors available)"},
};
constexpr Command kProfile = {"profile", "Prints the time of every kernel; writes a trace for chrome://tracing or ui.perfetto.dev.", kProfileFlags,
    sizeof kProfileFlags / sizeof kProfileFlags[0], "trace.json", "Times are thread time: their sum is the step time multiplied by the threads, less what threads wait. `best` is the rate of the fastest call, which other work on the machine disturbs least."};

#ifdef TSR_TRACE

inline void write_chrome_trace(const Program& program, const std::string& path) {
  const TraceLog& log = TraceLog::instance();
  AtomicFile file(path);
  std::string text = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n";
  const double origin = log.size() > 0 ? log[0].begin : 0;
  for (size_t i = 0; i < log.size(); ++i) {
    const TraceEvent& event = log[i];
    const Kernel& kernel = program.kernels[event.kernel];
    text += format("%s{\"ph\":\"X\",\"pid\":0,\"tid\":%d,\"ts\":%.3f,\"dur\":%.3f,\"name\":", i ? ",\n" : "", event.thread, (event.begin - origin) * 1e6, (event.end - event.begin) * 1e6);
    text += json_string(kernel.name) + ",\"args\":{\"source\":" + json_string(kernel.source) + ",\"formula\":" + json_string(kernel.formula) + "}}";
    if (text.size() > (size_t{1} << 20)) file.write(text.data(), text.size()), text.clear();
  }
  text += "\n]}\n";
  file.write(text.data(), text.size());
  file.commit();
}

inline int profile_command(const Program& program, const Arguments& arguments) {
  const int64_t steps = arguments.integer("--steps", 3, 1, 1000), warmup = arguments.integer("--warmup", 2, 0, 1000);
  Exercise exercise(program, arguments, bench_infer(program, arguments.has("--infer")));
  double ignored = 0, wall = 0;
  for (int64_t i = 0; i < warmup; ++i) exercise.step(&ignored);
  TraceLog& log = TraceLog::instance();
  log.start();
  for (int64_t i = 0; i < steps; ++i) wall += exercise.step(&ignored);
  log.stop();
  const size_t count = static_cast<size_t>(program.kernel_count);
  std::vector<double> time(count, 0), best(count, 1e30);
  std::vector<int64_t> calls(count, 0);
  double total = 0;
  for (size_t i = 0; i < log.size(); ++i) {
    const size_t kernel = static_cast<size_t>(log[i].kernel);
    if (kernel >= count) continue;
    const double taken = log[i].end - log[i].begin;
    time[kernel] += taken, total += taken;
    best[kernel] = std::min(best[kernel], taken);
    ++calls[kernel];
  }
  std::vector<size_t> order;
  for (size_t k = 0; k < count; ++k)
    if (calls[k] > 0) order.push_back(k);
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return time[a] != time[b] ? time[a] > time[b] : a < b; });
  printf("%s, %d threads: %.3f ms per step, %.3f ms of thread time in kernels\n", program.name, exercise.threads(), wall / static_cast<double>(steps) * 1e3, total / static_cast<double>(steps) * 1e3);
  printf("  %8s %6s %8s %9s %9s  %-28s %s\n", "ms/step", "share", "calls", "GFLOP/s", "best", "kernel", "source");
  for (const size_t k : order)
    printf("  %8.3f %5.1f%% %8.0f %9.1f %9.1f  %-28s %s\n", time[k] / static_cast<double>(steps) * 1e3, 100 * time[k] / total, static_cast<double>(calls[k]) / static_cast<double>(steps),
           program.kernels[k].flops * static_cast<double>(calls[k]) / time[k] * 1e-9, program.kernels[k].flops / best[k] * 1e-9, program.kernels[k].name, program.kernels[k].source);
  if (log.overflowed()) printf("  (more events than the buffer holds: use fewer --steps)\n");
  if (!arguments.positional().empty()) write_chrome_trace(program, arguments.positional());
  return kExitOk;
}

#else

inline int profile_command(const Program&, const Arguments&) {
  throw Error("T0928", "this binary was built without timing hooks", "run `make clean && make TRACE=1`, then profile again", kExitUsage);
}

#endif

}  // namespace cli
}  // namespace tsr
