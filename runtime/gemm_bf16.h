// Products of bf16 matrices with float sums: gemm<Shape>(A, B, epilogue) of gemm.h for const bf16* operands. The epilogue
// gets the float sums; what it does with them (and whether it rounds them) is its own affair.
//
//   gemm<FeedForward>(x16, W16, [&](auto c, int row, Vec<float> v) { c.store(y16 + row * 1056, vgelu(v + c.load(bias))); });
//
// With AVX512_BF16 one instruction adds the products of two neighbouring terms to a sum. Terms k and k + 1 of B come as
// pairs from two permutations of its rows k and k + 1; pairs of A lie side by side, or (A transposed) are put together
// for a few terms at a time. That instruction takes subnormal numbers for zeros. Elsewhere rows are widened to float.
#pragma once
#include "gemm.h"
#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include <immintrin.h>
#define TSR_BF16_PAIRS 1
#endif

namespace tsr {
namespace detail {

#ifdef TSR_BF16_PAIRS

constexpr int kPairChunk = 16;  ///< pairs of terms of A^T that are put together before they are used

/// Two rows of a matrix, `Count` of 32 columns of each.
template <int Count>
struct TwoRows {
  static constexpr __mmask32 mask = Count >= 32 ? ~__mmask32(0) : (__mmask32(1) << (Count & 31)) - 1;
  __m512i first, second;
  TSR_INLINE TwoRows(const bf16* p, int stride, bool has_second) {
    if constexpr (Count >= 32) {
      first = _mm512_loadu_si512(p);
      second = has_second ? _mm512_loadu_si512(p + stride) : _mm512_setzero_si512();
    } else {
      first = _mm512_maskz_loadu_epi16(mask, p);
      second = has_second ? _mm512_maskz_loadu_epi16(mask, p + stride) : _mm512_setzero_si512();
    }
  }
};

template <int Start, int... I>
TSR_INLINE __m512i pair_order(std::integer_sequence<int, I...>) {
  typedef short Shorts __attribute__((vector_size(64)));
  return (__m512i)(Shorts{short(Start + I / 2 + 32 * (I % 2))...});
}

template <>
struct TileSums<bf16> {
  // Adds terms k and k + 1; pair(i) is that of row i of A.
  template <int Rows, int Width, int Last, class Pair>
  static TSR_INLINE void add_pair(const bf16* b, int ldb, bool has_second, Pair pair, Vec<float> (&acc)[Rows][Width]) {
    constexpr int columns = (Width - 1) * 16 + Last;
    const __m512i low = pair_order<0>(std::make_integer_sequence<int, 32>{}), high = pair_order<16>(std::make_integer_sequence<int, 32>{});
    __m512i row[Width];
#pragma GCC unroll 16
    for (int j = 0; j < columns / 32 * 2; j += 2) {
      const TwoRows<32> rows(b + 16 * j, ldb, has_second);
      row[j] = _mm512_permutex2var_epi16(rows.first, low, rows.second);
      row[j + 1] = _mm512_permutex2var_epi16(rows.first, high, rows.second);
    }
    if constexpr (columns % 32 != 0) {
      constexpr int j = columns / 32 * 2;
      const TwoRows<columns % 32> rows(b + 16 * j, ldb, has_second);
      row[j] = _mm512_permutex2var_epi16(rows.first, low, rows.second);
      if constexpr (j + 1 < Width) row[j + 1] = _mm512_permutex2var_epi16(rows.first, high, rows.second);
    }
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      const __m512i x = _mm512_set1_epi32(pair(i));
#pragma GCC unroll 16
      for (int j = 0; j < Width; ++j) acc[i][j] = (Vec<float>)_mm512_dpbf16_ps((__m512)acc[i][j], (__m512bh)x, (__m512bh)row[j]);
    }
  }

  // The pairs of `Rows` rows of A^T, terms 2 p and 2 p + 1 of `depth`, in pairs[p].
  template <int Rows, int Lda>
  static TSR_INLINE void put_together(const bf16* a, int depth, int (*pairs)[16]) {
    const __m512i low = pair_order<0>(std::make_integer_sequence<int, 32>{});
    for (int p = 0; 2 * p < depth; ++p) {
      const TwoRows<Rows> rows(a + 2 * p * long(Lda), Lda, 2 * p + 1 < depth);
      _mm512_store_si512(pairs[p], _mm512_permutex2var_epi16(rows.first, low, rows.second));
    }
  }

  template <int Rows, int Width, int Last, bool TransposeA, int Lda, int Ldb>
  static TSR_INLINE void form(const bf16* a, const bf16* b, int depth, Vec<float> (&acc)[Rows][Width]) {
    static_assert(Rows <= 16, "a chunk of pairs holds 16 rows");
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 16
      for (int j = 0; j < Width; ++j) acc[i][j] = Vec<float>{};
    if constexpr (TransposeA) {
      alignas(64) int pairs[kPairChunk][16];
      for (int k = 0; k < depth; k += 2 * kPairChunk) {
        const int terms = depth - k < 2 * kPairChunk ? depth - k : 2 * kPairChunk;
        put_together<Rows, Lda>(a + long(k) * Lda, terms, pairs);
        int p = 0;
#pragma GCC unroll 1
        for (; 2 * p + 1 < terms; ++p) {
          // What the next chunk is put together from.
          __builtin_prefetch(a + (k + 2 * (kPairChunk + p)) * long(Lda));
          __builtin_prefetch(a + (k + 2 * (kPairChunk + p) + 1) * long(Lda));
          add_pair<Rows, Width, Last>(b, Ldb, true, [&](int i) { return pairs[p][i]; }, acc);
          b += 2 * long(Ldb);
        }
        if (terms % 2) add_pair<Rows, Width, Last>(b, Ldb, false, [&](int i) { return pairs[p][i]; }, acc);
      }
    } else {
#pragma GCC unroll 1
      for (int k = 0; k + 1 < depth; k += 2) {
        add_pair<Rows, Width, Last>(b, Ldb, true, [&](int i) { return pair_at(a + long(i) * Lda); }, acc);
        a += 2;
        b += 2 * long(Ldb);
      }
      if (depth % 2) add_pair<Rows, Width, Last>(b, Ldb, false, [&](int i) { return int(a[long(i) * Lda].bits); }, acc);
    }
  }

  static TSR_INLINE int pair_at(const bf16* p) {
    int pair;
    memcpy(&pair, p, 4);
    return pair;
  }
};

#else

template <>
struct TileSums<bf16> {
  template <int Rows, int Width, int Last, bool TransposeA, int Lda, int Ldb>
  static TSR_INLINE void form(const bf16* a, const bf16* b, int depth, Vec<float> (&acc)[Rows][Width]) {
    constexpr int L = lanes<float>;
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 16
      for (int j = 0; j < Width; ++j) acc[i][j] = Vec<float>{};
#pragma GCC unroll 1
    for (int k = 0; k < depth; ++k) {
      Vec<float> row[Width];
#pragma GCC unroll 16
      for (int j = 0; j < Width; ++j) {
        if (Last != L && j == Width - 1) row[j] = load_bf16(b + j * L, Last);
        else row[j] = load_bf16(b + j * L);
      }
#pragma GCC unroll 16
      for (int i = 0; i < Rows; ++i) {
        const Vec<float> x = broadcast(float(TransposeA ? a[i] : a[long(i) * Lda]));
#pragma GCC unroll 16
        for (int j = 0; j < Width; ++j) acc[i][j] += x * row[j];
      }
      a += TransposeA ? Lda : 1;
      b += Ldb;
    }
  }
};

#endif

}  // namespace detail
}  // namespace tsr
