// Exact softmax attention and its gradient for one batch element, all heads, on row-major views of q, k, v and o.
//
// A block of query rows holds its scores for every key at once, so the softmax needs no rescaling and a product runs over
// all keys; memory grows with block * keys, not queries * keys, unless the probabilities are kept for the backward pass.
// Causal attention computes and reads only the columns up to a block's last visible key.
#pragma once
#include <cmath>
#include <cstddef>
#include <limits>

#include "gemm.h"
#include "transpose.h"
#include "vmath.h"

namespace tsr {

constexpr bool kFull = false;   ///< every query sees every key
constexpr bool kCausal = true;  ///< query i sees keys 0 .. first + i; `first` is Keys - Queries unless a call says otherwise

/// Sizes of an attention, the leading dimensions of q, k, v, o, the distance of two heads' log-sum-exp, and the leading
/// dimensions of the gradients.
template <int Queries, int Keys, int HeadSize, int Heads, int KvHeads, bool Causal, int Ldq, int Ldk, int Ldv, int Ldo,
          int LseStride = Queries, int LdDq = Ldq, int LdDk = Ldk, int LdDv = Ldv, int LdDo = Ldo>
struct Attention {
  static constexpr int queries = Queries, keys = Keys, head_size = HeadSize, heads = Heads, kv_heads = KvHeads;
  static constexpr bool causal = Causal;
  static constexpr int ldq = Ldq, ldk = Ldk, ldv = Ldv, ldo = Ldo, lse_stride = LseStride;
  static constexpr int ld_dq = LdDq, ld_dk = LdDk, ld_dv = LdDv, ld_do = LdDo;
  static_assert(Queries > 0 && Keys > 0 && HeadSize > 0 && Heads > 0 && KvHeads > 0, "empty attention");
  static_assert(Heads % KvHeads == 0, "heads must be a multiple of key/value heads");
  static_assert(!Causal || Keys >= Queries, "causal attention needs a key for every query");
  static_assert(Ldq >= Heads * HeadSize && Ldo >= Heads * HeadSize, "rows of q or o overlap");
  static_assert(Ldk >= KvHeads * HeadSize && Ldv >= KvHeads * HeadSize, "rows of k or v overlap");
};

namespace detail {

constexpr int round_up(int n, int step) { return (n + step - 1) / step * step; }

template <class T, class A>
struct AttentionPlan {
  static constexpr int tile_rows = kVectorRegisters >= 32 ? 12 : 6;
  // Query rows of a block: few for causal attention, where a block computes up to its last row's keys (of 36 to 128 rows,
  // 36 was fastest for 512 keys and within the noise of the fastest for 256, on Zen 4); else as many as leave the scores in the L2 cache. Blocks are equal up to a register tile.
  static constexpr int by_cache = (512 << 10) / int(sizeof(T)) / A::keys;
  static constexpr int most = A::causal ? 36 : 256;
  static constexpr int wanted = by_cache < most ? by_cache : most;
  static constexpr int target = wanted < 2 * tile_rows ? 2 * tile_rows : wanted;
  static constexpr int blocks = (A::queries + target - 1) / target;
  static constexpr int equal_rows = round_up((A::queries + blocks - 1) / blocks, tile_rows);
  static constexpr int block = equal_rows < A::queries ? equal_rows : A::queries;
  static constexpr int whole_blocks = A::queries / block, rest = A::queries % block;

  static constexpr int ldt = padded<T>(A::keys);  // rows of transposed k and v, of scores and kept probabilities
  static constexpr size_t transposed = size_t(A::head_size) * ldt;
  static constexpr size_t tile = size_t(block) * ldt;
  static constexpr int ldg = padded<T>(A::head_size);  // rows of do divided by the sums of their softmax
  static constexpr size_t gradients = size_t(block) * ldg;
  static constexpr size_t kept = size_t(A::queries) * ldt;                     // numerators of a head,
  static constexpr size_t kept_inverses = size_t(round_up(A::queries, 64 / int(sizeof(T))));  // and one over the sums of its rows

  // Keys that query row `row` may see, where the queries are the last positions. Of queries that begin earlier, row + shift.
  static constexpr int visible(int row) { return A::causal ? row + A::keys - A::queries + 1 : A::keys; }
  static constexpr int limit(int keys, int step) { return round_up(keys, step) < A::keys ? round_up(keys, step) : A::keys; }
};

// The part of a block's products that concerns its visible keys: columns of the scores, rows of dk and dv.
template <class T, class A, int Rows>
struct BlockProducts {
  using P = AttentionPlan<T, A>;
  using Scores = Shape<Rows, A::keys, A::head_size, A::ldq, P::ldt>;              // q k^T
  using Values = Shape<Rows, A::head_size, A::keys, P::ldt, A::ldv>;              // p v
  using ProbabilityGrad = Shape<Rows, A::keys, A::head_size, P::ldg, P::ldt>;     // do v^T
  using QueryGrad = Shape<Rows, A::head_size, A::keys, P::ldt, A::ldk>;           // ds k
  using KeyGrad = Shape<A::keys, A::head_size, Rows, P::ldt, A::ldq, kTransposed>;    // ds^T q
  using ValueGrad = Shape<A::keys, A::head_size, Rows, P::ldt, P::ldg, kTransposed>;  // p^T do
  static constexpr int column_step = Tiling<T, Scores>::columns;
  static constexpr int key_step = Tiling<T, KeyGrad>::rows;

  // Columns of the scores of the block that begins at `row` to compute, and to hold valid numbers (zeros beyond the visible keys).
  static int computed(int row) { return P::limit(P::visible(row + Rows - 1), column_step); }
  static int filled(int row) {
    const int c = computed(row), k = P::limit(P::visible(row + Rows - 1), key_step);
    return c > k ? c : k;
  }
};

// Row of scores -> e^(scale * score - max), zeros in [visible, filled); returns the sum, and log(sum) + max in lse.
template <class T>
inline T softmax_row(T* row, int visible, int filled, T scale, T& lse) {
  Vec<T> largest = broadcast(-std::numeric_limits<T>::infinity());
  const T infinity = std::numeric_limits<T>::infinity();
  const Vec<T> factor = broadcast(scale);
  columns<T>(visible, [&](auto c) { largest = vmax(c.keep(c.load(row) * factor, -infinity), largest); });
  const T top = hmax(largest);
  const Vec<T> shift = broadcast(top);
  Vec<T> sum{};
  columns<T>(visible, [&](auto c) {
    const Vec<T> e = vexp(c.load(row) * factor - shift);
    c.store(row, e);
    sum += c.keep(e, T(0));
  });
  for (int j = visible; j < filled; ++j) row[j] = T(0);
  const T total = hsum(sum);
  lse = top + std::log(total);
  return total;
}

// Adds to, or starts, a gradient; one instance of the product for both.
template <class T>
struct AddOrStore {
  static constexpr bool from_registers = true;
  T* C;
  long ldc;
  bool add;
  TSR_INLINE void prefetch(int row, int rows, int column, int width) const {
    fetch_tile(C, ldc, row, rows, column, width);
  }
  template <class Columns_>
  TSR_INLINE void operator()(Columns_ c, int row, Vec<T> v) const {
    c.store(C + row * ldc, add ? v + c.load(C + row * ldc) : v);
  }
};

// One block of query rows. `tile` receives the numerators of the softmax, `inverse` one over the sum of each row of them.
template <class T, class A, int Rows>
void forward_block(const T* q, const T* kt, const T* v, T* o, T* lse, T scale, T* tile, T* inverse, int row, int shift) {
  using B = BlockProducts<T, A, Rows>;
  using P = AttentionPlan<T, A>;
  const int place = row + shift, computed = B::computed(place), filled = B::filled(place);
  gemm<typename B::Scores>(q + long(row) * A::ldq, kt, Store<T>{tile, P::ldt}, Region{0, Rows, computed, A::head_size});
  for (int i = 0; i < Rows; ++i)
    inverse[i] = T(1) / softmax_row(tile + long(i) * P::ldt, P::visible(place + i), filled, scale, lse[row + i]);
  T* out = o + long(row) * A::ldo;
  gemm<typename B::Values>(
      tile, v, [&](auto c, int i, Vec<T> sum) { c.store(out + long(i) * A::ldo, sum * inverse[i]); },
      Region{0, Rows, A::head_size, P::visible(place + Rows - 1)});
}

// One block of query rows of the backward pass. `tile` holds the numerators of its softmax and `inverse` one over the sums of
// their rows; when kt is given, `tile` receives the probabilities. Rows of do are divided by those sums, instead of all
// numerators, into `gradients`.
template <class T, class A, int Rows>
void backward_block(const T* q, const T* k, const T* kt, const T* vt, const T* o, const T* lse, const T* d_o, T* dq, T* dk, T* dv,
                    T scale, T* tile, const T* inverse, T* gradients, int row, int shift, bool add) {
  using B = BlockProducts<T, A, Rows>;
  using P = AttentionPlan<T, A>;
  const int place = row + shift, computed = B::computed(place), filled = B::filled(place), depth = P::visible(place + Rows - 1);
  const int key_rows = P::limit(depth, B::key_step);
  for (int j = key_rows; !add && j < A::keys; ++j)  // what no query sees
    columns<T, A::head_size>([&](auto c) { c.store(dk + long(j) * A::ld_dk, Vec<T>{}), c.store(dv + long(j) * A::ld_dv, Vec<T>{}); });
  q += long(row) * A::ldq, dq += long(row) * A::ld_dq, o += long(row) * A::ldo, d_o += long(row) * A::ld_do, lse += row;
  if (kt != nullptr) {
    gemm<typename B::Scores>(
        q, kt,
        [&](auto c, int i, Vec<T> score) {
          const Vec<T> p = vexp(score * scale - lse[i]);
          c.store(tile + long(i) * P::ldt, A::causal ? select(c.index() < T(P::visible(place + i)), p, Vec<T>{}) : p);
        },
        Region{0, Rows, computed, A::head_size});
    for (int i = 0; i < Rows; ++i)
      for (int j = computed; j < filled; ++j) tile[long(i) * P::ldt + j] = T(0);
  }
  T delta[Rows];  // sum over keys of p dp, which is also the product of a row of o with that of do
  for (int i = 0; i < Rows; ++i) {
    const Vec<T> factor = broadcast(kt == nullptr ? inverse[i] : T(1));
    Vec<T> sum{};
    columns<T, A::head_size>([&](auto c) {
      const Vec<T> g = c.load(d_o + long(i) * A::ld_do) * factor;
      c.store(gradients + long(i) * P::ldg, g);
      sum += c.load(o + long(i) * A::ldo) * g;
    });
    delta[i] = hsum(sum);
  }
  gemm<typename B::ValueGrad>(tile, gradients, AddOrStore<T>{dv, A::ld_dv, add}, Region{0, key_rows, A::head_size, Rows});
  gemm<typename B::ProbabilityGrad>(
      gradients, vt,
      [&](auto c, int i, Vec<T> dp) {
        T* p = tile + long(i) * P::ldt;
        c.store(p, c.load(p) * (dp - delta[i]) * scale);
      },
      Region{0, Rows, computed, A::head_size});
  gemm<typename B::QueryGrad>(tile, k, Store<T>{dq, A::ld_dq}, Region{0, Rows, A::head_size, depth});
  gemm<typename B::KeyGrad>(tile, q, AddOrStore<T>{dk, A::ld_dk, add}, Region{0, key_rows, A::head_size, Rows});
}

}  // namespace detail

/// Elements of scratch for attention_forward and attention_backward.
template <class T, class A>
constexpr size_t attention_scratch() {
  using P = detail::AttentionPlan<T, A>;
  return 2 * P::transposed + P::tile + P::gradients;
}

/// Elements of the numerators of the softmax, and of one over their sums, kept from the forward pass for the backward pass.
template <class T, class A>
constexpr size_t attention_kept() {
  using P = detail::AttentionPlan<T, A>;
  return size_t(A::heads) * (P::kept + P::kept_inverses);
}

/// o = softmax(scale q k^T) v per head; lse[h * LseStride + i] = log of the sum of e^(scale q k^T) of a row. `kept` receives
/// what attention_backward wants, unless it is null. Head h of q, o starts at column h * HeadSize; its keys and values are those of head
/// h / (Heads / KvHeads) of k, v. `first`: under a causal mask, the last key that the first query sees; at most Keys - Queries.
template <class A, class T>
void attention_forward(const T* q, const T* k, const T* v, T* o, T* lse, T scale, T* scratch, T* kept = nullptr, int first = A::keys - A::queries) {
  using P = detail::AttentionPlan<T, A>;
  const int shift = first - (A::keys - A::queries);
  constexpr int group = A::heads / A::kv_heads;
  T* kt = scratch;
  for (int h = 0; h < A::heads; ++h) {
    const int column = h * A::head_size, kv_column = h / group * A::head_size;
    if (h % group == 0) transpose(k + kv_column, A::keys, A::head_size, A::ldk, kt, P::ldt);
    T* kept_head = kept == nullptr ? nullptr : kept + size_t(h) * (P::kept + P::kept_inverses);
    T sums[P::block];
    auto tile = [&](int row) { return kept == nullptr ? scratch + 2 * P::transposed : kept_head + long(row) * P::ldt; };
    auto inverse = [&](int row) { return kept == nullptr ? sums : kept_head + P::kept + row; };
    T* lse_head = lse + h * A::lse_stride;
    for (int b = 0; b < P::whole_blocks; ++b)
      detail::forward_block<T, A, P::block>(q + column, kt, v + kv_column, o + column, lse_head, scale, tile(b * P::block),
                                            inverse(b * P::block), b * P::block, shift);
    if constexpr (P::rest != 0)
      detail::forward_block<T, A, P::rest>(q + column, kt, v + kv_column, o + column, lse_head, scale, tile(P::whole_blocks * P::block),
                                           inverse(P::whole_blocks * P::block), P::whole_blocks * P::block, shift);
  }
}

/// Gradients of attention_forward: dq, dk, dv are overwritten. `kept`: from the forward pass, destroyed; null: the
/// probabilities are recomputed from lse.
template <class A, class T>
void attention_backward(const T* q, const T* k, const T* v, const T* o, const T* lse, const T* d_o, T* dq, T* dk, T* dv, T scale,
                        T* scratch, T* kept = nullptr, int first = A::keys - A::queries) {
  using P = detail::AttentionPlan<T, A>;
  const int shift = first - (A::keys - A::queries);
  constexpr int group = A::heads / A::kv_heads;
  T *vt = scratch, *kt = scratch + P::transposed, *gradients = scratch + 2 * P::transposed + P::tile;
  for (int h = 0; h < A::heads; ++h) {
    const int column = h * A::head_size, kv_column = h / group * A::head_size;
    if (h % group == 0) {
      transpose(v + kv_column, A::keys, A::head_size, A::ldv, vt, P::ldt);
      if (kept == nullptr) transpose(k + kv_column, A::keys, A::head_size, A::ldk, kt, P::ldt);
    }
    const T* recompute = kept == nullptr ? kt : nullptr;
    T* kept_head = kept == nullptr ? nullptr : kept + size_t(h) * (P::kept + P::kept_inverses);
    auto inverse = [&](int row) { return kept == nullptr ? nullptr : kept_head + P::kept + row; };
    auto tile = [&](int row) { return kept == nullptr ? scratch + 2 * P::transposed : kept_head + long(row) * P::ldt; };
    const T* lse_head = lse + h * A::lse_stride;
    // The last rows come first: they see every key that any row sees and so start dk and dv, to which the others add.
    bool add = h % group != 0;
    if constexpr (P::rest != 0) {
      detail::backward_block<T, A, P::rest>(q + column, k + kv_column, recompute, vt, o + column, lse_head, d_o + column, dq + column,
                                            dk + kv_column, dv + kv_column, scale, tile(P::whole_blocks * P::block),
                                            inverse(P::whole_blocks * P::block), gradients, P::whole_blocks * P::block, shift, add);
      add = true;
    }
    for (int b = P::whole_blocks - 1; b >= 0; --b, add = true)
      detail::backward_block<T, A, P::block>(q + column, k + kv_column, recompute, vt, o + column, lse_head, d_o + column, dq + column,
                                             dk + kv_column, dv + kv_column, scale, tile(b * P::block), inverse(b * P::block), gradients,
                                             b * P::block, shift, add);
  }
}

}  // namespace tsr
