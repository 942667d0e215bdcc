// Buckets of gradients by themselves: exchanges that were held back (Ranks::hold), carried out behind the last batch of a step.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "exchange.h"
#include "program.h"
#include "tensor.h"

namespace tsr {

// Scalars of a bucket's parameters.
inline int64_t bucket_scalars(const Program& program, const Bucket& bucket) {
  int64_t out = 0;
  for (int k = 0; k < bucket.param_count; ++k) out += elements(program.params[bucket.params[k]]) * planes(program.params[bucket.params[k]]);
  return out;
}

// Of the sums of several batches' gradients, and of any bucket with one share more.
inline size_t sums_bytes(const Program& program) {
  size_t out = program.param_bytes;
  for (int b = 0; program.mesh && b < program.mesh->bucket_count; ++b) {
    const Bucket& bucket = program.mesh->buckets[b];
    const int64_t ranks = program.mesh->sizes[bucket.axis], share = (bucket_scalars(program, bucket) + ranks - 1) / ranks;
    out = std::max(out, static_cast<size_t>(share * (ranks + 1)) * dtype_size(scalar_type(program.params[bucket.params[0]].dtype)));
  }
  return out;
}

// This rank's terms of a bucket's gradients become what its exchange makes of them. `work`: sums_bytes().
template <class T, class R>
inline void reduce_bucket(const Program& program, const Bucket& bucket, R& ranks, char* grads, char* work) {
  std::vector<exchange::Term<T>> terms;
  for (int k = 0; k < bucket.param_count; ++k) {
    const Tensor& param = program.params[bucket.params[k]];
    const Grid grid = {2, {row_count(param), row_length(param)}, {row_stride(param), 1}};
    for (int plane = 0; plane < planes(param); ++plane) {
      T* const at = reinterpret_cast<T*>(grads + row_offset(param, plane, 0));
      terms.push_back({at, grid, at, grid});
    }
  }
  T* const dense = reinterpret_cast<T*>(work);
  if (bucket.gather < 0) exchange::all_reduce(ranks, bucket.axis, bucket.reduce, Reduce::sum, terms, dense);
  else exchange::reduce_shares(ranks, bucket.axis, bucket.reduce, Reduce::sum, terms, dense);
  using exchange::settle;
  settle(ranks);
}

// The same of all buckets.
template <class R>
inline void reduce_gradients(const Program& program, R& ranks, char* grads, char* work) {
  for (int b = 0; b < program.mesh->bucket_count; ++b) {
    const Bucket& bucket = program.mesh->buckets[b];
    if (scalar_type(program.params[bucket.params[0]].dtype) == DType::f64) reduce_bucket<double>(program, bucket, ranks, grads, work);
    else reduce_bucket<float>(program, bucket, ranks, grads, work);
  }
}

}  // namespace tsr
