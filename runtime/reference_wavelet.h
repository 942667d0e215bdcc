// Wavelet transforms of the reference program: the filters as they are defined, one line at a time.
#pragma once
#include <algorithm>
#include <string>
#include <vector>

#include "reference_tensor.h"

namespace tsr {
namespace ref {

// The low-pass filter of an orthonormal wavelet (Daubechies 1992, table 6.1).
inline std::vector<double> taps_of(const std::string& type) {
  if (type == "haar") return {0.7071067811865475244, 0.7071067811865475244};
  if (type == "db2") return {0.48296291314453414337, 0.83651630373780790558, 0.22414386804201338103, -0.12940952255126038117};
  require(type == "db4", "wavelet: unknown type");
  return {0.23037781330889650086,  0.71484657055291564709, 0.63088076792985890788,  -0.027983769416859854211,
          -0.18703481171909308408, 0.030841381835560763627, 0.032883011666885199735, -0.010597401785069032105};
}

// The lines of x along an axis through `f(line)`, which changes its n numbers.
template <class F>
inline Tensor each_line(const Tensor& x, int axis, F f) {
  Tensor result(x.shape());
  const int64_t inner = strides_of(x.shape())[size_t(axis)], n = x.size(axis);
  for (int64_t number = 0; number < x.count() / n; ++number) {
    const int64_t start = number / inner * n * inner + number % inner;
    std::vector<double> line;
    for (int64_t j = 0; j < n; ++j) line.push_back(x.data()[start + j * inner]);
    f(line);
    for (int64_t j = 0; j < n; ++j) result.write()[start + j * inner] = line[size_t(j)];
  }
  return result;
}

// Tap j of pair k reads number (2 k + j - shift) mod size; the high-pass filter is the low-pass one backwards with every
// other sign changed.
inline int64_t tap_position(int64_t k, int64_t j, int64_t taps, int64_t size) {
  return ((2 * k + j - (taps / 2 - 1)) % size + size) % size;
}

inline Tensor wavelet(Tensor x, int axis, int64_t level, const char* type) {
  const std::vector<double> low = taps_of(type);
  const int64_t taps = int64_t(low.size());
  return each_line(x, axis, [&](std::vector<double>& line) {
    for (int64_t size = int64_t(line.size()), l = 0; l < level; ++l, size /= 2) {
      const std::vector<double> before(line.begin(), line.begin() + size);
      for (int64_t k = 0; k < size / 2; ++k) {
        double a = 0, d = 0;
        for (int64_t j = 0; j < taps; ++j) {
          const double value = before[size_t(tap_position(k, j, taps, size))];
          a += low[size_t(j)] * value;
          d += (j % 2 ? -1.0 : 1.0) * low[size_t(taps - 1 - j)] * value;
        }
        line[size_t(k)] = a, line[size_t(size / 2 + k)] = d;
      }
    }
  });
}

inline Tensor iwavelet(Tensor x, int axis, int64_t level, const char* type) {
  const std::vector<double> low = taps_of(type);
  const int64_t taps = int64_t(low.size());
  return each_line(x, axis, [&](std::vector<double>& line) {
    for (int64_t l = level; l-- > 0;) {
      const int64_t size = int64_t(line.size()) >> l;
      std::vector<double> after(size_t(size), 0.0);
      for (int64_t k = 0; k < size / 2; ++k)
        for (int64_t j = 0; j < taps; ++j)
          after[size_t(tap_position(k, j, taps, size))] +=
              low[size_t(j)] * line[size_t(k)] + (j % 2 ? -1.0 : 1.0) * low[size_t(taps - 1 - j)] * line[size_t(size / 2 + k)];
      std::copy(after.begin(), after.end(), line.begin());
    }
  });
}

}  // namespace ref
}  // namespace tsr
