// Optimizers on the device, fused: one pass over parameters, gradients and moments in chunks of whole rows. The chunks,
// and the order in which their norms are added, are those of runtime/optimizer.h and depend on the tensors alone.
// Formulas: SGD and momentum as in torch.optim.SGD (no dampening), Adam as in Kingma and Ba (arXiv 1412.6980), AdamW's
// decoupled decay as in Loshchilov and Hutter (arXiv 1711.05101). A complex parameter is two planes of real numbers. The
// norm and the clipping factor stay on the device: a step waits for nothing.
#pragma once
#include <vector>

#include "program.cuh"
#include "reduce.cuh"

namespace tsr::cuda {

enum class Rule : int { sgd, momentum, adam, adamw };

struct OptimizerSettings {
  Rule rule = Rule::adamw;
  double lr = 1e-3, momentum = 0.9, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0;
  double clip = 0;  // largest global gradient norm; 0: no clipping
};

/// Moment arenas a rule needs.
inline int moments_of(Rule rule) { return rule == Rule::sgd ? 0 : rule == Rule::momentum ? 1 : 2; }

/// Rows of one tensor: `offset` in elements from the start of the arena.
struct Chunk {
  int64_t offset, rows, length, stride;
  bool decay;
};

/// Constants of a step, bias corrections included.
template <class T>
struct StepConstants {
  T rate;       // step size, bias correction of the first moment included
  T shrink[2];  // decoupled decay: p *= shrink, without and with decay
  T l2[2];      // coupled decay: g += l2 * p
  T momentum, beta1, rest1, beta2, rest2, root, eps;  // root: 1 / sqrt(1 - beta2^t)
};

/// What a step leaves on the device.
struct StepResult {
  double norm;   // of all gradients, before clipping
  double scale;  // by which clipping multiplies them
};

/// partial[chunk] = sum of the squares of a chunk's gradients, in double. One block per chunk.
template <class T>
__global__ void __launch_bounds__(256) chunk_squares(const Chunk* __restrict__ chunks, const T* __restrict__ grads, double* __restrict__ partial) {
  const Chunk chunk = chunks[blockIdx.x];
  double sum = 0;
  for (int64_t i = threadIdx.x; i < chunk.rows * chunk.length; i += 256) {
    const double g = double(grads[chunk.offset + i / chunk.length * chunk.stride + i % chunk.length]);
    sum += g * g;
  }
  sum = block_sum<256>(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

/// The norm of all gradients and the clipping factor. One block.
template <class T>
__global__ void __launch_bounds__(256) finish_norm(const double* __restrict__ partial, int count, T clip, StepResult* __restrict__ result) {
  double sum = 0;
  for (int i = threadIdx.x; i < count; i += 256) sum += partial[i];
  sum = block_sum<256>(sum);
  if (threadIdx.x != 0) return;
  const double norm = sqrt(sum);
  result->norm = norm;
  result->scale = clip > 0 && norm > clip ? clip / (norm + 1e-6) : 1.0;
}

/// Updates parameters and moments. One block per chunk.
template <Rule R, class T>
__global__ void __launch_bounds__(256) update_chunk(const Chunk* __restrict__ chunks, T* __restrict__ params, const T* __restrict__ grads, T* __restrict__ first,
                                                    T* __restrict__ second, const StepConstants<T> s, const StepResult* __restrict__ result) {
  const Chunk chunk = chunks[blockIdx.x];
  const T scale = T(result->scale), l2 = s.l2[chunk.decay], shrink = s.shrink[chunk.decay];
  for (int64_t i = threadIdx.x; i < chunk.rows * chunk.length; i += 256) {
    const int64_t at = chunk.offset + i / chunk.length * chunk.stride + i % chunk.length;
    const T p = params[at], g = grads[at] * scale + l2 * p;
    if constexpr (R == Rule::sgd) {
      params[at] = p - s.rate * g;
    } else if constexpr (R == Rule::momentum) {
      const T m = s.momentum * first[at] + g;
      first[at] = m;
      params[at] = p - s.rate * m;
    } else {
      const T m = s.beta1 * first[at] + s.rest1 * g, v = s.beta2 * second[at] + s.rest2 * g * g;
      first[at] = m;
      second[at] = v;
      params[at] = p * shrink - s.rate * m / (sqrt(v) * s.root + s.eps);
    }
  }
}

/// The optimizer of a program whose parameters are all of type T (float or double). Owns a little device memory: its
/// table of chunks, their partial norms and the result of the last step.
template <class T>
class Updater {
 public:
  Updater(Context& context, const Program& program, const OptimizerSettings& settings) : context_(context), settings_(settings) {
    std::vector<Chunk> chunks;
    for (int i = 0; i < program.param_count; ++i) add_chunks(program.params[i], chunks);
    count_ = int(chunks.size());
    const size_t table = chunks.size() * sizeof(Chunk), partial = chunks.size() * sizeof(double);
    if (!context.check(cudaMalloc(&memory_, table + partial + sizeof(StepResult)), "cudaMalloc of the optimizer's table")) return;
    chunks_ = static_cast<Chunk*>(memory_);
    partial_ = reinterpret_cast<double*>(static_cast<char*>(memory_) + table);
    result_ = reinterpret_cast<StepResult*>(static_cast<char*>(memory_) + table + partial);
    context.check(cudaMemcpy(chunks_, chunks.data(), table, cudaMemcpyHostToDevice), "cudaMemcpy of the optimizer's table");
  }
  ~Updater() { cudaFree(memory_); }
  Updater(const Updater&) = delete;
  Updater& operator=(const Updater&) = delete;

  /// Puts one step on the context's stream; `step` counts from 0, `lr` is this step's rate. 0, or the first error's code.
  int apply(char* params, const char* grads, char* const* moments, int64_t step, double lr) {
    if (context_.code != 0 || count_ == 0) return context_.code;
    const int needed = moments_of(settings_.rule);
    T* const p = reinterpret_cast<T*>(params);
    const T* const g = reinterpret_cast<const T*>(grads);
    T* const m = needed > 0 ? reinterpret_cast<T*>(moments[0]) : nullptr;
    T* const v = needed > 1 ? reinterpret_cast<T*>(moments[1]) : nullptr;
    const StepConstants<T> s = constants(step, lr);
    const cudaStream_t stream = context_.stream;
    chunk_squares<T><<<count_, 256, 0, stream>>>(chunks_, g, partial_);
    finish_norm<double><<<1, 256, 0, stream>>>(partial_, count_, settings_.clip, result_);
    switch (settings_.rule) {
      case Rule::sgd: update_chunk<Rule::sgd, T><<<count_, 256, 0, stream>>>(chunks_, p, g, m, v, s, result_); break;
      case Rule::momentum: update_chunk<Rule::momentum, T><<<count_, 256, 0, stream>>>(chunks_, p, g, m, v, s, result_); break;
      case Rule::adam: case Rule::adamw: update_chunk<Rule::adam, T><<<count_, 256, 0, stream>>>(chunks_, p, g, m, v, s, result_); break;
    }
    context_.check(cudaGetLastError(), "the optimizer");
    return context_.code;
  }

  /// Norm and clipping factor of the last step, in device memory.
  const StepResult* result() const { return result_; }

 private:
  static constexpr int64_t kChunk = 16384;  // elements

  static void add_chunks(const Tensor& tensor, std::vector<Chunk>& chunks) {
    int64_t rows = 1, length = tensor.rank > 0 ? tensor.shape[tensor.rank - 1] : 1, stride = tensor.row_stride;
    for (int i = 0; i + 1 < tensor.rank; ++i) rows *= tensor.shape[i];
    if (rows == 0 || length == 0) return;
    if (rows == 1 || stride == length) length *= rows, stride = length, rows = 1;
    const int64_t wide = length < kChunk ? length : kChunk, high = kChunk / wide;
    const int64_t plane = (rows * stride * int64_t(sizeof(T)) + 63) / 64 * 64 / int64_t(sizeof(T));  // of a complex parameter: real parts, imaginary parts
    for (int part = 0; part < (tensor.dtype == DType::c64 || tensor.dtype == DType::c128 ? 2 : 1); ++part) {
      const int64_t offset = int64_t(tensor.offset / sizeof(T)) + part * plane;
      for (int64_t row = 0; row < rows; row += high)
        for (int64_t column = 0; column < length; column += wide)
          chunks.push_back({offset + row * stride + column, rows - row < high ? rows - row : high, length - column < wide ? length - column : wide, stride,
                            tensor.decay});
    }
  }

  StepConstants<T> constants(int64_t step, double lr) const {
    const OptimizerSettings& o = settings_;
    const bool adaptive = o.rule == Rule::adam || o.rule == Rule::adamw, decoupled = o.rule == Rule::adamw;
    const double t = double(step + 1);
    StepConstants<T> s;
    s.rate = T(adaptive ? lr / (1 - std::pow(o.beta1, t)) : lr);
    s.shrink[0] = T(1), s.shrink[1] = T(decoupled ? 1 - lr * o.weight_decay : 1);
    s.l2[0] = T(0), s.l2[1] = T(decoupled ? 0 : o.weight_decay);
    s.momentum = T(o.momentum);
    s.beta1 = T(o.beta1), s.rest1 = T(1 - o.beta1);
    s.beta2 = T(o.beta2), s.rest2 = T(1 - o.beta2);
    s.root = T(1 / std::sqrt(1 - std::pow(o.beta2, t)));
    s.eps = T(o.eps);
    return s;
  }

  Context& context_;
  OptimizerSettings settings_;
  int count_ = 0;
  void* memory_ = nullptr;
  Chunk* chunks_ = nullptr;
  double* partial_ = nullptr;
  StepResult* result_ = nullptr;
};

}  // namespace tsr::cuda
