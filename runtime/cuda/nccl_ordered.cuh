// Sums in the order of the ranks, for --reproducible: NCCL adds in an order that depends on sizes, links and its version, so
// it moves the terms only, and every rank adds them by itself. That costs as many times the bytes as there are ranks.
#pragma once
#include <cstddef>
#include <cstdint>

#include "../dtype.h"
#include "../ranks.h"

namespace tsr {
namespace comm {

// terms: one array of `count` elements per rank, one after another; sum may be the first of them.
template <class T>
__global__ void combine_terms(const T* terms, T* sum, int ranks, int64_t count, int kind) {
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += int64_t(gridDim.x) * blockDim.x) {
    T all = terms[i];
    for (int k = 1; k < ranks; ++k) {
      const T term = terms[k * count + i];
      if (kind == static_cast<int>(Reduce::sum)) all += term;
      else if (term != term || (kind == static_cast<int>(Reduce::max) ? term > all : term < all)) all = term;
    }
    sum[i] = all;
  }
}

template <class T>
inline cudaError_t combine_on(cudaStream_t stream, Reduce kind, const void* terms, void* sum, int ranks, int64_t count) {
  const int64_t blocks = (count + 255) / 256;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks < 1024 ? blocks : 1024)), config.blockDim = dim3(256), config.stream = stream;
  return cudaLaunchKernelEx(&config, combine_terms<T>, static_cast<const T*>(terms), static_cast<T*>(sum), ranks, count, static_cast<int>(kind));
}

inline cudaError_t combine_on(cudaStream_t stream, DType type, Reduce kind, const void* terms, void* sum, int ranks, int64_t count) {
  switch (type) {
    case DType::f32: return combine_on<float>(stream, kind, terms, sum, ranks, count);
    case DType::f64: return combine_on<double>(stream, kind, terms, sum, ranks, count);
    case DType::i32: return combine_on<int32_t>(stream, kind, terms, sum, ranks, count);
    default: return combine_on<int64_t>(stream, kind, terms, sum, ranks, count);
  }
}

}  // namespace comm
}  // namespace tsr
