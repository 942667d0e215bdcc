// Transforms of lines that shared memory cannot hold, through cuFFT where the program was built with it: what comes before and
// after stays the program's own, in a kernel that brings some lines to memory and one that takes them from there.
#pragma once
#include "cufft_api.h"
#include "fft.cuh"

namespace tsr {

/// Brings the lines from `first` on, one a block, to `outside`: 2 pitch numbers each, of which the first `length` are transformed.
template <class Plan, class F>
__global__ void __launch_bounds__(kFftThreads) fft_gather(int64_t first, F f, FftTables<typename Plan::T> tables, typename Plan::T interior, Complex<typename Plan::T>* outside) {
  Complex<typename Plan::T>* const a = outside + int64_t(blockIdx.x) * 2 * Plan::pitch;
  fft_read<Plan>(f, first + blockIdx.x, 1, interior, tables.turn, a, a + Plan::pitch);
}

/// Hands the transformed lines on.
template <class Plan, class F>
__global__ void __launch_bounds__(kFftThreads) fft_scatter(int64_t first, F f, FftTables<typename Plan::T> tables, typename Plan::T interior, const Complex<typename Plan::T>* outside) {
  fft_write<Plan>(f, first + blockIdx.x, 1, interior, tables.turn, outside + int64_t(blockIdx.x) * 2 * Plan::pitch);
}

namespace cuda {

#ifndef TSR_NO_CUFFT
/// cuFFT's plan for some lines of a transform, made at the first call and kept by the context; null if it has none.
template <class Plan>
const cufftHandle* library_plan(Context& context, int lines) {
  const bool wide = sizeof(typename Plan::T) == 8;
  std::shared_ptr<void>& kept = context.library_plans[{wide, Plan::length, Plan::pitch, lines}];
  if (kept == nullptr) {
    int n = Plan::length;
    cufftHandle plan;
    if (cufftPlanMany(&plan, 1, &n, &n, 1, 2 * Plan::pitch, &n, 1, 2 * Plan::pitch, wide ? CUFFT_Z2Z : CUFFT_C2C, lines) != CUFFT_SUCCESS) return nullptr;
    kept = std::shared_ptr<cufftHandle>(new cufftHandle(plan), [](cufftHandle* p) { cufftDestroy(*p), delete p; });
  }
  return static_cast<const cufftHandle*>(kept.get());
}

/// Transforms lines in place.
inline cufftResult run_plan(cufftHandle plan, Complex<float>* x) {
  return cufftExecC2C(plan, reinterpret_cast<cufftComplex*>(x), reinterpret_cast<cufftComplex*>(x), CUFFT_FORWARD);
}
inline cufftResult run_plan(cufftHandle plan, Complex<double>* x) {
  return cufftExecZ2Z(plan, reinterpret_cast<cufftDoubleComplex*>(x), reinterpret_cast<cufftDoubleComplex*>(x), CUFFT_FORWARD);
}
#endif

/// As `fft`, of a plan whose lines lie in device memory: by cuFFT, kFftBlocksOutside lines at a time, or without it by `fft`.
template <class Plan, class F>
void fft_by_library(Context& context, int64_t count, const F& f, typename Plan::T interior, void* outside) {
#ifndef TSR_NO_CUFFT
  using T = typename Plan::T;
  static_assert(Plan::outside && Plan::lines == 1, "a line per block");
  constexpr int most = kFftBlocksOutside;
  const int rest = int(count % most);
  const cufftHandle* const whole = count >= most ? library_plan<Plan>(context, most) : nullptr;
  const cufftHandle* const last = rest > 0 ? library_plan<Plan>(context, rest) : nullptr;
  if ((whole != nullptr || count < most) && (last != nullptr || rest == 0)) {
    const FftTables<T> tables = fft_tables<T>(context, Plan::n, Plan::length, Plan::passes);
    if (context.code != 0) return;
    Complex<T>* const x = static_cast<Complex<T>*>(outside);
    for (int64_t first = 0; first < count; first += most) {
      const int lines = count - first < most ? rest : most;
      const cufftHandle plan = lines == most ? *whole : *last;
      fft_gather<Plan, F><<<lines, kFftThreads, 0, context.stream>>>(first, f, tables, interior, x);
      if (cufftSetStream(plan, context.stream) != CUFFT_SUCCESS || run_plan(plan, x) != CUFFT_SUCCESS) context.check(cudaErrorLaunchFailure, "cuFFT");
      fft_scatter<Plan, F><<<lines, kFftThreads, 0, context.stream>>>(first, f, tables, interior, x);
    }
    return;
  }
#endif
  fft<Plan>(context, count, f, interior, outside);
}

}  // namespace cuda
}  // namespace tsr
