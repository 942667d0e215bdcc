// `infer`: .npy files in, .npy files out, any number of samples.
#pragma once
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "data.h"
#include "init.h"
#include "npy.h"
#include "options.h"
#include "session.h"
#include "weights.h"

namespace tsr {
namespace cli {

constexpr Flag kInferFlags[] = {
    {"--input", "KEY=FILE.npy", "values of input KEY (once per input); the first axis counts samples"},
    {"--output", "NAME=FILE.npy", "where output NAME goes; FILE.npy alone when there is one output"},
    {"--weights", "FILE", "weights (safetensors, or a checkpoint); without: initial values"},
    {"--seed", "N", "of initial values and random operations (0)"},
    {"--threads", "N", "threads (OMP_NUM_THREADS, else the processors available)"},
};
constexpr Command kInfer = {"infer", "Computes outputs for any number of samples.", kInferFlags, sizeof kInferFlags / sizeof kInferFlags[0], nullptr, nullptr};

// Parameters for a forward run: from a file, or the initial ones with a note that they are.
inline void load_or_initialise(Session* session, const std::string& weights, uint64_t seed) {
  const Program& program = session->program();
  if (!weights.empty()) return load_weights(program, weights, session->params());
  initialise(program, seed, session->params());
  if (program.param_count > 0) fprintf(stderr, "note: no --weights given; the parameters have their initial values (seed %llu)\n", static_cast<unsigned long long>(seed));
}

// A batch of one input at a time out of a mapped array.
class InferInput {
 public:
  InferInput(const Tensor& input, const std::string& path) : input_(input), file_(path) {
    bool exact;
    check_type(input, file_.element(), path);
    check_shape(input, file_, &exact);
  }
  int64_t samples() const { return input_.batched ? file_.shape[0] : -1; }
  const std::string& path() const { return file_.path(); }
  void read(int64_t first, int64_t count, char* out) const {
    const int64_t size = sample_elements(input_);
    import_values(input_, file_.element(), file_.data() + first * size * file_.element().size, count * size, out, {file_.path().c_str(), first * size, false});
  }
  const Tensor& tensor() const { return input_; }

 private:
  const Tensor& input_;
  NpyFile file_;
};

// A growing .npy file, written atomically. Half types are widened to float32, which NumPy can read.
class InferOutput {
 public:
  InferOutput(const Tensor& output, const std::string& path, int64_t samples) : output_(output), file_(path) {
    std::vector<int64_t> shape(output.shape, output.shape + output.rank);
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
  const Tensor& tensor() const { return output_; }

 private:
  const Tensor& output_;
  AtomicFile file_;
  bool widen_ = false;
};

inline std::vector<std::unique_ptr<InferInput>> open_inputs(const Function& function, const Arguments& arguments, int64_t* samples) {
  std::vector<std::unique_ptr<InferInput>> inputs(static_cast<size_t>(function.input_count));
  std::vector<std::string> names, missing;
  for (int i = 0; i < function.input_count; ++i) names.push_back(function.inputs[i].name);
  for (const std::string& argument : arguments.all("--input")) {
    std::string key, path;
    split_key("--input", argument, &key, &path);
    size_t index = 0;
    while (index < names.size() && names[index] != key) ++index;
    if (index == names.size()) {
      const std::string guess = nearest(key, names);
      throw Error("T0910", "--input: the program has no input " + quoted(key), (guess.empty() ? "" : "did you mean '" + guess + "'? ") + std::string("inputs: ") + joined(names), kExitUsage);
    }
    inputs[index].reset(new InferInput(function.inputs[index], path));
  }
  const InferInput* first = nullptr;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!inputs[i]) { missing.push_back(input_text(function.inputs[i])); continue; }
    const int64_t count = inputs[i]->samples();
    if (count < 0) continue;
    if (!first) first = inputs[i].get(), *samples = count;
    if (count != *samples)
      throw Error("T0912", quoted(first->path()) + format(" holds %lld samples, ", static_cast<long long>(*samples)) + quoted(inputs[i]->path()) + format(" holds %lld", static_cast<long long>(count)),
                  "sample i of one file belongs to sample i of the other: the files need equally many");
  }
  if (!missing.empty()) throw Error("T0910", "no data for input " + joined(missing), "add --input KEY=FILE.npy for each", kExitUsage);
  return inputs;
}

inline std::vector<std::unique_ptr<InferOutput>> open_outputs(const Function& function, const Arguments& arguments, int64_t samples) {
  std::vector<std::unique_ptr<InferOutput>> outputs(static_cast<size_t>(function.output_count));
  std::vector<std::string> names;
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
    outputs[index].reset(new InferOutput(function.outputs[index], path, samples));
  }
  return outputs;
}

inline int infer_command(const Program& program, const Arguments& arguments) {
  if (!program.infer) throw Error("T0924", std::string(program.name) + " has no forward outputs", "its source returns only a loss", kExitUsage);
  const Function& function = *program.infer;
  const uint64_t seed = static_cast<uint64_t>(arguments.integer("--seed", 0, 0));
  int64_t samples = -1;
  const auto inputs = open_inputs(function, arguments, &samples);
  const auto outputs = open_outputs(function, arguments, samples);
  Session session(program, thread_count(arguments));
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
  for (size_t i = 0; i < inputs.size(); ++i)
    if (inputs[i]->samples() < 0) inputs[i]->read(0, 1, session.arena().at(in_offsets[i]));
  const int64_t total = samples < 0 ? function.batch : samples;
  for (int64_t first = 0; first < total; first += function.batch) {
    const int64_t count = total - first < function.batch ? total - first : function.batch;
    for (size_t i = 0; i < inputs.size(); ++i)
      if (inputs[i]->samples() >= 0) inputs[i]->read(first, count, session.arena().at(in_offsets[i]));
    session.infer(in.data(), out.data(), count, seed, static_cast<uint64_t>(first / function.batch));
    for (size_t i = 0; i < outputs.size(); ++i)
      if (outputs[i] && (outputs[i]->tensor().batched || first == 0))
        outputs[i]->write(session.arena().at(out_offsets[i]), sample_elements(outputs[i]->tensor()) * (outputs[i]->tensor().batched ? count : 1));
  }
  for (const auto& output : outputs)
    if (output) output->commit();
  return kExitOk;
}

}  // namespace cli
}  // namespace tsr
