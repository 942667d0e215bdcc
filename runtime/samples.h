// Inputs whose samples are given: the rows of a .npy file, or the points of a grid. Samples are read in a seeded
// order, epoch by epoch: each epoch visits every sample once, in an order of its own, and a batch takes the next ones,
// across the end of an epoch where it must (so that a batch may also be larger than the file).
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "dataspec.h"
#include "error.h"
#include "import.h"
#include "npy.h"
#include "random.h"
#include "source.h"
#include "tensor.h"

namespace tsr {

// The shape rule of arrays: exactly the input's shape or, where `any` allows it, any number of samples on the first axis.
inline bool shape_fits(const Tensor& input, const NpyFile& file, bool any, bool* exact) {
  if (file.rank() != input.rank) return false;
  *exact = true;
  for (int axis = 0; axis < input.rank; ++axis) {
    if (file.shape[static_cast<size_t>(axis)] == input.shape[axis]) continue;
    if (axis > 0 || !any) return false;
    *exact = false;
  }
  return true;
}

inline void check_shape(const Tensor& input, const NpyFile& file, bool any, bool* exact) {
  if (shape_fits(input, file, any, exact)) return;
  std::string want = shape_text(input.shape, input.rank);
  if (any) {
    want = "N";
    for (int axis = 1; axis < input.rank; ++axis) want += format(" x %lld", static_cast<long long>(input.shape[axis]));
  }
  throw Error("T0905", "input '" + std::string(input.name) + "' takes an array of shape " + want + ", " + quoted(file.path()) + " has " +
              shape_text(file.shape.data(), file.rank()), any ? "the first axis counts samples and may have any length; reshape the others" : "reshape the array");
}

// Samples that can be read by number.
class Samples {
 public:
  virtual ~Samples() = default;
  virtual int64_t count() const = 0;   // -1: one value for all samples
  virtual void read(int64_t first, int64_t count, char* out) const = 0;
};

// Rows of a .npy file. `any`: the first axis may have any length.
class NpySamples : public Samples {
 public:
  NpySamples(const Tensor& input, const std::string& path, bool any) : input_(input), file_(path), any_(any) {
    bool exact;
    check_type(input, file_.element(), path);
    check_shape(input, file_, any, &exact);
  }
  int64_t count() const override { return any_ ? file_.shape[0] : -1; }
  const NpyFile& file() const { return file_; }
  void read(int64_t first, int64_t count, char* out) const override {
    const int64_t size = any_ ? row_elements(input_) : elements(input_);
    import_values(input_, file_.element(), file_.data() + first * size * file_.element().size, count * size, out, {file_.path().c_str(), first * size, false});
  }
  // The whole file, to find what is wrong with it before training starts.
  void scan() const {
    int64_t total = 1;
    for (const int64_t extent : file_.shape) total *= extent;
    if (total <= kScanLimit) import_values(input_, file_.element(), file_.data(), total, nullptr, {file_.path().c_str(), 0, false});
  }

 private:
  const Tensor& input_;
  NpyFile file_;
  bool any_;
};

// One axis of a tensor grid: sample i has the value number i / inner % n. `inner`: points that the axes after it span;
// `points`: those of the whole grid.
class GridSamples : public Samples {
 public:
  GridSamples(const Tensor& input, const DataSpec& spec, int64_t inner, int64_t points) : input_(input), spec_(spec), inner_(inner), points_(points) {
    check_range(input, spec);
    if (!is_integer(input.dtype) && scalars_per_element(input.dtype) == 1 && input.rank > 0 && row_elements(input) == 1) return;
    throw Error("T0906", "input " + input_text(input) + " cannot take " + quoted(spec.text), "a grid gives one real coordinate per sample: shapes N and N x 1", kExitUsage);
  }
  int64_t count() const override { return points_; }
  void read(int64_t first, int64_t count, char* out) const override {
    const double step = spec_.count > 1 ? (spec_.b - spec_.a) / static_cast<double>(spec_.count - 1) : 0;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t at = (first + i) / inner_ % spec_.count;
      const double value = at + 1 == spec_.count && at > 0 ? spec_.b : spec_.a + step * static_cast<double>(at);
      store_reals(input_.dtype, &value, out + static_cast<size_t>(i) * dtype_size(input_.dtype), 1);
    }
  }

 private:
  const Tensor& input_;
  DataSpec spec_;
  int64_t inner_, points_;
};

// Batches of samples. As many samples as a batch takes are a fixed batch, in their own order.
class SampleSource : public Source {
 public:
  SampleSource(const Tensor& input, std::unique_ptr<Samples> samples, const std::string& name, uint64_t seed)
      : input_(input), samples_(std::move(samples)), seed_(seed), count_(samples_->count()), batch_(input.rank > 0 ? input.shape[0] : 1) {
    if (count_ == 0) throw Error("T0912", quoted(name) + " holds 0 samples", "give at least one");
  }
  bool fixed() const override { return count_ < 0 || count_ == batch_; }
  int64_t samples() const override { return count_ > 0 ? count_ : 0; }
  void fill(uint64_t draw, Rows rows, char* out) const override {
    if (fixed()) return count_ < 0 ? samples_->read(0, 1, out) : samples_->read(rows.first, rows.count, out);
    const size_t size = static_cast<size_t>(row_elements(input_)) * dtype_size(input_.dtype);
    const uint64_t count = static_cast<uint64_t>(count_);
    uint64_t at = draw * static_cast<uint64_t>(batch_) + static_cast<uint64_t>(rows.first);
    for (int64_t b = 0; b < rows.count;) {
      const Permutation order(count, seed_, at / count);
      for (uint64_t i = at % count; i < count && b < rows.count; ++i, ++b, ++at) samples_->read(static_cast<int64_t>(order(i)), 1, out + static_cast<size_t>(b) * size);
    }
  }

 private:
  const Tensor& input_;
  std::unique_ptr<Samples> samples_;
  uint64_t seed_;
  int64_t count_, batch_;
};

}  // namespace tsr
