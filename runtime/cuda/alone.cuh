// Kernels one at a time, on memory and a stream of the caller's: the library that `tesserac verify` loads. One thread calls it.
#pragma once
#include <memory>

#include "context.cuh"
#include "philox.cuh"

namespace tsr::cuda {

/// Puts one kernel's launches on the context's stream.
using AloneKernel = void (*)(Context& context, void* const* slots, char* workspace, const RandomKey* key);

/// The context of all calls. Of the first error on, nothing more is launched: a device may not do anything then.
class AloneRun {
 public:
  int open(cudaStream_t stream) {
    context_ = std::make_unique<Context>(stream);
    return 0;
  }
  /// Puts a kernel on the stream, `times` times behind each other.
  int launch(AloneKernel kernel, void* const* slots, void* workspace, const void* key, int times) {
    for (int i = 0; i < times && context_->code == 0; ++i)
      kernel(*context_, slots, static_cast<char*>(workspace), static_cast<const RandomKey*>(key));
    context_->check(cudaGetLastError(), "a launch");
    return context_->code;
  }
  const char* error() const { return context_->error.c_str(); }

#ifdef TSR_EMULATION
  // The device's memory, which no package for Python knows.
  void* allocate(size_t bytes) {
    void* memory = nullptr;
    context_->check(cudaMalloc(&memory, bytes), "cudaMalloc");
    return memory;
  }
  int copy(void* to, const void* from, size_t bytes, bool to_device) {
    context_->check(cudaMemcpy(to, from, bytes, to_device ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToHost), "cudaMemcpy");
    return context_->code;
  }
  int finish() {
    context_->check(cudaStreamSynchronize(context_->stream), "a kernel");
    return context_->code;
  }
#endif

 private:
  std::unique_ptr<Context> context_;
};

}  // namespace tsr::cuda

/// The library's functions, and what they work on: never destroyed, for at the end of the process CUDA may be gone.
/// They return 0 or the code of the first error, of which tsr_alone_error tells.
#define TSR_ALONE(kernels)                                                                                                 \
  static tsr::cuda::AloneRun& tsr_alone_state() {                                                                          \
    static tsr::cuda::AloneRun* const state = new tsr::cuda::AloneRun;                                                     \
    return *state;                                                                                                         \
  }                                                                                                                        \
  extern "C" int tsr_alone_open(void* stream) { return tsr_alone_state().open(static_cast<cudaStream_t>(stream)); }        \
  extern "C" int tsr_alone_launch(int kernel, void* const* slots, void* workspace, const void* key, int times) {           \
    return tsr_alone_state().launch(kernels[kernel], slots, workspace, key, times);                                        \
  }                                                                                                                        \
  extern "C" const char* tsr_alone_error() { return tsr_alone_state().error(); }                                           \
  TSR_ALONE_MEMORY

#ifdef TSR_EMULATION
#define TSR_ALONE_MEMORY                                                                                                   \
  extern "C" void* tsr_alone_allocate(size_t bytes) { return tsr_alone_state().allocate(bytes); }                          \
  extern "C" void tsr_alone_free(void* memory) { cudaFree(memory); }                                                       \
  extern "C" int tsr_alone_write(void* to, const void* host, size_t n) { return tsr_alone_state().copy(to, host, n, true); } \
  extern "C" int tsr_alone_read(const void* from, void* host, size_t n) { return tsr_alone_state().copy(host, from, n, false); } \
  extern "C" int tsr_alone_finish() { return tsr_alone_state().finish(); }
#else
#define TSR_ALONE_MEMORY
#endif
