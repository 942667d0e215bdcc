// Which scalars of which parameters a rank updates, and where their moments lie: all of them, except in buckets that the
// ranks along an axis update in shares (ZeRO-1: Rajbhandari et al., arXiv 1910.02054). A bucket is its parameters one behind
// the other, dense; each rank's share is an equal run of it, the last one's may reach beyond the end.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "exchange_grid.h"
#include "parameter_chunks.h"
#include "program.h"
#include "ranks.h"
#include "tensor.h"

namespace tsr {

struct Span { int64_t first, last; };  // scalars of a parameter, row-major without padding

class Shares {
 public:
  explicit Shares(const Program& program) : program_(program), of_(static_cast<size_t>(program.param_count)) {
    const Mesh* const mesh = program.mesh;
    for (int b = 0; mesh && b < mesh->bucket_count; ++b)
      if (mesh->buckets[b].gather >= 0) add(mesh->buckets[b], mesh->sizes[mesh->buckets[b].axis]);
    any_ = end_ > 0;
    for (int i = 0; i < program.param_count; ++i) {
      const Tensor& param = program.params[i];
      Of& of = of_[static_cast<size_t>(i)];
      if (!first_in_place(param)) {
        of = of_[static_cast<size_t>(first_at(param.offset))];
      } else if (!of.bucket) {
        of.moment = any_ ? reserve(static_cast<size_t>(planes(param)) * plane_bytes(param)) : param.offset;
      }
    }
    if (!any_) end_ = program.param_bytes;
  }

  // Of one moment of everything that this rank updates.
  size_t moment_bytes() const { return end_; }
  // Of the memory that gather() works in.
  size_t work_bytes() const { return work_; }
  // Whether there are any.
  bool any() const { return any_; }
  bool divided(int param) const { return of_[static_cast<size_t>(param)].bucket != nullptr; }
  // The axis along which ranks have shares of a parameter's moments; -1: none.
  int axis(int param) const { return divided(param) ? of_[static_cast<size_t>(param)].bucket->axis : -1; }

  // What this rank, or another, updates of a parameter (of its own part of it).
  template <class Where>
  Span span(int param, const Where* ranks) const {
    const Of& of = of_[static_cast<size_t>(param)];
    const int64_t count = elements(program_.params[param]) * planes(program_.params[param]);
    if (!of.bucket) return {0, count};
    const int64_t begin = (ranks ? ranks->coordinate(of.bucket->axis) : 0) * of.share - of.before;
    const auto inside = [&](int64_t at) { return std::min(std::max<int64_t>(at, 0), count); };
    return {inside(begin), inside(begin + of.share)};
  }
  // Where the moment of the first of those scalars lies: of undivided parameters, that of the tensor, which lies as the
  // tensor does; shares lie dense.
  size_t moment(int param, const Ranks* ranks) const {
    const Of& of = of_[static_cast<size_t>(param)];
    if (!of.bucket) return of.moment;
    const int64_t begin = (ranks ? ranks->coordinate(of.bucket->axis) : 0) * of.share;
    return of.moment + static_cast<size_t>(of.before + span(param, ranks).first - begin) * scalar(param);
  }

  // What this rank updates in pieces, with the places of their moments.
  std::vector<Chunk> chunks(int param, const Ranks* ranks) const {
    const Tensor& tensor = program_.params[param];
    std::vector<Chunk> out;
    if (divided(param)) {
      const Span mine = span(param, ranks);
      size_t at = moment(param, ranks);
      rows(tensor, mine, [&](int64_t row, int64_t column, int64_t count, int64_t length) {
        const size_t begin = out.size();
        Tensor block = tensor;
        block.rank = 2, block.shape[0] = count, block.shape[1] = length, block.row_stride = count > 1 ? row_stride(tensor) : length;
        block.offset = row_offset(tensor, 0, row) + static_cast<size_t>(column) * scalar(param);
        add_chunks(block, &out);
        for (size_t i = begin; i < out.size(); ++i) {
          const int64_t skipped = static_cast<int64_t>((out[i].offset - block.offset) / scalar(param));
          out[i].moment = at + static_cast<size_t>(skipped / block.row_stride * length + skipped % block.row_stride) * scalar(param);
          out[i].moment_stride = out[i].rows > 1 ? length : out[i].length;
        }
        at += static_cast<size_t>(count * length) * scalar(param);
      });
      return out;
    }
    add_chunks(tensor, &out);
    for (Chunk& chunk : out) chunk.moment = chunk.offset - tensor.offset + moment(param, ranks), chunk.moment_stride = chunk.stride;
    return out;
  }

  // Brings the parameters that other ranks have updated here. `work`: work_bytes(). R: see exchange.h.
  template <class R>
  void gather(R& ranks, char* params, char* work) const {
    for (int b = 0; any_ && b < program_.mesh->bucket_count; ++b) {
      const Bucket& bucket = program_.mesh->buckets[b];
      if (bucket.gather < 0) continue;
      if (scalar(bucket.params[0]) == 4) gather_bucket<int32_t>(bucket, ranks, params, reinterpret_cast<int32_t*>(work));
      else gather_bucket<int64_t>(bucket, ranks, params, reinterpret_cast<int64_t*>(work));
    }
  }

 private:
  struct Of {
    const Bucket* bucket = nullptr;
    int64_t before = 0, share = 0;  // scalars ahead of the parameter in its bucket, and of every rank's share
    size_t moment = 0;              // where moments of the bucket's share, or of the parameter, begin
  };

  size_t scalar(int param) const { return dtype_size(scalar_type(program_.params[param].dtype)); }
  size_t reserve(size_t bytes) {
    const size_t at = end_;
    end_ += (bytes + 63) / 64 * 64;
    return at;
  }
  int first_at(size_t offset) const {
    int i = 0;
    while (program_.params[i].offset != offset || !first_in_place(program_.params[i])) ++i;
    return i;
  }
  void add(const Bucket& bucket, int ranks) {
    int64_t total = 0;
    for (int k = 0; k < bucket.param_count; ++k) {
      of_[static_cast<size_t>(bucket.params[k])].bucket = &bucket;
      of_[static_cast<size_t>(bucket.params[k])].before = total;
      total += elements(program_.params[bucket.params[k]]);
    }
    const int64_t share = (total + ranks - 1) / ranks;
    const size_t size = scalar(bucket.params[0]), at = reserve(static_cast<size_t>(share) * size);
    for (int k = 0; k < bucket.param_count; ++k) of_[static_cast<size_t>(bucket.params[k])].share = share, of_[static_cast<size_t>(bucket.params[k])].moment = at;
    work_ = std::max(work_, static_cast<size_t>(share * ranks) * size);
  }
  // T: as large as the scalars, which are only moved.
  template <class T, class R>
  void gather_bucket(const Bucket& bucket, R& ranks, char* params, T* work) const {
    using exchange::pack, exchange::settle, exchange::unpack;
    const int64_t share = of_[static_cast<size_t>(bucket.params[0])].share;
    const auto each = [&](int i, Span some, const auto& copy) {
      const Tensor& param = program_.params[i];
      T* dense = work + of_[static_cast<size_t>(i)].before + some.first;
      rows(param, some, [&](int64_t row, int64_t column, int64_t count, int64_t length) {
        copy(Grid{2, {count, length}, {row_stride(param), 1}}, reinterpret_cast<T*>(params + row_offset(param, 0, row)) + column, dense);
        dense += count * length;
      });
    };
    const auto out_of = [&](const Grid& grid, const T* at, T* dense) { pack(ranks, grid, at, dense); };
    const auto into = [&](const Grid& grid, T* at, const T* dense) { unpack(ranks, grid, dense, at); };
    for (int k = 0; k < bucket.param_count; ++k) each(bucket.params[k], span(bucket.params[k], &ranks), out_of);
    ranks.all_gather(bucket.gather, bucket.axis, work + ranks.coordinate(bucket.axis) * share, work, static_cast<size_t>(share) * sizeof(T));
    for (int k = 0; k < bucket.param_count; ++k) {
      const Span mine = span(bucket.params[k], &ranks);
      each(bucket.params[k], {0, mine.first}, into);
      each(bucket.params[k], {mine.last, elements(program_.params[bucket.params[k]])}, into);
    }
    settle(ranks);
  }
  // Calls f(row, column, rows, length) for the blocks of a run: the end of a row, whole rows, the beginning of one.
  template <class F>
  static void rows(const Tensor& tensor, Span run, const F& f) {
    const int64_t length = row_length(tensor);
    while (run.first < run.last) {
      const int64_t row = run.first / length, column = run.first % length, whole = column == 0 ? (run.last - run.first) / length : 0;
      const int64_t some = whole > 0 ? length : std::min(length - column, run.last - run.first);
      f(row, column, whole > 0 ? whole : 1, some);
      run.first += (whole > 0 ? whole : 1) * some;
    }
  }

  const Program& program_;
  std::vector<Of> of_;
  size_t end_ = 0, work_ = 0;
  bool any_ = false;
};

}  // namespace tsr
