// CUDA's vocabulary for a host compiler: qualifiers, dimensions, short vectors and 16-bit floats.
#pragma once
#include <cstdint>
#include <cstring>

#define __global__ inline
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __grid_constant__
#define __align__(n) alignas(n)

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};

#define TSR_SHORT_VECTORS(T, name, two, four)                                    \
  struct alignas(two) name##2 { T x, y; };                                       \
  struct name##3 { T x, y, z; };                                                 \
  struct alignas(four) name##4 { T x, y, z, w; };                                \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; }                     \
  inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }             \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
TSR_SHORT_VECTORS(float, float, 8, 16)
TSR_SHORT_VECTORS(double, double, 16, 16)
TSR_SHORT_VECTORS(int, int, 8, 16)
#undef TSR_SHORT_VECTORS
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

namespace tsr::emulation {
/// The bits of a value as another type of the same size.
template <class To, class From>
inline To bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "of the same size");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}
}  // namespace tsr::emulation

/// Rounds to nearest even; NaN becomes CUDA's 0x7fff.
struct __nv_bfloat16 {
  uint16_t raw;
  __nv_bfloat16() = default;
  __nv_bfloat16(float x) {
    const uint32_t u = tsr::emulation::bits<uint32_t>(x);
    raw = x != x ? uint16_t(0x7fff) : uint16_t((u + 0x7fff + (u >> 16 & 1)) >> 16);
  }
  operator float() const { return tsr::emulation::bits<float>(uint32_t(raw) << 16); }
};
struct __half {
  _Float16 raw;
  __half() = default;
  __half(float x) : raw(static_cast<_Float16>(x)) {}
  operator float() const { return static_cast<float>(raw); }
};
inline __nv_bfloat16 __float2bfloat16(float x) { return x; }
inline float __bfloat162float(__nv_bfloat16 x) { return x; }
inline __half __float2half(float x) { return x; }
inline float __half2float(__half x) { return x; }
