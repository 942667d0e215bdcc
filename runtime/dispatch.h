// Kernels compiled for several instruction sets in one binary: which of them suit the processor this runs on.
#pragma once
#include "program.h"

namespace tsr {

#if defined(__x86_64__)
/// The program for the newest of the levels x86-64-v2, -v3 (AVX2, FMA) and -v4 (AVX-512) that this processor has.
inline const Program& best_of(const Program& v2, const Program& v3, const Program& v4) {
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return avx2 && avx512 ? v4 : avx2 ? v3 : v2;
}
#endif

}  // namespace tsr
