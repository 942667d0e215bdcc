// Random numbers without state: each value is a function of (seed, stream, index), so the result does not depend on the
// order of evaluation, the number of threads or the memory layout. Generator: Philox4x32-10 of Salmon, Moraes, Dror and
// Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
#pragma once
#include <cmath>

#include "vmath.h"

namespace tsr {

/// Four 32-bit words.
struct Words {
  uint32_t w[4];
};

/// Philox4x32 with 10 rounds: the block of random words for a 128-bit counter and a 64-bit key.
constexpr Words philox(Words counter, uint64_t key) {
  uint32_t k0 = uint32_t(key), k1 = uint32_t(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t(0xD2511F53u) * counter.w[0], b = uint64_t(0xCD9E8D57u) * counter.w[2];
    counter = {{uint32_t(b >> 32) ^ counter.w[1] ^ k0, uint32_t(b), uint32_t(a >> 32) ^ counter.w[3] ^ k1, uint32_t(a)}};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return counter;
}

/// 64-bit FNV-1a hash of a path such as "decoder.layer0.Wq": the stream of a parameter or of a random operation.
constexpr uint64_t stream_id(const char* path) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (; *path != '\0'; ++path) hash = (hash ^ uint8_t(*path)) * 0x100000001b3u;
  return hash;
}

namespace detail {
// Two words per index: block index / 2, words 0-1 for even and 2-3 for odd indices.
struct Pair {
  uint32_t a, b;
};
constexpr Pair random_pair(uint64_t seed, uint64_t stream, uint64_t index) {
  const uint64_t block = index >> 1;
  const Words r = philox({{uint32_t(block), uint32_t(block >> 32), uint32_t(stream), uint32_t(stream >> 32)}}, seed);
  return (index & 1) ? Pair{r.w[2], r.w[3]} : Pair{r.w[0], r.w[1]};
}

// The same for the indices first + 0, step, 2 step, ..., one 64-bit lane each, several registers wide.
template <int N>
struct PairLanes {
  uint32_t a[N], b[N];
};
template <int N>
TSR_INLINE PairLanes<N> random_pairs(uint64_t seed, uint64_t stream, uint64_t first, uint64_t step) {
  PairLanes<N> out;
  uint64_t c0[N], c1[N], c2[N], c3[N];
  for (int i = 0; i < N; ++i) {
    const uint64_t block = (first + uint64_t(i) * step) >> 1;
    c0[i] = uint32_t(block), c1[i] = block >> 32, c2[i] = uint32_t(stream), c3[i] = stream >> 32;
  }
  uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
  for (int round = 0; round < 10; ++round) {
#pragma omp simd
    for (int i = 0; i < N; ++i) {
      const uint64_t a = 0xD2511F53u * c0[i], b = 0xCD9E8D57u * c2[i];
      c0[i] = (b >> 32) ^ c1[i] ^ k0;
      c1[i] = b & 0xffffffffu;
      c2[i] = (a >> 32) ^ c3[i] ^ k1;
      c3[i] = a & 0xffffffffu;
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  for (int i = 0; i < N; ++i) {
    const bool odd = ((first + uint64_t(i) * step) & 1) != 0;
    out.a[i] = uint32_t(odd ? c2[i] : c0[i]);
    out.b[i] = uint32_t(odd ? c3[i] : c1[i]);
  }
  return out;
}

// [0, 1) from the top 24 bits (float) or 53 bits (double).
template <class T>
constexpr T unit_interval(uint32_t a, uint32_t b) {
  if constexpr (sizeof(T) == 4) return T(a >> 8) * T(0x1p-24);
  else return T((uint64_t(a) << 21) | (b >> 11)) * T(0x1p-53);
}

// Standard normal by Box and Muller's transform (1958), computed in double for both types so that all paths agree.
template <class T>
inline T normal_from(uint32_t a, uint32_t b) {
  const double radius = std::sqrt(-2.0 * std::log((double(a) + 0.5) * 0x1p-32));
  return T(radius * std::cos(6.283185307179586477 * (double(b) * 0x1p-32)));
}
}  // namespace detail

/// Uniform in [0, 1): a multiple of 2^-24 (float) or 2^-53 (double).
template <class T>
constexpr T random_uniform(uint64_t seed, uint64_t stream, uint64_t index) {
  const detail::Pair p = detail::random_pair(seed, stream, index);
  return detail::unit_interval<T>(p.a, p.b);
}

/// Standard normal; |value| < 6.8.
template <class T>
inline T random_normal(uint64_t seed, uint64_t stream, uint64_t index) {
  const detail::Pair p = detail::random_pair(seed, stream, index);
  return detail::normal_from<T>(p.a, p.b);
}

/// random_uniform for the indices first, first + step, ...: the same values.
template <class T>
TSR_INLINE Vec<T> random_uniform_vec(uint64_t seed, uint64_t stream, uint64_t first, uint64_t step = 1) {
  const auto p = detail::random_pairs<lanes<T>>(seed, stream, first, step);
  Vec<T> v{};
  for (int i = 0; i < lanes<T>; ++i) v[i] = detail::unit_interval<T>(p.a[i], p.b[i]);
  return v;
}

/// random_normal for the indices first, first + step, ...: the same values.
template <class T>
TSR_INLINE Vec<T> random_normal_vec(uint64_t seed, uint64_t stream, uint64_t first, uint64_t step = 1) {
  const auto p = detail::random_pairs<lanes<T>>(seed, stream, first, step);
  Vec<T> v{};
  for (int i = 0; i < lanes<T>; ++i) v[i] = detail::normal_from<T>(p.a[i], p.b[i]);
  return v;
}

}  // namespace tsr
