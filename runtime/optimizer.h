// Optimizers, fused: one pass over parameters, gradients and moments in cache-sized chunks.
// Formulas: SGD and momentum as in torch.optim.SGD (no dampening), Adam as in Kingma and Ba
// (arXiv 1412.6980), AdamW's decoupled decay as in Loshchilov and Hutter (arXiv 1711.05101). A complex
// parameter is updated as its real and its imaginary parts, as in PyTorch: Adam has a second moment for each.
#pragma once
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "chunks.h"
#include "error.h"
#include "optimizer_settings.h"
#include "program.h"
#include "ranks.h"
#include "shares.h"

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

class Updater final : public EarlyUpdate {
 public:
  // On a mesh, every rank updates what it holds, or its share of that, and the norm is that of all gradients: of equal
  // parts, one rank's count.
  Updater(const Program& program, const OptimizerSettings& settings, int workers, Ranks* ranks = nullptr)
      : program_(program), settings_(settings), workers_(workers), ranks_(ranks), shares_(program) {
    for (int i = 0; i < program.param_count; ++i) {
      first_.push_back(chunks_.size());
      if (!first_in_place(program.params[i])) continue;
      const std::vector<Chunk> own = shares_.chunks(i, ranks);
      const unsigned axis = shares_.divided(i) ? 1u << shares_.axis(i) : 0;
      chunks_.insert(chunks_.end(), own.begin(), own.end());
      if (ranks) counts_.resize(chunks_.size(), speaks_for(program.params[i], *program.mesh, *ranks, axis));
    }
    first_.push_back(chunks_.size());
    partial_.resize(chunks_.size());
    done_.resize(chunks_.size());
    work_.reserve(chunks_.size());
  }

  const OptimizerSettings& settings() const { return settings_; }
  // Whether a parameter can be updated before all gradients are known.
  bool early() const { return settings_.clip <= 0; }
  // Seconds that the last update took.
  double seconds() const { return seconds_; }

  // Global norm of the gradients.
  double norm(char* grads) {
    begin(nullptr, grads, nullptr, 0, 0);
    visit_rest<false>();
    return total();
  }

  // Updates the parameters from the gradients; `step` counts from 0, `lr` is this step's rate.
  // Returns the global gradient norm before clipping. Where ranks update shares, gradients are lost: their memory is
  // needed to bring the shares together.
  double apply(char* params, char* grads, char* const* moments, int64_t step, double lr) {
    if (settings_.clip <= 0) {
      begin(params, grads, moments, step, lr);
      return end();
    }
    const double before = norm(grads), taken = seconds_;
    begin(params, grads, moments, step, lr, before > settings_.clip ? settings_.clip / (before + 1e-6) : 1);
    end();
    seconds_ += taken;
    return before;
  }

  // The same in parts: begin(), update() of some parameters as soon as their gradients are final, end() with all others.
  void begin(char* params, char* grads, char* const* moments, int64_t step, double lr, double scale = 1) {
    arenas_ = {params, grads, moments};
    for (const bool decay : {false, true}) {
      single_[decay] = constants<float>(decay, step, lr, scale);
      twice_[decay] = constants<double>(decay, step, lr, scale);
    }
    std::fill(done_.begin(), done_.end(), char{0});
    seconds_ = 0;
  }
  void update(const int* rows, const int* places, int count) override {
    work_.clear();
    for (int i = 0; i < count; ++i) {
      const size_t row = static_cast<size_t>(rows[i]);
      const ptrdiff_t distance = static_cast<ptrdiff_t>(program_.params[places[i]].offset) - static_cast<ptrdiff_t>(program_.params[row].offset);
      for (size_t chunk = first_[row]; chunk < first_[row + 1]; ++chunk) work_.push_back({chunk, distance});
    }
    visit_all<true>();
  }
  double end() {
    visit_rest<true>();
    if (ranks_) shares_.gather(*ranks_, arenas_.params, arenas_.grads);
    return total();
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

  // `distance`: from the gradient's own place to where it is.
  template <bool Update, class T>
  double visit(const Chunk& chunk, ptrdiff_t distance, const update::Constants<T>& c) const {
    const int count = moments_of(settings_);
    double sum = 0;
    for (int64_t row = 0; row < chunk.rows; ++row) {
      const size_t at = chunk.offset + static_cast<size_t>(row * chunk.stride) * sizeof(T);
      const T* const g = reinterpret_cast<const T*>(arenas_.grads + (static_cast<ptrdiff_t>(at) + distance));
      sum += dot(g, g, chunk.length);
      if (!Update) continue;
      const size_t moment = chunk.moment + static_cast<size_t>(row * chunk.moment_stride) * sizeof(T);
      T* const m = count > 0 ? reinterpret_cast<T*>(arenas_.moments[0] + moment) : nullptr;
      T* const v = count > 1 ? reinterpret_cast<T*>(arenas_.moments[1] + moment) : nullptr;
      update_row(reinterpret_cast<T*>(arenas_.params + at), g, m, v, chunk.length, c);
    }
    return sum;
  }

  template <bool Update>
  void visit_all() {
    const auto started = std::chrono::steady_clock::now();
    const int64_t count = static_cast<int64_t>(work_.size());
#pragma omp parallel for schedule(static) num_threads(workers_)
    for (int64_t i = 0; i < count; ++i) {
      const Work& work = work_[static_cast<size_t>(i)];
      const Chunk& chunk = chunks_[work.chunk];
      partial_[work.chunk] = chunk.type == DType::f32 ? visit<Update>(chunk, work.distance, single_[chunk.decay]) : visit<Update>(chunk, work.distance, twice_[chunk.decay]);
      done_[work.chunk] = 1;
    }
    seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  }
  template <bool Update>
  void visit_rest() {
    work_.clear();
    for (size_t chunk = 0; chunk < chunks_.size(); ++chunk)
      if (!done_[chunk]) work_.push_back({chunk, 0});
    visit_all<Update>();
  }
  double total() const {
    double sum = 0;
    for (size_t i = 0; i < partial_.size(); ++i)
      if (!ranks_ || counts_[i]) sum += partial_[i];
    if (ranks_) ranks_->all_reduce(Ranks::kOwn, Ranks::kWorld, Reduce::sum, DType::f64, &sum, 1);
    return std::sqrt(sum);
  }

  struct Arenas { char* params; char* grads; char* const* moments; };
  struct Work { size_t chunk; ptrdiff_t distance; };

  const Program& program_;
  OptimizerSettings settings_;
  int workers_;
  Ranks* ranks_;
  Shares shares_;
  std::vector<Chunk> chunks_;
  std::vector<size_t> first_;  // by parameter: its first chunk
  std::vector<char> counts_;   // by chunk: whether this rank adds it to the norm
  std::vector<char> done_;     // by chunk: updated since begin()
  std::vector<double> partial_;
  std::vector<Work> work_;
  Arenas arenas_{};
  update::Constants<float> single_[2];
  update::Constants<double> twice_[2];
  double seconds_ = 0;
};

}  // namespace tsr
