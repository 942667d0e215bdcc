// One update from the gradients of several batches: a batch as large as memory does not hold, in parts. Gradients, loss and
// metrics are the means over the batches, added in their order.
#pragma once
#include <cstdint>
#include <vector>

#include "buckets.h"
#include "chunks.h"
#include "program.h"
#include "ranks.h"
#include "session.h"

namespace tsr {

class Accumulation {
 public:
  Accumulation(const Program& program, int64_t batches, int workers)
      : batches_(batches), vectors_(program, workers), means_(static_cast<size_t>(program.train->output_count)) {}

  int64_t batches() const { return batches_; }
  // A device has a place of its own for the sums.
  void reserve(const Program& program, Arena* arena) { offset_ = arena->reserve(program.open ? 0 : sums_bytes(program)); }
  void bind(Session* session) {
    session_ = session;
    sum_ = session->arena().at(offset_);
  }

  // Means over the batches, which train(0), train(1), ... compute in the session one after another. Ranks exchange gradients
  // once, behind the last of them.
  template <class Train>
  void gather(Scalars* scalars, const Train& train) {
    Ranks* const ranks = session_->ranks();
    if (ranks) ranks->hold(true);
    for (int64_t batch = 0; batch < batches_; ++batch) {
      train(batch);
      add(batch, scalars);
    }
    if (!ranks) return;
    ranks->hold(false);
    if (session_->device()) session_->reduce_gradients();
    else reduce_gradients(session_->program(), *ranks, session_->grads(), sum_);
  }

 private:
  // After batch 0, 1, ... has left its gradients in the session; after the last they are the means, as are the scalars.
  void add(int64_t batch, Scalars* scalars) {
    const bool first = batch == 0, last = batch + 1 == batches_;
    const double share = 1.0 / static_cast<double>(batches_);
    if (session_->device()) session_->accumulate(batch, batches_);
    else if (last) vectors_.combine(share, session_->grads(), first ? 0 : share, first ? session_->grads() : sum_, session_->grads());
    else if (first) vectors_.copy(session_->grads(), sum_);
    else vectors_.combine(1, sum_, 1, session_->grads(), sum_);
    for (int i = 0; i < scalars->count(); ++i) {
      double& mean = means_[static_cast<size_t>(i)];
      mean = (first ? 0 : mean) + scalars->value(i);
      if (last) scalars->set(i, mean * share);
    }
  }

  int64_t batches_;
  Vectors vectors_;
  std::vector<double> means_;
  size_t offset_ = 0;
  Session* session_ = nullptr;
  char* sum_ = nullptr;
};

}  // namespace tsr
