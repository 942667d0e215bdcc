// The C interface (tessera.h) on top of Session. An emitted library has one file that includes this
// header and defines tsr::unit_programs():
//   #include "runtime/capi.h"
//   tsr::ProgramList tsr::unit_programs() { return {list, count}; }
#pragma once
#include <sched.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "error.h"
#include "import.h"
#include "init.h"
#include "optimizer.h"
#include "session.h"
#include "tessera.h"
#include "weights.h"

namespace tsr {

struct ProgramList {
  const Program* const* programs;
  int count;
};
ProgramList unit_programs();  // defined by the emitted library

}  // namespace tsr

namespace tsr {

// A batch of arrays for calls with fewer samples. Programs compute whole tiles, so they may read and write a full
// batch whatever `elements` says, and the caller's arrays may end after the samples.
class PartialBatch {
 public:
  void reserve(const Function& function, Arena* arena) {
    for (int i = 0; i < function.input_count; ++i) input_offsets_.push_back(arena->reserve(dense_bytes(function.inputs[i])));
    for (int i = 0; i < function.output_count; ++i) output_offsets_.push_back(arena->reserve(dense_bytes(function.outputs[i])));
    inputs_.resize(input_offsets_.size()), outputs_.resize(output_offsets_.size());
  }
  void infer(Session* session, const void* const* inputs, void* const* outputs, int64_t samples, uint64_t seed, uint64_t step) {
    const Function& function = *session->program().infer;
    for (size_t i = 0; i < inputs_.size(); ++i) {
      inputs_[i] = function.inputs[i].batched ? session->arena().at(input_offsets_[i]) : inputs[i];
      if (function.inputs[i].batched) memcpy(session->arena().at(input_offsets_[i]), inputs[i], sample_bytes(function.inputs[i], samples));
    }
    for (size_t i = 0; i < outputs_.size(); ++i) outputs_[i] = function.outputs[i].batched ? session->arena().at(output_offsets_[i]) : outputs[i];
    session->infer(inputs_.data(), outputs_.data(), samples, seed, step);
    for (size_t i = 0; i < outputs_.size(); ++i)
      if (function.outputs[i].batched) memcpy(outputs[i], outputs_[i], sample_bytes(function.outputs[i], samples));
  }

 private:
  static size_t sample_bytes(const Tensor& tensor, int64_t samples) { return static_cast<size_t>(samples * sample_elements(tensor)) * dtype_size(tensor.dtype); }
  std::vector<size_t> input_offsets_, output_offsets_;
  std::vector<const void*> inputs_;
  std::vector<void*> outputs_;
};

}  // namespace tsr

struct tessera_context {
  tessera_context(const tsr::Program& program, const tsr::OptimizerSettings& settings, int threads, bool forward_only, uint64_t seed_)
      : session(program, threads), seed(seed_), forward(forward_only || !program.train) {
    if (!forward) updater.reset(new tsr::Updater(program, settings, threads));
    session.reserve(!forward, true, forward ? 0 : tsr::moments_of(settings));
    if (program.infer) partial.reserve(*program.infer, &session.arena());
    session.map(false);
    if (!forward) scalars.reset(new tsr::Scalars(*program.train));
    tsr::initialise(program, seed, session.params());
  }
  tsr::Session session;
  uint64_t seed;
  bool forward;
  tsr::PartialBatch partial;
  std::unique_ptr<tsr::Updater> updater;
  std::unique_ptr<tsr::Scalars> scalars;
  int64_t steps = 0;
  std::string message;
};

namespace tsr {
namespace capi {

inline Error wrong_argument(const std::string& what) { return Error("T0929", what, "see tessera.h", kExitUsage); }

// Runs a body; every exception becomes a code, and its text goes to `message`.
template <class Body>
inline int guarded(std::string* message, const Body& body) noexcept {
  try {
    body();
    return TESSERA_OK;
  } catch (const Error& error) {
    const int code = strcmp(error.code, "T0926") == 0 ? int(TESSERA_NO_MEMORY) : error.exit_code;
    try { *message = error.text(); } catch (...) { return TESSERA_NO_MEMORY; }
    return code;
  } catch (const std::bad_alloc&) {
    return TESSERA_NO_MEMORY;
  } catch (...) {
    return TESSERA_INTERNAL;
  }
}

template <class Body>
inline int on(tessera_context* context, const Body& body) noexcept {
  if (!context) return TESSERA_USAGE;
  return guarded(&context->message, body);
}

inline const Function& function_of(const tessera_context* context, int which) {
  const Program& program = context->session.program();
  const Function* const function = which == TESSERA_TRAIN ? (context->forward ? nullptr : program.train) : which == TESSERA_INFER ? program.infer : nullptr;
  if (!function) throw wrong_argument(std::string(program.name) + (which == TESSERA_TRAIN ? " has no training step in this context" : which == TESSERA_INFER ? " has no forward outputs" : " has no such function"));
  return *function;
}

inline void describe(const Tensor& tensor, tessera_tensor* out) {
  *out = tessera_tensor();
  out->name = tensor.name;
  out->dtype = static_cast<int32_t>(tensor.dtype), out->rank = tensor.rank;
  for (int axis = 0; axis < tensor.rank; ++axis) out->shape[axis] = tensor.shape[axis];
  out->row_stride = row_stride(tensor);
  out->plane_bytes = planes(tensor) > 1 ? static_cast<int64_t>(plane_bytes(tensor)) : 0;
  out->index_bound = tensor.index_bound, out->ignore_index = tensor.ignore_index, out->batched = tensor.batched;
}

inline const Tensor& element(const Tensor* tensors, int count, int index) {
  if (index < 0 || index >= count) throw wrong_argument(format("index %d is outside 0 .. %d", index, count - 1));
  return tensors[index];
}

// Pointers present, integer values inside their bounds.
inline void check_inputs(const Function& function, const void* const* inputs, int64_t samples) {
  for (int i = 0; i < function.input_count; ++i) {
    const Tensor& input = function.inputs[i];
    if (!inputs || !inputs[i]) throw wrong_argument("input '" + std::string(input.name) + "' is a null pointer");
    if (!is_integer(input.dtype) || input.index_bound == 0) continue;
    const int64_t count = input.batched ? samples * sample_elements(input) : elements(input);
    import_values(input, format_of(input.dtype), static_cast<const char*>(inputs[i]), count, nullptr, {nullptr, 0, false});
  }
}

inline void value_and_grad(tessera_context* context, const void* const* inputs, double* values) {
  const Function& function = function_of(context, TESSERA_TRAIN);
  check_inputs(function, inputs, function.batch);
  context->session.train(inputs, context->scalars->pointers(), context->seed, static_cast<uint64_t>(context->steps));
  for (int i = 0; values && i < context->scalars->count(); ++i) values[i] = context->scalars->value(i);
}

inline int default_threads() {
  const char* const variable = getenv("OMP_NUM_THREADS");
  const int count = variable ? atoi(variable) : 0;
  if (count >= 1 && count <= 4096) return count;
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

inline OptimizerSettings settings_of(const Program& program, const tessera_options& options) {
  const Optimizer& fixed = program.optimizer;
  Rule rule = Rule::adamw;
  const char* const name = options.optimizer ? options.optimizer : fixed.kind;
  if (name && !parse_rule(name, &rule)) throw wrong_argument("there is no optimizer " + quoted(name) + "; known: sgd, momentum, adam, adamw");
  if (!options.optimizer && rule == Rule::sgd && fixed.momentum > 0) rule = Rule::momentum;
  OptimizerSettings out = default_settings(rule);
  const bool source = fixed.kind && !options.optimizer;
  const auto choose = [&](double* value, double from_source, double from_options) {
    if (source && !std::isnan(from_source)) *value = from_source;
    if (!std::isnan(from_options)) *value = from_options;
  };
  choose(&out.momentum, fixed.momentum, options.momentum);
  choose(&out.beta1, fixed.beta1, options.beta1);
  choose(&out.beta2, fixed.beta2, options.beta2);
  choose(&out.eps, fixed.eps, options.eps);
  choose(&out.weight_decay, fixed.weight_decay, options.weight_decay);
  out.clip = options.clip;
  return out;
}

inline void create(const char* name, const tessera_options& options, tessera_context** context) {
  const ProgramList list = unit_programs();
  std::vector<std::string> names;
  for (int i = 0; i < list.count; ++i) {
    const Program& program = *list.programs[i];
    names.push_back(program.name);
    if (strcmp(name, program.name) != 0) continue;
    if (program.mesh) throw wrong_argument(quoted(name) + " runs on a mesh: start its executable as ranks; a library is one process");
    if (options.threads < 0 || options.threads > 4096) throw wrong_argument(format("threads is %d; it must be 0 .. 4096", options.threads));
    *context = new tessera_context(program, settings_of(program, options), options.threads > 0 ? options.threads : default_threads(), options.forward_only != 0, options.seed);
    return;
  }
  throw wrong_argument("this library has no program " + quoted(name) + "; it has " + joined(names));
}

}  // namespace capi
}  // namespace tsr

#include "capi_functions.h"
