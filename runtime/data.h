// Sources of training data, one per input. A batch is a pure function of (seed, batch number): the
// cursor of a checkpoint is the step, nothing else. Inputs read with the same seed stay aligned,
// because order and window positions do not depend on the key.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "dataspec.h"
#include "error.h"
#include "import.h"
#include "io.h"
#include "npy.h"
#include "random.h"
#include "tensor.h"

namespace tsr {

constexpr int64_t kScanLimit = int64_t{1} << 24;  // files up to this many elements are checked in full when opened

class Source {
 public:
  virtual ~Source() = default;
  virtual void fill(uint64_t step, char* out) const = 0;
  virtual bool fixed() const { return false; }       // every batch is the same one
  virtual int64_t samples() const { return 0; }      // 0: unlimited
};

inline std::string input_text(const Tensor& input) {
  return "'" + std::string(input.name) + "' (" + dtype_name(input.dtype) + ", " + shape_text(input.shape, input.rank) + ")";
}

// The shape rule of arrays: exactly the input's shape, or any number of samples on the first axis.
inline bool shape_fits(const Tensor& input, const NpyFile& file, bool* exact) {
  if (file.rank() != input.rank) return false;
  *exact = true;
  for (int axis = 0; axis < input.rank; ++axis) {
    if (file.shape[static_cast<size_t>(axis)] == input.shape[axis]) continue;
    if (axis > 0 || !input.batched) return false;
    *exact = false;
  }
  return true;
}

inline void check_shape(const Tensor& input, const NpyFile& file, bool* exact) {
  if (shape_fits(input, file, exact)) return;
  std::string want = shape_text(input.shape, input.rank);
  if (input.batched) {
    want = "N";
    for (int axis = 1; axis < input.rank; ++axis) want += format(" x %lld", static_cast<long long>(input.shape[axis]));
  }
  throw Error("T0905", "input '" + std::string(input.name) + "' takes an array of shape " + want + ", " + quoted(file.path()) + " has " +
              shape_text(file.shape.data(), file.rank()), input.batched ? "the first axis counts samples and may have any length; reshape the others" : "reshape the array");
}

// Rows of a .npy file in a seeded order, epoch by epoch; the remainder of an epoch that does not
// fill a batch is dropped (another one in every epoch). An array of exactly one batch is fixed.
class NpySource : public Source {
 public:
  NpySource(const Tensor& input, const std::string& path, uint64_t seed) : input_(input), file_(path), seed_(seed) {
    check_type(input, file_.element(), path);
    check_shape(input, file_, &exact_);
    if (input.batched) samples_ = file_.shape[0];
    batch_ = input.batched ? input.shape[0] : 1;
    if (input.batched && samples_ < batch_)
      throw Error("T0912", quoted(path) + format(" holds %lld samples, a batch of input '%s' takes %lld", static_cast<long long>(samples_), input.name,
                  static_cast<long long>(batch_)), "give at least one batch, or compile with a smaller batch");
    int64_t total = 1;
    for (const int64_t extent : file_.shape) total *= extent;
    if (total <= kScanLimit) import_values(input, file_.element(), file_.data(), total, nullptr, {file_.path().c_str(), 0, false});
  }
  bool fixed() const override { return exact_; }
  int64_t samples() const override { return exact_ ? 0 : samples_; }
  void fill(uint64_t step, char* out) const override {
    if (exact_) return copy(0, batch_, out);
    const uint64_t per_epoch = static_cast<uint64_t>(samples_ / batch_);
    const Permutation order(static_cast<uint64_t>(samples_), seed_, step / per_epoch);
    const size_t size = static_cast<size_t>(sample_elements(input_)) * dtype_size(input_.dtype);
    for (int64_t b = 0; b < batch_; ++b)
      copy(static_cast<int64_t>(order(step % per_epoch * static_cast<uint64_t>(batch_) + static_cast<uint64_t>(b))), 1, out + static_cast<size_t>(b) * size);
  }

 private:
  void copy(int64_t first, int64_t count, char* out) const {
    const int64_t size = sample_elements(input_);
    import_values(input_, file_.element(), file_.data() + first * size * file_.element().size, count * size, out, {file_.path().c_str(), first * size, false});
  }
  const Tensor& input_;
  NpyFile file_;
  uint64_t seed_;
  int64_t samples_ = 0, batch_ = 1;
  bool exact_ = false;
};

// A file of tokens, shared by an input and the labels that follow it by one token.
class TokenFile {
 public:
  TokenFile(const std::string& path, bool wide) : file_(path), width_(wide ? 2 : 1) {
    if (file_.size() % static_cast<size_t>(width_) != 0)
      throw Error("T0903", quoted(path) + format(" has %zu bytes, an odd number, and cannot hold 16-bit tokens", file_.size()), "write it with array.astype('<u2').tofile(path)");
  }
  int64_t count() const { return static_cast<int64_t>(file_.size()) / width_; }
  const char* at(int64_t token) const { return file_.data() + token * width_; }
  Format element() const { return {Kind::unsigned_integer, width_}; }
  const std::string& path() const { return file_.path(); }

 private:
  MappedFile file_;
  int width_;
};

// Windows of a token stream at seeded random positions. `shift` 1 gives the next-token labels;
// `span` is how many tokens the input and its labels need together.
class TokenSource : public Source {
 public:
  TokenSource(const Tensor& input, std::shared_ptr<TokenFile> file, int shift, int64_t span, uint64_t seed)
      : input_(input), file_(std::move(file)), shift_(shift), span_(span), seed_(seed) {
    const std::string& path = file_->path();
    if (!is_integer(input.dtype)) throw Error("T0906", "input " + input_text(input) + " takes floating-point numbers, " + quoted(path) + " is a stream of tokens",
                                              "give a .npy file, or a sampler such as normal()");
    if (file_->count() < span)
      throw Error("T0909", quoted(path) + format(" holds %lld tokens, one window of input '%s' needs %lld", static_cast<long long>(file_->count()), input.name,
                  static_cast<long long>(span)), "give a longer text, or compile with a shorter sequence");
    if (file_->count() <= kScanLimit)
      import_values(input, file_->element(), file_->at(0), file_->count(), nullptr, {path.c_str(), 0, true});
  }
  void fill(uint64_t step, char* out) const override {
    const int64_t length = sample_elements(input_), batch = input_.batched ? input_.shape[0] : 1;
    const uint64_t positions = static_cast<uint64_t>(file_->count() - span_ + 1);
    for (int64_t b = 0; b < batch; ++b) {
      const uint64_t index = step * static_cast<uint64_t>(batch) + static_cast<uint64_t>(b);
      const int64_t first = static_cast<int64_t>(integer_below(seed_, stream_of("windows"), index, positions)) + shift_;
      import_values(input_, file_->element(), file_->at(first), length, out + static_cast<size_t>(b * length) * dtype_size(input_.dtype),
                    {file_->path().c_str(), first, true});
    }
  }

 private:
  const Tensor& input_;
  std::shared_ptr<TokenFile> file_;
  int shift_;
  int64_t span_;
  uint64_t seed_;
};

// Synthetic values, new ones every step.
class SamplerSource : public Source {
 public:
  SamplerSource(const Tensor& input, const DataSpec& spec, uint64_t seed) : input_(input), spec_(spec), seed_(seed), stream_(stream_of(std::string("data.") + input.name)) {
    const bool integers = is_integer(input.dtype);
    const bool fits = spec.kind == DataSpec::Kind::zeros || (spec.kind == DataSpec::Kind::randint) == integers;
    if (!fits) throw Error("T0906", "input " + input_text(input) + " cannot be sampled by " + quoted(spec.text),
                           integers ? "use randint(n) for integers" : "use uniform(lo,hi) or normal(mean,std) for floating-point numbers");
    if (spec.kind != DataSpec::Kind::randint) return;
    if (spec_.a == 0) spec_.a = input.index_bound > 0 ? static_cast<double>(input.index_bound) : 2;
    if (input.index_bound > 0 && spec_.a > static_cast<double>(input.index_bound))
      throw Error("T0908", "input '" + std::string(input.name) + "': " + quoted(spec.text) + format(" draws values up to %.0f, valid ones are 0 .. %lld", spec_.a - 1,
                  static_cast<long long>(input.index_bound - 1)), format("use randint(%lld)", static_cast<long long>(input.index_bound)));
  }
  bool fixed() const override { return spec_.kind == DataSpec::Kind::zeros; }
  void fill(uint64_t step, char* out) const override {
    const int64_t total = elements(input_) * scalars_per_element(input_.dtype), blocks = (total + kRandomBlock - 1) / kRandomBlock;
    const size_t size = dtype_size(scalar_type(input_.dtype));
#pragma omp parallel for schedule(static) if (blocks > 2048)
    for (int64_t block = 0; block < blocks; ++block) {
      double values[kRandomBlock] = {0, 0, 0, 0};
      const uint64_t counter = step * static_cast<uint64_t>(blocks) + static_cast<uint64_t>(block);
      if (spec_.kind == DataSpec::Kind::normal) normal_block(seed_, stream_, counter, values);
      else if (spec_.kind != DataSpec::Kind::zeros) uniform_block(seed_, stream_, counter, values);
      for (double& value : values)
        value = spec_.kind == DataSpec::Kind::uniform ? spec_.a + (spec_.b - spec_.a) * value :
                spec_.kind == DataSpec::Kind::normal ? spec_.a + spec_.b * value : std::floor(spec_.a * value);
      const int64_t first = block * kRandomBlock, left = total - first;
      store_reals(input_.dtype, values, out + static_cast<size_t>(first) * size, static_cast<size_t>(left < kRandomBlock ? left : kRandomBlock));
    }
  }

 private:
  const Tensor& input_;
  DataSpec spec_;
  uint64_t seed_, stream_;
};

}  // namespace tsr
