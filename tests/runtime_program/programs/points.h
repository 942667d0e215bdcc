// A program that shows its data: the gradient of the parameters is the batch, so one step of gradient descent with rate
// 1 from zeros leaves minus the batch in the weights. Inputs of two sizes, as points inside and on the boundary have.
#pragma once
#include "runtime/program.h"

namespace points {

constexpr int64_t kInside = 16, kBoundary = 6;

template <class R>
inline R copy(const void* from, R* to, int64_t count) {
  const R* const values = static_cast<const R*>(from);
  R sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += to[i] = values[i];
  return sum;
}

template <class R>
inline void train(const tsr::Call& call) {
  R* const g = reinterpret_cast<R*>(call.grads);
  const R inside = copy(call.inputs[0], g, kInside) + copy(call.inputs[1], g + kInside, kInside), boundary = copy(call.inputs[2], g + 2 * kInside, kBoundary);
  *static_cast<R*>(call.outputs[0]) = inside + boundary;
  *static_cast<R*>(call.outputs[1]) = inside;
  *static_cast<R*>(call.outputs[2]) = boundary;
}

template <class R>
inline void infer(const tsr::Call& call) {
  for (int64_t i = 0; i < call.elements; ++i)
    static_cast<R*>(call.outputs[0])[i] = static_cast<const R*>(call.inputs[0])[i] + 10 * static_cast<const R*>(call.inputs[1])[i];
}

constexpr tsr::Tensor tensor(const char* name, int rank, int64_t rows, size_t offset, bool batched) {
  return {name, tsr::DType::f32, rank, {rows, 1}, rank == 1 ? rows : 1, offset * sizeof(float), tsr::Init::zeros, 0, 0, false, 0, INT64_MIN, batched};
}
constexpr tsr::Tensor params[] = {tensor("x", 1, kInside, 0, false), tensor("y", 1, kInside, kInside, false), tensor("xb", 1, kBoundary, 2 * kInside, false)};
constexpr tsr::Tensor inputs[] = {tensor("x", 2, kInside, 0, false), tensor("y", 2, kInside, 0, false), tensor("xb", 2, kBoundary, 0, false)};
constexpr tsr::Tensor scalars[] = {tensor("loss", 0, 0, 0, false), tensor("inside", 0, 0, 0, false), tensor("boundary", 0, 0, 0, false)};
constexpr tsr::Tensor infer_inputs[] = {tensor("x", 2, kInside, 0, true), tensor("y", 2, kInside, 0, true)};
constexpr tsr::Tensor outputs[] = {tensor("field", 2, kInside, 0, true)};
constexpr tsr::Function train_function = {"step", inputs, 3, scalars, 3, 1, 0, 0, 0, train<float>, train<double>};
constexpr tsr::Function infer_function = {"forward", infer_inputs, 2, outputs, 1, kInside, 0, 0, 0, infer<float>, infer<double>};
constexpr tsr::Program program = {"Points", "points.py", "0.1", params, 3, (2 * kInside + kBoundary) * sizeof(float), &train_function, &infer_function,
                                  {nullptr, 0, 0, 0, 0, 0, 0}, nullptr, 0};

}  // namespace points
