// Values from outside on their way into an input buffer: converted to the input's type and checked
// (finite, inside the index bound, representable). A message names key, sample, position and value.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>

#include "dataspec.h"
#include "dtype.h"
#include "error.h"
#include "program.h"
#include "tensor.h"

namespace tsr {

constexpr int64_t kScanLimit = int64_t{1} << 24;  // files up to this many elements are checked in full when opened

// Where values come from, for messages.
struct Origin {
  const char* path;      // file name (null: an array of the caller)
  int64_t first;         // element number, in the file, of the first value given
  bool stream;           // token stream: report the position in the file instead of sample and position
};

inline std::string place_text(const Tensor& input, const Origin& origin, int64_t index) {
  const long long at = origin.first + index, size = row_elements(input);
  const std::string where = origin.path ? quoted(origin.path) : "the array";
  if (origin.stream) return format("token %lld of %s", at, where.c_str());
  if (input.rank == 0) return format("position %lld of %s", at, where.c_str());
  return format("sample %lld, position %lld of %s", at / size, at % size, where.c_str());
}

[[noreturn]] inline void reject_real(const Tensor& input, const Origin& origin, int64_t index, double value) {
  if (std::isfinite(value))
    throw Error("T0907", "input '" + std::string(input.name) + format("': %g at ", value) + place_text(input, origin, index) + " is beyond the range of " + dtype_name(input.dtype),
                "scale the data, or build with --precision fp64");
  throw Error("T0907", "input '" + std::string(input.name) + "': " + (std::isnan(value) ? "NaN" : value > 0 ? "+infinity" : "-infinity") +
              " at " + place_text(input, origin, index), "clean the data first (numpy.isfinite finds all of them)");
}

// The numbers of a sampler, a constant or a grid are within the range of the floating-point type of the input.
inline void check_range(const Tensor& input, const DataSpec& spec) {
  if (is_integer(input.dtype)) return;
  if (!stays_finite(input.dtype, spec.a) || !stays_finite(input.dtype, spec.b))
    throw Error("T0906", "input '" + std::string(input.name) + "' cannot take " + quoted(spec.text) + ": its numbers are beyond the range of " + dtype_name(input.dtype), "give smaller ones", kExitUsage);
}

[[noreturn]] inline void reject_integer(const Tensor& input, const Origin& origin, int64_t index, int64_t value) {
  std::string range;
  if (input.index_bound > 0) {
    range = format("0 .. %lld", static_cast<long long>(input.index_bound - 1));
    if (input.ignore_index != INT64_MIN) range += format(" (or %lld, which is ignored)", static_cast<long long>(input.ignore_index));
  } else {
    range = std::string("the range of ") + dtype_name(input.dtype);
  }
  throw Error("T0908", "input '" + std::string(input.name) + format("': value %lld at ", static_cast<long long>(value)) +
              place_text(input, origin, index) + " is outside " + range,
              input.index_bound > 0 ? "the number of classes or table rows in the source sets the bound; correct the data or the source" : "");
}

// Range of an integer type that is narrower than int64.
inline bool fits(DType dtype, int64_t value) {
  switch (dtype) {
    case DType::boolean: return value == 0 || value == 1;
    case DType::u8: return value >= 0 && value <= 255;
    case DType::i8: return value >= -128 && value <= 127;
    case DType::i16: return value >= -32768 && value <= 32767;
    case DType::i32: return value >= INT32_MIN && value <= INT32_MAX;
    default: return true;
  }
}

inline void check_integers(const Tensor& input, const Origin& origin, int64_t first, const int64_t* values, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const bool inside = input.index_bound == 0 || (values[i] >= 0 && values[i] < input.index_bound) || values[i] == input.ignore_index;
    if (!inside || !fits(input.dtype, values[i])) reject_integer(input, origin, first + i, values[i]);
  }
}

// Converts n elements of `input` stored as `from` into `out`; out null: only checks them.
inline void import_values(const Tensor& input, Format from, const char* source, int64_t n, char* out, const Origin& origin) {
  constexpr int64_t kBlock = 512;
  const int per = scalars_per_element(input.dtype);
  if (is_integer(input.dtype)) {
    int64_t values[kBlock];
    for (int64_t i = 0; i < n; i += kBlock) {
      const int64_t count = n - i < kBlock ? n - i : kBlock;
      load_integers(from, source + i * from.size, values, static_cast<size_t>(count));
      check_integers(input, origin, i, values, count);
      if (out) store_integers(input.dtype, values, out + static_cast<size_t>(i) * dtype_size(input.dtype), static_cast<size_t>(count));
    }
    return;
  }
  double values[kBlock];
  const int64_t step = kBlock / per;
  for (int64_t i = 0; i < n; i += step) {
    const int64_t count = n - i < step ? n - i : step;
    load_reals(from, source + i * from.size, values, static_cast<size_t>(count * per));
    for (int64_t j = 0; j < count * per; ++j)
      if (!stays_finite(input.dtype, values[j])) reject_real(input, origin, i + j / per, values[j]);
    if (out) store_reals(input.dtype, values, out + static_cast<size_t>(i) * dtype_size(input.dtype), static_cast<size_t>(count * per));
  }
}

// An array of this element type may feed that input: floats take real numbers and integers, integers
// take integers, complex takes complex.
inline void check_type(const Tensor& input, Format from, const std::string& path) {
  const bool complex = scalars_per_element(input.dtype) == 2;
  if (complex == (from.kind == Kind::complex) && (!is_integer(input.dtype) || is_integer(from))) return;
  const char* const have = from.kind == Kind::complex ? "complex numbers" : is_integer(from) ? "integers" : "floating-point numbers";
  throw Error("T0906", "input '" + std::string(input.name) + "' takes " + dtype_name(input.dtype) + ", " + quoted(path) + " holds " + have,
              is_integer(input.dtype) ? "save array.astype(numpy.int64)" : "save the array with the type the input takes");
}

}  // namespace tsr
