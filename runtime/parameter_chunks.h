// Parameters cut into pieces of whole rows, for updates and norms. The pieces depend on the tensors alone, not on what
// works on them.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "error.h"
#include "program.h"
#include "tensor.h"

namespace tsr {

struct Chunk {
  size_t offset;
  int64_t rows, length, stride;  // scalars
  DType type;
  bool decay;
  size_t moment = 0;  // the same of an optimizer's moments (shares.h)
  int64_t moment_stride = 0;
};

constexpr int64_t kChunk = 16384;  // scalars: parameter, gradient and two moments fit a second-level cache

inline void add_chunks(const Tensor& tensor, std::vector<Chunk>* out) {
  const DType type = scalar_type(tensor.dtype);
  if (type != DType::f32 && type != DType::f64)
    throw Error("T0924", "parameter '" + std::string(tensor.name) + "' has type " + dtype_name(tensor.dtype) + ", which optimizers do not update", "use fp32 or fp64 parameters");
  int64_t rows = row_count(tensor), length = row_length(tensor), stride = row_stride(tensor);
  if (stride == length) length *= rows, stride = length, rows = 1;
  if (rows == 0 || length == 0) return;
  const int64_t wide = length < kChunk ? length : kChunk, high = kChunk / wide;
  for (int plane = 0; plane < planes(tensor); ++plane)
    for (int64_t row = 0; row < rows; row += high)
      for (int64_t column = 0; column < length; column += wide)
        out->push_back({row_offset(tensor, plane, 0) + static_cast<size_t>(row * stride + column) * dtype_size(type), rows - row < high ? rows - row : high,
                        length - column < wide ? length - column : wide, stride, type, tensor.decay});
}

inline std::vector<Chunk> parameter_chunks(const Program& program) {
  std::vector<Chunk> out;
  for (int i = 0; i < program.param_count; ++i)
    if (first_in_place(program.params[i])) add_chunks(program.params[i], &out);
  return out;
}

}  // namespace tsr
