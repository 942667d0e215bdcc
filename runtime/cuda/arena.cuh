// One allocation for everything a run keeps on the device. Planned first, then taken at once; what does not fit is told
// with its largest parts.
#pragma once
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "../error.h"
#include "context.cuh"

namespace tsr::cuda {

/// Device memory in pieces that start at multiples of 256 bytes, as cudaMalloc's do.
class Arena {
 public:
  Arena() = default;
  ~Arena() { cudaFree(base_); }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /// The offset of a new piece. `what` names it in the message when there is too little memory.
  size_t reserve(size_t bytes, const std::string& what) {
    const size_t offset = size_;
    size_ += (bytes + 255) / 256 * 256;
    pieces_.emplace_back(bytes, what);
    return offset;
  }

  /// Takes the memory, filled with zeros. T0931 when the device has too little.
  void allocate(Context& context) {
    size_t available = 0, total = 0;
    cudaMemGetInfo(&available, &total);
    void* memory = nullptr;
    const cudaError_t error = cudaMalloc(&memory, size_ > 0 ? size_ : 256);
    if (error == cudaErrorMemoryAllocation) throw too_little(available, total);
    context.need(error, "cudaMalloc");
    base_ = static_cast<char*>(memory);
    context.need(cudaMemsetAsync(base_, 0, size_, context.stream), "cudaMemsetAsync");
  }

  char* at(size_t offset) const { return base_ + offset; }
  size_t size() const { return size_; }

 private:
  Error too_little(size_t available, size_t total) {
    std::stable_sort(pieces_.begin(), pieces_.end(), [](const auto& x, const auto& y) { return x.first > y.first; });
    std::string largest;
    for (size_t i = 0; i < pieces_.size() && i < 5; ++i)
      largest += "\n  - " + bytes_text(static_cast<double>(pieces_[i].first)) + "  " + pieces_[i].second;
    return Error("T0931", "out of device memory: the program needs " + bytes_text(static_cast<double>(size_)) + ", " + bytes_text(static_cast<double>(available)) + " of " +
                 bytes_text(static_cast<double>(total)) + " are free; largest:" + largest,
                 "build with a smaller batch (--set or --dim), train with --optimizer sgd (no moments), or take a device with more memory; `tesserac inspect --stage plan` lists the values in flight");
  }

  char* base_ = nullptr;
  size_t size_ = 0;
  std::vector<std::pair<size_t, std::string>> pieces_;
};

/// Host memory that the device copies from and to without waiting for the host.
class Pinned {
 public:
  Pinned(Context& context, size_t bytes) { context.need(cudaMallocHost(&data_, bytes > 0 ? bytes : 1), "cudaMallocHost"); }
  ~Pinned() { cudaFreeHost(data_); }
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;
  char* at(size_t offset) const { return data_ + offset; }

 private:
  char* data_ = nullptr;
};

}  // namespace tsr::cuda
