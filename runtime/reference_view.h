// Operations of the reference program that move elements without computing on them.
#pragma once
#include <algorithm>

#include "reference_tensor.h"

namespace tsr {
namespace ref {

inline Tensor full(List shape, double value) {
  Tensor result{Sizes(shape)};
  std::fill(result.write(), result.write() + result.count(), value);
  return result;
}

// The index along one axis, in every element.
inline Tensor iota(List shape, int axis) {
  Tensor result{Sizes(shape)};
  const int64_t step = strides_of(result.shape())[size_t(axis)], size = result.size(axis);
  double* const to = result.write();
  for (int64_t i = 0; i < result.count(); ++i) to[i] = double(i / step % size);
  return result;
}

inline Tensor reshape(Tensor x, List shape) { return x.shaped(shape); }

// Axis i of x becomes axis axes[i]; an axis of size 1 is repeated, and so is x along the other axes.
inline Tensor broadcast(Tensor x, List shape, List axes) {
  require(int(axes.size()) == x.rank(), "broadcast: one result axis per operand axis");
  const Sizes own = strides_of(x.shape());
  Sizes strides(shape.size(), 0);
  for (int i = 0; i < x.rank(); ++i) {
    const size_t axis = size_t(axes.begin()[i]);
    require(axis < shape.size() && (x.size(i) == 1 || x.size(i) == shape.begin()[axis]), "broadcast: sizes differ");
    strides[axis] = x.size(i) == 1 ? 0 : own[size_t(i)];
  }
  return gather_strided(x, shape, 0, strides);
}

// Axis i of the result is axis perm[i] of x.
inline Tensor transpose(Tensor x, const Sizes& perm) {
  const Sizes own = strides_of(x.shape());
  Sizes shape, strides;
  for (const int64_t axis : perm) {
    shape.push_back(x.size(int(axis)));
    strides.push_back(own[size_t(axis)]);
  }
  return gather_strided(x, shape, 0, strides);
}
inline Tensor transpose(Tensor x, List perm) { return transpose(last(x), Sizes(perm)); }

// Elements starts, starts + strides, ... below limits, along every axis.
inline Tensor slice(Tensor x, List starts, List limits, List steps) {
  Sizes strides = strides_of(x.shape()), shape;
  int64_t first = 0;
  for (size_t axis = 0; axis < strides.size(); ++axis) {
    const int64_t from = starts.begin()[axis], to = limits.begin()[axis], step = steps.begin()[axis];
    require(0 <= from && from <= to && to <= x.size(int(axis)) && step > 0, "slice: out of range");
    first += from * strides[axis];
    shape.push_back((to - from + step - 1) / step);
    strides[axis] *= step;
  }
  return gather_strided(x, shape, first, strides);
}

// Writes x into `into` so that x[0, 0...] lies at `corner`.
inline void place(const Tensor& x, Tensor& into, const Sizes& corner) {
  const Sizes strides = strides_of(into.shape());
  int64_t first = 0;
  for (size_t axis = 0; axis < corner.size(); ++axis) first += corner[axis] * strides[axis];
  copy_strided(x.shape(), const_cast<double*>(x.data()), into.write(), first, strides, false);
}

inline Tensor concat(std::initializer_list<Tensor> parts, int axis) {
  require(parts.size() > 0, "concat: no operands");
  Sizes shape = parts.begin()->shape();
  shape[size_t(axis)] = 0;
  for (const Tensor& part : parts) shape[size_t(axis)] += part.size(axis);
  Tensor result(shape);
  Sizes corner(shape.size(), 0);
  for (const Tensor& part : parts) {
    place(part, result, corner);
    corner[size_t(axis)] += part.size(axis);
  }
  return result;
}

// `low` elements of `value` before and `high` after x, along every axis.
inline Tensor pad(Tensor x, List low, List high, double value) {
  Sizes shape = x.shape();
  for (size_t axis = 0; axis < shape.size(); ++axis) {
    require(low.begin()[axis] >= 0 && high.begin()[axis] >= 0, "pad: a width is negative");
    shape[axis] += low.begin()[axis] + high.begin()[axis];
  }
  Tensor result(shape);
  std::fill(result.write(), result.write() + result.count(), value);
  place(x, result, low);
  return result;
}

inline int64_t row_number(double index, int64_t rows) {
  require(index >= 0 && index < double(rows), "a row number is out of range");
  return int64_t(index);
}

// Rows of a table: result[i..., :] = table[indices[i...], :].
inline Tensor take(Tensor table, Tensor indices) {
  Sizes shape = indices.shape();
  shape.insert(shape.end(), table.shape().begin() + 1, table.shape().end());
  Tensor result(shape);
  const int64_t rows = table.size(0), width = rows > 0 ? table.count() / rows : 0;
  for (int64_t i = 0; i < indices.count(); ++i) {
    const double* const row = table.data() + row_number(indices.data()[i], rows) * width;
    std::copy(row, row + width, result.write() + i * width);
  }
  return result;
}

// The transpose of take: adds updates[i..., :] to row indices[i...] of a zero table with `rows` rows.
inline Tensor scatter_add(Tensor indices, Tensor updates, int64_t rows) {
  Sizes shape(updates.shape().begin() + indices.rank(), updates.shape().end());
  const int64_t width = product(shape);
  shape.insert(shape.begin(), rows);
  Tensor result(shape);
  std::fill(result.write(), result.write() + result.count(), 0.0);
  for (int64_t i = 0; i < indices.count(); ++i) {
    double* const row = result.write() + row_number(indices.data()[i], rows) * width;
    const double* const update = updates.data() + i * width;
    for (int64_t j = 0; j < width; ++j) row[j] += update[j];
  }
  return result;
}

}  // namespace ref
}  // namespace tsr
