// All inputs of a function and where each gets its values from.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "data.h"
#include "error.h"
#include "memory.h"
#include "program.h"
#include "tensor.h"

namespace tsr {

class Dataset {
 public:
  // `flag` ("--data" or "--val") is named in messages. Every input needs a spec, except one integer
  // input of the same shape as an input fed by tokens: it gets the tokens that follow.
  Dataset(const Function& function, const std::vector<DataSpec>& specs, uint64_t seed, const char* flag) : function_(function) {
    check_keys(specs, flag);
    sources_.resize(static_cast<size_t>(function.input_count));
    for (const DataSpec& spec : specs) open(spec, specs, seed);
    std::vector<std::string> missing;
    for (int i = 0; i < function.input_count; ++i)
      if (!sources_[static_cast<size_t>(i)]) missing.push_back(input_text(function.inputs[i]));
    if (!missing.empty())
      throw Error("T0910", std::string("no data for input ") + joined(missing), std::string("add ") + flag + " KEY=SPEC for each; " + kSpecHelp, kExitUsage);
    check_samples(specs);
  }

  void reserve(Arena* arena) {
    for (int i = 0; i < function_.input_count; ++i) offsets_.push_back(arena->reserve(dense_bytes(function_.inputs[i])));
  }
  // After Arena::map().
  void bind(const Arena& arena) {
    for (size_t i = 0; i < offsets_.size(); ++i) {
      buffers_.push_back(arena.at(offsets_[i]));
      if (sources_[i]->fixed()) sources_[i]->fill(0, buffers_[i]);
    }
  }
  // The batch of one step.
  void fill(uint64_t step) {
    for (size_t i = 0; i < buffers_.size(); ++i)
      if (!sources_[i]->fixed()) sources_[i]->fill(step, buffers_[i]);
  }
  const void* const* inputs() const { return const_cast<const void* const*>(reinterpret_cast<void* const*>(buffers_.data())); }

 private:
  int index_of(const std::string& key) const {
    for (int i = 0; i < function_.input_count; ++i)
      if (key == function_.inputs[i].name) return i;
    return -1;
  }

  void check_keys(const std::vector<DataSpec>& specs, const char* flag) const {
    std::vector<std::string> names;
    for (int i = 0; i < function_.input_count; ++i) names.push_back(function_.inputs[i].name);
    for (size_t s = 0; s < specs.size(); ++s) {
      if (index_of(specs[s].key) < 0) {
        const std::string guess = nearest(specs[s].key, names);
        throw Error("T0910", std::string(flag) + ": the program has no input " + quoted(specs[s].key),
                    (guess.empty() ? "" : "did you mean '" + guess + "'? ") + std::string("inputs: ") + joined(names), kExitUsage);
      }
      for (size_t other = 0; other < s; ++other)
        if (specs[s].key == specs[other].key)
          throw Error("T0910", std::string(flag) + ": input " + quoted(specs[s].key) + " is given twice", "keep one of them", kExitUsage);
    }
  }

  // The input that receives the next tokens of `index`: the only other integer input of its shape
  // without a spec of its own; -1 if there is none.
  int follower(int index, const std::vector<DataSpec>& specs) const {
    const Tensor& input = function_.inputs[index];
    int found = -1;
    for (int i = 0; i < function_.input_count; ++i) {
      const Tensor& other = function_.inputs[i];
      bool free = i != index && is_integer(other.dtype) && other.rank == input.rank;
      for (int axis = 0; free && axis < input.rank; ++axis) free = other.shape[axis] == input.shape[axis];
      for (const DataSpec& spec : specs) free = free && spec.key != other.name;
      if (free && found >= 0) return -1;
      if (free) found = i;
    }
    return found;
  }

  void open(const DataSpec& spec, const std::vector<DataSpec>& specs, uint64_t seed) {
    const int index = index_of(spec.key);
    const Tensor& input = function_.inputs[index];
    std::unique_ptr<Source>& source = sources_[static_cast<size_t>(index)];
    if (spec.sampler()) {
      source.reset(new SamplerSource(input, spec, seed));
    } else if (spec.kind == DataSpec::Kind::npy) {
      source.reset(new NpySource(input, spec.text, seed));
    } else {
      const auto file = std::make_shared<TokenFile>(spec.text, spec.kind == DataSpec::Kind::words);
      const int next = follower(index, specs);
      const int64_t span = sample_elements(input) + (next >= 0 ? 1 : 0);
      source.reset(new TokenSource(input, file, 0, span, seed));
      if (next >= 0) sources_[static_cast<size_t>(next)].reset(new TokenSource(function_.inputs[next], file, 1, span, seed));
    }
  }

  // Arrays are read side by side, so they must hold equally many samples.
  void check_samples(const std::vector<DataSpec>& specs) const {
    const DataSpec* first = nullptr;
    int64_t count = 0;
    for (const DataSpec& spec : specs) {
      const int64_t have = sources_[static_cast<size_t>(index_of(spec.key))]->samples();
      if (have == 0) continue;
      if (!first) first = &spec, count = have;
      if (have != count)
        throw Error("T0912", quoted(first->text) + format(" holds %lld samples, ", static_cast<long long>(count)) + quoted(spec.text) +
                    format(" holds %lld", static_cast<long long>(have)), "sample i of one file belongs to sample i of the other: the files need equally many");
    }
  }

  const Function& function_;
  std::vector<std::unique_ptr<Source>> sources_;
  std::vector<size_t> offsets_;
  std::vector<char*> buffers_;
};

}  // namespace tsr
