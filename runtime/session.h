// A program with its memory: parameters, gradients, optimizer moments, scratch. The command line and
// the C interface both work on this.
#pragma once
#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "device.h"
#include "error.h"
#include "memory.h"
#include "optimizer.h"
#include "program.h"
#include "shares.h"
#include "tensor.h"

namespace tsr {

// Host memory, and a device beside it if the program has one. Then parameters and moments lie in both, and the newer
// copy counts: asking for them on the host brings them there, and what the host may have changed since goes to the
// device before it next computes. A loop of steps asks for nothing and copies nothing but inputs and losses.
class Session {
 public:
  // `ranks`: those of a program on a mesh.
  Session(const Program& program, int workers, Ranks* ranks = nullptr) : program_(program), workers_(program.open ? 1 : workers), ranks_(ranks) {
    if (program.open) device_.reset(program.open(program));
  }

  // What this run needs; then map(). Callers may reserve more in arena() in between. `accumulate`: on a device, too.
  void reserve(bool train, bool infer, int moments, bool validate = false, bool accumulate = false) {
    const Shares shares(program_);
    params_ = arena_.reserve(program_.param_bytes);
    if (train && program_.train) {
      const int arenas = program_.train->gradient_arenas;
      const size_t bytes = program_.param_bytes * static_cast<size_t>(arenas > 0 ? arenas : workers_);
      grads_ = arena_.reserve(std::max(bytes, shares.work_bytes()), program_.train->updates_early);
      if (!device_) train_ = reserve_function(*program_.train);
    }
    if (!device_ && infer && program_.infer) infer_ = reserve_function(*program_.infer);
    if (!device_ && validate && program_.validate) validate_ = reserve_function(*program_.validate);
    for (int i = 0; i < moments; ++i) moment_offsets_.push_back(arena_.reserve(shares.moment_bytes()));
    if (device_) device_->reserve(train && program_.train, infer && program_.infer, validate && program_.validate, moments <= kDeviceMoments ? moments : 0, accumulate);
  }
  void map(bool populate) {
    arena_.map(populate && !device_);
    for (const size_t offset : moment_offsets_) moments_.push_back(arena_.at(offset));
  }

  // outputs: dense buffers, outputs[0] the loss. Gradients are in grads() afterwards.
  void train(const void* const* inputs, void* const* outputs, uint64_t seed, uint64_t step) {
    if (!device_) return run_train(inputs, outputs, seed, step, nullptr);
    to_device();
    grads_newest_ = Place::device;
    device_->train(inputs, outputs, seed, step);
  }
  // Of programs on a device: see there.
  void accumulate(int64_t batch, int64_t batches) { device_->accumulate(batch, batches); }
  void reduce_gradients() { device_->reduce_gradients(); }
  // Loss and metrics of data that is not trained on; gradients stay as they are if the program can do without, and are
  // nobody's if it cannot.
  void validate(const void* const* inputs, void* const* outputs, uint64_t seed, uint64_t step) {
    if (device_) {
      if (!program_.validate) return train(inputs, outputs, seed, step);
      to_device();
      return device_->validate(inputs, outputs, seed, step);
    }
    Unused unused;
    if (!program_.validate) return run_train(inputs, outputs, seed, step, &unused);
    program_.validate->run({inputs, outputs, params(), nullptr, arena_.at(validate_.shared), arena_.at(validate_.scratch), workers_, program_.validate->batch, seed, step, nullptr, ranks_});
  }
  void infer(const void* const* inputs, void* const* outputs, int64_t count, uint64_t seed, uint64_t step) {
    if (!device_) return program_.infer->run({inputs, outputs, params(), nullptr, arena_.at(infer_.shared), arena_.at(infer_.scratch), workers_, count, seed, step, nullptr, ranks_});
    to_device();
    device_->infer(inputs, outputs, seed, step);
  }
  // The optimizer's update from the gradients of train(); their norm before clipping.
  double update(Updater* updater, int64_t step, double lr) {
    if (!device_) return updater->apply(params(), grads(), moments(), step, lr);
    to_device();
    newest_ = Place::device;
    return device_->update(updater->settings(), step, lr);
  }
  // train() and update() in one go: where neither the optimizer nor the program needs all gradients at once, they never
  // exist all at once, and grads() does not hold them afterwards. The result is the same to the last bit.
  double step(const void* const* inputs, void* const* outputs, uint64_t seed, Updater* updater, int64_t step, double lr) {
    if (!device_) {
      const bool early = program_.train->updates_early && updater->early();
      if (early) updater->begin(params(), grads(), moments(), step, lr);
      run_train(inputs, outputs, seed, static_cast<uint64_t>(step), early ? updater : nullptr);
      return early ? updater->end() : update(updater, step, lr);
    }
    to_device();
    newest_ = grads_newest_ = Place::device;
    return device_->step(inputs, outputs, seed, updater->settings(), step, lr);
  }

  // What the last call of a function left in its shared memory; null where that is on the device.
  const char* shared(const Function& function) const {
    const Offsets& offsets = &function == program_.train ? train_ : &function == program_.infer ? infer_ : validate_;
    return device_ ? nullptr : arena_.at(offsets.shared);
  }

  const Program& program() const { return program_; }
  Ranks* ranks() const { return ranks_; }
  const Device* device() const { return device_.get(); }
  Arena& arena() { return arena_; }
  int workers() const { return workers_; }
  char* params() const {
    to_host();
    return arena_.at(params_);
  }
  char* grads() const {
    if (grads_newest_ == Place::device) device_->download_gradients(arena_.at(grads_));
    grads_newest_ = Place::host;
    return arena_.at(grads_);
  }
  char* const* moments() const {
    to_host();
    return moments_.data();
  }
  int moment_count() const { return static_cast<int>(moments_.size()); }

 private:
  enum class Place { host, device };
  static constexpr int kDeviceMoments = 2;  // L-BFGS has more, and works on the host
  struct Offsets { size_t shared, scratch; };

  struct Unused final : EarlyUpdate {
    void update(const int*, const int*, int) override {}
  };

  void run_train(const void* const* inputs, void* const* outputs, uint64_t seed, uint64_t step, EarlyUpdate* update) {
    program_.train->run({inputs, outputs, params(), grads(), arena_.at(train_.shared), arena_.at(train_.scratch), workers_, program_.train->batch, seed, step, nullptr, ranks_, update});
  }
  Offsets reserve_function(const Function& function) {
    const size_t shared = arena_.reserve(function.shared_bytes);
    return {shared, arena_.reserve(function.scratch_bytes * static_cast<size_t>(workers_))};
  }
  // Newest on the host from now on: the caller may write there.
  void to_host() const {
    if (newest_ == Place::device) device_->download(arena_.at(params_), moments_.data());
    newest_ = Place::host;
    on_device_ = false;
  }
  void to_device() {
    if (!on_device_) device_->upload(arena_.at(params_), moments_.data());
    on_device_ = true;
  }

  const Program& program_;
  int workers_;
  Ranks* ranks_;
  std::unique_ptr<Device> device_;
  Arena arena_;
  size_t params_ = 0, grads_ = 0;
  Offsets train_{0, 0}, infer_{0, 0}, validate_{0, 0};
  std::vector<size_t> moment_offsets_;
  std::vector<char*> moments_;
  mutable Place newest_ = Place::host, grads_newest_ = Place::host;
  mutable bool on_device_ = false;  // the device's copy equals the newest
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
  void set(int index, double value) { store_reals(function_.outputs[index].dtype, &value, &slots_[static_cast<size_t>(index)], 1); }

 private:
  struct Slot { alignas(16) char bytes[16]; };
  const Function& function_;
  std::vector<Slot> slots_;
  std::vector<void*> pointers_;
};

}  // namespace tsr
