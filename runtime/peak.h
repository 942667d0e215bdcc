// The fastest this machine can multiply and add right now: a register-only loop of fused
// multiply-adds on all threads. The denominator of every "% of peak".
#pragma once
#include <time.h>

#include <cstdint>

#include "simd.h"

namespace tsr {

// GFLOP/s with `threads` threads, measured for about `limit` seconds (best of the rounds).
template <class T>
inline double measure_peak(int threads, double limit) {
  constexpr int kChains = kVectorRegisters >= 32 ? 24 : 12;  // enough independent chains to hide the latency, few enough to stay in registers
  constexpr int64_t kRounds = 1 << 15;
  const auto now = [] {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
  };
  double best = 0;
  const double end = now() + limit;
  do {
    double sink = 0;
    const double begin = now();
#pragma omp parallel num_threads(threads) reduction(+ : sink)
    {
      Vec<T> chain[kChains];
      for (int i = 0; i < kChains; ++i) chain[i] = broadcast<T>(static_cast<T>(i));
      const Vec<T> a = broadcast<T>(T(0.999)), b = broadcast<T>(T(0.001));
      for (int64_t round = 0; round < kRounds; ++round)
#pragma GCC unroll 24
        for (int i = 0; i < kChains; ++i) chain[i] = fma(chain[i], a, b);
      for (int i = 0; i < kChains; ++i) sink += static_cast<double>(chain[i][0]);
    }
    const double rate = 2.0 * kChains * lanes<T> * kRounds * threads / (now() - begin) * 1e-9;
    if (rate > best && sink > 0) best = rate;
  } while (now() < end);
  return best;
}

}  // namespace tsr
