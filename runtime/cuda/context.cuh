// What a program needs besides its buffers: a stream, the first error, and cuBLASLt where the machine has it.
#pragma once
#include <dlfcn.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "cublaslt_api.h"

namespace tsr::cuda {

/// The cuBLASLt functions we call, loaded from the library; all null where there is none.
struct Blas {
#define TSR_BLAS(name) decltype(&cublasLt##name) name = nullptr
  TSR_BLAS(Create);
  TSR_BLAS(Destroy);
  TSR_BLAS(MatmulDescCreate);
  TSR_BLAS(MatmulDescDestroy);
  TSR_BLAS(MatmulDescSetAttribute);
  TSR_BLAS(MatrixLayoutCreate);
  TSR_BLAS(MatrixLayoutDestroy);
  TSR_BLAS(MatrixLayoutSetAttribute);
  TSR_BLAS(MatmulPreferenceCreate);
  TSR_BLAS(MatmulPreferenceDestroy);
  TSR_BLAS(MatmulPreferenceSetAttribute);
  TSR_BLAS(MatmulAlgoGetHeuristic);
  TSR_BLAS(Matmul);
#undef TSR_BLAS
  cublasLtHandle_t handle = nullptr;

  Blas() {
    void* library = nullptr;
    for (const char* name : {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so.11", "libcublasLt.so"})
      if (library == nullptr) library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return;
    bool complete = true;
    auto find = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::decay_t<decltype(function)>>(dlsym(library, name));
      complete = complete && function != nullptr;
    };
#define TSR_BLAS(name) find(name, "cublasLt" #name)
    TSR_BLAS(Create);
    TSR_BLAS(Destroy);
    TSR_BLAS(MatmulDescCreate);
    TSR_BLAS(MatmulDescDestroy);
    TSR_BLAS(MatmulDescSetAttribute);
    TSR_BLAS(MatrixLayoutCreate);
    TSR_BLAS(MatrixLayoutDestroy);
    TSR_BLAS(MatrixLayoutSetAttribute);
    TSR_BLAS(MatmulPreferenceCreate);
    TSR_BLAS(MatmulPreferenceDestroy);
    TSR_BLAS(MatmulPreferenceSetAttribute);
    TSR_BLAS(MatmulAlgoGetHeuristic);
    TSR_BLAS(Matmul);
#undef TSR_BLAS
    if (!complete || Create(&handle) != CUBLAS_STATUS_SUCCESS) handle = nullptr;
  }
  ~Blas() {
    if (handle != nullptr) Destroy(handle);
  }
  Blas(const Blas&) = delete;
  Blas& operator=(const Blas&) = delete;
};

/// How cuBLASLt carries out one product; made at its first call. `own` if it cannot: our kernel does it then.
struct ProductPlan {
  const Blas* blas = nullptr;
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
  cublasLtMatmulAlgo_t algorithm = {};
  size_t workspace = 0;
  bool own = true;

  ProductPlan() = default;
  ProductPlan(const ProductPlan&) = delete;
  ProductPlan& operator=(const ProductPlan&) = delete;
  ~ProductPlan() {
    if (operation != nullptr) blas->MatmulDescDestroy(operation);
    for (cublasLtMatrixLayout_t layout : {a, b, c})
      if (layout != nullptr) blas->MatrixLayoutDestroy(layout);
  }
};

/// One stream of work. Not for several threads at a time.
class Context {
 public:
  static constexpr size_t kBlasWorkspace = size_t(32) << 20;

  /// Work goes to `stream`, in order. The stream stays the caller's.
  explicit Context(cudaStream_t stream_of_work = nullptr) : stream(stream_of_work) {
    if (blas.handle != nullptr) check(cudaMalloc(&blas_workspace, kBlasWorkspace), "cudaMalloc of cuBLASLt's workspace");
  }
  ~Context() {
    plans.clear();
    if (blas_workspace != nullptr) cudaFree(blas_workspace);
  }
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  /// Remembers the first error; later ones are its consequences. True if there is none in this call.
  bool check(cudaError_t result, const char* what) {
    if (result == cudaSuccess) return true;
    if (code == 0) {
      code = int(result);
      error = std::string(what) + ": " + cudaGetErrorString(result);
    }
    return false;
  }

  cudaStream_t stream;
  int code = 0;
  std::string error;
  Blas blas;
  void* blas_workspace = nullptr;
  std::map<const void*, std::unique_ptr<ProductPlan>> plans;  // by the address of the product's table of sizes
};

/// A typed pointer into a byte arena.
template <class T>
inline T* at(char* base, size_t offset) {
  return reinterpret_cast<T*>(base + offset);
}

}  // namespace tsr::cuda
