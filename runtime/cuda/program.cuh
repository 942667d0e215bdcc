// What an emitted CUDA program tells the runtime: the tables of runtime/program.h, with functions that put their launches
// on a stream.
#pragma once
#include "../program.h"
#include "context.cuh"

namespace tsr::cuda {

/// Buffers of one call, all in device memory and aligned to 256 bytes as cudaMalloc returns them.
struct Call {
  const void* const* inputs;  // host arrays of device pointers, in the order of Function::inputs, dense row-major
  void* const* outputs;       // likewise; outputs[0] of a train function is the loss
  const char* params;         // parameter arena, Program::param_bytes
  char* grads;                // gradient arena of the same layout, overwritten (train functions only)
  char* arena;                // Function::arena_bytes; contents do not matter
  uint64_t seed, step;        // for dropout and other random operations
};

struct Function {
  const char* name;
  const Tensor* inputs;
  int input_count;
  const Tensor* outputs;
  int output_count;
  int64_t batch;        // size of the leading axis of batched inputs (1 if there is none)
  size_t arena_bytes;   // values in flight, and the workspace behind them
  double flops;         // multiply-adds counted as two, for one call
  void (*run)(Context&, const Call&);
};

struct Program {
  const char* name;
  const char* source_file;
  const char* version;
  const Tensor* params;
  int param_count;
  size_t param_bytes;   // of one arena; gradients and optimizer moments share its layout
  const Function* train;
  const Function* infer;
  Optimizer optimizer;
  const Kernel* kernels;
  int kernel_count;
};

/// Puts a function's launches on the context's stream. 0, or the code of the first error so far.
inline int run(Context& context, const Program& program, const Function& function, const Call& call) {
  function.run(context, call);
  context.check(cudaGetLastError(), function.name);
  if (context.code != 0 && context.error.find(program.name) == std::string::npos) context.error = std::string(program.name) + ": " + context.error;
  return context.code;
}

}  // namespace tsr::cuda
