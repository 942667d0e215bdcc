// Descriptions of tensors for the tensor memory accelerator (sm_90), made on the host at the launch.
#pragma once
#include "ptx_sm90.cuh"
#ifndef TSR_EMULATION  // which declares the types itself
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace tsr::cuda {

/// A tensor of 16-bit floats of up to four axes, innermost first: sizes, and distances in elements (that of the first is 1).
struct TensorAxes {
  int rank;
  int64_t sizes[4], strides[4];
};

inline CUtensorMapDataType map_type(const __nv_bfloat16*) { return CU_TENSOR_MAP_DATA_TYPE_BFLOAT16; }
inline CUtensorMapDataType map_type(const __half*) { return CU_TENSOR_MAP_DATA_TYPE_FLOAT16; }

/// The driver's function that encodes maps; null if the driver is too old. Asked for by name: nothing links against the driver.
inline decltype(&cuTensorMapEncodeTiled) map_encoder() {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult status;
#if defined(CUDART_VERSION) && CUDART_VERSION < 12050
  const cudaError_t error = cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &found, cudaEnableDefault, &status);
#else
  const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &status);
#endif
  if (error != cudaSuccess || status != cudaDriverEntryPointSuccess) return nullptr;
  return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(found);
}

/// Describes p for copies of `box` elements along the axes, whose rows (64 elements at most) are swizzled over 128 bytes. False if that
/// cannot be: p and the distances have to be multiples of 16 bytes.
template <class E>
bool describe(CUtensorMap& map, const E* p, const TensorAxes& axes, const uint32_t (&box)[4]) {
  static const auto encode = map_encoder();
  if (encode == nullptr) return false;
  cuuint64_t sizes[4], distances[4];
  const cuuint32_t steps[4] = {1, 1, 1, 1};
  for (int i = 0; i < axes.rank; ++i) sizes[i] = cuuint64_t(axes.sizes[i]);
  for (int i = 1; i < axes.rank; ++i) distances[i - 1] = cuuint64_t(axes.strides[i]) * sizeof(E);
  return encode(&map, map_type(p), cuuint32_t(axes.rank), const_cast<E*>(p), sizes, distances, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

}  // namespace tsr::cuda
