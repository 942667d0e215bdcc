// Transforms of real numbers: N of them to bins 0..N/2 and back, the other bins being conjugates of these.
//
// An even length is a complex transform of N/2 numbers x[2j] + i x[2j+1] and one walk over the result that takes the two
// interleaved transforms apart (Sorensen, Jones, Heideman and Burrus 1987); an odd one is a complex transform of its own length.
// fft_real_rows and fft_real_columns (fft_real_columns.h) give all N bins in the same way: the sum of the two is bin k, the difference bin k + N/2.
// As in fft.h `in` and `out` fetch and take the values; those on the real side return and take one vector instead of a pair.
// `interior` is a factor on the bins that stand for two: all but bin 0 and, of an even length, bin N/2. The imaginary parts of
// those two are zero going forwards and ignored going backwards.
#pragma once
#include <algorithm>

#include "fft.h"

namespace tsr {
namespace detail {

template <class V, int... I>
TSR_INLINE V reversed(V v, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(v, v, (int(sizeof...(I)) - 1 - I)...);
}
template <class V, int... I>
TSR_INLINE Planes<V> taken_apart(V a, V b, std::integer_sequence<int, I...>) {
  return {__builtin_shufflevector(a, b, (2 * I)...), __builtin_shufflevector(a, b, (2 * I + 1)...)};
}
template <class V, int... I>
TSR_INLINE Planes<V> interleaved(Planes<V> v, std::integer_sequence<int, I...>) {
  constexpr int L = sizeof...(I);
  return {__builtin_shufflevector(v.re, v.im, (I / 2 + (I % 2) * L)...), __builtin_shufflevector(v.re, v.im, ((L + I) / 2 + (I % 2) * L)...)};
}
template <class T>
using Lanes = std::make_integer_sequence<int, lanes<T>>;

/// f(real columns 2j and 2j+1 of the complex columns j of c, first vector) and, where there are more, f(those of the second).
template <class T, int Count, class F, class G>
TSR_INLINE void both_halves(Columns<T, Count> c, F&& first, G&& second) {
  constexpr int L = lanes<T>;
  if constexpr (Count == 0) {
    const int n = 2 * c.size();
    first(Columns<T, 0>{2 * c.begin, n < L ? n : L});
    if (n > L) second(Columns<T, 0>{2 * c.begin + L, n - L});
  } else if constexpr (2 * Count <= L) {
    first(Columns<T, 2 * Count>{2 * c.begin, 2 * Count});
  } else {
    first(Full<T>{2 * c.begin, L});
    second(Columns<T, 2 * Count - L>{2 * c.begin + L, 2 * Count - L});
  }
}

/// Bins 0..H of a row, with room for a vector before and behind.
template <class T, int H>
struct Bins {
  static constexpr long pitch = 2 * lanes<T> + rounded_up(H + 1, lanes<T>);
  static constexpr long size = 2 * pitch;  // numbers
  Split<T> at;
  explicit Bins(T* memory) : at{memory + lanes<T>, memory + pitch + lanes<T>} {}

  /// Those of the columns c, and the conjugates of those at H - c.
  TSR_INLINE Planes<Vec<T>> forwards(int begin) const { return {load(at.re + begin), load(at.im + begin)}; }
  TSR_INLINE Planes<Vec<T>> mirrored(int begin) const {
    const int last = H - begin - lanes<T> + 1;
    return {reversed(load(at.re + last), Lanes<T>{}), -reversed(load(at.im + last), Lanes<T>{})};
  }
  void clear_margins() {
    constexpr int L = lanes<T>;
    for (T* p : {at.re, at.im}) {
      store(p - L, Vec<T>{});
      for (long k = H + 1; k < pitch - L; ++k) p[k] = 0;
    }
  }
};

/// v times `interior`, but not bins 0 and N/2, the latter of an even N.
template <class T, int N, class C>
TSR_INLINE Planes<Vec<T>> weighted(C c, Planes<Vec<T>> v, T interior) {
  if (interior == T(1)) return v;
  Vec<T> factor = broadcast(interior);
  if (c.begin == 0) factor[0] = T(1);
  if (N % 2 == 0 && c.begin <= N / 2 && N / 2 < c.begin + lanes<T>) factor[N / 2 - c.begin] = T(1);
  return {v.re * factor, v.im * factor};
}

/// Rows that fft_rows<T, N> takes at a time.
template <class T, int N>
constexpr int rows_at_once = row_way<T, N>() == RowWay::many ? lanes<T> : 1;

/// f on those of the columns c that are below `limit`.
template <class T, class C, class F>
TSR_INLINE void columns_below(int limit, C c, F&& f) {
  if (c.begin + c.size() <= limit) f(c);
  else if (c.begin < limit) f(Columns<T, 0>{c.begin, limit - c.begin});
}

template <class V>
TSR_INLINE Planes<V> halved(Planes<V> v) {
  return {v.re * 0.5f, v.im * 0.5f};
}

/// Rows of N real numbers, N even: take(row, c, even, odd) gets, for the columns c of [0, Count), twice the transforms of the even
/// elements and of the odd ones, the latter turned to where they belong in bin c.
template <class T, int N, int Count, class In, class Take>
void even_rows(long begin, long end, In&& in, Take&& take, T* work) {
  using P = Planes<Vec<T>>;
  constexpr int H = N / 2, group = rows_at_once<T, H>;
  using Z = Bins<T, H>;
  T* const bins = work + fft_rows_work<T, H>();
  for (int r = 0; r < group; ++r) Z(bins + r * Z::size).clear_margins();
  for (long start = begin; start < end; start += group) {
    const long stop = end - start < group ? end : start + group;
    fft_rows<T, H>(
        start, stop,
        [&](long row, auto c) TSR_LAMBDA {
          Vec<T> a{}, b{};
          both_halves(c, [&](auto h) TSR_LAMBDA { a = in(row, h); }, [&](auto h) TSR_LAMBDA { b = in(row, h); });
          return taken_apart(a, b, Lanes<T>{});
        },
        [&](long row, auto c, P v) TSR_LAMBDA { Z(bins + (row - start) * Z::size).at.store(c, v); }, work);
    for (long row = start; row < stop; ++row) {
      const Z z(bins + (row - start) * Z::size);
      z.at.re[H] = z.at.re[0], z.at.im[H] = z.at.im[0];
      const auto& w = half_turn<T, N>();
      columns<T, Count>([&](auto c) TSR_LAMBDA {
        const P a = z.forwards(c.begin), b = z.mirrored(c.begin);
        take(row, c, a + b, turned(a - b) * P{load(w.re + c.begin), load(w.im + c.begin)});
      });
    }
  }
}

}  // namespace detail

/// Rows of N numbers that transforms take at a time, complex ones and those of real numbers.
template <class T, int N>
constexpr int rows_together = detail::rows_at_once<T, N> > detail::rows_at_once<T, N % 2 == 0 ? N / 2 : N> ? detail::rows_at_once<T, N>
                                                                                                         : detail::rows_at_once<T, N % 2 == 0 ? N / 2 : N>;

/// Numbers of working memory of rfft_rows, irfft_rows and fft_real_rows for one thread.
template <class T, int N>
constexpr long rfft_rows_work() {
  constexpr int inner = N % 2 == 0 ? N / 2 : N;
  return fft_rows_work<T, inner>() + detail::rows_at_once<T, inner> * detail::Bins<T, inner>::size;
}

/// Rows of N real numbers to all N bins: `in(row, c)` returns a vector, `out(row, c, value)` takes a pair.
template <class T, int N, class In, class Out>
void fft_real_rows(long begin, long end, In&& in, Out&& out, T* work) {
  using namespace detail;
  using P = Planes<Vec<T>>;
  if constexpr (N % 2 == 0) {
    even_rows<T, N, N / 2>(begin, end, in, [&](long row, auto c, P even, P odd) TSR_LAMBDA {
      out(row, c, halved(even + odd));
      out(row, decltype(c){c.begin + N / 2, c.runtime_count}, halved(even - odd));
    }, work);
  } else {
    fft_rows<T, N>(begin, end, [&](long row, auto c) TSR_LAMBDA { return P{in(row, c), Vec<T>{}}; }, out, work);
  }
}

/// Rows of N real numbers to bins 0..N/2: `in(row, c)` returns a vector, `out(row, c, value)` takes a pair.
template <class T, int N, class In, class Out>
void rfft_rows(long begin, long end, T interior, In&& in, Out&& out, T* work) {
  using namespace detail;
  using P = Planes<Vec<T>>;
  if constexpr (N % 2 == 0) {
    even_rows<T, N, N / 2 + 1>(begin, end, in, [&](long row, auto c, P even, P odd) TSR_LAMBDA {
      out(row, c, weighted<T, N>(c, halved(even + odd), interior));
    }, work);
  } else {
    fft_rows<T, N>(
        begin, end, [&](long row, auto c) TSR_LAMBDA { return P{in(row, c), Vec<T>{}}; },
        [&](long row, auto c, P v) TSR_LAMBDA {
          columns_below<T>(N / 2 + 1, c, [&](auto part) TSR_LAMBDA { out(row, part, weighted<T, N>(c, v, interior)); });
        },
        work);
  }
}

/// Bins 0..N/2 to rows of N real numbers, without the factor 1/N: `in(row, c)` returns a pair, `out(row, c, value)` takes a vector.
template <class T, int N, class In, class Out>
void irfft_rows(long begin, long end, T interior, In&& in, Out&& out, T* work) {
  using namespace detail;
  using P = Planes<Vec<T>>;
  constexpr int inner = N % 2 == 0 ? N / 2 : N, group = rows_at_once<T, inner>;
  using Z = Bins<T, inner>;
  T* const bins = work + fft_rows_work<T, inner>();
  for (int r = 0; r < group; ++r) Z(bins + r * Z::size).clear_margins();
  for (long start = begin; start < end; start += group) {
    const long stop = end - start < group ? end : start + group;
    for (long row = start; row < stop; ++row) {
      const Split<T> at = Z(bins + (row - start) * Z::size).at;
      columns<T, N / 2 + 1>([&](auto c) TSR_LAMBDA { at.store(c, weighted<T, N>(c, in(row, c), interior)); });
      at.im[0] = 0;
      if constexpr (N % 2 == 0) at.im[N / 2] = 0;
      else
        for (int k = 1; k <= N / 2; ++k) at.re[N - k] = at.re[k], at.im[N - k] = -at.im[k];
    }
    if constexpr (N % 2 == 0) {
      const auto& w = half_turn<T, N>();
      fft_rows<T, inner>(
          start, stop,
          [&](long row, auto c) TSR_LAMBDA {
            const Z z(bins + (row - start) * Z::size);
            const P a = z.forwards(c.begin), b = z.mirrored(c.begin), even = a + b;
            const P odd = (a - b) * P{load(w.re + c.begin), -load(w.im + c.begin)};  // to be turned by i
            return P{even.im + odd.re, even.re - odd.im};
          },
          [&](long row, auto c, P v) TSR_LAMBDA {
            const P x = interleaved(swapped(v), Lanes<T>{});
            both_halves(c, [&](auto h) TSR_LAMBDA { out(row, h, x.re); }, [&](auto h) TSR_LAMBDA { out(row, h, x.im); });
          },
          work);
    } else {
      fft_rows<T, N>(
          start, stop,
          [&](long row, auto c) TSR_LAMBDA { return swapped(Z(bins + (row - start) * Z::size).at.load(c)); },
          [&](long row, auto c, P v) TSR_LAMBDA { out(row, c, v.im); }, work);
    }
  }
}

}  // namespace tsr
