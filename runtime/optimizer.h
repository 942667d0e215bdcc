// Optimizers, fused: one pass over parameters, gradients and moments in cache-sized chunks.
// Formulas: SGD and momentum as in torch.optim.SGD (no dampening), Adam as in Kingma and Ba
// (arXiv 1412.6980), AdamW's decoupled decay as in Loshchilov and Hutter (arXiv 1711.05101). A complex
// parameter is updated as its real and its imaginary parts, as in PyTorch: Adam has a second moment for each.
#pragma once
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "chunks.h"
#include "error.h"
#include "optimizer_settings.h"
#include "program.h"
#include "ranks.h"

namespace tsr {

namespace update {

// Per-step constants in the arena's own type; bias corrections were folded in double.
template <class T>
struct Constants {
  T scale;      // of the gradient (clipping)
  T rate;       // step size, bias correction of the first moment included
  T shrink;     // decoupled decay: p *= shrink
  T l2;         // coupled decay: g += l2 * p
  T momentum, beta1, rest1, beta2, rest2, root, eps;  // root: 1 / sqrt(1 - beta2^t)
};

template <class T>
inline void sgd(T* __restrict p, const T* __restrict g, int64_t n, const Constants<T>& c) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) p[i] -= c.rate * (g[i] * c.scale + c.l2 * p[i]);
}

template <class T>
inline void momentum(T* __restrict p, const T* __restrict g, T* __restrict m, int64_t n, const Constants<T>& c) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    m[i] = c.momentum * m[i] + (g[i] * c.scale + c.l2 * p[i]);
    p[i] -= c.rate * m[i];
  }
}

template <class T>
inline void adam(T* __restrict p, const T* __restrict g, T* __restrict m, T* __restrict v, int64_t n, const Constants<T>& c) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const T gradient = g[i] * c.scale + c.l2 * p[i];
    m[i] = c.beta1 * m[i] + c.rest1 * gradient;
    v[i] = c.beta2 * v[i] + c.rest2 * gradient * gradient;
    p[i] = p[i] * c.shrink - c.rate * m[i] / (std::sqrt(v[i]) * c.root + c.eps);
  }
}

}  // namespace update

class Updater {
 public:
  // On a mesh, every rank updates what it holds, and the norm is that of all gradients: of equal parts, one rank's count.
  Updater(const Program& program, const OptimizerSettings& settings, int workers, Ranks* ranks = nullptr)
      : settings_(settings), workers_(workers), ranks_(ranks), chunks_(parameter_chunks(program)) {
    partial_.resize(chunks_.size());
    if (!ranks) return;
    for (int i = 0; i < program.param_count; ++i) {
      if (!first_in_place(program.params[i])) continue;
      std::vector<Chunk> own;
      add_chunks(program.params[i], &own);
      counts_.insert(counts_.end(), own.size(), speaks_for(program.params[i], *program.mesh, *ranks));
    }
  }

  const OptimizerSettings& settings() const { return settings_; }

  // Global norm of the gradients.
  double norm(const char* grads) { return run<false>(nullptr, grads, nullptr, 0, 0, 1); }

  // Updates the parameters from the gradients; `step` counts from 0, `lr` is this step's rate.
  // Returns the global gradient norm before clipping.
  double apply(char* params, const char* grads, char* const* moments, int64_t step, double lr) {
    double scale = 1;
    if (settings_.clip > 0) {
      const double before = norm(grads);
      if (before > settings_.clip) scale = settings_.clip / (before + 1e-6);
      run<true>(params, grads, moments, step, lr, scale);
      return before;
    }
    return run<true>(params, grads, moments, step, lr, scale);
  }

 private:
  template <class T>
  update::Constants<T> constants(bool decay, int64_t step, double lr, double scale) const {
    const OptimizerSettings& s = settings_;
    const bool adaptive = s.rule == Rule::adam || s.rule == Rule::adamw, decoupled = s.rule == Rule::adamw;
    const double t = static_cast<double>(step + 1), wd = decay ? s.weight_decay : 0;
    update::Constants<T> c;
    c.scale = static_cast<T>(scale);
    c.rate = static_cast<T>(adaptive ? lr / (1 - std::pow(s.beta1, t)) : lr);
    c.shrink = static_cast<T>(decoupled ? 1 - lr * wd : 1);
    c.l2 = static_cast<T>(decoupled ? 0 : wd);
    c.momentum = static_cast<T>(s.momentum);
    c.beta1 = static_cast<T>(s.beta1), c.rest1 = static_cast<T>(1 - s.beta1);
    c.beta2 = static_cast<T>(s.beta2), c.rest2 = static_cast<T>(1 - s.beta2);
    c.root = static_cast<T>(1 / std::sqrt(1 - std::pow(s.beta2, t)));
    c.eps = static_cast<T>(s.eps);
    return c;
  }

  template <class T>
  void update_row(T* p, const T* g, T* m, T* v, int64_t n, const update::Constants<T>& c) const {
    switch (settings_.rule) {
      case Rule::sgd: return update::sgd(p, g, n, c);
      case Rule::momentum: return update::momentum(p, g, m, n, c);
      case Rule::adam: case Rule::adamw: return update::adam(p, g, m, v, n, c);
      case Rule::lbfgs: return;
    }
  }

  template <bool Update, class T>
  double visit(const Chunk& chunk, char* params, const char* grads, char* const* moments, const update::Constants<T>& c) const {
    const int count = moments_of(settings_);
    double sum = 0;
    for (int64_t row = 0; row < chunk.rows; ++row) {
      const size_t at = chunk.offset + static_cast<size_t>(row * chunk.stride) * sizeof(T);
      const T* const g = reinterpret_cast<const T*>(grads + at);
      sum += dot(g, g, chunk.length);
      if (!Update) continue;
      T* const m = count > 0 ? reinterpret_cast<T*>(moments[0] + at) : nullptr;
      T* const v = count > 1 ? reinterpret_cast<T*>(moments[1] + at) : nullptr;
      update_row(reinterpret_cast<T*>(params + at), g, m, v, chunk.length, c);
    }
    return sum;
  }

  template <bool Update>
  double run(char* params, const char* grads, char* const* moments, int64_t step, double lr, double scale) {
    const update::Constants<float> single[2] = {constants<float>(false, step, lr, scale), constants<float>(true, step, lr, scale)};
    const update::Constants<double> twice[2] = {constants<double>(false, step, lr, scale), constants<double>(true, step, lr, scale)};
    const int64_t count = static_cast<int64_t>(chunks_.size());
#pragma omp parallel for schedule(static) num_threads(workers_)
    for (int64_t i = 0; i < count; ++i) {
      const Chunk& chunk = chunks_[static_cast<size_t>(i)];
      partial_[static_cast<size_t>(i)] = chunk.type == DType::f32 ? visit<Update>(chunk, params, grads, moments, single[chunk.decay])
                                                                  : visit<Update>(chunk, params, grads, moments, twice[chunk.decay]);
    }
    double sum = 0;
    for (size_t i = 0; i < partial_.size(); ++i)
      if (!ranks_ || counts_[i]) sum += partial_[i];
    if (ranks_) ranks_->all_reduce(Ranks::kOwn, Ranks::kWorld, Reduce::sum, DType::f64, &sum, 1);
    return std::sqrt(sum);
  }

  OptimizerSettings settings_;
  int workers_;
  Ranks* ranks_;
  std::vector<Chunk> chunks_;
  std::vector<char> counts_;  // by chunk: whether this rank adds it to the norm
  std::vector<double> partial_;
};

}  // namespace tsr
