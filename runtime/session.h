// A program with its memory: parameters, gradients, optimizer moments, scratch. The command line and
// the C interface both work on this.
#pragma once
#include <cstdint>
#include <vector>

#include "error.h"
#include "memory.h"
#include "program.h"
#include "tensor.h"

namespace tsr {

class Session {
 public:
  Session(const Program& program, int workers) : program_(program), workers_(workers) {}

  // What this run needs; then map(). Callers may reserve more in arena() in between.
  void reserve(bool train, bool infer, int moments, bool validate = false) {
    params_ = arena_.reserve(program_.param_bytes);
    if (train && program_.train) {
      const int arenas = program_.train->gradient_arenas;
      grads_ = arena_.reserve(program_.param_bytes * static_cast<size_t>(arenas > 0 ? arenas : workers_));
      train_ = reserve_function(*program_.train);
    }
    if (infer && program_.infer) infer_ = reserve_function(*program_.infer);
    if (validate && program_.validate) validate_ = reserve_function(*program_.validate);
    for (int i = 0; i < moments; ++i) moment_offsets_.push_back(arena_.reserve(program_.param_bytes));
  }
  void map(bool populate) {
    arena_.map(populate);
    for (const size_t offset : moment_offsets_) moments_.push_back(arena_.at(offset));
  }

  // outputs: dense buffers, outputs[0] the loss. Gradients are in grads() afterwards.
  void train(const void* const* inputs, void* const* outputs, uint64_t seed, uint64_t step) {
    program_.train->run({inputs, outputs, params(), grads(), arena_.at(train_.shared), arena_.at(train_.scratch), workers_, program_.train->batch, seed, step});
  }
  // Loss and metrics of data that is not trained on; gradients stay as they are if the program can do without.
  void validate(const void* const* inputs, void* const* outputs, uint64_t seed, uint64_t step) {
    if (!program_.validate) return train(inputs, outputs, seed, step);
    program_.validate->run({inputs, outputs, params(), nullptr, arena_.at(validate_.shared), arena_.at(validate_.scratch), workers_, program_.validate->batch, seed, step});
  }
  void infer(const void* const* inputs, void* const* outputs, int64_t count, uint64_t seed, uint64_t step) {
    program_.infer->run({inputs, outputs, params(), nullptr, arena_.at(infer_.shared), arena_.at(infer_.scratch), workers_, count, seed, step});
  }

  const Program& program() const { return program_; }
  Arena& arena() { return arena_; }
  int workers() const { return workers_; }
  char* params() const { return arena_.at(params_); }
  char* grads() const { return arena_.at(grads_); }
  char* const* moments() const { return moments_.data(); }
  int moment_count() const { return static_cast<int>(moments_.size()); }

 private:
  struct Offsets { size_t shared, scratch; };
  Offsets reserve_function(const Function& function) {
    const size_t shared = arena_.reserve(function.shared_bytes);
    return {shared, arena_.reserve(function.scratch_bytes * static_cast<size_t>(workers_))};
  }

  const Program& program_;
  int workers_;
  Arena arena_;
  size_t params_ = 0, grads_ = 0;
  Offsets train_{0, 0}, infer_{0, 0}, validate_{0, 0};
  std::vector<size_t> moment_offsets_;
  std::vector<char*> moments_;
};

// The loss and metrics of a train function, whatever their type.
class Scalars {
 public:
  explicit Scalars(const Function& function) : function_(function), slots_(static_cast<size_t>(function.output_count)) {
    for (Slot& slot : slots_) pointers_.push_back(&slot);
  }
  Scalars(const Scalars&) = delete;
  Scalars& operator=(const Scalars&) = delete;
  void* const* pointers() const { return pointers_.data(); }
  int count() const { return static_cast<int>(slots_.size()); }
  const char* name(int index) const { return function_.outputs[index].name; }
  double value(int index) const {
    double out;
    load_reals(format_of(function_.outputs[index].dtype), &slots_[static_cast<size_t>(index)], &out, 1);
    return out;
  }

 private:
  struct Slot { alignas(16) char bytes[16]; };
  const Function& function_;
  std::vector<Slot> slots_;
  std::vector<void*> pointers_;
};

}  // namespace tsr
