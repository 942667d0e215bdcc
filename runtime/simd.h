// Fixed-width vectors for row kernels: one machine register of T (float or double), loads and stores,
// reductions, and `columns`, which walks the columns of a row in whole vectors and one partial one.
//
// Built on the vector extensions of GCC and Clang, so arithmetic, comparison and ?: are plain operators on
// Vec<T>. A comparison yields an integer vector of the same lane count (0 or -1 per lane).
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "bf16.h"

#define TSR_INLINE inline __attribute__((always_inline))

namespace tsr {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
constexpr int kVectorRegisters = 32;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
constexpr int kVectorRegisters = 16;
#elif defined(__aarch64__)
constexpr int kVectorBytes = 16;
constexpr int kVectorRegisters = 32;
#else
constexpr int kVectorBytes = 16;
constexpr int kVectorRegisters = 16;
#endif

namespace detail {
template <class T>
struct VecOf {
  typedef T type __attribute__((vector_size(kVectorBytes)));
  typedef T unaligned __attribute__((vector_size(kVectorBytes), aligned(alignof(T)), may_alias));
};
template <class T>
using IntOf = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
}  // namespace detail

/// One register of T. T is float, double or an integer of 32 or 64 bits.
template <class T>
using Vec = typename detail::VecOf<T>::type;

/// Integer vector with the lane count of Vec<T>: the type of a comparison of two Vec<T>.
template <class T>
using IntVec = Vec<detail::IntOf<T>>;

/// The same, unsigned: for arithmetic on bit patterns, which may wrap around.
template <class T>
using BitVec = Vec<std::make_unsigned_t<detail::IntOf<T>>>;

/// Number of lanes of Vec<T>.
template <class T>
constexpr int lanes = kVectorBytes / int(sizeof(T));

namespace detail {
template <class V, bool Scalar = std::is_arithmetic_v<V>>
struct ElementOf {
  using type = V;
};
template <class V>
struct ElementOf<V, false> {
  using type = std::remove_cv_t<std::remove_reference_t<decltype(std::declval<V&>()[0])>>;
};
}  // namespace detail

/// Element type of a vector type; a scalar type is its own element.
template <class V>
using Element = typename detail::ElementOf<V>::type;

/// Unaligned load of lanes<T> elements.
template <class T>
TSR_INLINE Vec<T> load(const T* p) {
  return *reinterpret_cast<const typename detail::VecOf<T>::unaligned*>(p);
}

/// Unaligned store of lanes<T> elements.
template <class T>
TSR_INLINE void store(T* p, Vec<T> v) {
  *reinterpret_cast<typename detail::VecOf<T>::unaligned*>(p) = v;
}

/// x in every lane. (x - 0 keeps the sign of a zero; 0 + x would not.)
template <class T>
TSR_INLINE Vec<T> broadcast(T x) {
  return x - Vec<T>{};
}

/// a * b + c; one rounding where the machine has fused multiply-add, else two.
template <class V>
TSR_INLINE V fma(V a, V b, V c) {
  return a * b + c;
}

/// Lane-wise mask ? a : b, mask as produced by a comparison.
template <class V, class M>
TSR_INLINE V select(M mask, V a, V b) {
  return mask ? a : b;
}

namespace detail {
// a > b ? a : b, and a < b ? a : b. GCC makes a comparison and a blend of that, though one instruction does it all.
#if defined(__AVX512F__) && !defined(__clang__)
TSR_INLINE Vec<float> larger(Vec<float> a, Vec<float> b) { return __builtin_ia32_maxps512_mask(a, b, a, uint16_t(-1), 4); }
TSR_INLINE Vec<double> larger(Vec<double> a, Vec<double> b) { return __builtin_ia32_maxpd512_mask(a, b, a, uint8_t(-1), 4); }
TSR_INLINE Vec<float> smaller(Vec<float> a, Vec<float> b) { return __builtin_ia32_minps512_mask(a, b, a, uint16_t(-1), 4); }
TSR_INLINE Vec<double> smaller(Vec<double> a, Vec<double> b) { return __builtin_ia32_minpd512_mask(a, b, a, uint8_t(-1), 4); }
#endif
template <class V>
TSR_INLINE V larger(V a, V b) {
  return a > b ? a : b;
}
template <class V>
TSR_INLINE V smaller(V a, V b) {
  return a < b ? a : b;
}
}  // namespace detail

/// Lane-wise maximum; b where a lane of either is NaN.
template <class V>
TSR_INLINE V vmax(V a, V b) {
  return detail::larger(a, b);
}

/// Lane-wise minimum; b where a lane of either is NaN.
template <class V>
TSR_INLINE V vmin(V a, V b) {
  return detail::smaller(a, b);
}

/// Reinterprets the bits of a vector as another of the same size.
template <class To, class From>
TSR_INLINE To bits(From v) {
  static_assert(sizeof(To) == sizeof(From), "bits() needs equal sizes");
  return reinterpret_cast<To>(v);
}

/// |v|, also of NaN (sign cleared).
TSR_INLINE float vabs(float v) { return __builtin_fabsf(v); }
TSR_INLINE double vabs(double v) { return __builtin_fabs(v); }
template <class V, std::enable_if_t<!std::is_arithmetic_v<V>, int> = 0>
TSR_INLINE V vabs(V v) {
  using I = IntVec<Element<V>>;
  using S = Element<I>;
  return bits<V>(bits<I>(v) & (S(-1) ^ (S(1) << (sizeof(S) * 8 - 1))));
}

/// Lane-wise conversion to integers, rounding towards zero.
template <class V>
TSR_INLINE IntVec<Element<V>> to_int(V v) {
  return __builtin_convertvector(v, IntVec<Element<V>>);
}

/// Lane-wise conversion of an integer vector to Vec<T> of the same lane count.
template <class T>
TSR_INLINE Vec<T> to_float(IntVec<T> v) {
  return __builtin_convertvector(v, Vec<T>);
}

namespace detail {
template <class T, int... I>
TSR_INLINE Vec<T> iota_impl(std::integer_sequence<int, I...>) {
  return Vec<T>{T(I)...};
}
template <int Distance, class V, int... I>
TSR_INLINE V swap_lanes(V v, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(v, v, (I ^ Distance)...);
}
template <int Distance, class V, class Op>
TSR_INLINE V butterfly(V v, Op op) {
  if constexpr (Distance == 0) return v;
  else return butterfly<Distance / 2>(op(v, swap_lanes<Distance>(v, std::make_integer_sequence<int, lanes<Element<V>>>{})), op);
}
}  // namespace detail

/// start, start+1, ... as Vec<T>.
template <class T>
TSR_INLINE Vec<T> iota(T start = T(0)) {
  return detail::iota_impl<T>(std::make_integer_sequence<int, lanes<T>>{}) + start;
}

/// Sum of the lanes, added pairwise.
template <class V>
TSR_INLINE Element<V> hsum(V v) {
  return detail::butterfly<lanes<Element<V>> / 2>(v, [](V a, V b) { return a + b; })[0];
}

/// Largest lane (unspecified if a lane is NaN).
template <class V>
TSR_INLINE Element<V> hmax(V v) {
  return detail::butterfly<lanes<Element<V>> / 2>(v, [](V a, V b) { return vmax(a, b); })[0];
}

/// Smallest lane (unspecified if a lane is NaN).
template <class V>
TSR_INLINE Element<V> hmin(V v) {
  return detail::butterfly<lanes<Element<V>> / 2>(v, [](V a, V b) { return vmin(a, b); })[0];
}

/// True if a lane of a comparison is set.
template <class M>
TSR_INLINE bool any(M mask) {
  return detail::butterfly<lanes<Element<M>> / 2>(mask, [](M a, M b) { return a | b; })[0] != 0;
}

/// Loads p[0..n), zeros elsewhere; memory beyond p[n-1] is not touched. 0 <= n <= lanes<T>.
template <class T>
TSR_INLINE Vec<T> load_first(const T* p, int n) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, float>) return __builtin_ia32_loadups512_mask(p, Vec<float>{}, uint16_t((1u << n) - 1));
  if constexpr (std::is_same_v<T, double>) return __builtin_ia32_loadupd512_mask(p, Vec<double>{}, uint8_t((1u << n) - 1));
#elif defined(__AVX__)
  if constexpr (std::is_same_v<T, float>)
    return __builtin_ia32_maskloadps256(reinterpret_cast<const Vec<float>*>(p), iota<float>() < float(n));
  if constexpr (std::is_same_v<T, double>)
    return __builtin_ia32_maskloadpd256(reinterpret_cast<const Vec<double>*>(p), bits<Vec<long long>>(iota<double>() < double(n)));
#endif
  Vec<T> v{};
  for (int i = 0; i < n; ++i) v[i] = p[i];
  return v;
}

/// Stores lanes 0..n-1 of v to p[0..n); memory beyond is not touched. 0 <= n <= lanes<T>.
template <class T>
TSR_INLINE void store_first(T* p, Vec<T> v, int n) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, float>) return __builtin_ia32_storeups512_mask(p, v, uint16_t((1u << n) - 1));
  if constexpr (std::is_same_v<T, double>) return __builtin_ia32_storeupd512_mask(p, v, uint8_t((1u << n) - 1));
#elif defined(__AVX__)
  if constexpr (std::is_same_v<T, float>)
    return __builtin_ia32_maskstoreps256(reinterpret_cast<Vec<float>*>(p), iota<float>() < float(n), v);
  if constexpr (std::is_same_v<T, double>)
    return __builtin_ia32_maskstorepd256(reinterpret_cast<Vec<double>*>(p), bits<Vec<long long>>(iota<double>() < double(n)), v);
#endif
  for (int i = 0; i < n; ++i) p[i] = v[i];
}

namespace detail {
template <class T>
struct ComputedOf {
  using type = T;
};
template <>
struct ComputedOf<bf16> {
  using type = float;
};
/// As many bf16 as Vec<float> has lanes.
typedef uint16_t HalfVec __attribute__((vector_size(kVectorBytes / 2)));
typedef uint16_t HalfVecUnaligned __attribute__((vector_size(kVectorBytes / 2), aligned(2), may_alias));

TSR_INLINE Vec<float> widened(HalfVec half) { return reinterpret_cast<Vec<float>>(__builtin_convertvector(half, BitVec<float>) << 16); }
TSR_INLINE HalfVec narrowed(Vec<float> v) {
  const BitVec<float> u = bits<BitVec<float>>(v);
  const BitVec<float> rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16, nan = (u >> 16) | 0x40u;
  return __builtin_convertvector(v != v ? nan : rounded, HalfVec);
}
}  // namespace detail

/// The type in which elements of T are computed: float for bf16, else T itself.
template <class T>
using Computed = typename detail::ComputedOf<T>::type;

/// lanes<float> bf16 as floats, and the first n of them (zeros elsewhere; memory beyond is not touched).
TSR_INLINE Vec<float> load_bf16(const bf16* p) { return detail::widened(*reinterpret_cast<const detail::HalfVecUnaligned*>(p)); }
TSR_INLINE Vec<float> load_bf16(const bf16* p, int n) {
  Vec<float> v{};
  for (int i = 0; i < n; ++i) v[i] = p[i];
  return v;
}
/// v rounded to bf16, all lanes or the first n.
TSR_INLINE void store_bf16(bf16* p, Vec<float> v) { *reinterpret_cast<detail::HalfVecUnaligned*>(p) = detail::narrowed(v); }
TSR_INLINE void store_bf16(bf16* p, Vec<float> v, int n) {
  const detail::HalfVec half = detail::narrowed(v);
  for (int i = 0; i < n; ++i) p[i].bits = half[i];
}
/// The values as bf16 holds them.
TSR_INLINE Vec<float> round_bf16(Vec<float> v) { return detail::widened(detail::narrowed(v)); }

/// Columns begin .. begin+count-1 of a row, held in one Vec<T>. Count lanes are valid (Count == 0: a number known
/// only at run time). Pointers given to load and store are row starts: column j is at row[j] (row[j * stride]).
template <class T, int Count>
struct Columns {
  int begin;
  int runtime_count;

  static constexpr bool whole = Count == lanes<T>;
  TSR_INLINE int size() const { return Count > 0 ? Count : runtime_count; }

  /// The columns' elements of a row; 0 in lanes without a column. Nothing outside the columns is read.
  TSR_INLINE Vec<T> load(const T* row) const {
    if constexpr (whole) return tsr::load(row + begin);
    else return load_first(row + begin, size());
  }
  /// The same for columns that lie `stride` elements apart (0: one value for all).
  TSR_INLINE Vec<T> load(const T* row, long stride) const {
    if (__builtin_constant_p(stride) && stride == 1) return load(row);
    Vec<T> v{};
    for (int i = 0; i < size(); ++i) v[i] = row[(begin + i) * stride];
    return v;
  }
  /// Writes the valid lanes and nothing else.
  TSR_INLINE void store(T* row, Vec<T> v) const {
    if constexpr (whole) tsr::store(row + begin, v);
    else store_first(row + begin, v, size());
  }
  TSR_INLINE void store(T* row, long stride, Vec<T> v) const {
    if (__builtin_constant_p(stride) && stride == 1) return store(row, v);
    for (int i = 0; i < size(); ++i) row[(begin + i) * stride] = v[i];
  }
  /// Elements that memory holds as bf16 (T is float).
  TSR_INLINE Vec<T> load(const bf16* row) const {
    if constexpr (whole) return load_bf16(row + begin);
    else return load_bf16(row + begin, size());
  }
  TSR_INLINE Vec<T> load(const bf16* row, long stride) const {
    Vec<T> v{};
    for (int i = 0; i < size(); ++i) v[i] = row[(begin + i) * stride];
    return v;
  }
  TSR_INLINE void store(bf16* row, Vec<T> v) const {
    if constexpr (whole) store_bf16(row + begin, v);
    else store_bf16(row + begin, v, size());
  }
  TSR_INLINE void store(bf16* row, long stride, Vec<T> v) const {
    for (int i = 0; i < size(); ++i) row[(begin + i) * stride] = v[i];
  }
  /// v with `identity` in the lanes that hold no column, so that a reduction ignores them.
  TSR_INLINE Vec<T> keep(Vec<T> v, T identity) const {
    if constexpr (whole) return v;
    else return iota<T>() < T(size()) ? v : broadcast(identity);
  }
  /// The column numbers as T.
  TSR_INLINE Vec<T> index() const { return iota<T>(T(begin)); }
  /// Integers of a row (int32_t, int64_t or narrower) that lie `stride` elements apart, converted to T.
  template <class I>
  TSR_INLINE Vec<T> load_int(const I* row, long stride = 1) const {
    Vec<T> v{};
    for (int i = 0; i < size(); ++i) v[i] = T(row[(begin + i) * stride]);
    return v;
  }
};

/// A whole vector of columns.
template <class T>
using Full = Columns<T, lanes<T>>;
/// The last Count columns of a row, fewer than a vector.
template <class T, int Count>
using Tail = Columns<T, Count>;

/// Calls f(c) for the columns 0..N-1: c is Full<T> for each whole vector, then once Tail<T, N % lanes> if columns are left.
template <class T, int N, class F>
TSR_INLINE void columns(F&& f) {
  constexpr int whole = N / lanes<T> * lanes<T>;
  for (int j = 0; j < whole; j += lanes<T>) f(Full<T>{j, lanes<T>});
  if constexpr (N % lanes<T> != 0) f(Tail<T, N % lanes<T>>{whole, N % lanes<T>});
}

/// The same for share `part` of `parts` of the columns, whole vectors each.
template <class T, int N, class F>
TSR_INLINE void columns(int part, int parts, F&& f) {
  constexpr int L = lanes<T>, vectors = (N + L - 1) / L;
  const int begin = int(long(vectors) * part / parts) * L, end = int(long(vectors) * (part + 1) / parts) * L;
  int j = begin;
  for (; j + L <= (end < N ? end : N); j += L) f(Full<T>{j, L});
  if constexpr (N % L != 0)
    if (j < end) f(Tail<T, N % L>{j, N % L});
}

/// The same for a number of columns known only at run time.
template <class T, class F>
TSR_INLINE void columns(long n, F&& f) {
  long j = 0;
  for (; j + lanes<T> <= n; j += lanes<T>) f(Full<T>{int(j), lanes<T>});
  if (j < n) f(Columns<T, 0>{int(j), int(n - j)});
}

}  // namespace tsr
