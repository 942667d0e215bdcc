// Transforms along contiguous rows of N complex numbers whose real and imaginary parts lie apart.
//
// One row: as a matrix of rows x columns it is transformed down its columns, side by side in the lanes of a register, then each
// block is transposed in registers, so that the second transform is side by side as well and leaves the bins in order. Short
// lengths and those without good factors are done for as many rows at a time as a register has lanes.
#pragma once
#include "fft_columns.h"
#include "transpose.h"

namespace tsr {
namespace detail {

/// Real and imaginary parts of complex numbers that lie apart in memory.
template <class T>
struct Split {
  T *re, *im;
  template <class C>
  TSR_INLINE Planes<Vec<T>> load(C c, long offset = 0) const {
    return {c.load(re + offset), c.load(im + offset)};
  }
  template <class C>
  TSR_INLINE void store(C c, Planes<Vec<T>> v, long offset = 0) const {
    c.store(re + offset, v.re), c.store(im + offset, v.im);
  }
};

/// A block of lanes x lanes complex numbers turned over, from consecutive vectors to rows `pitch` apart.
template <class T>
TSR_INLINE void turn_block(const Planes<Vec<T>>* block, Split<T> to, long pitch) {
  constexpr int L = lanes<T>;
  Vec<T> r[L];
#pragma GCC unroll 16
  for (int i = 0; i < L; ++i) r[i] = block[i].re;
  transpose_stages<L / 2>(r);
#pragma GCC unroll 16
  for (int i = 0; i < L; ++i) store(to.re + i * pitch, r[i]);
#pragma GCC unroll 16
  for (int i = 0; i < L; ++i) r[i] = block[i].im;
  transpose_stages<L / 2>(r);
#pragma GCC unroll 16
  for (int i = 0; i < L; ++i) store(to.im + i * pitch, r[i]);
}

/// One row at a time, N = rows x columns. `in(c)` gives the columns c of the row, `out(c, value)` takes bins.
template <class T, int N>
struct OneRow {
  static constexpr RowPlan plan = row_plan(N, lanes<T>);
  static constexpr int L = lanes<T>, rows = plan.rows, columns = plan.columns;
  static constexpr long height = rounded_up(rows, L);
  /// Rows whose distance is a multiple of 256 bytes would share cache sets.
  static constexpr long pitch = height + (height * long(sizeof(T)) % 256 == 0 ? L : 0);
  static constexpr long matrix = pitch * rounded_up(columns, L);
  using Down = SideBySide<T, rows>;
  using Across = SideBySide<T, columns>;
  using P = Planes<Vec<T>>;
  static constexpr long more = Down::work_size > Across::work_size ? Down::work_size : Across::work_size;
  /// Numbers of working memory: the matrix, one block of columns, and the steps' own.
  static constexpr long work_size = 2 * matrix + 2 * L * (height + more);

  template <class In, class Out>
  static void run(In&& in, Out&& out, T* work) {
    const Split<T> turned{work, work + matrix};
    P* const block = reinterpret_cast<P*>(work + 2 * matrix);
    P* const steps = block + height;
    const auto& w = lane_factors<T, rows, columns>();
    for (int k = rows; k < height; ++k) block[k] = zero_planes<Vec<T>>();
    tsr::columns<T, columns>([&](auto c) TSR_LAMBDA {
      Down::run([&](int i) TSR_LAMBDA { return in(decltype(c){c.begin + i * columns, c.runtime_count}); },
                [&](int k, P v) TSR_LAMBDA {
                  const long at = k * w.pitch + c.begin;
                  block[k] = v * P{load(w.re + at), load(w.im + at)};
                },
                steps);
#pragma GCC unroll 1
      for (int k = 0; k < height; k += L) turn_block<T>(block + k, {turned.re + c.begin * pitch + k, turned.im + c.begin * pitch + k}, pitch);
    });
    tsr::columns<T, rows>([&](auto c) TSR_LAMBDA {
      Across::run([&](int j) TSR_LAMBDA { return turned.load(Full<T>{c.begin, L}, j * pitch); },
                  [&](int k, P v) TSR_LAMBDA { out(decltype(c){c.begin + k * rows, c.runtime_count}, v); }, steps);
    });
  }
};

/// As many rows at a time as a register has lanes. `in(row, c)` and `out(row, c, value)` for row < count <= lanes.
template <class T, int N>
struct ManyRows {
  static constexpr int L = lanes<T>;
  using Lanes = SideBySide<T, N>;
  using P = Planes<Vec<T>>;
  static constexpr long height = rounded_up(N, L);
  static constexpr long work_size = 2 * L * (height + Lanes::work_size) + 2 * L * L;
  static constexpr long cost = side_by_side_cost(N) + 40 * height;

  template <class In, class Out>
  static void run(int count, In&& in, Out&& out, T* work) {
    P* const values = reinterpret_cast<P*>(work);
    P* const block = values + height;
    P* const steps = block + L;
    for (int r = count; r < L; ++r) block[r] = zero_planes<Vec<T>>();
    tsr::columns<T, N>([&](auto c) TSR_LAMBDA {
      if (count == L) {
        fetch(c, in, values + c.begin, block);
      } else {
        for (int r = 0; r < count; ++r) block[r] = in(r, c);
        turn_block<T>(block, {reinterpret_cast<T*>(values + c.begin), reinterpret_cast<T*>(values + c.begin) + L}, 2 * L);
      }
    });
    Lanes::run([&](int j) TSR_LAMBDA { return values[j]; }, [&](int k, P v) TSR_LAMBDA { values[k] = v; }, steps);
    tsr::columns<T, N>([&](auto c) TSR_LAMBDA {
      if (count == L) {
        give(c, out, values + c.begin, block);
      } else {
        turn_block<T>(values + c.begin, {reinterpret_cast<T*>(block), reinterpret_cast<T*>(block) + L}, 2 * L);
        for (int r = 0; r < count; ++r) out(r, c, block[r]);
      }
    });
  }

 private:
  // Whole groups are turned over between memory and registers, one plane at a time; the other waits in `block`.
  template <class C, class In>
  TSR_INLINE static void fetch(C c, In& in, P* values, P* block) {
    Vec<T> r[L];
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) {
      const P v = in(i, c);
      r[i] = v.re, block[i].im = v.im;
    }
    transpose_stages<L / 2>(r);
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) values[i].re = r[i], r[i] = block[i].im;
    transpose_stages<L / 2>(r);
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) values[i].im = r[i];
  }
  template <class C, class Out>
  TSR_INLINE static void give(C c, Out& out, const P* values, P* block) {
    Vec<T> r[L];
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) r[i] = values[i].re;
    transpose_stages<L / 2>(r);
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) block[i].re = r[i], r[i] = values[i].im;
    transpose_stages<L / 2>(r);
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) out(i, c, P{block[i].re, r[i]});
  }
};

/// A row whose length has a large prime factor: two transforms of a smooth length (Bluestein 1970).
template <class T, int N>
struct OneRowConvolved {
  static constexpr int length = convolution_length(N, lanes<T>);
  using Inner = OneRow<T, length>;
  using P = Planes<Vec<T>>;
  static constexpr long padded_length = rounded_up(length, lanes<T>);
  static constexpr long work_size = 2 * padded_length + Inner::work_size;
  static constexpr long cost = 2 * Inner::plan.cost;

  template <class In, class Out>
  static void run(In&& in, Out&& out, T* work) {
    const auto& w = chirp<T, N, length>();
    const Split<T> spectrum{work, work + padded_length};
    T* const more = work + 2 * padded_length;
    auto within = [](auto c, auto f) TSR_LAMBDA {  // f on those of the columns c that are below N
      if (c.begin + c.size() <= N) f(c);
      else if (c.begin < N) f(Columns<T, 0>{c.begin, N - c.begin});
    };
    Inner::run(
        [&](auto c) TSR_LAMBDA {
          P v = zero_planes<Vec<T>>();
          within(c, [&](auto part) TSR_LAMBDA { v = in(part) * P{part.load(w.chirp.re), part.load(w.chirp.im)}; });
          return v;
        },
        [&](auto c, P v) TSR_LAMBDA { spectrum.store(c, swapped(v * P{c.load(w.spectrum.re), c.load(w.spectrum.im)})); }, more);
    Inner::run([&](auto c) TSR_LAMBDA { return spectrum.load(c); },
               [&](auto c, P v) TSR_LAMBDA {
                 within(c, [&](auto part) TSR_LAMBDA { out(part, swapped(v) * P{part.load(w.chirp.re), part.load(w.chirp.im)}); });
               },
               more);
  }
};

enum class RowWay { one, convolved, many };

template <class T, int N>
constexpr RowWay row_way() {
  constexpr int L = lanes<T>;
  if constexpr (!is_smooth(N)) {
    return RowWay::convolved;
  } else {
    constexpr RowPlan plan = row_plan(N, L);
    return plan.rows > 0 && plan.cost * L <= ManyRows<T, N>::cost ? RowWay::one : RowWay::many;
  }
}

}  // namespace detail
}  // namespace tsr
