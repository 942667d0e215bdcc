// Functions to minimise, without data: Rosenbrock's valley over 2 x 5 numbers whose rows lie 16 apart, and a sum of
// absolute values, which no smooth method can finish. What lies between the rows of a gradient is not a number.
#pragma once
#include <cmath>

#include "runtime/program.h"

namespace valley {

constexpr int64_t kRows = 2, kColumns = 5, kStride = 16;

template <class R, bool Fold>
inline R value_and_gradient(const R* p, R* g, int64_t stride) {
  const auto at = [&](int64_t i) { return i / kColumns * stride + i % kColumns; };
  R loss = 0;
  for (int64_t i = 0; i < kRows * kColumns; ++i) {
    if (Fold) {
      loss += std::fabs(p[at(i)] - R(i));
      g[at(i)] = p[at(i)] > R(i) ? R(1) : R(-1);
      continue;
    }
    if (i % 2 == 1) continue;
    const R x = p[at(i)], y = p[at(i + 1)], rise = y - x * x;
    loss += 100 * rise * rise + (1 - x) * (1 - x);
    g[at(i)] = -400 * rise * x - 2 * (1 - x);
    g[at(i + 1)] = 200 * rise;
  }
  return loss;
}

template <class R, bool Fold>
inline void train(const tsr::Call& call) {
  R* const g = reinterpret_cast<R*>(call.grads);
  for (int64_t i = 0; i < kRows * kStride; ++i) g[i] = R(NAN);
  *static_cast<R*>(call.outputs[0]) = value_and_gradient<R, Fold>(reinterpret_cast<const R*>(call.params), g, kStride);
}

template <bool Fold>
inline void reference(const tsr::Call& call) {
  *static_cast<double*>(call.outputs[0]) = value_and_gradient<double, Fold>(reinterpret_cast<const double*>(call.params), reinterpret_cast<double*>(call.grads), kColumns);
}

template <class R, bool Fold>
struct Tables {
  static constexpr tsr::DType kReal = sizeof(R) == 4 ? tsr::DType::f32 : tsr::DType::f64;
  static constexpr tsr::Tensor params[] = {{"p", kReal, 2, {kRows, kColumns}, kStride, 0, tsr::Init::normal, 0, 1, true, 0, INT64_MIN, false}};
  static constexpr tsr::Tensor scalars[] = {{"loss", kReal, 0, {}, 1, 0, tsr::Init::zeros, 0, 0, false, 0, INT64_MIN, false}};
  static constexpr tsr::Function function = {"step", nullptr, 0, scalars, 1, 1, 0, 0, 0, train<R, Fold>, reference<Fold>};
  static constexpr tsr::Program make(const char* name) {
    return {name, "valley.py", "0.1", params, 1, kRows * kStride * sizeof(R), &function, nullptr, {nullptr, 0, 0, 0, 0, 0, 0}, nullptr, 0};
  }
};
constexpr tsr::Program program = Tables<float, false>::make("Valley"), program64 = Tables<double, false>::make("Valley64"), fold = Tables<double, true>::make("Fold");

}  // namespace valley
