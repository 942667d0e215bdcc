// Optimizers on the device, fused: one pass over parameters, gradients and moments in chunks of whole rows. The chunks,
// and the order in which their norms are added, are those of runtime/optimizer.h and depend on the tensors alone.
// Formulas: SGD and momentum as in torch.optim.SGD (no dampening), Adam as in Kingma and Ba (arXiv 1412.6980), AdamW's
// decoupled decay as in Loshchilov and Hutter (arXiv 1711.05101). A complex parameter is two planes of real numbers. The
// norm and the clipping factor stay on the device: a step waits for nothing.
#pragma once
#include <vector>

#include "../optimizer_settings.h"
#include "../shares.h"
#include "arena.cuh"
#include "exchange.cuh"
#include "reduce.cuh"

namespace tsr::cuda {

/// Rows of one tensor: `offset` in elements from the start of the arena, `moment` from that of the moments.
struct UpdateChunk {
  int64_t offset, rows, length, stride, moment, moment_stride;
  bool decay;
  bool counts;  // adds to the norm: of parts that several ranks have alike, one rank's do
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
__global__ void __launch_bounds__(256) chunk_squares(const UpdateChunk* __restrict__ chunks, const T* __restrict__ grads, double* __restrict__ partial) {
  const UpdateChunk chunk = chunks[blockIdx.x];
  double sum = 0;
  for (int64_t i = threadIdx.x; chunk.counts && i < chunk.rows * chunk.length; i += 256) {
    const double g = double(grads[chunk.offset + i / chunk.length * chunk.stride + i % chunk.length]);
    sum += g * g;
  }
  sum = block_sum<256>(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

/// sum = all of partial. One block.
template <class T>
__global__ void __launch_bounds__(256) sum_squares(const T* __restrict__ partial, int count, T* __restrict__ total) {
  T sum = 0;
  for (int i = threadIdx.x; i < count; i += 256) sum += partial[i];
  sum = block_sum<256>(sum);
  if (threadIdx.x == 0) *total = sum;
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

/// Gradients of one more batch: sums take them up, or begin with them if `first`. With a share, which the last batch brings,
/// the gradients become that share of all.
template <class T>
__global__ void __launch_bounds__(256) add_gradients(T* __restrict__ sums, T* __restrict__ grads, int64_t count, bool first, T share) {
  for (int64_t i = int64_t(blockIdx.x) * 256 + threadIdx.x; i < count; i += int64_t(gridDim.x) * 256) {
    const T sum = first ? grads[i] : sums[i] + grads[i];
    if (share > T(0)) grads[i] = share * sum;
    else sums[i] = sum;
  }
}

/// Updates parameters and moments. One block per chunk.
template <Rule R, class T>
__global__ void __launch_bounds__(256) update_chunk(const UpdateChunk* __restrict__ chunks, T* __restrict__ params, const T* __restrict__ grads, T* __restrict__ first,
                                                    T* __restrict__ second, const StepConstants<T>* __restrict__ constants, const StepResult* __restrict__ result) {
  const StepConstants<T> s = *constants;
  const UpdateChunk chunk = chunks[blockIdx.x];
  const T scale = T(result->scale), l2 = s.l2[chunk.decay], shrink = s.shrink[chunk.decay];
  for (int64_t i = threadIdx.x; i < chunk.rows * chunk.length; i += 256) {
    const int64_t row = i / chunk.length, column = i % chunk.length, at = chunk.offset + row * chunk.stride + column;
    [[maybe_unused]] const int64_t kept = chunk.moment + row * chunk.moment_stride + column;
    const T p = params[at], g = grads[at] * scale + l2 * p;
    if constexpr (R == Rule::sgd) {
      params[at] = p - s.rate * g;
    } else if constexpr (R == Rule::momentum) {
      const T m = s.momentum * first[kept] + g;
      first[kept] = m;
      params[at] = p - s.rate * m;
    } else {
      const T m = s.beta1 * first[kept] + s.rest1 * g, v = s.beta2 * second[kept] + s.rest2 * g * g;
      first[kept] = m;
      second[kept] = v;
      params[at] = p * shrink - s.rate * m / (sqrt(v) * s.root + s.eps);
    }
  }
}

/// The optimizer of a program whose parameters are all of type T (float or double). What changes from step to step lies
/// in device memory, so that its launches can be replayed as part of a graph.
template <class T>
class Updater {
 public:
  /// `ranks`: of a program on a mesh, where every rank updates what it holds, or its share of that, and the norm is that of
  /// all gradients.
  Updater(Context& context, const Program& program, const OptimizerSettings& settings, OnStream* ranks = nullptr)
      : context_(context), settings_(settings), ranks_(ranks), shares_(program), constants_(context, sizeof(StepConstants<T>)) {
    std::vector<UpdateChunk> chunks;
    for (int i = 0; i < program.param_count; ++i) {
      if (!first_in_place(program.params[i])) continue;
      const std::vector<tsr::Chunk> own = shares_.chunks(i, ranks != nullptr ? process_ranks() : nullptr);
      const unsigned axis = shares_.divided(i) ? 1u << shares_.axis(i) : 0;
      const bool counts = ranks == nullptr || speaks_for(program.params[i], *program.mesh, *process_ranks(), axis);
      for (const tsr::Chunk& c : own)
        chunks.push_back({int64_t(c.offset / sizeof(T)), c.rows, c.length, c.stride, int64_t(c.moment / sizeof(T)), c.moment_stride, c.decay, counts});
    }
    count_ = int(chunks.size());
    table_ = memory_.reserve(chunks.size() * sizeof(UpdateChunk), "the optimizer's table");
    partial_ = memory_.reserve(chunks.size() * sizeof(double), "the optimizer's norms");
    step_ = memory_.reserve(sizeof(StepConstants<T>), "the optimizer's constants");
    result_ = memory_.reserve(sizeof(StepResult), "the optimizer's result");
    total_ = memory_.reserve(sizeof(double), "the norm of all ranks");
    memory_.allocate(context);
    context.need(cudaStreamSynchronize(context.stream), "cudaStreamSynchronize");
    if (count_ > 0) context.need(cudaMemcpy(memory_.at(table_), chunks.data(), chunks.size() * sizeof(UpdateChunk), cudaMemcpyHostToDevice), "cudaMemcpy of the optimizer's table");
  }
  Updater(const Updater&) = delete;
  Updater& operator=(const Updater&) = delete;

  const OptimizerSettings& settings() const { return settings_; }

  /// Sets what the next launch() reads; `step` counts from 0, `lr` is its rate. The launch before has to be complete.
  void prepare(int64_t step, double lr) { *reinterpret_cast<StepConstants<T>*>(constants_.at(0)) = constants(step, lr); }

  /// Puts one step on the context's stream. Where ranks update shares, gradients are lost: their memory is needed to bring
  /// the shares together.
  void launch(char* params, char* grads, char* const* moments) {
    update(params, grads, moments);
    if (ranks_ == nullptr) return;
    shares_.gather(*ranks_, params, grads);
    ranks_->flush();
  }

  /// Norm and clipping factor of the last step, in device memory.
  const StepResult* result() const { return at<const StepResult>(memory_.at(0), result_); }

 private:
  void update(char* params, const char* grads, char* const* moments) {
    const cudaStream_t stream = context_.stream;
    const int needed = moments_of(settings_);
    T* const p = reinterpret_cast<T*>(params);
    const T* const g = reinterpret_cast<const T*>(grads);
    T* const m = needed > 0 ? reinterpret_cast<T*>(moments[0]) : nullptr;
    T* const v = needed > 1 ? reinterpret_cast<T*>(moments[1]) : nullptr;
    const UpdateChunk* const chunks = at<const UpdateChunk>(memory_.at(0), table_);
    const StepConstants<T>* const s = at<const StepConstants<T>>(memory_.at(0), step_);
    double* const partial = at<double>(memory_.at(0), partial_);
    StepResult* const result = at<StepResult>(memory_.at(0), result_);
    context_.check(cudaMemcpyAsync(memory_.at(step_), constants_.at(0), sizeof(StepConstants<T>), cudaMemcpyHostToDevice, stream), "cudaMemcpyAsync of the optimizer's constants");
    if (count_ > 0) chunk_squares<T><<<count_, 256, 0, stream>>>(chunks, g, partial);
    double* const sums = ranks_ != nullptr ? at<double>(memory_.at(0), total_) : partial;
    if (ranks_ != nullptr) {
      sum_squares<double><<<1, 256, 0, stream>>>(partial, count_, sums);
      ranks_->all_reduce(Ranks::kOwn, Ranks::kWorld, Reduce::sum, DType::f64, sums, 1);
      ranks_->flush();
    }
    finish_norm<double><<<1, 256, 0, stream>>>(sums, ranks_ != nullptr ? 1 : count_, settings_.clip, result);
    if (count_ == 0) return;
    switch (settings_.rule) {
      case Rule::sgd: update_chunk<Rule::sgd, T><<<count_, 256, 0, stream>>>(chunks, p, g, m, v, s, result); break;
      case Rule::momentum: update_chunk<Rule::momentum, T><<<count_, 256, 0, stream>>>(chunks, p, g, m, v, s, result); break;
      case Rule::adam: case Rule::adamw: update_chunk<Rule::adam, T><<<count_, 256, 0, stream>>>(chunks, p, g, m, v, s, result); break;
      case Rule::lbfgs: break;  // works on the host, from the gradients alone
    }
    context_.check(cudaGetLastError(), "the optimizer");
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
  OnStream* ranks_;
  Shares shares_;
  Arena memory_;
  Pinned constants_;
  int count_ = 0;
  size_t table_ = 0, partial_ = 0, step_ = 0, result_ = 0, total_ = 0;
};

}  // namespace tsr::cuda
