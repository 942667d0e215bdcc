// Small helpers of emitted row kernels: clearing accumulators, masks, integers in vectors, sums over threads.
#pragma once
#include <initializer_list>
#include <limits>

#include "simd.h"
#include "vmath.h"

namespace tsr {

template <class T>
constexpr T kInfinity = std::numeric_limits<T>::infinity();

/// -1, 0 or 1 by sign; 0 for NaN.
template <class V>
TSR_INLINE V vsign(V x) {
  const V zero{}, one = zero + 1;
  return x > zero ? one : (x < zero ? -one : zero);
}

/// Largest whole number not above x.
TSR_INLINE float vfloor(float x) { return __builtin_floorf(x); }
TSR_INLINE double vfloor(double x) { return __builtin_floor(x); }
template <class V, std::enable_if_t<!std::is_arithmetic_v<V>, int> = 0>
TSR_INLINE V vfloor(V x) {
  for (int i = 0; i < lanes<Element<V>>; ++i) x[i] = vfloor(x[i]);
  return x;
}

/// Whole numbers divided, rounded down; y > 0. Exact as long as the vectors hold whole numbers exactly.
TSR_INLINE long vquotient(long x, long y) { return x / y - (x % y < 0); }
template <class V, std::enable_if_t<!std::is_integral_v<V>, int> = 0>
TSR_INLINE V vquotient(V x, V y) {
  const V q = vfloor(x / y);  // the division may have rounded up to a whole number
  return q * y > x ? q - 1 : q;
}

/// A row's condition as a mask over its columns.
template <class T>
TSR_INLINE IntVec<T> mask_of(bool condition) {
  return IntVec<T>{} - Element<IntVec<T>>(condition);
}

/// Stores the valid columns of v, `stride` elements apart, as integers: of a mask 0 or 1, else v rounded towards zero.
/// Integers travel through vectors of the kernel's floating type: exact up to 2^24 in float, 2^53 in double.
template <class C, class I, class V>
TSR_INLINE void store_int(C c, I* row, long stride, V v) {
  constexpr bool is_mask = !std::is_floating_point_v<Element<V>>;
  for (int i = 0; i < c.size(); ++i) row[(c.begin + i) * stride] = is_mask ? I(v[i] != 0) : I(v[i]);
}
template <class C, class I, class V>
TSR_INLINE void store_int(C c, I* row, V v) {
  store_int(c, row, 1, v);
}

/// Sets `rows` rows of `columns` elements, `stride` apart.
template <class T>
inline void fill_rows(T* p, long rows, long columns, long stride, T value) {
  for (long i = 0; i < rows; ++i)
    for (long j = 0; j < columns; ++j) p[i * stride + j] = value;
}

/// total[i] = sum over workers w of terms[w * distance + i], added in the order of w. All threads share the work.
template <class T>
inline void sum_workers(T* total, const T* terms, long distance, int workers, long n) {
#pragma omp parallel for schedule(static) num_threads(workers) if (n > 16384)
  for (long i = 0; i < n; i += 1024) {
    const long end = i + 1024 < n ? i + 1024 : n;
    for (long j = i; j < end; ++j) {
      T sum = terms[j];
      for (int w = 1; w < workers; ++w) sum += terms[w * distance + j];
      total[j] = sum;
    }
  }
}

// Functions along one line of n elements, every pointer with its own stride. Ties go to the lowest index.

/// y[i] = sum of x up to i (from the end when `reverse`).
template <class T>
inline void line_cumsum(const T* x, long sx, T* y, long sy, long n, bool reverse) {
  T sum = 0;
  for (long i = 0; i < n; ++i) {
    const long at = reverse ? n - 1 - i : i;
    sum += x[at * sx];
    y[at * sy] = sum;
  }
}

/// *y = product of x.
template <class T>
inline void line_prod(const T* x, long sx, T* y, long, long n) {
  T product = 1;
  for (long i = 0; i < n; ++i) product *= x[i * sx];
  *y = product;
}

/// *y = index of the largest element.
template <class T, class I>
inline void line_argmax(const T* x, long sx, I* y, long, long n) {
  long best = 0;
  for (long i = 1; i < n; ++i)
    if (x[i * sx] > x[best * sx]) best = i;
  *y = I(best);
}

/// The k largest elements in falling order and their indices. O(n k): k is small.
template <class T, class I>
inline void line_topk(const T* x, long sx, T* values, long sv, I* indices, long si, long n, long k) {
  for (long j = 0; j < k; ++j) {
    long best = -1;
    for (long i = 0; i < n; ++i) {
      bool taken = false;
      for (long t = 0; t < j; ++t) taken = taken || long(indices[t * si]) == i;
      if (!taken && (best < 0 || x[i * sx] > x[best * sx])) best = i;
    }
    values[j * sv] = x[best * sx];
    indices[j * si] = I(best);
  }
}

/// y = x in rising order (heap sort: no memory beyond y, n log n).
template <class T>
inline void line_sort(const T* x, long sx, T* y, long sy, long n) {
  for (long i = 0; i < n; ++i) y[i * sy] = x[i * sx];
  auto sift = [&](long root, long end) {
    for (long child; (child = 2 * root + 1) < end; root = child) {
      if (child + 1 < end && y[child * sy] < y[(child + 1) * sy]) ++child;
      if (!(y[root * sy] < y[child * sy])) return;
      const T t = y[root * sy];
      y[root * sy] = y[child * sy];
      y[child * sy] = t;
    }
  };
  for (long i = n / 2 - 1; i >= 0; --i) sift(i, n);
  for (long end = n - 1; end > 0; --end) {
    const T t = y[0];
    y[0] = y[end * sy];
    y[end * sy] = t;
    sift(0, end);
  }
}

/// A typed pointer into a byte arena.
template <class T>
TSR_INLINE T* at(char* base, size_t offset) {
  return reinterpret_cast<T*>(base + offset);
}

/// Bytes of n elements, rounded up to whole cache lines.
template <class T>
constexpr size_t padded(size_t n) {
  return (n * sizeof(T) + 63) / 64 * 64;
}

/// The largest of some sizes.
constexpr size_t largest(std::initializer_list<size_t> sizes) {
  size_t result = 0;
  for (size_t size : sizes)
    if (size > result) result = size;
  return result;
}

/// What random operations depend on besides their stream and index.
struct RandomKey {
  uint64_t seed, step;
};

}  // namespace tsr
