// Functions along one line of n elements by one thread, every pointer with its own stride. Ties go to the lowest index.
#pragma once
#include "math.cuh"

namespace tsr {

/// y[i] = sum of x up to i (from the end when `reverse`).
template <class T>
__device__ inline void line_cumsum(const T* x, int64_t sx, T* y, int64_t sy, int64_t n, bool reverse) {
  T sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t at = reverse ? n - 1 - i : i;
    sum += x[at * sx];
    y[at * sy] = sum;
  }
}

/// *y = product of x.
template <class T>
__device__ inline void line_prod(const T* x, int64_t sx, T* y, int64_t, int64_t n) {
  T product = 1;
  for (int64_t i = 0; i < n; ++i) product *= x[i * sx];
  *y = product;
}

/// *y = index of the largest element.
template <class T, class I>
__device__ inline void line_argmax(const T* x, int64_t sx, I* y, int64_t, int64_t n) {
  int64_t best = 0;
  for (int64_t i = 1; i < n; ++i)
    if (x[i * sx] > x[best * sx]) best = i;
  *y = I(best);
}

/// The k largest elements in falling order and their indices. O(n k): k is small.
template <class T, class I>
__device__ inline void line_topk(const T* x, int64_t sx, T* values, int64_t sv, I* indices, int64_t si, int64_t n, int64_t k) {
  for (int64_t j = 0; j < k; ++j) {
    int64_t best = -1;
    for (int64_t i = 0; i < n; ++i) {
      bool taken = false;
      for (int64_t t = 0; t < j; ++t) taken = taken || int64_t(indices[t * si]) == i;
      if (!taken && (best < 0 || x[i * sx] > x[best * sx])) best = i;
    }
    values[j * sv] = x[best * sx];
    indices[j * si] = I(best);
  }
}

/// Restores the heap below `root` among the first `end` elements of y.
template <class T>
__device__ inline void sift_down(T* y, int64_t sy, int64_t root, int64_t end) {
  for (int64_t child = 2 * root + 1; child < end; child = 2 * root + 1) {
    if (child + 1 < end && y[child * sy] < y[(child + 1) * sy]) ++child;
    if (!(y[root * sy] < y[child * sy])) return;
    const T t = y[root * sy];
    y[root * sy] = y[child * sy];
    y[child * sy] = t;
    root = child;
  }
}

/// y = x in rising order (heap sort: no memory beyond y, n log n).
template <class T>
__device__ inline void line_sort(const T* x, int64_t sx, T* y, int64_t sy, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i * sy] = x[i * sx];
  for (int64_t i = n / 2 - 1; i >= 0; --i) sift_down(y, sy, i, n);
  for (int64_t end = n - 1; end > 0; --end) {
    const T t = y[0];
    y[0] = y[end * sy];
    y[end * sy] = t;
    sift_down(y, sy, int64_t(0), end);
  }
}

}  // namespace tsr
