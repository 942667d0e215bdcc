// Arenas of parameters as vectors: sums and updates over all elements, without the padding between rows. The chunks and
// the order in which their sums are added do not depend on the number of threads.
#pragma once
#include <cstdint>
#include <cstring>
#include <vector>

#include "parameter_chunks.h"

namespace tsr {

// Sum of products in double over 16 fixed lanes, written as vectors: the order of additions, and so
// the result, is the same at every optimisation level.
template <class T>
inline double dot(const T* x, const T* y, int64_t n) {
  typedef double Wide __attribute__((vector_size(8 * sizeof(double))));
  typedef T Narrow __attribute__((vector_size(8 * sizeof(T)), aligned(alignof(T)), may_alias));
  const auto wide = [](const T* at) { return __builtin_convertvector(*reinterpret_cast<const Narrow*>(at), Wide); };
  Wide even = {}, odd = {};
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    even += wide(x + i) * wide(y + i);
    odd += wide(x + i + 8) * wide(y + i + 8);
  }
  even += odd;
  double sum = ((even[0] + even[4]) + (even[2] + even[6])) + ((even[1] + even[5]) + (even[3] + even[7]));
  for (; i < n; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(y[i]);
  return sum;
}

// Vector arithmetic on arenas. Sums are taken in double, elements stay in the arena's own type.
class Vectors {
 public:
  Vectors(const Program& program, int workers) : chunks_(parameter_chunks(program)), workers_(workers) { partial_.resize(chunks_.size()); }

  double dot(const char* x, const char* y) {
    each([&](size_t i, const Chunk& chunk) {
      partial_[i] = 0;
      for (int64_t row = 0; row < chunk.rows; ++row) {
        const size_t at = offset(chunk, row);
        partial_[i] += chunk.type == DType::f32 ? dot_row<float>(x + at, y + at, chunk.length) : dot_row<double>(x + at, y + at, chunk.length);
      }
    });
    double sum = 0;
    for (const double part : partial_) sum += part;
    return sum;
  }
  // out = a x + b y; out may be x or y.
  void combine(double a, const char* x, double b, const char* y, char* out) {
    each([&](size_t, const Chunk& chunk) {
      for (int64_t row = 0; row < chunk.rows; ++row) {
        const size_t at = offset(chunk, row);
        if (chunk.type == DType::f32) combine_row<float>(a, x + at, b, y + at, out + at, chunk.length);
        else combine_row<double>(a, x + at, b, y + at, out + at, chunk.length);
      }
    });
  }
  void scale(double a, char* x) { combine(a, x, 0, x, x); }
  void copy(const char* from, char* to) {
    each([&](size_t, const Chunk& chunk) {
      for (int64_t row = 0; row < chunk.rows; ++row) memcpy(to + offset(chunk, row), from + offset(chunk, row), static_cast<size_t>(chunk.length) * dtype_size(chunk.type));
    });
  }

 private:
  static size_t offset(const Chunk& chunk, int64_t row) { return chunk.offset + static_cast<size_t>(row * chunk.stride) * dtype_size(chunk.type); }
  template <class T>
  static double dot_row(const char* x, const char* y, int64_t n) { return tsr::dot(reinterpret_cast<const T*>(x), reinterpret_cast<const T*>(y), n); }
  template <class T>
  static void combine_row(double a, const char* x_, double b, const char* y_, char* out_, int64_t n) {
    const T* const x = reinterpret_cast<const T*>(x_);
    const T* const y = reinterpret_cast<const T*>(y_);
    T* const out = reinterpret_cast<T*>(out_);
    const T p = static_cast<T>(a), q = static_cast<T>(b);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) out[i] = p * x[i] + q * y[i];
  }
  template <class Body>
  void each(const Body& body) const {
    const int64_t count = static_cast<int64_t>(chunks_.size());
#pragma omp parallel for schedule(static) num_threads(workers_) if (count > 1)
    for (int64_t i = 0; i < count; ++i) body(static_cast<size_t>(i), chunks_[static_cast<size_t>(i)]);
  }

  std::vector<Chunk> chunks_;
  int workers_;
  std::vector<double> partial_;
};

}  // namespace tsr
