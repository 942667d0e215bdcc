// `selftest`: the compiled program against Function::reference, which computes the same in plain
// double-precision loops: loss, metrics, outputs and every gradient, on random weights and data.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "choices.h"
#include "init.h"
#include "options.h"
#include "session.h"
#include "whole.h"

namespace tsr {
namespace cli {

constexpr Flag kSelftestFlags[] = {
    {"--seed", "N", "of weights and data (1)"},
    {"--tolerance", "T", "largest error relative to a tensor's largest entry (fp32 2e-4, fp64 1e-10, bf16 products 2e-2, on a device 3e-2)"},
    {"--threads", "N", "threads (OMP_NUM_THREADS, else the processors available)"},
};
constexpr Command kSelftest = {"selftest", "Compares loss, metrics, outputs and every gradient with a double-precision reference.", kSelftestFlags,
    sizeof kSelftestFlags / sizeof kSelftestFlags[0], nullptr,
    "A gradient tensor whose entries all lie below 1/1000 of the largest gradient is measured against that:\n"
    "what is zero in exact arithmetic is rounding noise in both computations. Where the program chooses (experts of a\n"
    "token) otherwise than the reference and the alternatives are nearly tied, the reference follows, and says so."};

class Selftest {
 public:
  Selftest(const Program& program, uint64_t seed, double tolerance, int threads)
      : program_(program), seed_(seed), tolerance_(tolerance), threads_(threads), ranks_(process_ranks()), shares_(program), session_(program, threads, ranks_) {
    session_.reserve(true, true, 0, true);
    session_.map(false);
    if (threads_ > 1) {
      single_.reset(new Session(program, 1, ranks_));
      single_->reserve(true, false, 0);
      single_->map(false);
    }
    make_parameters();
  }

  bool run() {
    if (program_.train) check_train(*program_.train);
    if (program_.infer) check_infer(*program_.infer);
    if (program_.validate) check_validate(*program_.validate);
    int32_t failed = passed_ ? 0 : 1;  // on one rank is on all
    if (ranks_) ranks_->all_reduce(Ranks::kOwn, Ranks::kWorld, Reduce::max, DType::i32, &failed, 1);
    return failed == 0;
  }

 private:
  // Near their initial values; constants are perturbed, because many mistakes vanish at 0 and 1.
  void make_parameters() {
    for (int p = 0; p < program_.param_count; ++p) {
      const Tensor param = whole_of(program_.params[p]);
      const int64_t scalars = elements(param) * scalars_per_element(param.dtype);
      const uint64_t stream = stream_of(param.name);
      std::vector<double> values(static_cast<size_t>(scalars + kRandomBlock));
      const bool constant = param.init != Init::uniform && param.init != Init::normal;
      for (int64_t i = 0; i < scalars; i += kRandomBlock) {
        const uint64_t block = static_cast<uint64_t>(i / kRandomBlock);
        double noise[kRandomBlock] = {0, 0, 0, 0};
        initial_block(param, seed_, stream, block, &values[static_cast<size_t>(i)]);
        if (constant) normal_block(seed_, stream, block, noise);
        for (int j = 0; j < kRandomBlock; ++j) values[static_cast<size_t>(i + j)] += 0.1 * noise[j];
      }
      std::vector<char> dense(dense_bytes(param) + sizeof(double));
      store_reals(param.dtype, values.data(), dense.data(), static_cast<size_t>(scalars));
      if (holds(program_.params[p], ranks_)) {
        const std::vector<char> mine = part_of(program_.params[p], ranks_, dense);
        unpack(program_.params[p], mine.data(), session_.params());
        if (single_) unpack(program_.params[p], mine.data(), single_->params());
      }
      load_reals(format_of(param.dtype), dense.data(), values.data(), static_cast<size_t>(scalars));  // what the program sees, exactly
      for (int plane = 0; plane < planes(param); ++plane)  // the reference's parameters lie in planes, too
        for (int64_t i = plane; i < scalars; i += planes(param)) params_.push_back(values[static_cast<size_t>(i)]);
    }
  }

  // Inputs in the program's types and, floats as double, in the reference's.
  struct Inputs {
    std::vector<std::vector<char>> own, wide;
    std::vector<const void*> own_pointers, wide_pointers;
  };
  void make_inputs(const Function& function, Inputs* out) const {
    for (int k = 0; k < function.input_count; ++k) {
      const Tensor input = whole_of(function.inputs[k]);
      const int64_t scalars = elements(input) * scalars_per_element(input.dtype);
      const uint64_t stream = stream_of(std::string("selftest.") + input.name);
      std::vector<char> own(dense_bytes(input) + 8);
      std::vector<char> wide;
      if (is_integer(input.dtype)) {
        const uint64_t bound = input.index_bound > 0 ? static_cast<uint64_t>(input.index_bound) : 2;
        for (int64_t i = 0; i < scalars; ++i) {
          int64_t value = static_cast<int64_t>(integer_below(seed_, stream, static_cast<uint64_t>(i), bound));
          if (input.ignore_index != INT64_MIN && i % 7 == 3) value = input.ignore_index;
          store_integers(input.dtype, &value, own.data() + static_cast<size_t>(i) * dtype_size(input.dtype), 1);
        }
        wide = own;
      } else {
        std::vector<double> values(static_cast<size_t>(scalars + kRandomBlock));
        for (int64_t i = 0; i < scalars; i += kRandomBlock) normal_block(seed_, stream, static_cast<uint64_t>(i / kRandomBlock), &values[static_cast<size_t>(i)]);
        store_reals(input.dtype, values.data(), own.data(), static_cast<size_t>(scalars));
        load_reals(format_of(input.dtype), own.data(), values.data(), static_cast<size_t>(scalars));
        wide.resize(values.size() * sizeof(double));
        memcpy(wide.data(), values.data(), wide.size());
      }
      out->own.push_back(part_of(function.inputs[k], ranks_, own));
      out->wide.push_back(static_cast<std::vector<char>&&>(wide));
    }
    for (const auto& buffer : out->own) out->own_pointers.push_back(buffer.data());
    for (const auto& buffer : out->wide) out->wide_pointers.push_back(buffer.data());
  }

  // One buffer per output: `wide` as double for the reference, else in the output's type.
  struct Outputs {
    Outputs(const Function& function, bool wide) {
      for (int k = 0; k < function.output_count; ++k) {
        const Tensor output = wide ? whole_of(function.outputs[k]) : function.outputs[k];
        const size_t scalar = wide ? sizeof(double) : dtype_size(scalar_type(output.dtype));
        buffers.emplace_back(static_cast<size_t>(elements(output) * scalars_per_element(output.dtype)) * scalar + 16);
      }
      for (auto& buffer : buffers) pointers.push_back(buffer.data());
    }
    std::vector<std::vector<char>> buffers;
    std::vector<void*> pointers;
  };

  static double largest(const double* values, size_t n) {
    double out = 0;
    for (size_t i = 0; i < n; ++i)
      if (std::fabs(values[i]) > out) out = std::fabs(values[i]);
    return out;
  }

  // Prints one line; `floor` is the smallest scale an error is measured against.
  void compare(const std::string& name, const double* want, const double* have, size_t n, double floor) {
    double worst = 0;
    size_t at = 0;
    bool comparable = true;
    for (size_t i = 0; i < n; ++i) {
      const double error = std::fabs(want[i] - have[i]);
      if (!std::isfinite(have[i]) || !std::isfinite(want[i])) { comparable = comparable && !std::isfinite(want[i]) && memcmp(&want[i], &have[i], 8) == 0; at = i; break; }
      if (error > worst) worst = error, at = i;
    }
    const double top = largest(want, n), scale = top > floor ? top : floor;
    const double relative = worst == 0 ? 0 : worst / scale;
    const bool ok = comparable && relative <= tolerance_;
    printf("  %-36s max error %8.1e of %9.3g  tolerance %.0e  %s\n", name.c_str(), comparable ? relative : std::nan(""), scale, tolerance_, ok ? "ok" : "FAIL");
    if (!ok && ranks_) fprintf(stderr, "rank %d: %s differs at element %zu: computed %.9g, reference %.9g\n", ranks_->rank(), name.c_str(), at, have[at], want[at]);
    if (!ok) printf("    at element %zu: computed %.9g, reference %.9g\n", at, have[at], want[at]);
    passed_ = passed_ && ok;
  }

  // The first `count` elements of this rank's part with those of the whole output's reference.
  void compare_output(const Tensor& output, const char* own, const char* wide, const std::string& name, int64_t count) {
    const size_t n = static_cast<size_t>(count * scalars_per_element(output.dtype)), all = static_cast<size_t>(elements(output) * scalars_per_element(output.dtype));
    std::vector<double> have(n), want(all);
    load_reals(format_of(output.dtype), own, have.data(), n);
    cut_out(output, ranks_, wide, static_cast<size_t>(scalars_per_element(output.dtype)) * sizeof(double), reinterpret_cast<char*>(want.data()));
    compare(name, want.data(), have.data(), n, 1e-30);
  }

  void need_reference(const Function& function) const {
    if (!function.reference) throw Error("T0927", std::string(function.name) + " was built without its reference", "build it again without the option that leaves the reference out");
  }

  // Runs the reference, which takes over what the call before chose where that is within rounding of a tie.
  void refer(const Function& function, const Inputs& inputs, Choices* choices, Outputs* wide, double* grads) {
    function.reference({inputs.wide_pointers.data(), wide->pointers.data(), reinterpret_cast<const char*>(params_.data()), reinterpret_cast<char*>(grads), nullptr, nullptr, 1,
                        function.batch, seed_, 0, choices->for_reference()});
    const bool right = choices->report();
    passed_ = passed_ && right;
  }

  void check_train(const Function& function) {
    need_reference(function);
    Inputs inputs;
    make_inputs(function, &inputs);
    Outputs own(function, false), wide(function, true), again(function, false);
    std::vector<double> grads(params_.size() + 1);
    session_.train(inputs.own_pointers.data(), own.pointers.data(), seed_, 0);
    Choices choices(function, session_.shared(function), tolerance_);
    refer(function, inputs, &choices, &wide, grads.data());
    for (int k = 0; k < function.output_count; ++k)
      compare_output(function.outputs[k], own.buffers[static_cast<size_t>(k)].data(), wide.buffers[static_cast<size_t>(k)].data(), std::string(k ? "metric " : "loss ") + function.outputs[k].name,
                     elements(function.outputs[k]));
    const double top = largest(grads.data(), params_.size());
    std::vector<std::vector<double>> first;
    int64_t at = 0;
    for (int p = 0; p < program_.param_count; ++p) {
      const Tensor& param = program_.params[p];
      first.push_back(gradient_of(param, session_.grads()));
      if (holds(param, ranks_)) compare(std::string("gradient ") + param.name, part_of_gradient(param, shares_.span(p, ranks_), ranks_, &grads[static_cast<size_t>(at)]).data(), first.back().data(), first.back().size(), 1e-3 * top);
      at += elements(whole_of(param)) * planes(param);
    }
    session_.train(inputs.own_pointers.data(), again.pointers.data(), seed_, 0);
    bool same = own.buffers == again.buffers;
    for (int p = 0; p < program_.param_count; ++p) {
      const std::vector<double> second = gradient_of(program_.params[p], session_.grads());
      same = same && memcmp(second.data(), first[static_cast<size_t>(p)].data(), second.size() * sizeof(double)) == 0;
    }
    printf("  %-36s %s\n", "second call equal bit for bit", same ? "ok" : "FAIL");
    passed_ = passed_ && same;
    if (threads_ > 1) check_one_thread(inputs, choices, &wide, &grads);
  }

  // The same with one worker: everything in one line, unless something differs.
  void check_one_thread(const Inputs& inputs, const Choices& before, Outputs* wide, std::vector<double>* grads) {
    const Function& function = *program_.train;
    Outputs alone(function, false);
    single_->train(inputs.own_pointers.data(), alone.pointers.data(), seed_, 0);
    Choices choices(function, single_->shared(function), tolerance_);
    if (!choices.same_as(before)) refer(function, inputs, &choices, wide, grads->data());
    compare_output(function.outputs[0], alone.buffers[0].data(), wide->buffers[0].data(), std::string("1 thread: loss ") + function.outputs[0].name, elements(function.outputs[0]));
    std::vector<double> all, want;
    const double* at = grads->data();
    for (int p = 0; p < program_.param_count; ++p) {
      const Tensor& param = program_.params[p];
      const std::vector<double> values = gradient_of(param, single_->grads()), part = part_of_gradient(param, shares_.span(p, ranks_), ranks_, at);
      if (holds(param, ranks_)) {
        all.insert(all.end(), values.begin(), values.end());
        want.insert(want.end(), part.begin(), part.end());
      }
      at += elements(whole_of(param)) * planes(param);
    }
    compare("1 thread: all gradients", want.data(), all.data(), all.size(), largest(grads->data(), params_.size()));
  }

  void check_infer(const Function& function) {
    need_reference(function);
    Inputs inputs;
    make_inputs(function, &inputs);
    Outputs own(function, false), wide(function, true), part(function, false);
    session_.infer(inputs.own_pointers.data(), own.pointers.data(), function.batch, seed_, 0);
    Choices choices(function, session_.shared(function), tolerance_);
    refer(function, inputs, &choices, &wide, nullptr);
    for (int k = 0; k < function.output_count; ++k)
      compare_output(function.outputs[k], own.buffers[static_cast<size_t>(k)].data(), wide.buffers[static_cast<size_t>(k)].data(), std::string("output ") + function.outputs[k].name,
                     elements(function.outputs[k]));
    if (function.batch < 2) return;
    session_.infer(inputs.own_pointers.data(), part.pointers.data(), 1, seed_, 0);
    for (int k = 0; k < function.output_count; ++k)
      if (function.outputs[k].batched)
        compare_output(function.outputs[k], part.buffers[static_cast<size_t>(k)].data(), wide.buffers[static_cast<size_t>(k)].data(), std::string("1 sample: ") + function.outputs[k].name,
                       sample_elements(function.outputs[k]));
  }

  void check_validate(const Function& function) {
    need_reference(function);
    Inputs inputs;
    make_inputs(function, &inputs);
    Outputs own(function, false), wide(function, true);
    session_.validate(inputs.own_pointers.data(), own.pointers.data(), seed_, 0);
    Choices choices(function, session_.shared(function), tolerance_);
    refer(function, inputs, &choices, &wide, nullptr);
    for (int k = 0; k < function.output_count; ++k)
      compare_output(function.outputs[k], own.buffers[static_cast<size_t>(k)].data(), wide.buffers[static_cast<size_t>(k)].data(), std::string("validation ") + function.outputs[k].name,
                     elements(function.outputs[k]));
  }

  const Program& program_;
  uint64_t seed_;
  double tolerance_;
  int threads_;
  Ranks* ranks_;
  Shares shares_;
  Session session_;
  std::unique_ptr<Session> single_;  // with one thread, where session_ has several
  std::vector<double> params_;
  bool passed_ = true;
};

inline int selftest_command(const Program& program, const Arguments& arguments) {
  const bool wide = real_type(program) == DType::f64;
  const uint64_t seed = static_cast<uint64_t>(arguments.integer("--seed", 1, 0));
  // Rounding to bf16 is off by up to 2^-9 = 2e-3; over a few layers such errors add up like a random walk. Devices round more:
  // the operands of attention, and its weights.
  const double tolerance = arguments.real("--tolerance", wide ? 1e-10 : !program.mixed ? 2e-4 : program.open ? 3e-2 : 2e-2, 0, 1);
  const int threads = program.open ? 1 : thread_count(arguments);
  printf("%s: seed %llu, %s, %s against double-precision loops\n", program.name, static_cast<unsigned long long>(seed), program.open ? "on the device" : format("%d threads", threads).c_str(),
         program.mixed ? "bf16 products and f32" : dtype_name(real_type(program)));
  const bool passed = Selftest(program, seed, tolerance, threads).run();
  printf("selftest: %s\n", passed ? "ok" : "FAILED");
  return passed ? kExitOk : kExitData;
}

}  // namespace cli
}  // namespace tsr
