// A program whose memory and processors are a device's: what Session asks of it. runtime/cuda/device.cuh is one.
#pragma once
#include <cstddef>
#include <cstdint>

#include "optimizer_settings.h"
#include "program.h"

namespace tsr {

// Arrays and arenas are the host's. Every call is complete when it returns; errors are thrown as tsr::Error.
class Device {
 public:
  virtual ~Device() = default;

  // Takes all memory at once: parameters, gradients and `moments` optimizer arenas, values in flight, inputs and outputs, and
  // room for accumulate() if it will be called.
  virtual void reserve(bool train, bool infer, bool validate, int moments, bool accumulate) = 0;

  // Whole arenas, between host and device. `moments` are those that reserve() was asked for.
  virtual void upload(const char* params, char* const* moments) = 0;
  virtual void download(char* params, char* const* moments) = 0;
  virtual void download_gradients(char* grads) = 0;

  // As Session's functions of these names.
  virtual void train(const void* const* inputs, void* const* outputs, uint64_t seed, uint64_t step) = 0;
  virtual void infer(const void* const* inputs, void* const* outputs, uint64_t seed, uint64_t step) = 0;
  virtual void validate(const void* const* inputs, void* const* outputs, uint64_t seed, uint64_t step) = 0;
  // After batch 0, 1, ... of `batches` has left its gradients; after the last one they are the means, added in that order.
  virtual void accumulate(int64_t batch, int64_t batches) = 0;
  // What train() has left out of its exchanges while ranks held them back (Ranks::hold), in a device's room for accumulate().
  virtual void reduce_gradients() = 0;
  virtual double update(const OptimizerSettings& settings, int64_t step, double lr) = 0;
  virtual double step(const void* const* inputs, void* const* outputs, uint64_t seed, const OptimizerSettings& settings, int64_t step, double lr) = 0;

  virtual size_t bytes() const = 0;  // of the device's memory that reserve() took
};

}  // namespace tsr
