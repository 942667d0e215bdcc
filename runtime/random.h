// Random numbers as pure functions of (seed, stream, index), on top of philox.h: initial weights,
// samplers, shuffles and token sampling. No state, so resuming needs none.
#pragma once
#include <cmath>
#include <cstdint>
#include <string>

#include "philox.h"

namespace tsr {

// FNV-1a over a name: the stream of a parameter or of an input.
inline uint64_t stream_of(const std::string& name) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

constexpr int kRandomBlock = 4;  // numbers per counter value

// Four uniform numbers in [0, 1), steps of 2^-32: elements 4*block .. 4*block+3 of a stream.
inline void uniform_block(uint64_t seed, uint64_t stream, uint64_t block, double* out) {
  const auto words = philox(seed, stream, block);
  for (int i = 0; i < kRandomBlock; ++i) out[i] = words[i] * 0x1p-32;
}

// Four standard normal numbers (Box-Muller on two pairs of uniforms; the largest is about 6.7).
inline void normal_block(uint64_t seed, uint64_t stream, uint64_t block, double* out) {
  const auto words = philox(seed, stream, block);
  for (int pair = 0; pair < 2; ++pair) {
    const double radius = std::sqrt(-2.0 * std::log((words[2 * pair] + 0.5) * 0x1p-32));
    const double angle = 6.283185307179586 * (words[2 * pair + 1] * 0x1p-32);
    out[2 * pair] = radius * std::cos(angle);
    out[2 * pair + 1] = radius * std::sin(angle);
  }
}

// A uniform integer in [0, bound); the bias is below bound / 2^64.
inline uint64_t integer_below(uint64_t seed, uint64_t stream, uint64_t index, uint64_t bound) {
  const auto words = philox(seed, stream, index);
  const uint64_t wide = static_cast<uint64_t>(words[0]) << 32 | words[1];
  return static_cast<uint64_t>(static_cast<unsigned __int128>(wide) * bound >> 64);
}

// A permutation of 0 .. size-1 that needs no table: a four-round Feistel network over the next even
// power of two, walked along its cycle until it lands inside.
class Permutation {
 public:
  Permutation(uint64_t size, uint64_t seed, uint64_t epoch) : size_(size), seed_(seed), stream_(stream_of("shuffle") + epoch) {
    while (half_ < 32 && (uint64_t{1} << (2 * half_)) < size) ++half_;
    mask_ = (uint64_t{1} << half_) - 1;
  }
  uint64_t operator()(uint64_t index) const {
    do index = scramble(index);
    while (index >= size_);
    return index;
  }

 private:
  uint64_t scramble(uint64_t value) const {
    uint64_t left = value >> half_, right = value & mask_;
    for (uint64_t round = 0; round < 4; ++round) {
      const uint64_t mixed = left ^ (philox(seed_, stream_, right * 4 + round)[0] & mask_);
      left = right;
      right = mixed;
    }
    return left << half_ | right;
  }
  uint64_t size_, seed_, stream_, mask_ = 0;
  int half_ = 1;
};

}  // namespace tsr
