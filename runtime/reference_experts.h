// Operations of the reference program on tokens that choose experts: which row goes where, and what every
// expert does with its rows. A slot is a token's j-th choice; rows are slots sorted by expert.
#pragma once
#include <algorithm>
#include <array>
#include <cstddef>

#include "reference_contract.h"

namespace tsr {
namespace ref {

// One result per expert, or several of one operation; bound by `auto [a, b] = ...`.
template <size_t N>
using Tensors = std::array<Tensor, N>;

// The slots in order of their expert, those of one expert in order; where each expert's rows start; the row of each slot.
inline Tensors<3> route(Tensor indices, int64_t experts) {
  const int64_t slots = indices.count();
  Tensor order(Sizes{slots}), offsets(Sizes{experts + 1}), inverse(indices.shape());
  int64_t row = 0;
  for (int64_t expert = 0; expert <= experts; ++expert) {
    offsets.write()[expert] = double(row);
    for (int64_t slot = 0; slot < slots; ++slot) {
      if (row_number(indices.data()[slot], experts + 1) != expert) continue;
      order.write()[row] = double(slot);
      inverse.write()[slot] = double(row++);
    }
  }
  return {order, offsets, inverse};
}

// The row of every slot is its token's, times the slot's gate.
inline Tensor dispatch(Tensor x, Tensor order, Tensor inverse, Tensor gates) {
  const int64_t width = x.size(1), choices = inverse.size(1);
  Tensor result(Sizes{order.count(), width});
  for (int64_t row = 0; row < order.count(); ++row) {
    const int64_t slot = row_number(order.data()[row], inverse.count());
    const double* const token = x.data() + slot / choices * width;
    for (int64_t i = 0; i < width; ++i) result.write()[row * width + i] = gates.data()[slot] * token[i];
  }
  return result;
}
inline Tensor dispatch(Tensor x, Tensor order, Tensor inverse) {
  return dispatch(x, order, inverse, full({inverse.size(0), inverse.size(1)}, 1.0));
}

// Every token adds up the rows of its slots, times their gates.
inline Tensor combine(Tensor rows, Tensor, Tensor inverse, Tensor gates) {
  const int64_t width = rows.size(1), choices = inverse.size(1);
  Tensor result(Sizes{inverse.size(0), width});
  std::fill(result.write(), result.write() + result.count(), 0.0);
  for (int64_t slot = 0; slot < inverse.count(); ++slot) {
    const double* const row = rows.data() + row_number(inverse.data()[slot], rows.size(0)) * width;
    double* const token = result.write() + slot / choices * width;
    for (int64_t i = 0; i < width; ++i) token[i] += gates.data()[slot] * row[i];
  }
  return result;
}
inline Tensor combine(Tensor rows, Tensor order, Tensor inverse) {
  return combine(rows, order, inverse, full({inverse.size(0), inverse.size(1)}, 1.0));
}

// Dot product of every token with the row of each of its slots.
inline Tensor gate_dot(Tensor x, Tensor rows, Tensor, Tensor inverse) {
  const int64_t width = x.size(1), choices = inverse.size(1);
  Tensor result(inverse.shape());
  for (int64_t slot = 0; slot < inverse.count(); ++slot) {
    const double* const row = rows.data() + row_number(inverse.data()[slot], rows.size(0)) * width;
    const double* const token = x.data() + slot / choices * width;
    double sum = 0;
    for (int64_t i = 0; i < width; ++i) sum += token[i] * row[i];
    result.write()[slot] = sum;
  }
  return result;
}

// The rows of one expert, as a tensor of their own.
inline Tensor rows_of(const Tensor& x, const Tensor& offsets, int64_t expert) {
  require(0 <= expert && expert + 1 < offsets.count(), "there is no such expert");
  const int64_t first = row_number(offsets.data()[expert], x.size(0) + 1);
  const int64_t end = row_number(offsets.data()[expert + 1], x.size(0) + 1);
  require(first <= end, "an expert has a negative number of rows");
  Sizes shape = x.shape();
  const int64_t width = shape[0] > 0 ? x.count() / shape[0] : 0;
  shape[0] = end - first;
  Tensor result(shape);
  std::copy(x.data() + first * width, x.data() + end * width, result.write());
  return result;
}

// Writes rows to where the expert's lie.
inline void put_rows(Tensor& result, const Tensor& offsets, int64_t expert, const Tensor& rows) {
  const int64_t width = result.size(0) > 0 ? result.count() / result.size(0) : 0;
  std::copy(rows.data(), rows.data() + rows.count(), result.write() + int64_t(offsets.data()[expert]) * width);
}

inline Tensor zeros(const Sizes& shape) {
  Tensor result(shape);
  std::fill(result.write(), result.write() + result.count(), 0.0);
  return result;
}

// x W over the rows of every listed expert with its own W (x W^T if transposed); zeros in all other rows.
inline Tensor grouped_contract(Tensor x, Tensor offsets, std::initializer_list<Tensor> weights, List experts,
                               bool transposed) {
  Tensor result = zeros({x.size(0), weights.begin()->size(transposed ? 0 : 1)});
  const Tensor* weight = weights.begin();
  for (const int64_t expert : experts) {
    const char* const spec = transposed ? "md,hd->mh" : "md,dh->mh";
    put_rows(result, offsets, expert, contract(spec, rows_of(x, offsets, expert), *weight++));
  }
  return result;
}

// x^T y over the rows of every listed expert.
template <size_t N>
Tensors<N> grouped_outer(Tensor x, Tensor y, Tensor offsets, const int64_t (&experts)[N]) {
  Tensors<N> results;
  for (size_t i = 0; i < N; ++i) {
    results[i] = contract("md,mh->dh", rows_of(x, offsets, experts[i]), rows_of(y, offsets, experts[i]));
  }
  return results;
}

// The tensor of every listed expert in all of its rows; zeros in all other rows.
inline Tensor grouped_rows(Tensor offsets, std::initializer_list<Tensor> tensors, List experts, int64_t rows) {
  Sizes shape = tensors.begin()->shape();
  shape.insert(shape.begin(), rows);
  Tensor result = zeros(shape);
  const Tensor* tensor = tensors.begin();
  for (const int64_t expert : experts) {
    const int64_t end = int64_t(offsets.data()[expert + 1]), width = tensor->count();
    for (int64_t row = int64_t(offsets.data()[expert]); row < end; ++row) {
      std::copy(tensor->data(), tensor->data() + width, result.write() + row * width);
    }
    ++tensor;
  }
  return result;
}

// The sum of the rows of every listed expert.
template <size_t N>
Tensors<N> grouped_sum(Tensor x, Tensor offsets, const int64_t (&experts)[N]) {
  Tensors<N> results;
  for (size_t i = 0; i < N; ++i) results[i] = reduce_sum(rows_of(x, offsets, experts[i]), {0});
  return results;
}

// x in the rows of the listed experts, zeros in all others.
inline Tensor grouped_keep(Tensor x, Tensor offsets, List experts) {
  Tensor result = zeros(x.shape());
  for (const int64_t expert : experts) put_rows(result, offsets, expert, rows_of(x, offsets, expert));
  return result;
}

}  // namespace ref
}  // namespace tsr
