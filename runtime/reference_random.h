// Random tensors of the reference program. Written out again from the definition of Philox4x32-10
// (Salmon, Moraes, Dror and Shaw, SC 2011) so that philox.h is checked too; the bits are the same.
#pragma once
#include <cmath>
#include <cstdint>

#include "program.h"
#include "reference_tensor.h"

namespace tsr {
namespace ref {

struct Bits {
  uint32_t word[4];
};

inline Bits philox(uint64_t block, uint64_t stream, uint64_t key) {
  Bits x = {{uint32_t(block), uint32_t(block >> 32), uint32_t(stream), uint32_t(stream >> 32)}};
  uint32_t low_key = uint32_t(key), high_key = uint32_t(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t left = uint64_t(0xD2511F53u) * x.word[0], right = uint64_t(0xCD9E8D57u) * x.word[2];
    x = {{uint32_t(right >> 32) ^ x.word[1] ^ low_key, uint32_t(right), uint32_t(left >> 32) ^ x.word[3] ^ high_key,
          uint32_t(left)}};
    low_key += 0x9E3779B9u;
    high_key += 0xBB67AE85u;
  }
  return x;
}

// Uniform in [0, 1) from 53 bits for f64, from 24 bits for every narrower type.
inline double uniform_from(uint32_t a, uint32_t b, DType type) {
  if (type == DType::f64) return double((uint64_t(a) << 21) | (b >> 11)) * 0x1p-53;
  return double(a >> 8) * 0x1p-24;
}

// Standard normal (Box and Muller 1958).
inline double normal_from(uint32_t a, uint32_t b, DType) {
  return std::sqrt(-2.0 * std::log((double(a) + 0.5) * 0x1p-32)) * std::cos(6.283185307179586477 * (double(b) * 0x1p-32));
}

// Of a tensor of the sizes `whole`, the part that begins with its element `first`. Element i of the whole takes words
// 0 and 1 (i even) or 2 and 3 (i odd) of block i / 2.
inline Tensor random(uint64_t seed, uint64_t stream, Sizes shape, DType type, double (*draw)(uint32_t, uint32_t, DType),
                     const Sizes& whole, int64_t first) {
  Tensor result{shape};
  double* const to = result.write();
  const int64_t count = result.count();
  const Sizes steps = strides_of(whole);
#pragma omp parallel for schedule(static) if (count > kParallel)
  for (int64_t k = 0; k < count; ++k) {
    const int64_t i = first + position(k, shape, steps);
    const Bits bits = philox(uint64_t(i) / 2, stream, seed);
    const int half = int(i % 2) * 2;
    to[k] = draw(bits.word[half], bits.word[half + 1], type);
  }
  return result;
}

// The element of a tensor of the sizes `whole` that lies at `begins` on the axes `dims`, at 0 on the others.
inline int64_t element_at(List whole, List dims, std::initializer_list<Tensor> begins) {
  const Sizes steps = strides_of(Sizes(whole));
  int64_t at = 0;
  const int64_t* axis = dims.begin();
  for (const Tensor& begin : begins) at += int64_t(*begin.data()) * steps[size_t(*axis++)];
  return at;
}

inline Tensor random_uniform(const Call& call, uint64_t stream, List shape, DType type) {
  return random(call.seed, stream + call.step, shape, type, uniform_from, shape, 0);
}

inline Tensor random_uniform_part(const Call& call, uint64_t stream, List shape, DType type, List whole, List dims,
                                  std::initializer_list<Tensor> begins) {
  return random(call.seed, stream + call.step, shape, type, uniform_from, whole, element_at(whole, dims, begins));
}

inline Tensor random_normal(const Call& call, uint64_t stream, List shape, DType type) {
  return random(call.seed, stream + call.step, shape, type, normal_from, shape, 0);
}

inline Tensor random_normal_part(const Call& call, uint64_t stream, List shape, DType type, List whole, List dims,
                                 std::initializer_list<Tensor> begins) {
  return random(call.seed, stream + call.step, shape, type, normal_from, whole, element_at(whole, dims, begins));
}

}  // namespace ref
}  // namespace tsr
