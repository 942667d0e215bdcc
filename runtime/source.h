// Where an input's batches come from. A batch is a pure function of (seed, draw): the cursor of a checkpoint is the
// step, nothing else. Inputs read with the same seed stay aligned, because order and window positions do not depend on
// the key; samplers do depend on it, so that coordinates are independent.
#pragma once
#include <cstdint>
#include <memory>
#include <string>

#include "dtype.h"
#include "error.h"
#include "tensor.h"

namespace tsr {

// A range of a batch's rows: along the first axis of an input.
struct Rows { int64_t first, count; };

class Source {
 public:
  virtual ~Source() = default;
  virtual void fill(uint64_t draw, Rows rows, char* out) const = 0;
  virtual bool fixed() const { return false; }       // every batch is the same one
  virtual int64_t samples() const { return 0; }      // 0: unlimited
};

inline std::string input_text(const Tensor& input) {
  return "'" + std::string(input.name) + "' (" + dtype_name(input.dtype) + ", " + shape_text(input.shape, input.rank) + ")";
}

}  // namespace tsr
