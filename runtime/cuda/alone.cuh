// Kernels one at a time, on memory that the caller lays out: the library that `tesserac verify` loads. One thread calls it.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "context.cuh"
#include "philox.cuh"

namespace tsr::cuda {

/// Puts one kernel's launches on the context's stream.
using AloneKernel = void (*)(Context& context, void* const* slots, char* workspace, const RandomKey* key);

/// A stream, its context and one piece of memory; offsets below count from its start.
class AloneRun {
 public:
  int open(size_t bytes) {
    if (context_ == nullptr) {
      if (!ok(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate")) return code_;
      context_ = std::make_unique<Context>(stream_);
    }
    cudaFree(memory_);
    memory_ = nullptr;
    ok(cudaMalloc(&memory_, bytes), "cudaMalloc");
    return code_;
  }
  int copy(size_t offset, void* host, size_t bytes, bool to_device) {
    if (to_device) ok(cudaMemcpy(memory_ + offset, host, bytes, cudaMemcpyHostToDevice), "cudaMemcpy");
    else ok(cudaMemcpy(host, memory_ + offset, bytes, cudaMemcpyDeviceToHost), "cudaMemcpy");
    return code_;
  }
  /// Once, or `repeats` times behind one that is not counted; `seconds` is the mean of those.
  int run(AloneKernel kernel, const int64_t* offsets, int slots, int64_t workspace, int64_t key, int repeats, double* seconds) {
    std::vector<void*> pointers;
    for (int i = 0; i < slots; ++i) pointers.push_back(memory_ + offsets[i]);
    auto launch = [&] { kernel(*context_, pointers.data(), memory_ + workspace, at<const RandomKey>(memory_, size_t(key))); };
    launch();
    finish();
    if (repeats == 0 || code_ != 0) return code_;
    cudaEvent_t first = nullptr, last = nullptr;
    ok(cudaEventCreate(&first), "cudaEventCreate");
    ok(cudaEventCreate(&last), "cudaEventCreate");
    ok(cudaEventRecord(first, stream_), "cudaEventRecord");
    for (int i = 0; i < repeats; ++i) launch();
    ok(cudaEventRecord(last, stream_), "cudaEventRecord");
    finish();
    float milliseconds = 0;
    ok(cudaEventElapsedTime(&milliseconds, first, last), "cudaEventElapsedTime");
    cudaEventDestroy(first), cudaEventDestroy(last);
    *seconds = double(milliseconds) / 1000 / repeats;
    return code_;
  }
  /// Bytes per second, read and written, of a copy of `bytes` within the memory.
  double copy_rate(size_t bytes, int repeats) {
    double seconds = 0;
    const int64_t places[] = {0, int64_t(bytes)};
    auto copy = [](Context& context, void* const* slots, char*, const RandomKey*) {
      const size_t size = size_t(static_cast<char*>(slots[1]) - static_cast<char*>(slots[0]));
      context.check(cudaMemcpyAsync(slots[1], slots[0], size, cudaMemcpyDeviceToDevice, context.stream), "copying");
    };
    run(copy, places, 2, 0, 0, repeats, &seconds);
    return code_ == 0 && seconds > 0 ? 2 * double(bytes) / seconds : 0;
  }
  /// Floating-point operations per second that the device's multiply-add units allow, or its tensor cores on 16-bit floats; 0: unknown.
  static double peak([[maybe_unused]] bool tensor_cores) {
#ifdef TSR_EMULATION
    return 0;
#else
    int major = 0, minor = 0, clock = 0, processors = 0;
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0);
    cudaDeviceGetAttribute(&clock, cudaDevAttrClockRate, 0);  // kHz
    cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, 0);
    const int lanes = major == 8 && minor == 0 ? 64 : 128, products = major == 8 ? (minor == 0 ? 1024 : 512) : major == 9 ? 2048 : 0;
    return 2e3 * clock * processors * (tensor_cores ? products : lanes);
#endif
  }
  /// Name and architecture of the device; empty in emulation.
  static std::string device() {
#ifdef TSR_EMULATION
    return "";
#else
    cudaDeviceProp found;
    if (cudaGetDeviceProperties(&found, 0) != cudaSuccess) return "";
    return std::string(found.name) + " (sm_" + std::to_string(10 * found.major + found.minor) + ")";
#endif
  }
  const char* error() const { return error_.c_str(); }

 private:
  bool ok(cudaError_t result, const char* what) {
    if (result != cudaSuccess && code_ == 0) code_ = int(result), error_ = std::string(what) + ": " + cudaGetErrorString(result);
    return result == cudaSuccess;
  }
  void finish() {
    ok(cudaGetLastError(), "a launch");
    ok(cudaStreamSynchronize(stream_), "a kernel");
    if (context_->code != 0 && code_ == 0) code_ = context_->code, error_ = context_->error;
  }
  cudaStream_t stream_ = nullptr;
  std::unique_ptr<Context> context_;
  char* memory_ = nullptr;
  int code_ = 0;  // of the first error: after one, a device may not do anything any more
  std::string error_;
};

}  // namespace tsr::cuda

/// The library's functions, and what they work on: never destroyed, for at the end of the process CUDA may be gone.
/// They return 0 or the code of the first error, of which tsr_alone_error tells.
#define TSR_ALONE(kernels)                                                                                                                    \
  static tsr::cuda::AloneRun& tsr_alone_state() {                                                                                             \
    static tsr::cuda::AloneRun* const state = new tsr::cuda::AloneRun;                                                                        \
    return *state;                                                                                                                            \
  }                                                                                                                                           \
  extern "C" int tsr_alone_open(size_t bytes) { return tsr_alone_state().open(bytes); }                                                       \
  extern "C" int tsr_alone_write(size_t offset, void* host, size_t bytes) { return tsr_alone_state().copy(offset, host, bytes, true); }       \
  extern "C" int tsr_alone_read(size_t offset, void* host, size_t bytes) { return tsr_alone_state().copy(offset, host, bytes, false); }       \
  extern "C" int tsr_alone_run(int kernel, const int64_t* offsets, int slots, int64_t workspace, int64_t key, int repeats, double* seconds) { \
    return tsr_alone_state().run(kernels[kernel], offsets, slots, workspace, key, repeats, seconds);                                          \
  }                                                                                                                                           \
  extern "C" double tsr_alone_copy_rate(size_t bytes, int repeats) { return tsr_alone_state().copy_rate(bytes, repeats); }                    \
  extern "C" double tsr_alone_peak(int tensor_cores) { return tsr::cuda::AloneRun::peak(tensor_cores != 0); }                                 \
  extern "C" const char* tsr_alone_device() {                                                                                                 \
    static const std::string name = tsr::cuda::AloneRun::device();                                                                            \
    return name.c_str();                                                                                                                      \
  }                                                                                                                                           \
  extern "C" const char* tsr_alone_error() { return tsr_alone_state().error(); }
