// Random numbers as pure functions of (seed, stream, index), on top of philox.h: initial weights,
// samplers, shuffles and token sampling. No state, so resuming needs none.
#pragma once
#include <cmath>
#include <cstdint>
#include <string>

#include "philox.h"

namespace tsr {

inline uint64_t stream_of(const std::string& name) { return stream_id(name.c_str()); }

constexpr int kRandomBlock = 4;  // numbers made at a time

// Uniform numbers in [0, 1): elements 4*block .. 4*block+3 of a stream.
inline void uniform_block(uint64_t seed, uint64_t stream, uint64_t block, double* out) {
  for (uint64_t i = 0; i < kRandomBlock; ++i) out[i] = random_uniform<double>(seed, stream, block * kRandomBlock + i);
}

// Standard normal numbers, likewise.
inline void normal_block(uint64_t seed, uint64_t stream, uint64_t block, double* out) {
  for (uint64_t i = 0; i < kRandomBlock; ++i) out[i] = random_normal<double>(seed, stream, block * kRandomBlock + i);
}

inline Words random_words(uint64_t seed, uint64_t stream, uint64_t index) {
  return philox({{static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)}}, seed);
}

// A uniform integer in [0, bound); the bias is below bound / 2^64.
inline uint64_t integer_below(uint64_t seed, uint64_t stream, uint64_t index, uint64_t bound) {
  const Words words = random_words(seed, stream, index);
  const uint64_t wide = static_cast<uint64_t>(words.w[0]) << 32 | words.w[1];
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
      const uint64_t mixed = left ^ (random_words(seed_, stream_, right * 4 + round).w[0] & mask_);
      left = right;
      right = mixed;
    }
    return left << half_ | right;
  }
  uint64_t size_, seed_, stream_, mask_ = 0;
  int half_ = 1;
};

}  // namespace tsr
