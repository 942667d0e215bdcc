// Elementwise operations of the reference program, by their textbook definitions in double precision.
#pragma once
#include <cmath>

#include "program.h"
#include "reference_tensor.h"

namespace tsr {
namespace ref {

using tsr::DType;

using Unary = double (*)(double);
using Binary = double (*)(double, double);

inline Tensor map(Tensor x, Unary f) {
  Tensor result = result_like(x);
  const double* const from = x.data();
  double* const to = result.write();
  const int64_t count = x.count();
#pragma omp parallel for schedule(static) if (count > kParallel)
  for (int64_t i = 0; i < count; ++i) to[i] = f(from[i]);
  return result;
}

// A number among the operands is repeated; otherwise the shapes are equal.
inline Tensor zip(Tensor a, Tensor b, Binary f) {
  const bool repeat_a = a.rank() == 0, repeat_b = b.rank() == 0;
  require(repeat_a || repeat_b || a.shape() == b.shape(), "elementwise operation: shapes differ");
  const Tensor& like = repeat_a ? b : a;
  const int64_t count = like.count(), step_a = repeat_a ? 0 : 1, step_b = repeat_b ? 0 : 1;
  Tensor result = !repeat_a && a.unique() ? a : !repeat_b && b.unique() ? b : Tensor(like.shape());
  const double* const left = a.data();
  const double* const right = b.data();
  double* const to = result.write();
#pragma omp parallel for schedule(static) if (count > kParallel)
  for (int64_t i = 0; i < count; ++i) to[i] = f(left[i * step_a], right[i * step_b]);
  return result;
}

namespace scalar {  // the definitions

constexpr double kSqrtHalf = 0.70710678118654752440;       // 1 / sqrt(2)
constexpr double kDensity = 0.39894228040143267794;        // 1 / sqrt(2 pi)
constexpr double kGeluScale = 0.79788456080286535588;      // sqrt(2 / pi)
constexpr double kGeluCubic = 0.044715;

inline double sigmoid(double x) { return x >= 0 ? 1 / (1 + std::exp(-x)) : std::exp(x) / (1 + std::exp(x)); }
inline double sign(double x) { return x > 0 ? 1 : x < 0 ? -1 : x; }
inline double softplus(double x) { return (x > 0 ? x : 0) + std::log1p(std::exp(-std::fabs(x))); }
inline double gelu(double x) { return 0.5 * x * std::erfc(-x * kSqrtHalf); }
inline double gelu_grad(double x) { return 0.5 * std::erfc(-x * kSqrtHalf) + x * kDensity * std::exp(-0.5 * x * x); }
inline double gelu_tanh(double x) { return 0.5 * x * (1 + std::tanh(kGeluScale * (x + kGeluCubic * x * x * x))); }
inline double gelu_tanh_grad(double x) {
  const double t = std::tanh(kGeluScale * (x + kGeluCubic * x * x * x));
  return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * kGeluScale * (1 + 3 * kGeluCubic * x * x);
}
inline double silu_grad(double x) { return sigmoid(x) * (1 + x * (1 - sigmoid(x))); }
inline double maximum(double a, double b) { return a >= b ? a : b; }
inline double quotient(double a, double b) { return std::floor(a / b); }
inline double minimum(double a, double b) { return a <= b || a != a ? a : b; }

// Truncates toward zero and wraps around at `bits`, as NumPy's astype does.
inline double to_integer(double x, int bits, bool is_signed) {
  if (!(std::fabs(x) < 0x1p63)) return -0x1p63;
  const double whole = std::trunc(x);
  if (bits == 64) return whole;
  const double modulus = std::ldexp(1.0, bits);
  const double wrapped = whole - modulus * std::floor(whole / modulus);
  return is_signed && wrapped >= modulus / 2 ? wrapped - modulus : wrapped;
}

}  // namespace scalar

inline Tensor neg(Tensor x) { return map(last(x), [](double v) { return -v; }); }
inline Tensor exp(Tensor x) { return map(last(x), [](double v) { return std::exp(v); }); }
inline Tensor log(Tensor x) { return map(last(x), [](double v) { return std::log(v); }); }
inline Tensor sin(Tensor x) { return map(last(x), [](double v) { return std::sin(v); }); }
inline Tensor cos(Tensor x) { return map(last(x), [](double v) { return std::cos(v); }); }
inline Tensor tanh(Tensor x) { return map(last(x), [](double v) { return std::tanh(v); }); }
inline Tensor sqrt(Tensor x) { return map(last(x), [](double v) { return std::sqrt(v); }); }
inline Tensor rsqrt(Tensor x) { return map(last(x), [](double v) { return 1 / std::sqrt(v); }); }
inline Tensor erf(Tensor x) { return map(last(x), [](double v) { return std::erf(v); }); }
inline Tensor abs(Tensor x) { return map(last(x), [](double v) { return std::fabs(v); }); }
inline Tensor sign(Tensor x) { return map(last(x), scalar::sign); }
inline Tensor floor(Tensor x) { return map(last(x), [](double v) { return std::floor(v); }); }
inline Tensor relu(Tensor x) { return map(last(x), [](double v) { return scalar::maximum(v, 0); }); }
inline Tensor gelu(Tensor x) { return map(last(x), scalar::gelu); }
inline Tensor gelu_grad(Tensor x) { return map(last(x), scalar::gelu_grad); }
inline Tensor gelu_tanh(Tensor x) { return map(last(x), scalar::gelu_tanh); }
inline Tensor gelu_tanh_grad(Tensor x) { return map(last(x), scalar::gelu_tanh_grad); }
inline Tensor silu(Tensor x) { return map(last(x), [](double v) { return v * scalar::sigmoid(v); }); }
inline Tensor silu_grad(Tensor x) { return map(last(x), scalar::silu_grad); }
inline Tensor sigmoid(Tensor x) { return map(last(x), scalar::sigmoid); }
inline Tensor softplus(Tensor x) { return map(last(x), scalar::softplus); }
inline Tensor square(Tensor x) { return map(last(x), [](double v) { return v * v; }); }
inline Tensor reciprocal(Tensor x) { return map(last(x), [](double v) { return 1 / v; }); }
inline Tensor logical_not(Tensor x) { return map(last(x), [](double v) { return double(v == 0); }); }

inline Tensor add(Tensor a, Tensor b) { return zip(last(a), last(b), [](double x, double y) { return x + y; }); }
inline Tensor sub(Tensor a, Tensor b) { return zip(last(a), last(b), [](double x, double y) { return x - y; }); }
inline Tensor mul(Tensor a, Tensor b) { return zip(last(a), last(b), [](double x, double y) { return x * y; }); }
inline Tensor div(Tensor a, Tensor b) { return zip(last(a), last(b), [](double x, double y) { return x / y; }); }
inline Tensor atan2(Tensor y, Tensor x) { return zip(last(y), last(x), [](double a, double b) { return std::atan2(a, b); }); }
inline Tensor pow(Tensor a, Tensor b) { return zip(last(a), last(b), [](double x, double y) { return std::pow(x, y); }); }
inline Tensor quotient(Tensor a, Tensor b) { return zip(last(a), last(b), scalar::quotient); }
inline Tensor maximum(Tensor a, Tensor b) { return zip(last(a), last(b), scalar::maximum); }
inline Tensor minimum(Tensor a, Tensor b) { return zip(last(a), last(b), scalar::minimum); }
inline Tensor lt(Tensor a, Tensor b) { return zip(last(a), last(b), [](double x, double y) { return double(x < y); }); }
inline Tensor le(Tensor a, Tensor b) { return zip(last(a), last(b), [](double x, double y) { return double(x <= y); }); }
inline Tensor gt(Tensor a, Tensor b) { return zip(last(a), last(b), [](double x, double y) { return double(x > y); }); }
inline Tensor ge(Tensor a, Tensor b) { return zip(last(a), last(b), [](double x, double y) { return double(x >= y); }); }
inline Tensor eq(Tensor a, Tensor b) { return zip(last(a), last(b), [](double x, double y) { return double(x == y); }); }
inline Tensor ne(Tensor a, Tensor b) { return zip(last(a), last(b), [](double x, double y) { return double(x != y); }); }
inline Tensor logical_and(Tensor a, Tensor b) {
  return zip(last(a), last(b), [](double x, double y) { return double(x != 0 && y != 0); });
}
inline Tensor logical_or(Tensor a, Tensor b) {
  return zip(last(a), last(b), [](double x, double y) { return double(x != 0 || y != 0); });
}

// condition ? a : b, element by element; a and b may be numbers.
inline Tensor select(Tensor condition, Tensor a, Tensor b) {
  const bool repeat_a = a.rank() == 0, repeat_b = b.rank() == 0;
  require(repeat_a || a.shape() == condition.shape(), "select: shapes differ");
  require(repeat_b || b.shape() == condition.shape(), "select: shapes differ");
  const int64_t count = condition.count(), step_a = repeat_a ? 0 : 1, step_b = repeat_b ? 0 : 1;
  Tensor result(condition.shape());
  const double* const test = condition.data();
  const double* const left = a.data();
  const double* const right = b.data();
  double* const to = result.write();
#pragma omp parallel for schedule(static) if (count > kParallel)
  for (int64_t i = 0; i < count; ++i) to[i] = test[i] != 0 ? left[i * step_a] : right[i * step_b];
  return result;
}

// Conversion to another element type. Floating-point types of every width stay double.
inline Tensor cast(Tensor x, DType type) {
  switch (type) {
    case DType::boolean: return map(last(x), [](double v) { return double(v != 0); });
    case DType::u8: return map(last(x), [](double v) { return scalar::to_integer(v, 8, false); });
    case DType::i8: return map(last(x), [](double v) { return scalar::to_integer(v, 8, true); });
    case DType::i16: return map(last(x), [](double v) { return scalar::to_integer(v, 16, true); });
    case DType::i32: return map(last(x), [](double v) { return scalar::to_integer(v, 32, true); });
    case DType::i64: return map(last(x), [](double v) { return scalar::to_integer(v, 64, true); });
    default: return x;
  }
}

// The value itself; no gradient passed through it.
inline Tensor stop_gradient(Tensor x) { return x; }

}  // namespace ref
}  // namespace tsr
