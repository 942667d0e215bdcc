// Matrix transpose in register blocks of lanes x lanes (bf16 as floats in the registers, which is exact).
#pragma once
#include "simd.h"

namespace tsr {

namespace detail {
// One stage of the recursive transpose: for lanes with bit Distance clear, low takes a and high takes a shifted down by
// Distance; for the others, low takes b shifted up and high takes b.
template <int Distance, class V, int... J>
TSR_INLINE void exchange(V& a, V& b, std::integer_sequence<int, J...>) {
  constexpr int L = sizeof...(J);
  const V low = __builtin_shufflevector(a, b, ((J & Distance) ? L + J - Distance : J)...);
  const V high = __builtin_shufflevector(a, b, ((J & Distance) ? L + J : J + Distance)...);
  a = low;
  b = high;
}
template <int Distance, class V, int L>
TSR_INLINE void transpose_stages(V (&r)[L]) {
  if constexpr (Distance > 0) {
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i)
      if ((i & Distance) == 0) exchange<Distance>(r[i], r[i + Distance], std::make_integer_sequence<int, L>{});
    transpose_stages<Distance / 2>(r);
  }
}
template <class T>
TSR_INLINE void transpose_block(const T* source, long lds, T* destination, long ldd) {
  constexpr int L = lanes<Computed<T>>;
  constexpr Full<Computed<T>> c{0, L};
  Vec<Computed<T>> r[L];
#pragma GCC unroll 16
  for (int i = 0; i < L; ++i) r[i] = c.load(source + i * lds);
  transpose_stages<L / 2>(r);
#pragma GCC unroll 16
  for (int i = 0; i < L; ++i) c.store(destination + i * ldd, r[i]);
}
}  // namespace detail

/// destination[c * ldd + r] = source[r * lds + c] for r < rows, c < columns. The two must not overlap.
template <class T>
__attribute__((noinline)) void transpose(const T* source, long rows, long columns, long lds, T* destination, long ldd) {
  constexpr int L = lanes<Computed<T>>;
  const long whole_rows = rows / L * L, whole_columns = columns / L * L;
  // Down a strip of columns, so that the destination is written in whole rows.
  for (long c = 0; c < whole_columns; c += L)
    for (long r = 0; r < whole_rows; r += L) detail::transpose_block(source + r * lds + c, lds, destination + c * ldd + r, ldd);
  for (long c = whole_columns; c < columns; ++c)
    for (long r = 0; r < whole_rows; ++r) destination[c * ldd + r] = source[r * lds + c];
  for (long r = whole_rows; r < rows; ++r)
    for (long c = 0; c < columns; ++c) destination[c * ldd + r] = source[r * lds + c];
}

}  // namespace tsr
