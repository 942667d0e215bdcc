// Weights as safetensors: dense row-major under the parameters' own names, so that NumPy and PyTorch
// read what we write and we read what they write (any float type, converted).
#pragma once
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "dtype.h"
#include "error.h"
#include "program.h"
#include "parts.h"
#include "ranks.h"
#include "safetensors.h"
#include "stored.h"
#include "tensor.h"
#include "whole.h"

namespace tsr {

constexpr const char* kOptimizerPrefix = "optimizer.";  // tensors of a checkpoint that are no weights

inline TensorHeader header_of(const Tensor& param, const std::string& prefix = "") {
  return {prefix + param.name, param.dtype, std::vector<int64_t>(param.shape, param.shape + param.rank), dense_bytes(param)};
}

// Rank 0 writes; all ranks call it.
inline void save_weights(const Program& program, const char* arena, const std::string& path, Ranks* ranks = nullptr) {
  if (ranks && ranks->rank() != 0) {
    for (int i = 0; i < program.param_count; ++i) {
      std::vector<char> whole(dense_bytes(whole_of(program.params[i])));
      gather(program.params[i], arena, ranks, whole.data());
    }
    return;
  }
  std::vector<TensorHeader> headers;
  for (int i = 0; i < program.param_count; ++i) headers.push_back(header_of(whole_of(program.params[i])));
  const Metadata metadata = {{"tesserac.kind", "weights"}, {"tesserac.program", program.name}, {"tesserac.version", program.version}};
  write_safetensors(path, headers, metadata, [&](size_t i, char* out) { gather(program.params[i], arena, ranks, out); });
}

inline bool same_shape(const Tensor& whole, const StoredTensor& stored) {
  return stored.shape == std::vector<int64_t>(whole.shape, whole.shape + whole.rank);
}

// Lists every tensor of `file` that does not fit the program under `prefix`; throws when there is one.
inline void check_tensors(const Program& program, const Stored& file, bool allow_optimizer) {
  std::vector<std::string> problems, names;
  for (int i = 0; i < program.param_count; ++i) {
    const Tensor param = whole_of(program.params[i]);
    const std::string name = quoted(param.name), want = shape_text(param.shape, param.rank);
    const Stored::Whole* const found = file.find(param.name);
    names.push_back(param.name);
    if (!found) { problems.push_back("missing " + name + " (" + want + ")"); continue; }
    const StoredTensor& stored = found->about;
    if (!same_shape(param, stored))
      problems.push_back("wrong shape of " + name + ": the file has " + shape_text(stored.shape.data(), static_cast<int>(stored.shape.size())) + ", the program takes " + want);
    const bool complex = scalars_per_element(param.dtype) == 2;
    if (!stored.known || (complex != (stored.element.kind == Kind::complex)))
      problems.push_back("type of " + name + ": the file has " + quoted(stored.type) + ", which does not convert to " + dtype_name(param.dtype));
  }
  for (const Stored::Whole& whole : file.tensors) {
    const StoredTensor& stored = whole.about;
    bool wanted = allow_optimizer && stored.name.compare(0, std::string(kOptimizerPrefix).size(), kOptimizerPrefix) == 0;
    for (const std::string& name : names) wanted = wanted || name == stored.name;
    if (wanted) continue;
    const std::string guess = nearest(stored.name, names);
    problems.push_back("extra " + quoted(stored.name) + " (" + shape_text(stored.shape.data(), static_cast<int>(stored.shape.size())) + ")" +
                       (guess.empty() || file.find(guess) ? "" : "; did you mean '" + guess + "'?"));
  }
  if (problems.empty()) return;
  std::string message = quoted(file.path()) + " does not fit " + program.name + ":";
  for (const std::string& problem : problems) message += "\n  - " + problem;
  throw Error("T0914", message, std::string("`") + program.name + " describe` lists the parameters of the program");
}

// One stored tensor into its place in an arena, converted.
inline void place(const Tensor& param, const StoredTensor& stored, char* arena) {
  const int per = scalars_per_element(param.dtype);
  const int64_t rows = row_count(param), length = row_length(param);
  std::vector<double> row(static_cast<size_t>(length * per));
  std::vector<char> converted(static_cast<size_t>(length) * dtype_size(param.dtype));
  for (int64_t r = 0; r < rows; ++r) {
    const char* const in = stored.data + r * length * stored.element.size;
    if (stored.element == format_of(param.dtype)) { unpack_row(param, in, r, arena); continue; }
    load_reals(stored.element, in, row.data(), row.size());
    store_reals(param.dtype, row.data(), converted.data(), row.size());
    unpack_row(param, converted.data(), r, arena);
  }
}

inline void check_finite(const Tensor& param, const StoredTensor& stored, const std::string& path) {
  const int64_t per = scalars_per_element(param.dtype), total = elements(param) * per;
  const int size = stored.element.kind == Kind::complex ? stored.element.size / 2 : stored.element.size;
  double block[512];
  for (int64_t i = 0; i < total; i += 512) {
    const int64_t count = total - i < 512 ? total - i : 512;
    load_reals(stored.element, stored.data + i * size, block, static_cast<size_t>(count));
    for (int64_t j = 0; j < count; ++j)
      if (!stays_finite(param.dtype, block[j]))
        throw Error("T0915", quoted(path) + ": '" + param.name + "' holds " + (std::isnan(block[j]) ? "NaN" : std::isinf(block[j]) ? "infinity" : format("%g (too large for %s)", block[j], dtype_name(param.dtype))) + format(" at position %lld", static_cast<long long>((i + j) / per)),
                    "these weights come from a run that diverged; use an earlier file");
  }
}

// Reads weights, from a weights file or a checkpoint, into an arena: of a program on a mesh, the parts of this rank.
inline void load_weights(const Program& program, const std::string& path, char* arena, const Ranks* ranks = nullptr) {
  Stored file(path);
  check_tensors(program, file, file.meta("tesserac.kind") == "checkpoint");
  const auto each = [&](const auto& use) {
    std::vector<char> memory;
    for (int i = 0; i < program.param_count; ++i) {
      if (!holds(program.params[i], ranks)) continue;
      const Stored::Whole& whole = *file.find(program.params[i].name);
      const Rectangle where = rectangle_of(program.params[i], ranks);
      if (file.summed()) file.verify(whole, where);
      use(program.params[i], file.part(whole, where, &memory));
      file.release(whole);
    }
  };
  each([&](const Tensor& param, const StoredTensor& part) { check_finite(param, part, path); });
  each([&](const Tensor& param, const StoredTensor& part) { place(param, part, arena); });
}

}  // namespace tsr
