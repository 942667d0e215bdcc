// Random numbers without state on the device: the same bits as runtime/philox.h for the same (seed, stream, index).
// Generator: Philox4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
#pragma once
#include "math.cuh"

namespace tsr {

/// What random operations depend on besides their stream and index.
struct RandomKey {
  uint64_t seed, step;
};

/// The two words of an index: words 0-1 (even) or 2-3 (odd) of block index / 2.
struct RandomPair {
  uint32_t a, b;
};
__device__ inline RandomPair random_pair(uint64_t seed, uint64_t stream, uint64_t index) {
  const uint64_t block = index >> 1;
  uint32_t c0 = uint32_t(block), c1 = uint32_t(block >> 32), c2 = uint32_t(stream), c3 = uint32_t(stream >> 32);
  uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t(0xD2511F53u) * c0, b = uint64_t(0xCD9E8D57u) * c2;
    c0 = uint32_t(b >> 32) ^ c1 ^ k0;
    c1 = uint32_t(b);
    c2 = uint32_t(a >> 32) ^ c3 ^ k1;
    c3 = uint32_t(a);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return (index & 1) != 0 ? RandomPair{c2, c3} : RandomPair{c0, c1};
}

/// Uniform in [0, 1): a multiple of 2^-24 (float) or 2^-53 (double).
template <class T>
__device__ inline T random_uniform(uint64_t seed, uint64_t stream, uint64_t index) {
  const RandomPair p = random_pair(seed, stream, index);
  if constexpr (sizeof(T) == 4) return T(p.a >> 8) * T(0x1p-24);
  else return T((uint64_t(p.a) << 21) | (p.b >> 11)) * T(0x1p-53);
}

/// Standard normal by Box and Muller's transform (1958), in double for both types as on the CPU.
template <class T>
__device__ inline T random_normal(uint64_t seed, uint64_t stream, uint64_t index) {
  const RandomPair p = random_pair(seed, stream, index);
  const double radius = sqrt(-2.0 * log((double(p.a) + 0.5) * 0x1p-32));
  return T(radius * cos(6.283185307179586477 * (double(p.b) * 0x1p-32)));
}

}  // namespace tsr
