// One allocation for everything a training run keeps on the device: parameters, gradients, moments and values in flight.
#pragma once
#include "program.cuh"

namespace tsr::cuda {

/// Parameters, gradients, `moments` moment arenas and the larger arena of the program's functions, in one block of device
/// memory that starts as zeros. Pieces are aligned to 256 bytes.
class Arena {
 public:
  Arena(Context& context, const Program& program, int moments) {
    const size_t layout = rounded(program.param_bytes);
    size_t flight = 0;
    for (const Function* f : {program.train, program.infer})
      if (f != nullptr && f->arena_bytes > flight) flight = f->arena_bytes;
    const bool trains = program.train != nullptr;
    size_ = layout * (1 + (trains ? 1 + size_t(moments) : 0)) + rounded(flight);
    void* memory = nullptr;
    if (!context.check(cudaMalloc(&memory, size_), "cudaMalloc of the arena")) return;
    params = static_cast<char*>(memory);
    context.check(cudaMemsetAsync(params, 0, size_, context.stream), "cudaMemsetAsync of the arena");
    char* next = params + layout;
    if (trains) {
      grads = next;
      for (int i = 0; i < moments && i < 2; ++i) this->moments[i] = grads + layout * size_t(1 + i);
      next += layout * size_t(1 + moments);
    }
    values = next;
  }
  ~Arena() { cudaFree(params); }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  size_t size() const { return size_; }

  char* params = nullptr;
  char* grads = nullptr;
  char* moments[2] = {nullptr, nullptr};
  char* values = nullptr;  // Call::arena

 private:
  static size_t rounded(size_t n) { return (n + 255) / 256 * 256; }
  size_t size_ = 0;
};

}  // namespace tsr::cuda
