// Sources that are not arrays: windows of token streams, samplers and constants.
#pragma once
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "dataspec.h"
#include "error.h"
#include "import.h"
#include "io.h"
#include "random.h"
#include "source.h"
#include "tensor.h"

namespace tsr {

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
  void fill(uint64_t step, Rows rows, char* out) const override {
    const int64_t length = sample_elements(input_), batch = input_.batched ? input_.shape[0] : 1, count = input_.batched ? rows.count : 1;
    const uint64_t positions = static_cast<uint64_t>(file_->count() - span_ + 1);
    for (int64_t b = 0; b < count; ++b) {
      const uint64_t index = step * static_cast<uint64_t>(batch) + static_cast<uint64_t>(b + (input_.batched ? rows.first : 0));
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

// Random values, new ones in every draw. Value number i of draw d is a function of seed, name of the input, d and i.
class SamplerSource : public Source {
 public:
  SamplerSource(const Tensor& input, const DataSpec& spec, uint64_t seed) : input_(input), spec_(spec), seed_(seed), stream_(stream_of(std::string("data.") + input.name)) {
    const bool integers = is_integer(input.dtype);
    if ((spec.kind == DataSpec::Kind::randint) != integers)
      throw Error("T0906", "input " + input_text(input) + " cannot be sampled by " + quoted(spec.text),
                  integers ? "use randint:N for integers" : "use uniform:LO:HI or normal:MEAN:STD for floating-point numbers");
    check_range(input, spec);
    if (spec.kind != DataSpec::Kind::randint) return;
    if (spec_.a == 0) spec_.a = input.index_bound > 0 ? static_cast<double>(input.index_bound) : 2;
    if (input.index_bound > 0 && spec_.a > static_cast<double>(input.index_bound))
      throw Error("T0908", "input '" + std::string(input.name) + "': " + quoted(spec.text) + format(" draws values up to %.0f, valid ones are 0 .. %lld", spec_.a - 1,
                  static_cast<long long>(input.index_bound - 1)), format("use randint:%lld", static_cast<long long>(input.index_bound)));
    if (!fits(input.dtype, static_cast<int64_t>(spec_.a) - 1))
      throw Error("T0908", "input " + input_text(input) + ": " + quoted(spec.text) + format(" draws values up to %.0f, which it does not hold", spec_.a - 1), "use a smaller bound");
  }
  void fill(uint64_t draw, Rows rows, char* out) const override {
    const int64_t total = elements(input_) * scalars_per_element(input_.dtype), blocks = (total + kRandomBlock - 1) / kRandomBlock;
    const int64_t each = row_elements(input_) * scalars_per_element(input_.dtype), begin = rows.first * each, end = begin + rows.count * each;
    const size_t size = dtype_size(scalar_type(input_.dtype));
#pragma omp parallel for schedule(static) if (end - begin > 8192)
    for (int64_t block = begin / kRandomBlock; block < (end + kRandomBlock - 1) / kRandomBlock; ++block) {
      double values[kRandomBlock];
      const uint64_t counter = draw * static_cast<uint64_t>(blocks) + static_cast<uint64_t>(block);
      if (spec_.kind == DataSpec::Kind::normal) normal_block(seed_, stream_, counter, values);
      else uniform_block(seed_, stream_, counter, values);
      for (double& value : values)
        value = spec_.kind == DataSpec::Kind::uniform ? spec_.a + (spec_.b - spec_.a) * value :
                spec_.kind == DataSpec::Kind::normal ? spec_.a + spec_.b * value : std::floor(spec_.a * value);
      const int64_t first = block * kRandomBlock, from = first > begin ? first : begin, to = first + kRandomBlock < end ? first + kRandomBlock : end;
      store_reals(input_.dtype, values + (from - first), out + static_cast<size_t>(from - begin) * size, static_cast<size_t>(to - from));
    }
  }

 private:
  const Tensor& input_;
  DataSpec spec_;
  uint64_t seed_, stream_;
};

// One value everywhere.
class ConstantSource : public Source {
 public:
  ConstantSource(const Tensor& input, const DataSpec& spec) : input_(input), value_(spec.a) {
    check_range(input, spec);
    if (!is_integer(input.dtype)) return;
    if (value_ != std::floor(value_) || std::fabs(value_) > 9e15) throw Error("T0906", "input " + input_text(input) + " cannot take " + quoted(spec.text), "give an integer");
    const int64_t whole = static_cast<int64_t>(value_);
    check_integers(input, {nullptr, 0, false}, 0, &whole, 1);
  }
  bool fixed() const override { return true; }
  int64_t rows() const { return input_.rank > 0 ? input_.shape[0] : 1; }
  void fill(uint64_t, Rows rows, char* out) const override {
    const int64_t whole = is_integer(input_.dtype) ? static_cast<int64_t>(value_) : 0, total = rows.count * row_elements(input_);
    const double real[2] = {value_, 0};  // complex inputs: no imaginary part
    for (int64_t i = 0; i < total; ++i) {
      char* const at = out + static_cast<size_t>(i) * dtype_size(input_.dtype);
      if (is_integer(input_.dtype)) store_integers(input_.dtype, &whole, at, 1);
      else store_reals(input_.dtype, real, at, static_cast<size_t>(scalars_per_element(input_.dtype)));
    }
  }

 private:
  const Tensor& input_;
  double value_;
};

}  // namespace tsr
