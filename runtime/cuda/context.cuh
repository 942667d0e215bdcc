// What a program needs besides its buffers: a stream, the first error, and cuBLASLt unless it was built without.
#pragma once
#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "../error.h"
#include "../ranks.h"
#include "cublaslt_api.h"

namespace tsr::cuda {

/// How cuBLASLt carries out one product; made at its first call. `own` if it cannot: our kernel does it then.
struct ProductPlan {
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
  cublasLtMatmulAlgo_t algorithm = {};
  size_t workspace = 0;
  bool own = true;

  ProductPlan() = default;
  ProductPlan(const ProductPlan&) = delete;
  ProductPlan& operator=(const ProductPlan&) = delete;
  ~ProductPlan() {
#ifndef TSR_NO_CUBLASLT
    if (operation != nullptr) cublasLtMatmulDescDestroy(operation);
    for (cublasLtMatrixLayout_t layout : {a, b, c})
      if (layout != nullptr) cublasLtMatrixLayoutDestroy(layout);
#endif
  }
};

/// One stream of work. Not for several threads at a time.
class Context {
 public:
  static constexpr size_t kBlasWorkspace = size_t(32) << 20;

  /// Work goes to `stream`, in order. The stream stays the caller's.
  explicit Context(cudaStream_t stream_of_work = nullptr) : stream(stream_of_work) {
#ifndef TSR_NO_CUBLASLT
    if (cublasLtCreate(&blas) != CUBLAS_STATUS_SUCCESS) blas = nullptr;
#endif
  }
  ~Context() {
    plans.clear(), library_plans.clear();
    for (const auto& table : tables) cudaFree(table.second);
    cudaFree(own_workspace_);
#ifndef TSR_NO_CUBLASLT
    if (blas != nullptr) cublasLtDestroy(blas);
#endif
  }
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  /// Memory of kBlasWorkspace bytes for products, if the caller does not give any in `blas_workspace`. False without.
  bool has_workspace() {
    if (blas_workspace == nullptr && check(cudaMalloc(&own_workspace_, kBlasWorkspace), "cudaMalloc of cuBLASLt's workspace")) blas_workspace = own_workspace_;
    return blas_workspace != nullptr;
  }

  /// Remembers the first error; later ones are its consequences. True if there is none in this call.
  bool check(cudaError_t result, const char* what) {
    if (result == cudaSuccess) return true;
    if (code == 0) {
      code = int(result);
      error = std::string(what) + ": " + cudaGetErrorString(result);
    }
    return false;
  }

  /// The same, where nothing can go on without: throws T0932.
  void need(cudaError_t result, const char* what) {
    if (!check(result, what) || code != 0) throw failed();
  }
  /// Waits until the stream's work is done; where other ranks have to do with it, until they are found lost.
  void wait() {
    if (ranks != nullptr) ranks->wait(stream);
    else need(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
    if (code != 0) throw failed();
  }
  /// What the host has to do itself between two pieces of work on the stream. While these are recorded for later it is
  /// only remembered, so it must not depend on anything that changes but what the device holds.
  void on_host(std::function<void()> action) {
    if (recording) recording(std::move(action));
    else action();
  }
  /// The first error, as the command line shows it.
  Error failed() const {
    return Error("T0932", error, "run it on the emulation (tesserac build --target cuda --emulate) or under compute-sanitizer, which say more");
  }

  cudaStream_t stream;
  int code = 0;
  std::string error;
  cublasLtHandle_t blas = nullptr;  // null: every product is our own kernel's
  void* blas_workspace = nullptr;
  std::map<const void*, std::unique_ptr<ProductPlan>> plans;  // by the address of the product's table of sizes
  StreamRanks* ranks = nullptr;  // those of a program on a mesh
  std::function<void(std::function<void()>)> recording;  // takes the host's actions while work is recorded
  std::map<std::array<int, 4>, void*> tables;  // factors of transforms in device memory, by their sizes
  std::map<std::array<int, 4>, std::shared_ptr<void>> library_plans;  // of transforms by cuFFT

 private:
  void* own_workspace_ = nullptr;
};

/// A typed pointer into a byte arena.
template <class T>
inline T* at(char* base, size_t offset) {
  return reinterpret_cast<T*>(base + offset);
}

}  // namespace tsr::cuda
