// What the small measurement programs share: aligned memory, timing by best window, and the FMA rate of one core.
#pragma once
#include <cstdlib>
#include <sys/mman.h>
#include <time.h>

#include "simd.h"

namespace micro {

inline double now(clockid_t clock = CLOCK_MONOTONIC) {
  timespec t;
  clock_gettime(clock, &t);
  return double(t.tv_sec) + double(t.tv_nsec) * 1e-9;
}

inline double best(double a, double b) { return a > b ? a : b; }
inline double least(double a, double b) { return a < b ? a : b; }

/// Memory on 2 MB boundaries with huge pages asked for; released with free().
template <class T>
T* allocate(long n) {
  const size_t huge = size_t(2) << 20, bytes = (n * sizeof(T) + huge - 1) / huge * huge;
  void* p = std::aligned_alloc(huge, bytes);
  madvise(p, bytes, MADV_HUGEPAGE);
  return static_cast<T*>(p);
}

/// Seconds of one call, from a window of about `milliseconds`.
template <class F>
double seconds_per_call(F&& f, double milliseconds, clockid_t clock = CLOCK_MONOTONIC) {
  const double start = now(clock);
  f();
  const double once = now(clock) - start;
  const int calls = int(milliseconds * 1e-3 / (once + 1e-9)) + 1;
  const double t = now(clock);
  for (int i = 0; i < calls; ++i) f();
  return (now(clock) - t) / calls;
}

/// GFLOP/s of one core on independent fused multiply-adds in registers, over about 50 us.
template <class T>
__attribute__((noinline)) double fma_peak() {
  constexpr int chains = 12, rounds = 16000;
  const double t = now();
  const tsr::Vec<T> x = tsr::broadcast(T(1.0000001)), y = tsr::broadcast(T(1e-9));
  tsr::Vec<T> acc[chains];
#pragma GCC unroll 12
  for (int i = 0; i < chains; ++i) acc[i] = tsr::broadcast(T(i));
#pragma GCC unroll 1
  for (int r = 0; r < rounds; ++r)
#pragma GCC unroll 12
    for (int i = 0; i < chains; ++i) acc[i] = acc[i] * x + y;
  tsr::Vec<T> sum = acc[0];
#pragma GCC unroll 12
  for (int i = 1; i < chains; ++i) sum += acc[i];
  volatile T sink = tsr::hsum(sum);
  (void)sink;
  return 2e-9 * chains * rounds * tsr::lanes<T> / (now() - t);
}

}  // namespace micro
