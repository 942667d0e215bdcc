// The fp32 multiply-add rate this machine reaches with all threads and no memory traffic, printed in GFLOP/s.
// Twelve independent accumulators per thread hide the latency of the units; the best of five runs is taken because a
// shared machine can only slow a run down.
#include <omp.h>

#include <algorithm>
#include <cstdio>

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
typedef float Vector __attribute__((vector_size(kLanes * sizeof(float))));

constexpr int kChains = 12;
constexpr long kRounds = 20'000'000;

static float chains(float seed) {
  Vector sum[kChains];
  for (int i = 0; i < kChains; ++i) sum[i] = Vector{} + (seed + static_cast<float>(i));
  Vector factor = Vector{} + (1.0f - seed * 1e-9f), term = Vector{} + seed * 1e-9f;
  for (long round = 0; round < kRounds; ++round)
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) sum[i] = sum[i] * factor + term;  // contracted to one fused multiply-add
  Vector total = sum[0];
  for (int i = 1; i < kChains; ++i) total += sum[i];
  return total[0];
}

int main() {
  double best = 0;
  volatile float sink = 0;
  for (int run = 0; run < 5; ++run) {
    double begin = omp_get_wtime();
    int threads = 1;
#pragma omp parallel
    {
#pragma omp single
      threads = omp_get_num_threads();
      float value = chains(1.0f + static_cast<float>(omp_get_thread_num()));
#pragma omp critical
      sink = sink + value;
    }
    double seconds = omp_get_wtime() - begin;
    best = std::max(best, 2.0 * kLanes * kChains * static_cast<double>(kRounds) * threads / seconds / 1e9);
  }
  std::printf("%.1f\n", best);
}
