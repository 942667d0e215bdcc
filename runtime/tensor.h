// Sizes of the tensors a Program declares and copies between their two layouts: rows at row_stride
// in an arena, and dense row-major in files and at the C boundary.
#pragma once
#include <cstdint>
#include <cstring>

#include "dtype.h"
#include "program.h"

namespace tsr {

inline int64_t elements(const Tensor& tensor) {
  int64_t count = 1;
  for (int axis = 0; axis < tensor.rank; ++axis) count *= tensor.shape[axis];
  return count;
}

inline int64_t row_length(const Tensor& tensor) { return tensor.rank == 0 ? 1 : tensor.shape[tensor.rank - 1]; }

inline int64_t row_count(const Tensor& tensor) {
  int64_t count = 1;
  for (int axis = 0; axis + 1 < tensor.rank; ++axis) count *= tensor.shape[axis];
  return count;
}

// Elements from one row to the next; a table that leaves row_stride 0 means dense.
inline int64_t row_stride(const Tensor& tensor) {
  return tensor.row_stride > row_length(tensor) ? tensor.row_stride : row_length(tensor);
}

// Elements of one row of the first axis, whether it is the batch axis or not.
inline int64_t row_elements(const Tensor& tensor) {
  int64_t count = 1;
  for (int axis = 1; axis < tensor.rank; ++axis) count *= tensor.shape[axis];
  return count;
}

// Elements of one sample: everything behind the batch axis.
inline int64_t sample_elements(const Tensor& tensor) {
  return tensor.batched ? row_elements(tensor) : elements(tensor);
}

inline size_t dense_bytes(const Tensor& tensor) { return static_cast<size_t>(elements(tensor)) * dtype_size(tensor.dtype); }

// Arena (base of the whole arena) to dense.
inline void pack(const Tensor& tensor, const char* arena, void* dense) {
  const size_t row = static_cast<size_t>(row_length(tensor)) * dtype_size(tensor.dtype);
  const size_t stride = static_cast<size_t>(row_stride(tensor)) * dtype_size(tensor.dtype);
  const int64_t rows = row_count(tensor);
  for (int64_t r = 0; r < rows; ++r)
    memcpy(static_cast<char*>(dense) + static_cast<size_t>(r) * row, arena + tensor.offset + static_cast<size_t>(r) * stride, row);
}

// Dense to arena; the padding between rows is left alone.
inline void unpack(const Tensor& tensor, const void* dense, char* arena) {
  const size_t row = static_cast<size_t>(row_length(tensor)) * dtype_size(tensor.dtype);
  const size_t stride = static_cast<size_t>(row_stride(tensor)) * dtype_size(tensor.dtype);
  const int64_t rows = row_count(tensor);
  for (int64_t r = 0; r < rows; ++r)
    memcpy(arena + tensor.offset + static_cast<size_t>(r) * stride, static_cast<const char*>(dense) + static_cast<size_t>(r) * row, row);
}

// The floating type a program computes in: that of its first parameter, else of its first output.
inline DType real_type(const Program& program) {
  if (program.param_count > 0) return scalar_type(program.params[0].dtype);
  const Function* function = program.train ? program.train : program.infer;
  return function && function->output_count > 0 ? scalar_type(function->outputs[0].dtype) : DType::f32;
}

inline int64_t parameter_count(const Program& program) {
  int64_t count = 0;
  for (int i = 0; i < program.param_count; ++i) count += elements(program.params[i]);
  return count;
}

}  // namespace tsr
