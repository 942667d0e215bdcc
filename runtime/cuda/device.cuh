// The device of Session for CUDA: one arena, one stream, and every kind of call captured once as a graph and replayed.
// A call copies its inputs in and its outputs out through pinned memory; parameters stay where they are.
#pragma once
#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "../buckets.h"
#include "../device.h"
#include "../tensor.h"
#include "arena.cuh"
#include "exchange.cuh"
#include "optimizer.cuh"
#include "program.cuh"

#ifndef TSR_ARCHITECTURES
#define TSR_ARCHITECTURES "unknown architectures"
#endif

namespace tsr::cuda {

/// Does nothing: whether a device can run it tells whether the program holds code for that device.
static __global__ void probe() {}

/// A stream of this process's device, for as long as the object lives. T0930 where there is none that can run us.
class OwnStream {
 public:
  OwnStream() {
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess || count == 0) throw unfit(error == cudaSuccess ? "there is no CUDA device" : cudaGetErrorString(error));
    cudaDeviceProp device;
    int current = 0;  // the first, or what this rank has chosen
    cudaGetDevice(&current);
    const cudaError_t found = cudaGetDeviceProperties(&device, current);
    if (found != cudaSuccess) throw unfit(cudaGetErrorString(found));
    cudaFuncAttributes attributes;
    const cudaError_t held = cudaFuncGetAttributes(&attributes, probe);
    if (held == cudaErrorNoKernelImageForDevice || held == cudaErrorInvalidDeviceFunction)
      throw unfit(std::string(device.name) + " has compute capability " + std::to_string(device.major) + "." + std::to_string(device.minor) + ", for which it has no code");
    if (held != cudaSuccess) throw unfit(std::string(device.name) + ": " + cudaGetErrorString(held));
    const cudaError_t made = cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking);
    if (made != cudaSuccess) throw unfit(std::string(device.name) + ": " + cudaGetErrorString(made));
  }
  ~OwnStream() { cudaStreamDestroy(stream_); }
  OwnStream(const OwnStream&) = delete;
  OwnStream& operator=(const OwnStream&) = delete;
  cudaStream_t get() const { return stream_; }

 private:
  static Error unfit(const std::string& what) {
    return Error("T0930", "this program cannot run here: " + what + " (it holds code for " TSR_ARCHITECTURES ")",
                 "run it where `nvidia-smi` shows such a device, build it with --arch for the device that is there (sm_80 or newer), or with --emulate for the processor");
  }
  cudaStream_t stream_ = nullptr;
};

/// Work that is the same every time: run as it is at first, so that libraries make their plans, then captured and replayed.
/// What the host does itself in between stands between two graphs.
class Replay {
 public:
  Replay() = default;
  ~Replay() {
    for (const Piece& piece : pieces_) cudaGraphExecDestroy(piece.graph);
  }
  Replay(const Replay&) = delete;
  Replay& operator=(const Replay&) = delete;

  /// Does `work`, which puts launches and copies on the context's stream, and waits for it.
  template <class Work>
  void run(Context& context, const Work& work) {
    if (pieces_.empty() && warm_) record(context, work);
    if (pieces_.empty()) work();
    for (const Piece& piece : pieces_) {
      context.check(cudaGraphLaunch(piece.graph, context.stream), "cudaGraphLaunch");
      if (piece.then) piece.then();
    }
    warm_ = true;
    context.wait();
  }

 private:
  struct Piece {
    cudaGraphExec_t graph;
    std::function<void()> then;
  };

  template <class Work>
  void record(Context& context, const Work& work) {
    context.recording = [&](std::function<void()> action) {
      end(context, std::move(action));
      begin(context);
    };
    begin(context);
    work();
    end(context, nullptr);
    context.recording = nullptr;
  }
  static void begin(Context& context) { context.need(cudaStreamBeginCapture(context.stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture"); }
  void end(Context& context, std::function<void()> then) {
    cudaGraph_t recorded = nullptr;
    cudaGraphExec_t graph = nullptr;
    context.need(cudaStreamEndCapture(context.stream, &recorded), "cudaStreamEndCapture");
    context.need(cudaGraphInstantiate(&graph, recorded, 0), "cudaGraphInstantiate");
    cudaGraphDestroy(recorded);
    pieces_.push_back({graph, std::move(then)});
  }

  std::vector<Piece> pieces_;
  bool warm_ = false;
};

/// Arguments of one of the program's functions, on the device and in pinned memory.
class Frame {
 public:
  Frame(Context& context, Arena& arena, const Function& function) : context_(context), arena_(arena), function_(function) {
    const std::string of = std::string(" of ") + function.name;
    values_ = arena.reserve(function.shared_bytes, "values in flight" + of);
    key_ = add(sizeof(RandomKey), "the random key" + of, &bytes_);
    for (int i = 0; i < function.input_count; ++i) inputs_.push_back(add(dense_bytes(function.inputs[i]), std::string("input ") + function.inputs[i].name, &bytes_));
    size_t out = 0;
    for (int i = 0; i < function.output_count; ++i) outputs_.push_back(add(dense_bytes(function.outputs[i]), std::string("output ") + function.outputs[i].name, &out));
    out_bytes_ = out;
    pinned_.reset(new Pinned(context, bytes_ + out_bytes_));
  }

  /// Puts the arguments where copy_in() takes them.
  void set(const void* const* inputs, uint64_t seed, uint64_t step) {
    const RandomKey key{seed, step};
    memcpy(pinned_->at(0), &key, sizeof key);
    for (size_t i = 0; i < inputs_.size(); ++i) memcpy(pinned_->at(inputs_[i].host), inputs[i], dense_bytes(function_.inputs[i]));
  }
  void copy_in() {  // one piece: the arguments lie side by side in both memories
    context_.check(cudaMemcpyAsync(arena_.at(key_.device), pinned_->at(0), bytes_, cudaMemcpyHostToDevice, context_.stream), "copying inputs");
  }
  void copy_out() {
    if (out_bytes_ > 0) context_.check(cudaMemcpyAsync(pinned_->at(bytes_), arena_.at(outputs_[0].device), out_bytes_, cudaMemcpyDeviceToHost, context_.stream), "copying outputs");
  }
  /// Takes the outputs that copy_out() brought.
  void get(void* const* outputs) const {
    for (size_t i = 0; i < outputs_.size(); ++i) memcpy(outputs[i], pinned_->at(bytes_ + outputs_[i].host), dense_bytes(function_.outputs[i]));
  }
  void launch(Launches launches, const char* params, char* grads, OnStream* ranks) {
    std::vector<const void*> in;
    std::vector<void*> out;
    for (const Place& place : inputs_) in.push_back(arena_.at(place.device));
    for (const Place& place : outputs_) out.push_back(arena_.at(place.device));
    run(context_, function_.name, launches, {in.data(), out.data(), params, grads, arena_.at(values_), at<const RandomKey>(arena_.at(0), key_.device), ranks});
  }

 private:
  struct Place {
    size_t device, host;  // offsets in the arena, and from the start of the pinned inputs or outputs
  };
  Place add(size_t bytes, const std::string& what, size_t* used) {
    const Place place{arena_.reserve(bytes, what), *used};
    *used += (bytes + 255) / 256 * 256;
    return place;
  }

  Context& context_;
  Arena& arena_;
  const Function& function_;
  size_t values_ = 0, bytes_ = 0, out_bytes_ = 0;
  Place key_{};
  std::vector<Place> inputs_, outputs_;
  std::unique_ptr<Pinned> pinned_;
};

/// One of a program's functions, ready to be called.
struct Role {
  Launches launches = nullptr;
  std::unique_ptr<Frame> frame;
  Replay replay, held;  // held: without the exchanges that ranks hold back
};

/// A program whose floats are of type T. Launches are null for functions that it does not have.
template <class T>
class CudaDevice final : public Device {
 public:
  CudaDevice(const Program& program, Launches train, Launches infer, Launches validate) : program_(program), context_(stream_.get()) {
    train_.launches = train, infer_.launches = infer, validate_.launches = validate;
    if (program.mesh == nullptr) return;
    Ranks* const ranks = process_ranks();
    context_.ranks = ranks->on_stream();
    ranks_.reset(new OnStream(context_, *program.mesh, *ranks));
  }

  void reserve(bool train, bool infer, bool validate, int moments, bool accumulate) override {
    params_ = arena_.reserve(program_.param_bytes, "parameters");
    const Shares shares(program_);
    moment_bytes_ = shares.moment_bytes();
    if (train) grads_ = arena_.reserve(std::max(program_.param_bytes, shares.work_bytes()), "gradients");
    for (int i = 0; i < moments; ++i) moments_.push_back(arena_.reserve(moment_bytes_, "moments of the optimizer"));
    if (accumulate) sums_ = arena_.reserve(sums_bytes(program_), "sums of gradients");
    if (train) train_.frame.reset(new Frame(context_, arena_, *program_.train));
    if (infer) infer_.frame.reset(new Frame(context_, arena_, *program_.infer));
    if (validate) validate_.frame.reset(new Frame(context_, arena_, *program_.validate));
    const size_t workspace = context_.blas == nullptr ? 0 : arena_.reserve(Context::kBlasWorkspace, "workspace of cuBLASLt");
    arena_.allocate(context_);
    if (context_.blas != nullptr) context_.blas_workspace = arena_.at(workspace);
    for (const size_t offset : moments_) moment_pointers_.push_back(arena_.at(offset));
  }

  void upload(const char* params, char* const* moments) override {
    copy(arena_.at(params_), params, program_.param_bytes, cudaMemcpyHostToDevice);
    for (size_t i = 0; i < moments_.size(); ++i) copy(moment_pointers_[i], moments[i], moment_bytes_, cudaMemcpyHostToDevice);
  }
  void download(char* params, char* const* moments) override {
    copy(params, arena_.at(params_), program_.param_bytes, cudaMemcpyDeviceToHost);
    for (size_t i = 0; i < moments_.size(); ++i) copy(moments[i], moment_pointers_[i], moment_bytes_, cudaMemcpyDeviceToHost);
  }
  void download_gradients(char* grads) override { copy(grads, arena_.at(grads_), program_.param_bytes, cudaMemcpyDeviceToHost); }

  void train(const void* const* inputs, void* const* outputs, uint64_t seed, uint64_t step) override { call(train_, inputs, outputs, seed, step); }
  void infer(const void* const* inputs, void* const* outputs, uint64_t seed, uint64_t step) override { call(infer_, inputs, outputs, seed, step); }
  void validate(const void* const* inputs, void* const* outputs, uint64_t seed, uint64_t step) override { call(validate_, inputs, outputs, seed, step); }
  void accumulate(int64_t batch, int64_t batches) override {
    T* const sums = reinterpret_cast<T*>(arena_.at(sums_));
    T* const grads = reinterpret_cast<T*>(arena_.at(grads_));
    const int64_t count = int64_t(program_.param_bytes / sizeof(T));
    add_gradients<T><<<unsigned(std::min<int64_t>((count + 255) / 256, 1 << 16)), 256, 0, context_.stream>>>(sums, grads, count, batch == 0, batch + 1 == batches ? T(1.0 / double(batches)) : T(0));
    context_.check(cudaGetLastError(), "adding gradients");
    context_.wait();
  }
  void reduce_gradients() override {
    tsr::reduce_gradients(program_, *ranks_, arena_.at(grads_), arena_.at(sums_));
    context_.wait();
  }
  double update(const OptimizerSettings& settings, int64_t step, double lr) override {
    prepare(settings, step, lr);
    update_replay_.run(context_, [&] { change(); });
    return norm();
  }
  double step(const void* const* inputs, void* const* outputs, uint64_t seed, const OptimizerSettings& settings, int64_t step, double lr) override {
    prepare(settings, step, lr);
    train_.frame->set(inputs, seed, uint64_t(step));
    step_replay_.run(context_, [&] {
      compute(train_);
      change();
    });
    train_.frame->get(outputs);
    return norm();
  }
  size_t bytes() const override { return arena_.size(); }

 private:
  void call(Role& role, const void* const* inputs, void* const* outputs, uint64_t seed, uint64_t step) {
    role.frame->set(inputs, seed, step);
    Replay& replay = ranks_ != nullptr && ranks_->holding() ? role.held : role.replay;
    replay.run(context_, [&] { compute(role); });
    role.frame->get(outputs);
  }
  void compute(Role& role) {
    role.frame->copy_in();
    role.frame->launch(role.launches, arena_.at(params_), arena_.at(grads_), ranks_.get());
    role.frame->copy_out();
  }
  void prepare(const OptimizerSettings& settings, int64_t step, double lr) {
    if (updater_ == nullptr) {
      updater_.reset(new Updater<T>(context_, program_, settings, ranks_.get()));
      result_.reset(new Pinned(context_, sizeof(StepResult)));
    }
    updater_->prepare(step, lr);
  }
  void change() {
    updater_->launch(arena_.at(params_), arena_.at(grads_), moment_pointers_.data());
    context_.check(cudaMemcpyAsync(result_->at(0), updater_->result(), sizeof(StepResult), cudaMemcpyDeviceToHost, context_.stream), "copying the norm");
  }
  double norm() const { return reinterpret_cast<const StepResult*>(result_->at(0))->norm; }
  void copy(char* to, const char* from, size_t bytes, cudaMemcpyKind kind) {
    context_.check(cudaMemcpyAsync(to, from, bytes, kind, context_.stream), "copying parameters");
    context_.need(cudaStreamSynchronize(context_.stream), "copying parameters");
  }

  const Program& program_;
  OwnStream stream_;
  Context context_;
  Arena arena_;
  size_t params_ = 0, grads_ = 0, sums_ = 0, moment_bytes_ = 0;
  std::vector<size_t> moments_;
  std::vector<char*> moment_pointers_;
  Role train_, infer_, validate_;
  std::unique_ptr<OnStream> ranks_;  // of a program on a mesh
  std::unique_ptr<Updater<T>> updater_;
  std::unique_ptr<Pinned> result_;
  Replay update_replay_, step_replay_;
};

}  // namespace tsr::cuda
