// One update from the gradients of several batches: a batch as large as memory does not hold, in parts. Gradients, loss and
// metrics are the means over the batches, added in their order.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "chunks.h"
#include "program.h"
#include "ranks.h"
#include "session.h"
#include "tensor.h"

namespace tsr {

class Accumulation {
 public:
  Accumulation(const Program& program, int64_t batches, int workers)
      : batches_(batches), vectors_(program, workers), means_(static_cast<size_t>(program.train->output_count)) {}

  int64_t batches() const { return batches_; }
  // A device has a place of its own for the sums.
  void reserve(const Program& program, Arena* arena) {
    size_t bytes = program.param_bytes;
    for (int b = 0; program.mesh && b < program.mesh->bucket_count; ++b) bytes = std::max(bytes, Reduced(program, program.mesh->buckets[b]).bytes());
    offset_ = arena->reserve(program.open ? 0 : bytes);
  }
  void bind(Session* session) {
    session_ = session;
    sum_ = session->arena().at(offset_);
  }

  // Means over the batches, which train(0), train(1), ... compute in the session one after another. Ranks of processors
  // exchange gradients once, behind the last of them.
  template <class Train>
  void gather(Scalars* scalars, const Train& train) {
    Ranks* const ranks = session_->device() ? nullptr : session_->ranks();
    if (ranks) ranks->hold(true);
    for (int64_t batch = 0; batch < batches_; ++batch) {
      train(batch);
      add(batch, scalars);
    }
    if (!ranks) return;
    ranks->hold(false);
    const Program& program = session_->program();
    for (int b = 0; b < program.mesh->bucket_count; ++b) exchange(program, program.mesh->buckets[b], ranks, session_->grads());
  }

 private:
  // Scalars of a bucket, laid one behind the other, and of every rank's share.
  struct Reduced {
    Reduced(const Program& program, const Bucket& bucket) : type(scalar_type(program.params[bucket.params[0]].dtype)), ranks(program.mesh->sizes[bucket.axis]) {
      for (int k = 0; k < bucket.param_count; ++k) count += elements(program.params[bucket.params[k]]) * planes(program.params[bucket.params[k]]);
      share = (count + ranks - 1) / ranks;
    }
    size_t bytes_of(int64_t scalars) const { return static_cast<size_t>(scalars) * dtype_size(type); }
    size_t bytes() const { return bytes_of(share * (ranks + 1)); }

    DType type;
    int64_t ranks, count = 0, share = 0;
  };

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

  // This rank's terms of a bucket become what its exchange makes of them.
  void exchange(const Program& program, const Bucket& bucket, Ranks* ranks, char* grads) const {
    const Reduced all(program, bucket);
    const auto each = [&](const auto& use) {
      char* at = sum_;
      for (int k = 0; k < bucket.param_count; ++k) {
        use(program.params[bucket.params[k]], at);
        at += dense_bytes(program.params[bucket.params[k]]);
      }
    };
    each([&](const Tensor& param, char* at) { pack(param, grads, at); });
    if (bucket.gather < 0) {
      ranks->all_reduce(bucket.reduce, bucket.axis, Reduce::sum, all.type, sum_, all.count);
    } else {
      const size_t used = all.bytes_of(all.count), whole = all.bytes_of(all.share * all.ranks);
      char* const mine = sum_ + whole;
      memset(sum_ + used, 0, whole - used);
      ranks->reduce_scatter(bucket.reduce, bucket.axis, Reduce::sum, all.type, sum_, mine, all.share);
      memset(sum_, 0, whole);
      memcpy(sum_ + all.bytes_of(all.share * ranks->coordinate(bucket.axis)), mine, all.bytes_of(all.share));
    }
    each([&](const Tensor& param, const char* at) { unpack(param, at, grads); });
  }

  int64_t batches_;
  Vectors vectors_;
  std::vector<double> means_;
  size_t offset_ = 0;
  Session* session_ = nullptr;
  char* sum_ = nullptr;
};

}  // namespace tsr
