// How a transform of a given length is taken apart, decided when the program is compiled, and the tables of its factors.
#pragma once
#include "fft_butterfly.h"

namespace tsr {
namespace detail {

constexpr int kLargestButterfly = 31;

constexpr int smallest_prime(int n) {
  for (int p = 2; p * p <= n; ++p)
    if (n % p == 0) return p;
  return n;
}
constexpr int largest_prime(int n) {
  int largest = 1;
  for (int p = 2; n > 1; ++p) {
    if (p * p > n) return n > largest ? n : largest;
    for (; n % p == 0; n /= p) largest = p;
  }
  return largest;
}
/// Lengths that are products of butterflies; all others go through Bluestein's convolution.
constexpr bool is_smooth(int n) { return largest_prime(n) <= kLargestButterfly; }

constexpr bool is_butterfly(int n) { return n == 1 || n == 4 || n == 8 || (n <= kLargestButterfly && smallest_prime(n) == n); }

constexpr int butterfly_factor(int n) {
  if (n % 8 == 0 && (n % 16 != 0 || n % 32 == 0)) return 8;  // 16 = 4 x 4
  if (n % 4 == 0) return 4;
  return smallest_prime(n);
}

constexpr int ceiling(int n, int of) { return (n + of - 1) / of; }
constexpr int rounded_up(int n, int to) { return ceiling(n, to) * to; }

constexpr int bits_of(int n) {
  int bits = 0;
  for (; n > 1; n /= 2) ++bits;
  return bits;
}

/// About the cycles of n vectors of complex numbers transformed side by side: arithmetic, and the way through memory.
constexpr long side_by_side_cost(int n) { return long(n) * (4 * bits_of(n) + 6) + (is_butterfly(n) && n > 8 ? long(n) * n : 0); }

/// First factor of a transform of vectors side by side: a butterfly, or near the root where the values outgrow the nearest
/// cache, so that they go through memory twice and not once per butterfly.
constexpr int first_factor(int n) {
  if (n <= 512) return butterfly_factor(n);
  int best = butterfly_factor(n);
  for (int d = 2; long(d) * d <= n; ++d)
    if (n % d == 0) best = d;
  return best > butterfly_factor(n) ? best : butterfly_factor(n);
}

/// The factors n = rows x columns of one transform in `lanes` lanes, and its cost; columns 0 where there is no way.
struct RowPlan {
  int rows, columns;
  long cost;
};
constexpr RowPlan row_plan(int n, int lanes) {
  RowPlan best{0, 0, 0};
  for (int d = 2; long(d) * d <= n; ++d) {
    if (n % d != 0) continue;
    for (int rows : {d, n / d}) {
      const int columns = n / rows;
      const long blocks = ceiling(columns, lanes), turns = ceiling(rows, lanes);
      const long cost = side_by_side_cost(rows) * blocks + side_by_side_cost(columns) * turns + 10L * blocks * turns * lanes;
      if (best.rows == 0 || cost < best.cost) best = {rows, columns, cost};
    }
  }
  return best;
}

/// Length of the convolution for a transform of n by Bluestein's method.
constexpr int convolution_length(int n, int lanes) {
  int best = 0;
  long least = 0;
  for (int odd : {1, 3, 5, 9, 15}) {
    int m = odd;
    while (m < 2 * n - 1) m *= 2;
    const RowPlan plan = row_plan(m, lanes);
    if (best == 0 || (plan.rows > 0 && plan.cost < least)) best = m, least = plan.cost;
  }
  return best;
}

/// A table that lies on a register boundary. Tables are made when they are first used: at the start of a program a processor may
/// not have the instructions that this file was compiled for.
template <class T, long Size>
struct alignas(kVectorBytes) Table {
  T re[Size], im[Size];
  void set(long i, Planes<double> w) { re[i] = T(w.re), im[i] = T(w.im); }
};

/// exp(-2 pi i jk / (N1 N2)) at [j * N1 + k], j < N2: what lies between two steps side by side.
template <class T, int N1, int N2>
struct StepFactors : Table<T, long(N1) * N2> {
  StepFactors() {
    for (long j = 0; j < N2; ++j)
      for (long k = 0; k < N1; ++k) this->set(j * N1 + k, unit_root(j * k, long(N1) * N2));
  }
};
template <class T, int N1, int N2>
TSR_INLINE const StepFactors<T, N1, N2>& step_factors() {
  static const StepFactors<T, N1, N2> table;
  return table;
}

/// The same as vectors along j, which is padded to whole vectors: [k * pitch + j], k < N1.
template <class T, int N1, int N2>
struct LaneFactors : Table<T, long(N1) * rounded_up(N2, lanes<T>)> {
  static constexpr long pitch = rounded_up(N2, lanes<T>);
  LaneFactors() {
    for (long k = 0; k < N1; ++k)
      for (long j = 0; j < pitch; ++j) this->set(k * pitch + j, j < N2 ? unit_root(j * k, long(N1) * N2) : Planes<double>{0, 0});
  }
};
template <class T, int N1, int N2>
TSR_INLINE const LaneFactors<T, N1, N2>& lane_factors() {
  static const LaneFactors<T, N1, N2> table;
  return table;
}

/// exp(-2 pi i k / N) for k <= N/2, with a vector of zeros behind.
template <class T, int N>
struct HalfTurn : Table<T, rounded_up(N / 2 + 1, lanes<T>) + lanes<T>> {
  HalfTurn() {
    for (long k = 0; k < rounded_up(N / 2 + 1, lanes<T>) + lanes<T>; ++k) this->set(k, k <= N / 2 ? unit_root(k, N) : Planes<double>{0, 0});
  }
};
template <class T, int N>
TSR_INLINE const HalfTurn<T, N>& half_turn() {
  static const HalfTurn<T, N> table;
  return table;
}

}  // namespace detail
}  // namespace tsr
