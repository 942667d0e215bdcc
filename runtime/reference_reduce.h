// Reductions, scans and orderings of the reference program. Every result element is computed by one
// thread in a fixed order.
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "reference_tensor.h"
#include "reference_view.h"

namespace tsr {
namespace ref {

using RowReduction = double (*)(const double* row, int64_t count);

// Combines the elements along `axes`, which are moved to the end first.
inline Tensor reduce(Tensor x, const Sizes& axes, RowReduction f) {
  Sizes perm, shape;
  int64_t width = 1;
  for (int axis = 0; axis < x.rank(); ++axis) {
    if (std::find(axes.begin(), axes.end(), axis) != axes.end()) continue;
    perm.push_back(axis);
    shape.push_back(x.size(axis));
  }
  for (const int64_t axis : axes) {
    perm.push_back(axis);
    width *= x.size(int(axis));
  }
  if (!std::is_sorted(perm.begin(), perm.end())) x = transpose(last(x), perm);
  Tensor result(shape);
  const double* const from = x.data();
  double* const to = result.write();
  const int64_t rows = result.count();
#pragma omp parallel for schedule(static) if (rows * width > kParallel)
  for (int64_t row = 0; row < rows; ++row) to[row] = f(from + row * width, width);
  return result;
}

inline double row_sum(const double* row, int64_t count) {
  double total = 0;
  for (int64_t i = 0; i < count; ++i) total += row[i];
  return total;
}

inline Tensor reduce_sum(Tensor x, const Sizes& axes) { return reduce(last(x), axes, row_sum); }
inline Tensor reduce_sum(Tensor x, List axes) { return reduce(last(x), axes, row_sum); }

inline Tensor reduce_prod(Tensor x, List axes) {
  return reduce(last(x), axes, [](const double* row, int64_t count) {
    double total = 1;
    for (int64_t i = 0; i < count; ++i) total *= row[i];
    return total;
  });
}

inline Tensor reduce_max(Tensor x, List axes) {
  return reduce(last(x), axes, [](const double* row, int64_t count) {
    double best = -double(INFINITY);
    for (int64_t i = 0; i < count; ++i) best = row[i] > best || row[i] != row[i] ? row[i] : best;
    return best;
  });
}

inline Tensor reduce_min(Tensor x, List axes) {
  return reduce(last(x), axes, [](const double* row, int64_t count) {
    double best = double(INFINITY);
    for (int64_t i = 0; i < count; ++i) best = row[i] < best || row[i] != row[i] ? row[i] : best;
    return best;
  });
}

// Index of the largest element along an axis; the lowest of equal ones, a NaN before any number.
inline Tensor argmax(Tensor x, int axis) {
  return reduce(last(x), {axis}, [](const double* row, int64_t count) {
    int64_t best = 0;
    for (int64_t i = 1; i < count; ++i) {
      if (row[i] > row[best] || (std::isnan(row[i]) && !std::isnan(row[best]))) best = i;
    }
    return double(best);
  });
}

// Running sum along an axis, from its end where `reverse`.
inline Tensor cumsum(Tensor x, int axis, bool reverse) {
  Tensor result(x.shape());
  const int64_t step = strides_of(x.shape())[size_t(axis)], size = x.size(axis);
  const int64_t lines = size > 0 ? x.count() / size : 0;
  const double* const from = x.data();
  double* const to = result.write();
#pragma omp parallel for schedule(static) if (x.count() > kParallel)
  for (int64_t line = 0; line < lines; ++line) {
    const int64_t first = line / step * step * size + line % step;
    double total = 0;
    for (int64_t i = 0; i < size; ++i) {
      const int64_t at = first + (reverse ? size - 1 - i : i) * step;
      total += from[at];
      to[at] = total;
    }
  }
  return result;
}

// Numbers in order; a NaN comes after all of them.
inline bool before(double a, double b) { return a < b || (std::isnan(b) && !std::isnan(a)); }

// Every row along the last axis in ascending order.
inline Tensor sort(Tensor x) {
  Tensor result(x.shape());
  std::copy(x.data(), x.data() + x.count(), result.write());
  const int64_t width = x.rank() > 0 ? x.shape().back() : 1;
  for (int64_t at = 0; at < x.count(); at += width) std::sort(result.write() + at, result.write() + at + width, before);
  return result;
}

}  // namespace ref
}  // namespace tsr
