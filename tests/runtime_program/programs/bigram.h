// A bigram token model written by hand: scores of the next byte are one row of a table.
#pragma once
#include <cmath>
#include <cstring>

#include "runtime/program.h"

namespace bigram {

constexpr int64_t kBatch = 4, kLength = 16, kVocabulary = 128;

template <class R>
inline void log_softmax(const R* row, R* out) {
  R top = row[0], total = 0;
  for (int64_t v = 1; v < kVocabulary; ++v) top = row[v] > top ? row[v] : top;
  for (int64_t v = 0; v < kVocabulary; ++v) total += std::exp(row[v] - top);
  for (int64_t v = 0; v < kVocabulary; ++v) out[v] = row[v] - top - std::log(total);
}

template <class R>
inline R loss_and_gradient(const int32_t* tokens, const int32_t* labels, const R* table, R* gradient) {
  const R scale = R(1) / R(kBatch * kLength);
  R loss = 0;
  memset(gradient, 0, kVocabulary * kVocabulary * sizeof(R));
  for (int64_t i = 0; i < kBatch * kLength; ++i) {
    R row[kVocabulary];
    log_softmax(table + tokens[i] * kVocabulary, row);
    loss -= row[labels[i]] * scale;
    for (int64_t v = 0; v < kVocabulary; ++v) gradient[tokens[i] * kVocabulary + v] += (std::exp(row[v]) - R(v == labels[i])) * scale;
  }
  return loss;
}

template <class R>
inline void train(const tsr::Call& call) {
  *static_cast<R*>(call.outputs[0]) = loss_and_gradient(static_cast<const int32_t*>(call.inputs[0]), static_cast<const int32_t*>(call.inputs[1]),
                                                        reinterpret_cast<const R*>(call.params), reinterpret_cast<R*>(call.grads));
}

template <class R>
inline void infer(const tsr::Call& call) {
  for (int64_t i = 0; i < call.elements * kLength; ++i)
    memcpy(static_cast<R*>(call.outputs[0]) + i * kVocabulary, reinterpret_cast<const R*>(call.params) + static_cast<const int32_t*>(call.inputs[0])[i] * kVocabulary, kVocabulary * sizeof(R));
}

constexpr tsr::Tensor params[] = {{"table", tsr::DType::f32, 2, {kVocabulary, kVocabulary}, kVocabulary, 0, tsr::Init::normal, 0, 0.02, true, 0, INT64_MIN, false}};
constexpr tsr::Tensor inputs[] = {{"input", tsr::DType::i32, 2, {kBatch, kLength}, kLength, 0, tsr::Init::zeros, 0, 0, false, kVocabulary, INT64_MIN, true},
                                  {"labels", tsr::DType::i32, 2, {kBatch, kLength}, kLength, 0, tsr::Init::zeros, 0, 0, false, kVocabulary, INT64_MIN, true}};
constexpr tsr::Tensor scalars[] = {{"loss", tsr::DType::f32, 0, {}, 1, 0, tsr::Init::zeros, 0, 0, false, 0, INT64_MIN, false}};
constexpr tsr::Tensor outputs[] = {{"scores", tsr::DType::f32, 3, {kBatch, kLength, kVocabulary}, kVocabulary, 0, tsr::Init::zeros, 0, 0, false, 0, INT64_MIN, true}};
constexpr tsr::Function train_function = {"step", inputs, 2, scalars, 1, kBatch, 0, 0, 4.0 * kBatch * kLength * kVocabulary, train<float>, train<double>};
constexpr tsr::Function infer_function = {"forward", inputs, 1, outputs, 1, kBatch, 0, 0, 0, infer<float>, infer<double>};
constexpr tsr::Program program = {"Bigram", "bigram.py", "0.1", params, 1, kVocabulary * kVocabulary * sizeof(float), &train_function, &infer_function,
                                  {nullptr, 0, 0, 0, 0, 0, 0}, nullptr, 0};

}  // namespace bigram
