// Softmax regression written by hand the way emitted code is: logits = x W + b, mean cross-entropy
// over the labels that are not ignored. The batch is cut into `workers` fixed chunks.
#pragma once
#include <cmath>
#include <cstring>

#include "runtime/peak.h"
#include "runtime/program.h"
#include "runtime/trace.h"

namespace softmax {

constexpr int64_t kBatch = 8, kIn = 5, kOut = 4, kStride = 16, kIgnore = -100;

// Wrong: adds an error to one entry of the gradient, for the test that selftest notices.
template <class T, bool Wrong = false>
struct Model {
  static const T* weight(const tsr::Call& call) { return reinterpret_cast<const T*>(call.params); }
  static const T* bias(const tsr::Call& call) { return reinterpret_cast<const T*>(call.params) + kIn * kStride; }

  // Probabilities of one sample; returns nothing else.
  template <class R>
  static void forward(const R* x, const R* w, int64_t stride, const R* b, R* p) {
    R top = -INFINITY, total = 0;
    for (int64_t o = 0; o < kOut; ++o) {
      p[o] = b[o];
      for (int64_t i = 0; i < kIn; ++i) p[o] += x[i] * w[i * stride + o];
      top = p[o] > top ? p[o] : top;
    }
    for (int64_t o = 0; o < kOut; ++o) total += p[o] = std::exp(p[o] - top);
    for (int64_t o = 0; o < kOut; ++o) p[o] /= total;
  }

  // Loss, hits and gradients (gw at `stride`) of samples begin .. end-1, scaled by 1 / counted.
  template <class R>
  static void chunk(const R* x, const int32_t* labels, const R* w, int64_t stride, const R* b, R* gw, R* gb, int64_t begin, int64_t end, R scale, R* loss, R* hits) {
    for (int64_t s = begin; s < end; ++s) {
      if (labels[s] == kIgnore) continue;
      R p[kOut];
      forward(x + s * kIn, w, stride, b, p);
      *loss -= std::log(p[labels[s]]) * scale;
      int64_t best = 0;
      for (int64_t o = 0; o < kOut; ++o) best = p[o] > p[best] ? o : best;
      *hits += best == labels[s] ? scale : R(0);
      p[labels[s]] -= 1;
      for (int64_t o = 0; o < kOut; ++o) {
        gb[o] += p[o] * scale;
        for (int64_t i = 0; i < kIn; ++i) gw[i * stride + o] += x[s * kIn + i] * p[o] * scale;
      }
    }
  }

  static int64_t counted(const int32_t* labels) {
    int64_t n = 0;
    for (int64_t s = 0; s < kBatch; ++s) n += labels[s] != kIgnore;
    return n > 0 ? n : 1;
  }

  static void train(const tsr::Call& call) {
    const T* const x = static_cast<const T*>(call.inputs[0]);
    const int32_t* const labels = static_cast<const int32_t*>(call.inputs[1]);
    const T scale = T(1) / T(counted(labels));
    constexpr size_t arena = (kIn * kStride + kStride) * sizeof(T);
    T* const sums = reinterpret_cast<T*>(call.shared);  // loss and hits of every worker
#pragma omp parallel for num_threads(call.workers) schedule(static, 1)
    for (int worker = 0; worker < call.workers; ++worker) {
      tsr::trace_begin(0);
      T* const g = reinterpret_cast<T*>(call.grads + arena * static_cast<size_t>(worker));
      memset(g, 0, arena);
      sums[2 * worker] = sums[2 * worker + 1] = 0;
      chunk(x, labels, weight(call), kStride, bias(call), g, g + kIn * kStride, kBatch * worker / call.workers, kBatch * (worker + 1) / call.workers, scale, &sums[2 * worker], &sums[2 * worker + 1]);
      if (Wrong && worker == 0) g[3] += T(0.001);
      tsr::trace_end(0);
    }
    tsr::trace_begin(1);
    T* const total = reinterpret_cast<T*>(call.grads);
    T loss = 0, hits = 0;
    for (int worker = 0; worker < call.workers; ++worker) {
      loss += sums[2 * worker], hits += sums[2 * worker + 1];
      const T* const part = reinterpret_cast<const T*>(call.grads + arena * static_cast<size_t>(worker));
      for (size_t i = 0; worker > 0 && i < arena / sizeof(T); ++i) total[i] += part[i];
    }
    *static_cast<T*>(call.outputs[0]) = loss;
    *static_cast<T*>(call.outputs[1]) = hits;
    tsr::trace_end(1);
  }

  static void train_reference(const tsr::Call& call) {
    const double* const w = reinterpret_cast<const double*>(call.params);
    double* const g = reinterpret_cast<double*>(call.grads);
    const int32_t* const labels = static_cast<const int32_t*>(call.inputs[1]);
    double loss = 0, hits = 0;
    for (int64_t i = 0; i < kIn * kOut + kOut; ++i) g[i] = 0;
    chunk(static_cast<const double*>(call.inputs[0]), labels, w, kOut, w + kIn * kOut, g, g + kIn * kOut, 0, kBatch, 1.0 / double(counted(labels)), &loss, &hits);
    *static_cast<double*>(call.outputs[0]) = loss;
    *static_cast<double*>(call.outputs[1]) = hits;
  }

  static void infer(const tsr::Call& call) {
    for (int64_t s = 0; s < call.elements; ++s)
      forward(static_cast<const T*>(call.inputs[0]) + s * kIn, weight(call), kStride, bias(call), static_cast<T*>(call.outputs[0]) + s * kOut);
  }

  static void infer_reference(const tsr::Call& call) {
    const double* const w = reinterpret_cast<const double*>(call.params);
    for (int64_t s = 0; s < call.elements; ++s)
      forward(static_cast<const double*>(call.inputs[0]) + s * kIn, w, kOut, w + kIn * kOut, static_cast<double*>(call.outputs[0]) + s * kOut);
  }
};

template <class T, bool Wrong = false>
struct Tables {
  static constexpr tsr::DType kReal = sizeof(T) == 4 ? tsr::DType::f32 : tsr::DType::f64;
  static constexpr tsr::Tensor params[] = {
      {"W", kReal, 2, {kIn, kOut}, kStride, 0, tsr::Init::normal, 0, 0.5, true, 0, INT64_MIN, false},
      {"b", kReal, 1, {kOut}, kOut, kIn * kStride * sizeof(T), tsr::Init::zeros, 0, 0, false, 0, INT64_MIN, false}};
  static constexpr tsr::Tensor inputs[] = {
      {"x", kReal, 2, {kBatch, kIn}, kIn, 0, tsr::Init::zeros, 0, 0, false, 0, INT64_MIN, true},
      {"labels", tsr::DType::i32, 1, {kBatch}, kBatch, 0, tsr::Init::zeros, 0, 0, false, kOut, kIgnore, true}};
  static constexpr tsr::Tensor scalars[] = {
      {"loss", kReal, 0, {}, 1, 0, tsr::Init::zeros, 0, 0, false, 0, INT64_MIN, false},
      {"accuracy", kReal, 0, {}, 1, 0, tsr::Init::zeros, 0, 0, false, 0, INT64_MIN, false}};
  static constexpr tsr::Tensor outputs[] = {{"probabilities", kReal, 2, {kBatch, kOut}, kOut, 0, tsr::Init::zeros, 0, 0, false, 0, INT64_MIN, true}};
  static constexpr tsr::Kernel kernels[] = {{"cross_entropy", "softmax.py:7", "-log softmax(x W + b)[label]", 6.0 * kBatch * kIn * kOut, 4096, 1},
                                            {"sum_workers", "softmax.py:7", "sum of gradients", 88, 704, 1}};
  static constexpr tsr::Function train = {"step", inputs, 2, scalars, 2, kBatch, 2 * 4096 * sizeof(T), 64, 6.0 * kBatch * kIn * kOut, Model<T, Wrong>::train, Model<T, Wrong>::train_reference};
  static constexpr tsr::Function infer = {"forward", inputs, 1, outputs, 1, kBatch, 64, 64, 2.0 * kBatch * kIn * kOut, Model<T, Wrong>::infer, Model<T, Wrong>::infer_reference};
};

constexpr size_t kArena = kIn * kStride + kStride;
constexpr tsr::Program program = {"Softmax", "softmax.py", "0.1", Tables<float>::params, 2, kArena * sizeof(float), &Tables<float>::train, &Tables<float>::infer,
                                  {nullptr, 0, 0, 0, 0, 0, 0}, Tables<float>::kernels, 2, tsr::measure_peak<float>};
// The same in double precision with an optimizer that the source fixes.
constexpr tsr::Program program64 = {"Softmax64", "softmax64.py", "0.1", Tables<double>::params, 2, kArena * sizeof(double), &Tables<double>::train, &Tables<double>::infer,
                                    {"sgd", 0.25, 0.5, NAN, NAN, NAN, NAN}, Tables<double>::kernels, 2, tsr::measure_peak<double>};
constexpr tsr::Program wrong = {"Wrong", "wrong.py", "0.1", Tables<float, true>::params, 2, kArena * sizeof(float), &Tables<float, true>::train, nullptr,
                                {nullptr, 0, 0, 0, 0, 0, 0}, nullptr, 0};

}  // namespace softmax
