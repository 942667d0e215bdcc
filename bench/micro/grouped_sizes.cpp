// Grouped products over the rows of 16 experts against one dense product of the same operations: uniform and Zipf routing,
// forward (y_e = x_e W_e) and weight gradient (dW_e = x_e^T y_e). OMP_NUM_THREADS threads; best of many windows, in which all
// take turns. One thread is timed by what it had of its processor, so that other work on the machine disturbs little.
//   g++ -std=c++17 -O3 -march=native -fopenmp -fno-math-errno -fno-trapping-math -I../../runtime grouped_sizes.cpp -o grouped_sizes
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <vector>

#include "experts.h"
#include "gemm_ragged.h"
#include "micro.h"

using namespace tsr;

constexpr int kExperts = 16, kMost = 1024;

static void fill(float* p, long n) {
  for (long i = 0; i < n; ++i) p[i] = float(i * 2654435761u % 1000) * 0.001f - 0.5f;
}

/// First rows of the experts when expert e gets a share proportional to 1 / (e + 1)^exponent.
static std::vector<long> offsets(long rows, double exponent) {
  double total = 0, sum = 0;
  for (int e = 0; e < kExperts; ++e) total += std::pow(e + 1, -exponent);
  std::vector<long> result = {0};
  for (int e = 0; e < kExperts; ++e) result.push_back(std::lround(double(rows) * (sum += std::pow(e + 1, -exponent)) / total));
  return result;
}

/// Seconds of a call of each function: the least of many windows.
static std::vector<double> best_seconds(const std::vector<std::function<void()>>& runs) {
  const clockid_t clock = omp_get_max_threads() == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC;
  std::vector<double> seconds(runs.size(), 1e9);
  for (int window = 0; window < 12; ++window)
    for (size_t i = 0; i < runs.size(); ++i) seconds[i] = micro::least(seconds[i], micro::seconds_per_call(runs[i], 20, clock));
  return seconds;
}

template <int Rows, int N, int K>
static void measure() {
  constexpr int lda = padded<float>(K), ldb = padded<float>(N);
  using Dense = Shape<Rows, N, K, lda, ldb>;
  using DenseOuter = Shape<K, N, Rows, lda, ldb, kTransposed>;
  using Forward = Shape<kMost, N, K, lda, ldb>;
  using Outer = Shape<K, N, kMost, lda, ldb, kTransposed>;
  float *x = micro::allocate<float>(long(Rows) * lda + 64), *y = micro::allocate<float>(long(Rows) * ldb + 64);
  const long each = long(K) * ldb;
  float *w = micro::allocate<float>(kExperts * each + 64), *dw = micro::allocate<float>(kExperts * each + 64);
  fill(x, long(Rows) * lda), fill(y, long(Rows) * ldb), fill(w, kExperts * each), fill(dw, kExperts * each);
  std::vector<std::function<void()>> runs = {
      [&] {
#pragma omp parallel
        gemm<Dense>(x, w, Store<float>{y, ldb}, row_share<float, Dense>(omp_get_thread_num(), omp_get_num_threads()));
      },
      [&] {
#pragma omp parallel
        gemm<DenseOuter>(x, y, Store<float>{dw, ldb}, row_share<float, DenseOuter>(omp_get_thread_num(), omp_get_num_threads()));
      }};
  for (const double exponent : {0.0, 1.0}) {
    const std::vector<long> begin = offsets(Rows, exponent);
    auto for_tiles = [begin](auto&& f) {
      for (int e = 0; e < kExperts; ++e) expert_tiles(e, begin[size_t(e)], begin[size_t(e) + 1], kMost, f);
    };
    runs.push_back([=] {
      for_tiles([&](const ExpertTile& tile) {
#pragma omp parallel
        gemm<Forward>(x + tile.row * lda, w + tile.expert * each, Store<float>{y + tile.row * ldb, ldb},
                      share_of_rows<float, Forward>(tile.rows, omp_get_thread_num(), omp_get_num_threads()));
      });
    });
    runs.push_back([=] {
      for_tiles([&](const ExpertTile& tile) {
        const float *xs = x + tile.row * lda, *ys = y + tile.row * ldb;
        float* target = dw + tile.expert * each;
#pragma omp parallel
        {
          const Part mine = share_of_terms<float, Outer>(tile.rows, omp_get_thread_num(), omp_get_num_threads());
          if (tile.first) gemm<Outer>(xs, ys, Store<float>{target, ldb}, mine);
          else gemm<Outer>(xs, ys, Accumulate<float>{target, ldb}, mine);
        }
      });
    });
  }
  const std::vector<double> seconds = best_seconds(runs);
  const double flops = 2e-9 * Rows * N * K;
  std::printf("%d rows x %d x %d, dense: forward %.1f GFLOP/s, weight gradient %.1f\n", Rows, K, N, flops / seconds[0], flops / seconds[1]);
  for (size_t i = 2; i < seconds.size(); i += 2)
    std::printf("  %-7s  forward %.1f GFLOP/s (%.0f %% of dense), weight gradient %.1f (%.0f %%)\n", i == 2 ? "uniform" : "Zipf",
                flops / seconds[i], 100 * seconds[0] / seconds[i], flops / seconds[i + 1], 100 * seconds[1] / seconds[i + 1]);
  std::free(x), std::free(y), std::free(w), std::free(dw);
}

int main() {
  measure<8192, 1024, 512>();
  measure<8192, 512, 1024>();
  measure<4096, 2048, 1024>();
}
