// Batched discrete Fourier transforms of any length known at compile time, real and imaginary parts apart.
//
//   X[k] = sum over j of x[j] exp(-2 pi i jk / N)
//
// The caller's functions fetch and take the values, so that what comes before and after a transform needs no pass of its own:
// `in(row, c)` returns the columns c (a Columns of simd.h) of a row, `out(row, c, value)` takes bins. All of a row is read
// before any of it is written, so both may be the same memory. The inverse exchanges real and imaginary parts in both.
// Scaling is the caller's. The relative L2 error is below 1.5 u log2 N, u the unit roundoff, and three times that for lengths
// with a prime factor over 31.
#pragma once
#include <omp.h>

#include "fft_rows.h"
#include "workspace.h"

namespace tsr {

/// The calling thread's part of `count` lines, in whole multiples of `grain` but for the last.
struct Share {
  long begin, end;
};
inline Share share_of_thread(long count, long grain) {
  const long blocks = (count + grain - 1) / grain, thread = omp_get_thread_num(), threads = omp_get_num_threads();
  const long begin = blocks * thread / threads * grain, end = blocks * (thread + 1) / threads * grain;
  return {begin < count ? begin : count, end < count ? end : count};
}

/// Numbers of working memory that fft_rows needs for one thread.
template <class T, int N>
constexpr long fft_rows_work() {
  if constexpr (detail::row_way<T, N>() == detail::RowWay::one) return detail::OneRow<T, N>::work_size;
  else if constexpr (detail::row_way<T, N>() == detail::RowWay::convolved) return detail::OneRowConvolved<T, N>::work_size;
  else return detail::ManyRows<T, N>::work_size;
}

/// Transforms rows [begin, end) of N numbers each. `work`: fft_rows_work<T, N>() numbers on a register boundary.
template <class T, int N, class In, class Out>
void fft_rows(long begin, long end, In&& in, Out&& out, T* work) {
  using namespace detail;
  using P = Planes<Vec<T>>;
  if constexpr (row_way<T, N>() == RowWay::many) {
    constexpr int L = lanes<T>;
    for (long row = begin; row < end; row += L)
      ManyRows<T, N>::run(int(end - row < L ? end - row : L), [&](int r, auto c) TSR_LAMBDA { return in(row + r, c); },
                          [&](int r, auto c, P v) TSR_LAMBDA { out(row + r, c, v); }, work);
  } else {
    using Row = std::conditional_t<row_way<T, N>() == RowWay::one, OneRow<T, N>, OneRowConvolved<T, N>>;
    for (long row = begin; row < end; ++row)
      Row::run([&](auto c) TSR_LAMBDA { return in(row, c); }, [&](auto c, P v) TSR_LAMBDA { out(row, c, v); }, work);
  }
}

namespace detail {
/// f(c) for the columns [begin, end) in whole vectors and a partial one.
template <class T, class F>
void columns_of(long begin, long end, F&& f) {
  long j = begin;
  for (; j + lanes<T> <= end; j += lanes<T>) f(Full<T>{int(j), lanes<T>});
  if (j < end) f(Columns<T, 0>{int(j), int(end - j)});
}
}  // namespace detail

/// Numbers of working memory that fft_columns needs for one thread.
template <class T, int N>
constexpr long fft_columns_work() {
  return 2 * lanes<T> * detail::SideBySide<T, N>::work_size;
}

/// Transforms down the columns of a matrix of N rows: `in(j, c)` returns columns c of row j, `out(k, c, value)` takes those of
/// bin k, c within [begin, end).
template <class T, int N, class In, class Out>
void fft_columns(long begin, long end, In&& in, Out&& out, T* work) {
  using P = Planes<Vec<T>>;
  detail::columns_of<T>(begin, end, [&](auto c) {
    detail::SideBySide<T, N>::run([&](int j) TSR_LAMBDA { return in(j, c); }, [&](int k, P v) TSR_LAMBDA { out(k, c, v); },
                                  reinterpret_cast<P*>(work));
  });
}

}  // namespace tsr
