// `describe`: what the program takes, holds and computes, as text or JSON.
#pragma once
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "error.h"
#include "json.h"
#include "options.h"
#include "shares.h"
#include "tensor.h"

namespace tsr {
namespace cli {

constexpr Flag kDescribeFlags[] = {
    {"--json", nullptr, "JSON instead of text"},
    {"--threads", "N", "threads the memory plan is for (OMP_NUM_THREADS, else the processors available)"},
};
constexpr Command kDescribe = {"describe", "Lists inputs, outputs, parameters, memory and kernels.", kDescribeFlags, sizeof kDescribeFlags / sizeof kDescribeFlags[0], nullptr, nullptr};

inline std::string init_text(const Tensor& param) {
  switch (param.init) {
    case Init::zeros: return "zeros";
    case Init::ones: return "ones";
    case Init::constant: return format("constant(%g)", param.init_a);
    case Init::uniform: return format("uniform(%g, %g)", param.init_a, param.init_b);
    case Init::normal: return format("normal(%g, %g)", param.init_a, param.init_b);
  }
  return "";
}

inline void describe_tensor(const Tensor& tensor, const std::string& more) {
  printf("    %-32s %-5s %-20s %s\n", tensor.name, dtype_name(tensor.dtype), shape_text(tensor.shape, tensor.rank).c_str(), more.c_str());
}

inline std::string input_notes(const Tensor& input) {
  std::vector<std::string> notes;
  if (input.batched) notes.push_back("first axis: batch");
  if (input.index_bound > 0) notes.push_back(format("values 0 .. %lld", static_cast<long long>(input.index_bound - 1)));
  if (input.ignore_index != INT64_MIN && is_integer(input.dtype)) notes.push_back(format("%lld is ignored", static_cast<long long>(input.ignore_index)));
  return joined(notes);
}

inline size_t moment_bytes(const Program& program) { return Shares(program).moment_bytes(); }

inline void describe_function(const Program& program, const Function& function, const char* title, int threads, bool train) {
  printf("\n%s (%s): %.4g MFLOP\n  inputs\n", title, function.name, function.flops * 1e-6);
  for (int i = 0; i < function.input_count; ++i) describe_tensor(function.inputs[i], input_notes(function.inputs[i]));
  printf("  outputs\n");
  for (int i = 0; i < function.output_count; ++i) describe_tensor(function.outputs[i], "");
  const double params = static_cast<double>(program.param_bytes), scratch = static_cast<double>(function.scratch_bytes) * threads;
  if (program.open) {
    printf("  memory on the device\n    parameters %s", bytes_text(params).c_str());
    if (train) printf(", gradients %s, each optimizer moment %s", bytes_text(params).c_str(), bytes_text(static_cast<double>(moment_bytes(program))).c_str());
    printf(", values in flight %s\n", bytes_text(static_cast<double>(function.shared_bytes)).c_str());
    return;
  }
  printf("  memory with %d threads\n    parameters %s", threads, bytes_text(params).c_str());
  if (train) printf(", gradients %s, each optimizer moment %s", bytes_text(params * threads).c_str(), bytes_text(static_cast<double>(moment_bytes(program))).c_str());
  printf(", shared %s, scratch %s\n", bytes_text(static_cast<double>(function.shared_bytes)).c_str(), bytes_text(scratch).c_str());
}

inline void describe_mesh(const Program& program, const Mesh& mesh) {
  printf("\nmesh\n ");
  for (int a = 0; a < mesh.axis_count; ++a) printf(" %s=%d", mesh.names[a], mesh.sizes[a]);
  printf("  (plan %s)\n", mesh.plan);
  for (int i = 0; i < program.param_count; ++i) {
    const Tensor& param = program.params[i];
    if (!param.cut) continue;
    const std::string part = shape_text(param.shape, param.rank), whole = shape_text(param.cut->shape, param.rank);
    const std::string owner = param.cut->owner_axis < 0 ? "" : format(" on rank %d of %s", param.cut->owner, mesh.names[param.cut->owner_axis]);
    printf("    %-32s %s%s\n", param.name, (part == whole ? part : part + " of " + whole).c_str(), owner.c_str());
  }
  for (int b = 0; b < mesh.bucket_count; ++b)
    if (mesh.buckets[b].gather >= 0) printf("    moments of %d tensors in shares along %s\n", mesh.buckets[b].param_count, mesh.names[mesh.buckets[b].axis]);
  if (mesh.collective_count > 0) printf("\nexchanges\n  %4s %-15s %-6s %-16s %12s\n", "", "kind", "axis", "source", "bytes/rank");
  for (int i = 0; i < mesh.collective_count; ++i)
    printf("  %4d %-15s %-6s %-16s %12lld\n", i, mesh.collectives[i].kind, mesh.names[mesh.collectives[i].axis], mesh.collectives[i].source, static_cast<long long>(mesh.collectives[i].bytes));
}

inline void describe_text(const Program& program, int threads) {
  printf("%s, from %s, by tesserac %s\n", program.name, program.source_file, program.version);
  int tensors = 0;
  for (int i = 0; i < program.param_count; ++i) tensors += first_in_place(program.params[i]);
  printf("\nparameters: %lld in %d tensors%s\n", static_cast<long long>(parameter_count(program)), tensors, tensors < program.param_count ? format(" on every rank, of %d", program.param_count).c_str() : "");
  for (int i = 0; i < program.param_count; ++i) describe_tensor(program.params[i], init_text(program.params[i]));
  if (program.optimizer.kind) printf("\noptimizer fixed by the source: %s, lr %g\n", program.optimizer.kind, program.optimizer.lr);
  if (program.train) describe_function(program, *program.train, "training step", threads, true);
  if (program.infer) describe_function(program, *program.infer, "forward", threads, false);
  if (program.validate) describe_function(program, *program.validate, "validation", threads, false);
  if (program.mesh) describe_mesh(program, *program.mesh);
  if (program.kernel_count > 0) printf("\nkernels\n  %-32s %-16s %6s %12s %12s  %s\n", "name", "source", "calls", "MFLOP/call", "kB/call", "formula");
  for (int i = 0; i < program.kernel_count; ++i) {
    const Kernel& kernel = program.kernels[i];
    printf("  %-32s %-16s %6d %12.4g %12.4g  %s\n", kernel.name, kernel.source, kernel.calls, kernel.flops * 1e-6, kernel.bytes * 1e-3, kernel.formula);
  }
}

inline std::string tensor_json(const Tensor& tensor, bool param) {
  std::string out = "{\"name\":" + json_string(tensor.name) + ",\"dtype\":\"" + dtype_name(tensor.dtype) + "\",\"shape\":[";
  for (int axis = 0; axis < tensor.rank; ++axis) out += format(axis ? ",%lld" : "%lld", static_cast<long long>(tensor.shape[axis]));
  out += "]";
  if (param) out += ",\"init\":" + json_string(init_text(tensor)) + (tensor.decay ? ",\"decay\":true" : ",\"decay\":false");
  if (!param && tensor.batched) out += ",\"batched\":true";
  if (!param && tensor.index_bound > 0) out += format(",\"index_bound\":%lld", static_cast<long long>(tensor.index_bound));
  return out + "}";
}

inline std::string tensors_json(const Tensor* tensors, int count, bool param) {
  std::string out = "[";
  for (int i = 0; i < count; ++i) out += (i ? "," : "") + tensor_json(tensors[i], param);
  return out + "]";
}

inline std::string function_json(const Function* function) {
  if (!function) return "null";
  return "{\"name\":" + json_string(function->name) + ",\"inputs\":" + tensors_json(function->inputs, function->input_count, false) + ",\"outputs\":" +
         tensors_json(function->outputs, function->output_count, false) +
         format(",\"batch\":%lld,\"shared_bytes\":%zu,\"scratch_bytes_per_thread\":%zu,\"flops\":%.17g}", static_cast<long long>(function->batch), function->shared_bytes, function->scratch_bytes, function->flops);
}

inline void describe_json(const Program& program) {
  std::string out = "{\"program\":" + json_string(program.name) + ",\"source\":" + json_string(program.source_file) + ",\"version\":" + json_string(program.version) +
                    format(",\"parameter_count\":%lld,\"parameter_bytes\":%zu", static_cast<long long>(parameter_count(program)), program.param_bytes) +
                    ",\"parameters\":" + tensors_json(program.params, program.param_count, true) + ",\"optimizer\":" +
                    (program.optimizer.kind ? json_string(program.optimizer.kind) : std::string("null")) + ",\"train\":" + function_json(program.train) + ",\"infer\":" + function_json(program.infer) + ",\"validate\":" + function_json(program.validate) + ",\"kernels\":[";
  for (int i = 0; i < program.kernel_count; ++i) {
    const Kernel& kernel = program.kernels[i];
    out += std::string(i ? "," : "") + "{\"name\":" + json_string(kernel.name) + ",\"source\":" + json_string(kernel.source) + ",\"formula\":" + json_string(kernel.formula) +
           format(",\"flops\":%.17g,\"bytes\":%.17g,\"calls\":%d}", kernel.flops, kernel.bytes, kernel.calls);
  }
  printf("%s]}\n", out.c_str());
}

inline int describe_command(const Program& program, const Arguments& arguments) {
  if (arguments.has("--json")) describe_json(program);
  else describe_text(program, thread_count(arguments));
  return kExitOk;
}

}  // namespace cli
}  // namespace tsr
