// Element types: sizes, names in .npy and safetensors files, and conversion between them. Values
// travel through double (floats) or int64 (integers) in small blocks, so that N source types and M
// destination types need N + M loops.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "bf16.h"
#include "program.h"

namespace tsr {

enum class Kind : unsigned char { real, brain, signed_integer, unsigned_integer, boolean, complex };

// How one element is stored in a file or in memory.
struct Format {
  Kind kind;
  int size;  // bytes
};

inline bool operator==(Format a, Format b) { return a.kind == b.kind && a.size == b.size; }
inline bool is_integer(Format f) { return f.kind == Kind::signed_integer || f.kind == Kind::unsigned_integer || f.kind == Kind::boolean; }

inline Format format_of(DType dtype) {
  switch (dtype) {
    case DType::f32: return {Kind::real, 4};
    case DType::f64: return {Kind::real, 8};
    case DType::bf16: return {Kind::brain, 2};
    case DType::f16: return {Kind::real, 2};
    case DType::i8: return {Kind::signed_integer, 1};
    case DType::i16: return {Kind::signed_integer, 2};
    case DType::i32: return {Kind::signed_integer, 4};
    case DType::i64: return {Kind::signed_integer, 8};
    case DType::u8: return {Kind::unsigned_integer, 1};
    case DType::boolean: return {Kind::boolean, 1};
    case DType::c64: return {Kind::complex, 8};
    case DType::c128: return {Kind::complex, 16};
  }
  return {Kind::real, 4};
}

inline const char* dtype_name(DType dtype) {
  const char* const names[] = {"f32", "f64", "bf16", "f16", "i8", "i16", "i32", "i64", "u8", "bool", "c64", "c128"};
  return names[static_cast<int>(dtype)];
}

inline size_t dtype_size(DType dtype) { return static_cast<size_t>(format_of(dtype).size); }
inline bool is_integer(DType dtype) { return is_integer(format_of(dtype)); }

// The real type a complex one is made of; itself otherwise. A complex array of n elements is a
// real array of n * scalars_per_element(dtype) scalars.
inline DType scalar_type(DType dtype) { return dtype == DType::c64 ? DType::f32 : dtype == DType::c128 ? DType::f64 : dtype; }
inline int scalars_per_element(DType dtype) { return dtype == DType::c64 || dtype == DType::c128 ? 2 : 1; }

// Whether a real number, rounded to this type, is a finite one; float's largest number is half a step below the limit.
inline bool stays_finite(DType dtype, double value) { return std::fabs(value) < (scalar_type(dtype) == DType::f64 ? HUGE_VAL : 0x1.ffffffp127); }

// IEEE half: exponent rebias by multiplication with 2^112, exact also for subnormals.
inline float float_from_f16(uint16_t half) {
  const uint32_t magnitude = static_cast<uint32_t>(half & 0x7fffu) << 13;
  float out;
  memcpy(&out, &magnitude, 4);
  out *= 0x1p112f;
  uint32_t bits;
  memcpy(&bits, &out, 4);
  if ((half & 0x7c00u) == 0x7c00u) bits |= 0x7f800000u;
  bits |= static_cast<uint32_t>(half & 0x8000u) << 16;
  memcpy(&out, &bits, 4);
  return out;
}

// Round to nearest even; overflow gives infinity.
inline uint16_t f16_from_float(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  const uint32_t sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x38800000u) {  // subnormal half: let the FPU round at 2^-24 steps
    float shifted;
    memcpy(&shifted, &magnitude, 4);
    shifted += 0.5f;
    uint32_t rounded;
    memcpy(&rounded, &shifted, 4);
    return static_cast<uint16_t>(sign | (rounded - 0x3f000000u));
  }
  const uint32_t odd = (magnitude >> 13) & 1u;
  return static_cast<uint16_t>(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13));
}

// Copies n elements of type S at any alignment into wider ones.
template <class S, class W>
inline void widen(const void* source, W* out, size_t n) {
  const char* bytes = static_cast<const char*>(source);
  for (size_t i = 0; i < n; ++i) {
    S value;
    memcpy(&value, bytes + i * sizeof(S), sizeof(S));
    out[i] = static_cast<W>(value);
  }
}

inline void load_integers(Format format, const void* source, int64_t* out, size_t n) {
  const bool is_signed = format.kind == Kind::signed_integer;
  switch (format.size) {
    case 1: is_signed ? widen<int8_t>(source, out, n) : widen<uint8_t>(source, out, n); return;
    case 2: is_signed ? widen<int16_t>(source, out, n) : widen<uint16_t>(source, out, n); return;
    case 4: is_signed ? widen<int32_t>(source, out, n) : widen<uint32_t>(source, out, n); return;
    default: widen<int64_t>(source, out, n);  // uint64 beyond 2^63 turns negative and fails every bound
  }
}

inline void store_integers(DType dtype, const int64_t* values, void* out, size_t n) {
  for (size_t i = 0; i < n; ++i) switch (dtype_size(dtype)) {
    case 1: static_cast<int8_t*>(out)[i] = static_cast<int8_t>(values[i]); break;
    case 2: static_cast<int16_t*>(out)[i] = static_cast<int16_t>(values[i]); break;
    case 4: static_cast<int32_t*>(out)[i] = static_cast<int32_t>(values[i]); break;
    default: static_cast<int64_t*>(out)[i] = values[i];
  }
}

// Reads n scalars (a complex element counts as two) as double.
inline void load_reals(Format format, const void* source, double* out, size_t n) {
  const char* bytes = static_cast<const char*>(source);
  if (is_integer(format)) {
    for (size_t i = 0; i < n; ++i) {
      int64_t value;
      load_integers(format, bytes + i * static_cast<size_t>(format.size), &value, 1);
      out[i] = static_cast<double>(value);
    }
    return;
  }
  const int scalar = format.kind == Kind::complex ? format.size / 2 : format.size;
  if (scalar == 8) return widen<double>(source, out, n);
  if (scalar == 4) return widen<float>(source, out, n);
  for (size_t i = 0; i < n; ++i) {
    uint16_t bits;
    memcpy(&bits, bytes + 2 * i, 2);
    out[i] = format.kind == Kind::brain ? float_from_bf16(bits) : float_from_f16(bits);
  }
}

// Writes n scalars given as double.
inline void store_reals(DType dtype, const double* values, void* out, size_t n) {
  switch (scalar_type(dtype)) {
    case DType::f64: memcpy(out, values, n * sizeof(double)); return;
    case DType::f32: for (size_t i = 0; i < n; ++i) static_cast<float*>(out)[i] = static_cast<float>(values[i]); return;
    case DType::bf16: for (size_t i = 0; i < n; ++i) static_cast<uint16_t*>(out)[i] = bf16_from_float(static_cast<float>(values[i])); return;
    case DType::f16: for (size_t i = 0; i < n; ++i) static_cast<uint16_t*>(out)[i] = f16_from_float(static_cast<float>(values[i])); return;
    default:
      for (size_t i = 0; i < n; ++i) {
        const int64_t value = static_cast<int64_t>(values[i]);
        store_integers(dtype, &value, static_cast<char*>(out) + i * dtype_size(dtype), 1);
      }
  }
}

}  // namespace tsr
