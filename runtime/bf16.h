// bf16 as a storage type: the upper half of a float, rounded to nearest even. Arithmetic is done in float.
#pragma once
#include <cstdint>
#include <cstring>

namespace tsr {

/// The float whose upper half these bits are; exact.
inline float float_from_bf16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float out;
  memcpy(&out, &wide, 4);
  return out;
}

/// Rounds to nearest even, beyond the largest number to infinity; NaN stays NaN (quiet).
inline uint16_t bf16_from_float(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

/// One element in memory. Converts to float and from float, so that scalar code reads and writes it like a float.
struct bf16 {
  uint16_t bits;
  bf16() = default;
  bf16(float value) : bits(bf16_from_float(value)) {}
  operator float() const { return float_from_bf16(bits); }
};
static_assert(sizeof(bf16) == 2, "bf16 is two bytes in memory");

/// The value as bf16 holds it, in float.
inline float round_bf16(float value) { return float_from_bf16(bf16_from_float(value)); }

}  // namespace tsr
