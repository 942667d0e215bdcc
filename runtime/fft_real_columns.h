// Transforms of real numbers down the columns of a matrix; see fft_real.h.
#pragma once
#include "fft_real.h"

namespace tsr {
namespace detail {

/// Columns of N rows of real numbers, N even: take(k, c, even, odd) as in even_rows, for k <= N/2.
template <class T, int N, class In, class Take>
void even_columns(long begin, long end, In&& in, Take&& take, T* work) {
  using P = Planes<Vec<T>>;
  constexpr int H = N / 2;
  P* const z = reinterpret_cast<P*>(work);
  const auto& w = half_turn<T, N>();
  columns_of<T>(begin, end, [&](auto c) {
    SideBySide<T, H>::run([&](int j) TSR_LAMBDA { return P{in(2 * j, c), in(2 * j + 1, c)}; }, [&](int k, P v) TSR_LAMBDA { z[k] = v; },
                          z + H + 1);
    z[H] = z[0];
    for (int k = 0; k <= H; ++k) {
      const P a = z[k], b = {z[H - k].re, -z[H - k].im};
      take(k, c, a + b, turned(a - b) * Planes<T>{w.re[k], w.im[k]});
    }
  });
}

}  // namespace detail

/// Numbers of working memory of rfft_columns, irfft_columns and fft_real_columns for one thread.
template <class T, int N>
constexpr long rfft_columns_work() {
  constexpr int inner = N % 2 == 0 ? N / 2 : N;
  return 2 * lanes<T> * (inner + 1 + detail::SideBySide<T, inner>::work_size);
}

/// Down the columns of a matrix of N rows of real numbers: `in(j, c)` returns a vector, `out(k, c, value)` takes a pair, k <= N/2.
template <class T, int N, class In, class Out>
void rfft_columns(long begin, long end, T interior, In&& in, Out&& out, T* work) {
  using namespace detail;
  using P = Planes<Vec<T>>;
  auto give = [&](int k, auto c, P v) TSR_LAMBDA {
    const T factor = k == 0 || 2 * k == N ? T(1) : interior;
    out(k, c, P{v.re * factor, v.im * factor});
  };
  if constexpr (N % 2 == 0) {
    even_columns<T, N>(begin, end, in, [&](int k, auto c, P even, P odd) TSR_LAMBDA { give(k, c, halved(even + odd)); }, work);
  } else {
    columns_of<T>(begin, end, [&](auto c) {
      SideBySide<T, N>::run([&](int j) TSR_LAMBDA { return P{in(j, c), Vec<T>{}}; },
                            [&](int k, P v) TSR_LAMBDA {
                              if (k <= N / 2) give(k, c, v);
                            },
                            reinterpret_cast<P*>(work));
    });
  }
}

/// Down the columns of a matrix of N rows of real numbers: `in(j, c)` returns a vector, `out(k, c, value)` takes a pair, k < N.
template <class T, int N, class In, class Out>
void fft_real_columns(long begin, long end, In&& in, Out&& out, T* work) {
  using namespace detail;
  using P = Planes<Vec<T>>;
  if constexpr (N % 2 == 0) {
    even_columns<T, N>(begin, end, in, [&](int k, auto c, P even, P odd) TSR_LAMBDA {
      if (k == N / 2) return;  // bin 0's difference
      out(k, c, halved(even + odd)), out(k + N / 2, c, halved(even - odd));
    }, work);
  } else {
    fft_columns<T, N>(begin, end, [&](int j, auto c) TSR_LAMBDA { return P{in(j, c), Vec<T>{}}; }, out, work);
  }
}

/// Bins 0..N/2 of columns to N rows of real numbers, without the factor 1/N: `in(k, c)` returns a pair, `out(j, c, value)` takes a vector.
template <class T, int N, class In, class Out>
void irfft_columns(long begin, long end, T interior, In&& in, Out&& out, T* work) {
  using namespace detail;
  using P = Planes<Vec<T>>;
  constexpr int inner = N % 2 == 0 ? N / 2 : N;
  P* const z = reinterpret_cast<P*>(work);
  columns_of<T>(begin, end, [&](auto c) {
    for (int k = 0; k <= N / 2; ++k) {
      const P v = in(k, c);
      const bool alone = k == 0 || 2 * k == N;
      z[k] = alone ? P{v.re, Vec<T>{}} : P{v.re * interior, v.im * interior};
    }
    if constexpr (N % 2 == 0) {
      const auto& w = half_turn<T, N>();
      SideBySide<T, inner>::run(
          [&](int k) TSR_LAMBDA {
            const P a = z[k], b = {z[inner - k].re, -z[inner - k].im}, even = a + b;
            const P odd = (a - b) * Planes<T>{w.re[k], -w.im[k]};  // to be turned by i
            return P{even.im + odd.re, even.re - odd.im};
          },
          [&](int j, P v) TSR_LAMBDA { out(2 * j, c, v.im), out(2 * j + 1, c, v.re); }, z + inner + 1);
    } else {
      SideBySide<T, N>::run([&](int k) TSR_LAMBDA { return k <= N / 2 ? swapped(z[k]) : P{-z[N - k].im, z[N - k].re}; },
                            [&](int j, P v) TSR_LAMBDA { out(j, c, v.im); }, z + inner + 1);
    }
  });
}

}  // namespace tsr
