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

// How a parameter lies in an arena: planes (two for complex types: real parts, imaginary parts) of rows of scalars.
inline int planes(const Tensor& param) { return scalars_per_element(param.dtype); }

// Bytes from one plane to the next.
inline size_t plane_bytes(const Tensor& param) {
  const int64_t count = row_count(param) * row_stride(param);
  return (static_cast<size_t>(count) * dtype_size(scalar_type(param.dtype)) + 63) / 64 * 64;
}

// Where row `row` of plane `plane` starts, in bytes from the start of the arena.
inline size_t row_offset(const Tensor& param, int plane, int64_t row) {
  return param.offset + static_cast<size_t>(plane) * plane_bytes(param) + static_cast<size_t>(row * row_stride(param)) * dtype_size(scalar_type(param.dtype));
}

// One row from an arena to dense elements (complex ones as pairs).
inline void pack_row(const Tensor& param, const char* arena, int64_t row, char* dense) {
  const size_t scalar = dtype_size(scalar_type(param.dtype)), length = static_cast<size_t>(row_length(param));
  const char* const re = arena + row_offset(param, 0, row);
  if (planes(param) == 1) { memcpy(dense, re, length * scalar); return; }
  const char* const im = arena + row_offset(param, 1, row);
  for (size_t i = 0; i < length; ++i) {
    memcpy(dense + 2 * i * scalar, re + i * scalar, scalar);
    memcpy(dense + (2 * i + 1) * scalar, im + i * scalar, scalar);
  }
}

// One row of dense elements into an arena; the padding between rows is left alone.
inline void unpack_row(const Tensor& param, const char* dense, int64_t row, char* arena) {
  const size_t scalar = dtype_size(scalar_type(param.dtype)), length = static_cast<size_t>(row_length(param));
  char* const re = arena + row_offset(param, 0, row);
  if (planes(param) == 1) { memcpy(re, dense, length * scalar); return; }
  char* const im = arena + row_offset(param, 1, row);
  for (size_t i = 0; i < length; ++i) {
    memcpy(re + i * scalar, dense + 2 * i * scalar, scalar);
    memcpy(im + i * scalar, dense + (2 * i + 1) * scalar, scalar);
  }
}

// Arena (base of the whole arena) to dense.
inline void pack(const Tensor& param, const char* arena, void* dense) {
  const size_t row = static_cast<size_t>(row_length(param)) * dtype_size(param.dtype);
  const int64_t rows = row_count(param);
  for (int64_t r = 0; r < rows; ++r) pack_row(param, arena, r, static_cast<char*>(dense) + static_cast<size_t>(r) * row);
}

// Dense to arena.
inline void unpack(const Tensor& param, const void* dense, char* arena) {
  const size_t row = static_cast<size_t>(row_length(param)) * dtype_size(param.dtype);
  const int64_t rows = row_count(param);
  for (int64_t r = 0; r < rows; ++r) unpack_row(param, static_cast<const char*>(dense) + static_cast<size_t>(r) * row, r, arena);
}

// The floating type a program computes in: that of its first parameter, else of its first output.
inline DType real_type(const Program& program) {
  if (program.param_count > 0) return scalar_type(program.params[0].dtype);
  const Function* function = program.train ? program.train : program.infer;
  return function && function->output_count > 0 ? scalar_type(function->outputs[0].dtype) : DType::f32;
}

// Of the parameters that share a place in the arena, because ranks have one each, the first; true for all others.
inline bool first_in_place(const Tensor& param) { return !param.cut || param.cut->owner_axis < 0 || param.cut->owner == 0; }

// Elements that one rank has.
inline int64_t parameter_count(const Program& program) {
  int64_t count = 0;
  for (int i = 0; i < program.param_count; ++i)
    if (first_in_place(program.params[i])) count += elements(program.params[i]);
  return count;
}

}  // namespace tsr
