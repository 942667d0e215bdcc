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
#include "ranks.h"
#include "samples.h"
#include "tensor.h"

namespace tsr {

inline int input_index(const Function& function, const std::string& key) {
  for (int i = 0; i < function.input_count; ++i)
    if (key == function.inputs[i].name) return i;
  return -1;
}

// Every key names an input, and none does twice.
inline void check_keys(const Function& function, const std::vector<DataSpec>& specs, const char* flag) {
  std::vector<std::string> names;
  for (int i = 0; i < function.input_count; ++i) names.push_back(function.inputs[i].name);
  for (size_t s = 0; s < specs.size(); ++s) {
    if (input_index(function, specs[s].key) < 0) {
      const std::string guess = nearest(specs[s].key, names);
      throw Error("T0910", std::string(flag) + ": the program has no input " + quoted(specs[s].key),
                  (guess.empty() ? "" : "did you mean '" + guess + "'? ") + std::string("inputs: ") + joined(names), kExitUsage);
    }
    for (size_t other = 0; other < s; ++other)
      if (specs[s].key == specs[other].key)
        throw Error("T0910", std::string(flag) + ": input " + quoted(specs[s].key) + " is given twice", "keep one of them", kExitUsage);
  }
}

// The axes of a grid are the inputs with as many rows as `input`, in the order of their specs; the last varies fastest.
inline std::unique_ptr<Samples> open_grid(const Function& function, const std::vector<DataSpec>& specs, const DataSpec& spec, const Tensor& input) {
  int64_t points = 1, inner = 1;
  bool after = false;
  for (const DataSpec& axis : specs) {
    if (axis.kind != DataSpec::Kind::grid) continue;
    const Tensor& of = function.inputs[input_index(function, axis.key)];
    if (of.rank == 0 || input.rank == 0 || of.shape[0] != input.shape[0]) continue;
    if (__builtin_mul_overflow(points, axis.count, &points) || points > int64_t{1} << 40)
      throw Error("T0912", quoted(spec.text) + ": the grid has more than 2^40 points", "take fewer values along each axis", kExitUsage);
    if (after) inner *= axis.count;
    if (&axis == &spec) after = true;
  }
  return std::unique_ptr<Samples>(new GridSamples(input, spec, inner, points));
}

class Dataset {
 public:
  // `flag` ("--data" or "--val") is named in messages. Every input needs a spec, except one integer
  // input of the same shape as an input fed by tokens: it gets the tokens that follow.
  // `keep`: how many steps use a batch before the next is drawn; 0: all.
  // On a mesh, batches are those of all ranks together, of which each reads the rows that it has.
  Dataset(const Function& function, const std::vector<DataSpec>& specs, uint64_t seed, const char* flag, int64_t keep = 1, const Ranks* ranks = nullptr)
      : parts_(function.inputs), ranks_(ranks), whole_(whole_inputs(function)), function_(function), keep_(static_cast<uint64_t>(keep)) {
    function_.inputs = whole_.data();
    check_keys(function_, specs, flag);
    sources_.resize(static_cast<size_t>(function.input_count));
    for (const DataSpec& spec : specs) open(spec, specs, seed);
    std::vector<std::string> missing;
    for (int i = 0; i < function.input_count; ++i)
      if (!sources_[static_cast<size_t>(i)]) missing.push_back(input_text(function_.inputs[i]));
    if (!missing.empty())
      throw Error("T0910", std::string("no data for input ") + joined(missing), std::string("add ") + flag + " KEY=SPEC for each; " + kSpecHelp, kExitUsage);
    check_samples(specs);
  }

  void reserve(Arena* arena) {
    for (int i = 0; i < function_.input_count; ++i) {
      offsets_.push_back(arena->reserve(dense_bytes(parts_[i])));
      if (cut_inside(i)) offsets_inside_.push_back(arena->reserve(static_cast<size_t>(rows_of(i).count * row_elements(function_.inputs[i])) * dtype_size(parts_[i].dtype)));
    }
  }
  // After Arena::map().
  void bind(const Arena& arena) {
    size_t next_inside = 0;
    for (size_t i = 0; i < offsets_.size(); ++i) {
      buffers_.push_back(arena.at(offsets_[i]));
      inside_.push_back(cut_inside(static_cast<int>(i)) ? arena.at(offsets_inside_[next_inside++]) : nullptr);
      if (sources_[i]->fixed()) fill_input(i, 0);
    }
  }
  // Which batch a step uses.
  uint64_t draw(uint64_t step) const { return keep_ == 0 ? 0 : step / keep_; }
  // Whether every step has the same batch.
  bool constant() const {
    for (const auto& source : sources_)
      if (keep_ != 0 && !source->fixed()) return false;
    return true;
  }
  // The batch of one step.
  void fill(uint64_t step) {
    const uint64_t wanted = draw(step);
    if (filled_ && wanted == held_) return;
    for (size_t i = 0; i < buffers_.size(); ++i)
      if (!sources_[i]->fixed()) fill_input(i, wanted);
    held_ = wanted, filled_ = true;
  }
  // What a user may not expect of the files given.
  std::vector<std::string> notes(const std::vector<DataSpec>& specs) const {
    std::vector<std::string> out;
    for (const DataSpec& spec : specs) {
      const int index = index_of(spec.key);
      const long long have = sources_[static_cast<size_t>(index)]->samples(), batch = function_.inputs[index].rank > 0 ? function_.inputs[index].shape[0] : 1;
      if (have > 0 && have < batch) out.push_back(quoted(spec.text) + format(" holds %lld samples, a batch of input '%s' takes %lld: each batch repeats some", have, spec.key.c_str(), batch));
      if (keep_ == 0 && have > batch) out.push_back(format("only the first batch of %lld of the %lld samples in ", batch, have) + quoted(spec.text) + " is used; --resample K draws others");
    }
    return out;
  }
  const void* const* inputs() const { return const_cast<const void* const*>(reinterpret_cast<void* const*>(buffers_.data())); }

 private:
  static std::vector<Tensor> whole_inputs(const Function& function) {
    std::vector<Tensor> out;
    for (int i = 0; i < function.input_count; ++i) out.push_back(function.inputs[i].cut ? whole_of(function.inputs[i]) : function.inputs[i]);
    return out;
  }
  // The rows of an input that this rank has, and whether it has only a part of each.
  Rows rows_of(int index) const {
    const Tensor& part = parts_[index];
    return {part.rank > 0 ? corner_of(part, ranks_).at[0] : 0, part.rank > 0 ? part.shape[0] : 1};
  }
  bool cut_inside(int index) const {
    bool out = false;
    for (int d = 1; parts_[index].cut && d < parts_[index].rank; ++d) out = out || parts_[index].cut->axes[d] != 0;
    return out;
  }
  void fill_input(size_t i, uint64_t draw) {
    const int index = static_cast<int>(i);
    const Rows rows = rows_of(index);
    if (!inside_[i]) return sources_[i]->fill(draw, rows, buffers_[i]);
    sources_[i]->fill(draw, rows, inside_[i]);
    const Tensor& part = parts_[index];
    Corner corner = corner_of(part, ranks_);
    corner.at[0] = 0;
    const size_t element = dtype_size(part.dtype), length = static_cast<size_t>(row_length(part)) * element;
    each_row(part, corner, [&](int64_t row, int64_t first) { memcpy(buffers_[i] + static_cast<size_t>(row) * length, inside_[i] + static_cast<size_t>(first) * element, length); });
  }
  int index_of(const std::string& key) const { return input_index(function_, key); }

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
    } else if (spec.kind == DataSpec::Kind::constant) {
      source.reset(new ConstantSource(input, spec));
    } else if (spec.kind == DataSpec::Kind::grid) {
      source.reset(new SampleSource(input, open_grid(function_, specs, spec, input), spec.text, seed));
    } else if (spec.kind == DataSpec::Kind::npy) {
      std::unique_ptr<NpySamples> samples(new NpySamples(input, spec.text, input.rank > 0));
      samples->scan();
      source.reset(new SampleSource(input, std::move(samples), spec.text, seed));
    } else {
      const auto file = std::make_shared<TokenFile>(spec.text, spec.kind == DataSpec::Kind::words);
      const int next = follower(index, specs);
      const int64_t span = sample_elements(input) + (next >= 0 ? 1 : 0);
      source.reset(new TokenSource(input, file, 0, span, seed));
      if (next >= 0) sources_[static_cast<size_t>(next)].reset(new TokenSource(function_.inputs[next], file, 1, span, seed));
    }
  }

  // Arrays of inputs with equally many rows are read side by side, so they must hold equally many samples.
  void check_samples(const std::vector<DataSpec>& specs) const {
    for (size_t s = 0; s < specs.size(); ++s) {
      const int index = index_of(specs[s].key);
      const int64_t have = sources_[static_cast<size_t>(index)]->samples();
      for (size_t before = 0; have > 0 && before < s; ++before) {
        const int other = index_of(specs[before].key);
        const int64_t count = sources_[static_cast<size_t>(other)]->samples();
        if (count == 0 || count == have || function_.inputs[other].shape[0] != function_.inputs[index].shape[0]) continue;
        throw Error("T0912", quoted(specs[before].text) + format(" holds %lld samples, ", static_cast<long long>(count)) + quoted(specs[s].text) +
                    format(" holds %lld", static_cast<long long>(have)), "sample i of one belongs to sample i of the other: they need equally many");
      }
    }
  }

  const Tensor* parts_;
  const Ranks* ranks_;
  std::vector<Tensor> whole_;
  Function function_;  // with whole inputs
  uint64_t keep_, held_ = 0;
  bool filled_ = false;
  std::vector<std::unique_ptr<Source>> sources_;
  std::vector<size_t> offsets_;
  std::vector<size_t> offsets_inside_;
  std::vector<char*> buffers_, inside_;
};

}  // namespace tsr
