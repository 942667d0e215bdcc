// `infer`: .npy files, grids and constants in, .npy files out, any number of samples.
#pragma once
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "dataset.h"
#include "init.h"
#include "npy.h"
#include "options.h"
#include "session.h"
#include "weights.h"
#include "whole.h"

namespace tsr {
namespace cli {

constexpr Flag kInferFlags[] = {
    {"--input", "KEY=SPEC", "values of input KEY (once per input): FILE.npy, whose first axis counts samples, grid:LO:HI:N or const:V"},
    {"--output", "NAME=FILE.npy", "where output NAME goes; FILE.npy alone when there is one output"},
    {"--weights", "FILE", "weights (safetensors, or a checkpoint); without: initial values"},
    {"--seed", "N", "of initial values and random operations (0)"},
    {"--reproducible", nullptr, "add what ranks have in their order, whatever exchanges it (processors always do)"},
    {"--threads", "N", "threads (OMP_NUM_THREADS, else the processors available)"},
};
constexpr Command kInfer = {"infer", "Computes outputs for any number of samples.", kInferFlags, sizeof kInferFlags / sizeof kInferFlags[0], nullptr,
    "Several grid inputs span a tensor grid: its points are the samples, in C order of the --input flags."};

// Parameters for a forward run: from a file, or the initial ones with a note that they are.
inline void load_or_initialise(Session* session, const std::string& weights, uint64_t seed) {
  const Program& program = session->program();
  if (!weights.empty()) return load_weights(program, weights, session->params(), session->ranks());
  initialise(program, seed, session->params(), session->ranks());
  if (program.param_count > 0 && (!session->ranks() || session->ranks()->rank() == 0)) fprintf(stderr, "note: no --weights given; the parameters have their initial values (seed %llu)\n", static_cast<unsigned long long>(seed));
}

// One value for every sample.
class ConstantSamples : public Samples {
 public:
  ConstantSamples(const Tensor& input, const DataSpec& spec) : source_(input, spec) {}
  int64_t count() const override { return -1; }
  void read(int64_t, int64_t, char* out) const override { source_.fill(0, {0, source_.rows()}, out); }

 private:
  ConstantSource source_;
};

struct InferInput {
  DataSpec spec;
  std::unique_ptr<Samples> samples;
};

inline std::unique_ptr<Samples> open_samples(const Function& function, const std::vector<DataSpec>& specs, const DataSpec& spec, const Tensor& input) {
  if (spec.kind == DataSpec::Kind::npy) return std::unique_ptr<Samples>(new NpySamples(input, spec.text, input.batched));
  if (spec.kind == DataSpec::Kind::grid) return open_grid(function, specs, spec, input);
  if (spec.kind == DataSpec::Kind::constant) return std::unique_ptr<Samples>(new ConstantSamples(input, spec));
  throw Error("T0911", "--input " + quoted(spec.key + "=" + spec.text) + ": infer takes no samplers and no tokens", "give FILE.npy, grid:LO:HI:N or const:V", kExitUsage);
}

// A growing .npy file, written atomically. Half types are widened to float32, which NumPy can read.
class InferOutput {
 public:
  InferOutput(const Tensor& output, const std::string& path, int64_t samples) : output_(output), file_(path) {
    const Tensor whole = whole_of(output);
    std::vector<int64_t> shape(whole.shape, whole.shape + whole.rank);
    if (output.batched && samples >= 0) shape[0] = samples;
    widen_ = output.dtype == DType::bf16;
    const std::string header = npy_header(widen_ ? DType::f32 : output.dtype, shape);
    file_.write(header.data(), header.size());
  }
  void write(const char* data, int64_t count) {
    if (!widen_) return file_.write(data, static_cast<size_t>(count) * dtype_size(output_.dtype));
    for (int64_t i = 0; i < count; ++i) {
      uint16_t bits;
      memcpy(&bits, data + 2 * i, 2);
      const float value = float_from_bf16(bits);
      file_.write(&value, 4);
    }
  }
  void commit() { file_.commit(); }

 private:
  const Tensor& output_;
  AtomicFile file_;
  bool widen_ = false;
};

// Opens every input; *samples gets how many there are, -1 when nothing says so.
inline std::vector<InferInput> open_inputs(const Function& function, const Arguments& arguments, int64_t* samples) {
  std::vector<InferInput> inputs(static_cast<size_t>(function.input_count));
  std::vector<std::string> missing;
  std::vector<DataSpec> specs;
  for (const std::string& argument : arguments.all("--input")) specs.push_back(parse_spec("--input", argument));
  check_keys(function, specs, "--input");
  for (const DataSpec& spec : specs) {
    const size_t index = static_cast<size_t>(input_index(function, spec.key));
    inputs[index] = {spec, open_samples(function, specs, spec, function.inputs[index])};
  }
  const InferInput* first = nullptr;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!inputs[i].samples) { missing.push_back(input_text(function.inputs[i])); continue; }
    const int64_t count = inputs[i].samples->count();
    if (count < 0) continue;
    if (!function.inputs[i].batched && count != function.inputs[i].shape[0])
      throw Error("T0912", quoted(inputs[i].spec.text) + format(" has %lld points, ", static_cast<long long>(count)) + "input " + input_text(function.inputs[i]) + " takes as many as its rows",
                  "only inputs with the batch axis take any number");
    if (!function.inputs[i].batched) continue;
    if (!first) first = &inputs[i], *samples = count;
    if (count != *samples)
      throw Error("T0912", quoted(first->spec.text) + format(" holds %lld samples, ", static_cast<long long>(*samples)) + quoted(inputs[i].spec.text) + format(" holds %lld", static_cast<long long>(count)),
                  "sample i of one belongs to sample i of the other: they need equally many");
  }
  if (!missing.empty()) throw Error("T0910", "no data for input " + joined(missing), "add --input KEY=SPEC for each: FILE.npy, grid:LO:HI:N or const:V", kExitUsage);
  return inputs;
}

// For every output the file that it goes to, or nothing.
inline std::vector<std::string> output_files(const Function& function, const Arguments& arguments) {
  std::vector<std::string> files(static_cast<size_t>(function.output_count)), names;
  for (int i = 0; i < function.output_count; ++i) names.push_back(function.outputs[i].name);
  if (!arguments.has("--output")) throw usage_error("infer: --output is missing", "outputs: " + joined(names));
  for (const std::string& argument : arguments.all("--output")) {
    std::string name = names[0], path = argument;
    if (argument.find('=') != std::string::npos || names.size() > 1) split_key("--output", argument, &name, &path);
    size_t index = 0;
    while (index < names.size() && names[index] != name) ++index;
    if (index == names.size()) {
      const std::string guess = nearest(name, names);
      throw Error("T0910", "--output: the program has no output " + quoted(name), (guess.empty() ? "" : "did you mean '" + guess + "'? ") + std::string("outputs: ") + joined(names), kExitUsage);
    }
    if (!files[index].empty()) throw Error("T0910", "--output: output " + quoted(name) + " is given twice", "keep one of them", kExitUsage);
    for (const std::string& other : files)
      if (!other.empty() && behind_links(other) == behind_links(path) && !is_special(path))
        throw Error("T0910", "--output: two outputs go to " + quoted(path), "give each a file of its own", kExitUsage);
    files[index] = path;
  }
  return files;
}

// Of a batch of all ranks together, the rows that this one has: all of it, unless axes divide batches.
struct RankRows {
  int64_t batch, before, most;  // rows of the whole batch, in front of this rank's, and this rank's

  RankRows(const Function& function, const Ranks* ranks) : batch(function.batch), before(0), most(function.batch) {
    for (int i = 0; i < function.input_count; ++i)
      if (function.inputs[i].batched && function.inputs[i].cut) batch = function.inputs[i].cut->shape[0], before = corner_of(function.inputs[i], ranks).at[0];
  }
  // How many of the first `count` rows of a batch are this rank's.
  int64_t here(int64_t count) const { return count <= before ? 0 : count - before < most ? count - before : most; }
};

// The rows of all ranks, where axes divide them: the parts along the last axis are neighbours. A call of all ranks.
inline const char* all_rows(const Tensor& output, Ranks* ranks, const char* mine, std::vector<char>* one, std::vector<char>* other) {
  size_t bytes = dense_bytes(output);
  for (int axis = kMaxAxes - 1; output.cut && axis >= 0; --axis) {
    if (!(output.cut->axes[0] >> axis & 1u)) continue;
    one->resize(bytes * static_cast<size_t>(ranks->size(axis)));
    ranks->all_gather(Ranks::kOwn, axis, mine, one->data(), bytes);
    bytes = one->size();
    one->swap(*other);
    mine = other->data();
  }
  return mine;
}

inline int infer_command(const Program& program, const Arguments& arguments) {
  if (!program.infer) throw Error("T0924", std::string(program.name) + " has no forward outputs", "its source returns only a loss", kExitUsage);
  const Function& function = *program.infer;
  const uint64_t seed = static_cast<uint64_t>(arguments.integer("--seed", 0, 0));
  int64_t samples = -1;
  const auto inputs = open_inputs(function, arguments, &samples);
  Ranks* const ranks = process_ranks();
  const RankRows rows(function, ranks);
  const std::vector<std::string> files = output_files(function, arguments);
  std::vector<std::unique_ptr<InferOutput>> outputs(files.size());  // rank 0 writes
  for (size_t i = 0; i < files.size(); ++i)
    if (!files[i].empty() && (!ranks || ranks->rank() == 0)) outputs[i].reset(new InferOutput(function.outputs[i], files[i], samples));
  Session session(program, thread_count(arguments), ranks);
  session.reserve(false, true, 0);
  std::vector<size_t> in_offsets, out_offsets;
  for (int i = 0; i < function.input_count; ++i) in_offsets.push_back(session.arena().reserve(dense_bytes(function.inputs[i])));
  for (int i = 0; i < function.output_count; ++i) out_offsets.push_back(session.arena().reserve(dense_bytes(function.outputs[i])));
  session.map(false);
  load_or_initialise(&session, arguments.text("--weights"), seed);
  std::vector<const void*> in;
  std::vector<void*> out;
  for (const size_t offset : in_offsets) in.push_back(session.arena().at(offset));
  for (const size_t offset : out_offsets) out.push_back(session.arena().at(offset));
  const auto moves = [&](size_t i) { return function.inputs[i].batched && inputs[i].samples->count() >= 0; };
  for (size_t i = 0; i < inputs.size(); ++i)
    if (!moves(i)) inputs[i].samples->read(0, inputs[i].samples->count() < 0 ? 1 : function.inputs[i].shape[0], session.arena().at(in_offsets[i]));
  const int64_t total = samples < 0 ? rows.batch : samples;
  std::vector<char> one, other;
  for (int64_t first = 0; first < total; first += rows.batch) {
    const int64_t count = total - first < rows.batch ? total - first : rows.batch, here = rows.here(count);
    for (size_t i = 0; i < inputs.size(); ++i)
      if (moves(i) && here > 0) inputs[i].samples->read(first + rows.before, here, session.arena().at(in_offsets[i]));
    // A rank that has none of the rows takes part nevertheless, with what its memory holds.
    session.infer(in.data(), out.data(), here > 0 ? here : 1, seed, static_cast<uint64_t>(first / rows.batch));
    for (size_t i = 0; i < files.size(); ++i) {
      const Tensor& output = function.outputs[i];
      if (files[i].empty() || (!output.batched && first > 0)) continue;
      const char* const values = all_rows(output, ranks, session.arena().at(out_offsets[i]), &one, &other);
      if (outputs[i]) outputs[i]->write(values, sample_elements(output) * (output.batched ? count : 1));
    }
  }
  for (const auto& output : outputs)
    if (output) output->commit();
  return kExitOk;
}

}  // namespace cli
}  // namespace tsr
