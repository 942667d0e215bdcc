// How an emitted CUDA program runs: functions that put their launches on a stream, for a call on device memory.
#pragma once
#include "../program.h"
#include "context.cuh"
#include "philox.cuh"

namespace tsr::cuda {

class OnStream;  // exchange.cuh

/// Buffers of one call, all in device memory and aligned to 256 bytes as cudaMalloc returns them.
struct Call {
  const void* const* inputs;  // host arrays of device pointers, in the order of Function::inputs, dense row-major
  void* const* outputs;       // likewise; outputs[0] of a train function is the loss
  const char* params;         // parameter arena, Program::param_bytes
  char* grads;                // gradient arena of the same layout, overwritten (train functions only)
  char* arena;                // Function::shared_bytes; contents do not matter
  const RandomKey* key;       // for dropout and other random operations
  OnStream* ranks = nullptr;  // the other ranks of a program on a mesh
};

/// Puts one call's launches on the context's stream, in order, and returns without waiting.
using Launches = void (*)(Context&, const Call&);

/// The same for callers that want a code: 0, or that of the first error so far, of which context.error tells.
inline int run(Context& context, const char* name, Launches launches, const Call& call) {
  launches(context, call);
  context.check(cudaGetLastError(), name);
  return context.code;
}

}  // namespace tsr::cuda
