// Speed of gemm<> on the shapes of a small GPT, one thread, best of many windows, against the FMA peak measured next to it.
//   g++ -std=c++17 -O3 -march=native -fopenmp -fno-math-errno -fno-trapping-math -I../../runtime gemm_sizes.cpp -o gemm_sizes
#include <cstdio>
#include <cstdlib>

#include "gemm.h"
#include "micro.h"

using namespace tsr;

template <class T>
static void fill(T* p, long n) {
  for (long i = 0; i < n; ++i) p[i] = T(i * 2654435761u % 1000) * T(0.001) - T(0.5);
}

template <class T, int M, int N, int K, bool TransA>
static void measure() {
  constexpr int pad = 64 / sizeof(T);
  constexpr int lda = padded<T>(TransA ? M : K), ldb = padded<T>(N);
  T* A = micro::allocate<T>(long(lda) * (TransA ? K : M) + pad);
  T* B = micro::allocate<T>(long(ldb) * K + pad);
  T* C = micro::allocate<T>(long(ldb) * M + pad);
  fill(A, long(lda) * (TransA ? K : M)), fill(B, long(ldb) * K), fill(C, long(ldb) * M);
  auto run = [&] {
    if constexpr (TransA) gemm<Shape<M, N, K, lda, ldb, TransA>>(A, B, Accumulate<T>{C, ldb});
    else gemm<Shape<M, N, K, lda, ldb, TransA>>(A, B, Store<T>{C, ldb});
  };
  double peak = 0, seconds = 1e9;
  for (int window = 0; window < 30; ++window) {
    peak = micro::best(peak, micro::fma_peak<T>());
    seconds = micro::least(seconds, micro::seconds_per_call(run, 2));
  }
  double rate = 2e-9 * M * N * K / seconds;
  std::printf("%s %4d x %4d x %4d %s  %6.1f GFLOP/s  %5.1f %% of peak %.1f\n", sizeof(T) == 4 ? "f32" : "f64", M, N, K,
              TransA ? "A^T +=" : "A    = ", rate, 100 * rate / peak, peak);
  std::free(A), std::free(B), std::free(C);
}

int main() {
  measure<float, 256, 256, 256, false>();
  measure<float, 256, 768, 256, false>();
  measure<float, 256, 1024, 256, false>();
  measure<float, 256, 256, 1024, false>();
  measure<float, 256, 256, 768, false>();
  measure<float, 512, 512, 512, false>();
  measure<float, 256, 768, 256, true>();
  measure<float, 256, 1024, 256, true>();
  measure<float, 1024, 256, 256, true>();
  measure<float, 512, 512, 512, true>();
  measure<float, 256, 65, 256, false>();
  measure<float, 256, 256, 4096, false>();
  measure<double, 256, 256, 256, false>();
}
