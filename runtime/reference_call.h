// How the reference program reads its arguments and hands back its results: see Function::reference
// in program.h. Everything is dense and row-major; floating-point numbers are doubles whatever their
// type in the compiled program, integers keep their own type.
#pragma once
#include <algorithm>
#include <cstdint>

#include "program.h"
#include "reference_tensor.h"

// For generated functions: thousands of calls in a row, on which optimisation would spend minutes to gain
// nothing. The operations themselves are compiled as usual.
#if defined(__clang__)
#define TSR_UNOPTIMIZED __attribute__((optnone))
#elif defined(__GNUC__)
#define TSR_UNOPTIMIZED __attribute__((optimize("O0")))
#else
#define TSR_UNOPTIMIZED
#endif

namespace tsr {
namespace ref {

using tsr::DType;

inline double element(const void* data, DType type, int64_t i) {
  switch (type) {
    case DType::boolean:
    case DType::u8: return static_cast<const uint8_t*>(data)[i];
    case DType::i8: return static_cast<const int8_t*>(data)[i];
    case DType::i16: return static_cast<const int16_t*>(data)[i];
    case DType::i32: return static_cast<const int32_t*>(data)[i];
    case DType::i64: return double(static_cast<const int64_t*>(data)[i]);
    default: return static_cast<const double*>(data)[i];
  }
}

// A data input.
inline Tensor load(const void* data, DType type, List shape) {
  Tensor result{Sizes(shape)};
  double* const to = result.write();
  for (int64_t i = 0; i < result.count(); ++i) to[i] = element(data, type, i);
  return result;
}

// An output.
inline void store(void* data, Tensor x) { std::copy(x.data(), x.data() + x.count(), static_cast<double*>(data)); }

// Walks the parameters, packed one after another.
class Parameters {
 public:
  explicit Parameters(const char* at) : at_(reinterpret_cast<const double*>(at)) {}
  Tensor next(List shape) {
    Tensor result = load(at_, DType::f64, shape);
    at_ += result.count();
    return result;
  }
  // Passes over a parameter that the function does not use.
  void skip(int64_t count) { at_ += count; }

 private:
  const double* at_;
};

// Walks the gradients, packed like the parameters.
class Gradients {
 public:
  explicit Gradients(char* at) : at_(reinterpret_cast<double*>(at)) {}
  void put(Tensor x) {
    store(at_, x);
    at_ += x.count();
  }
  // The gradient of a parameter that the loss does not depend on.
  void put_zeros(int64_t count) {
    std::fill(at_, at_ + count, 0.0);
    at_ += count;
  }

 private:
  double* at_;
};

}  // namespace ref
}  // namespace tsr
