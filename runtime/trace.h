// Timing of kernels. Emitted code calls trace_begin(k) and trace_end(k) around kernel k of
// Program::kernels; without -DTSR_TRACE both are empty and cost nothing.
#pragma once

#ifdef TSR_TRACE
#include <omp.h>
#include <time.h>

#include <atomic>
#include <cstdint>
#include <vector>
#endif

namespace tsr {

#ifdef TSR_TRACE

struct TraceEvent {
  int kernel, thread;
  double begin, end;  // seconds of CLOCK_MONOTONIC
};

// The event buffer, of fixed size: recording takes no lock and allocates nothing. The one object of
// the runtime with static storage; it exists only in binaries built for `profile`.
class TraceLog {
 public:
  static TraceLog& instance() {
    static TraceLog log;
    return log;
  }
  void start() { used_ = 0, on_ = true; }
  void stop() { on_ = false; }
  void record(const TraceEvent& event) {
    if (!on_) return;
    const size_t at = used_.fetch_add(1, std::memory_order_relaxed);
    if (at < events_.size()) events_[at] = event;
  }
  size_t size() const { return used_ < events_.size() ? used_.load() : events_.size(); }
  bool overflowed() const { return used_ > events_.size(); }
  const TraceEvent& operator[](size_t index) const { return events_[index]; }

 private:
  TraceLog() : events_(size_t{1} << 20) {}
  std::vector<TraceEvent> events_;
  std::atomic<size_t> used_{0};
  std::atomic<bool> on_{false};
};

inline double trace_clock() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// Begin times of the kernels open on this thread; kernels nest at most this deep.
struct TraceStack {
  double begin[16];
  int depth;
};
inline TraceStack& trace_stack() {
  static thread_local TraceStack stack = {{0}, 0};
  return stack;
}

inline void trace_begin(int) {
  TraceStack& stack = trace_stack();
  if (stack.depth < 16) stack.begin[stack.depth] = trace_clock();
  ++stack.depth;
}

inline void trace_end(int kernel) {
  TraceStack& stack = trace_stack();
  if (--stack.depth < 16) TraceLog::instance().record({kernel, omp_get_thread_num(), stack.begin[stack.depth], trace_clock()});
}

constexpr bool kTraced = true;

#else

inline void trace_begin(int) {}
inline void trace_end(int) {}
constexpr bool kTraced = false;

#endif

}  // namespace tsr
