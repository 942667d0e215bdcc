// The backward pass of attention_mma.cuh: one kernel for the queries' gradients, one for those of keys and values.
#pragma once
#include "attention_mma.cuh"

namespace tsr {

namespace flash {
constexpr int kRowWarps = 4;
/// delta = sum over a head's columns of o * d_o. One warp per row.
template <class A, class E, class Out>
__global__ void __launch_bounds__(32 * kRowWarps) row_products(const Out* __restrict__ o, const E* __restrict__ d_o, float* __restrict__ delta) {
  const int64_t at = int64_t(blockIdx.x) * kRowWarps + threadIdx.x / 32;
  if (at >= int64_t(A::batch) * A::heads * A::queries) return;
  const int i = at % A::queries, h = at / A::queries % A::heads, b = at / A::queries / A::heads;
  const Out* const x = o + b * A::o_batch + h * A::value_dim + i * A::o_row;
  const E* const y = d_o + b * A::d_o_batch + h * A::value_dim + i * A::d_o_row;
  float sum = 0;
  for (int c = threadIdx.x % 32 * 2; c < A::value_dim; c += 64) {
    const Two<E> right = load2(y + c);
    sum += float(x[c]) * float(right[0]) + float(x[c + 1]) * float(right[1]);
  }
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) delta[at] = sum;
}
template <class A, class E, class Out>
void launch_row_products(cudaStream_t stream, const Out* o, const E* d_o, float* delta) {
  constexpr int64_t rows = int64_t(A::batch) * A::heads * A::queries;
  row_products<A, E, Out><<<int((rows + kRowWarps - 1) / kRowWarps), 32 * kRowWarps, 0, stream>>>(o, d_o, delta);
}

template <class A, class E>
struct QueriesMemory {
  using Query = mma::Tile<E, QueriesCut<A>::rows, Sizes<A>::width>;
  using Pull = mma::Tile<E, QueriesCut<A>::rows, Sizes<A>::values>;
  using Keys = Stages<E, QueriesCut<A>::step, Sizes<A>::width, Sizes<A>::values>;
  static constexpr int kBytes = (Query::kElements + Pull::kElements) * int(sizeof(E)) + Keys::kBytes;
};

/// dq = scale ds k with ds = p (d_o v^T - delta). Grid: query tiles x (batch * heads).
template <class A, class E, class Out, class Begin = Whole>
__global__ void __launch_bounds__(QueriesCut<A>::threads) backward_queries(const E* __restrict__ q, const E* __restrict__ k, const E* __restrict__ v,
                                                                           const float* __restrict__ lse, const E* __restrict__ d_o, const float* __restrict__ delta,
                                                                           Out* __restrict__ dq, float scale, const Begin begin) {
  using C = QueriesCut<A>;
  using S = Sizes<A>;
  using Memory = QueriesMemory<A, E>;
  extern __shared__ __align__(128) char memory[];
  const typename Memory::Query query{reinterpret_cast<E*>(memory)};
  const typename Memory::Pull pull{query.data + Memory::Query::kElements};
  const typename Memory::Keys stages{pull.data + Memory::Pull::kElements};
  constexpr int tiles = (A::queries + C::rows - 1) / C::rows;
  const int row = (tiles - 1 - int(blockIdx.x % tiles)) * C::rows, of_head = blockIdx.x / tiles, offset = offset_of<A>(begin);
  const int b = of_head / A::heads, h = of_head % A::heads, group = h / (A::heads / A::kv_heads);
  const int own = threadIdx.x / 32 * C::rows_of_warp;
  const E* const k_head = k + b * A::k_batch + group * A::head_dim;
  const E* const v_head = v + b * A::v_batch + group * A::value_dim;
  auto fetch = [&](int turn) {
    stages.x(turn).template fetch<C::threads>(k_head, A::k_row, turn * C::step, A::keys, A::head_dim);
    stages.y(turn).template fetch<C::threads>(v_head, A::v_row, turn * C::step, A::keys, A::value_dim);
    ptx::copy_async_commit();
  };
  const int seen = A::causal && row + C::rows + offset < A::keys ? row + C::rows + offset : A::keys;
  const int turns = (seen + C::step - 1) / C::step;
  query.template fetch<C::threads>(q + b * A::q_batch + h * A::head_dim, A::q_row, row, A::queries, A::head_dim);
  pull.template fetch<C::threads>(d_o + b * A::d_o_batch + h * A::value_dim, A::d_o_row, row, A::queries, A::value_dim);
  fetch(0);

  float log_total[C::fragments][2], shift[C::fragments][2], sums[C::fragments][S::width / 8][4] = {};
#pragma unroll
  for (int m = 0; m < C::fragments; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int i = row + own + 16 * m + row_of(2 * half);
      const bool inside = i < A::queries;
      log_total[m][half] = inside ? lse[int64_t(of_head) * A::queries + i] * kLog2E : 0;
      shift[m][half] = inside ? delta[int64_t(of_head) * A::queries + i] : 0;
    }
  for (int turn = 0; turn < turns; ++turn) {
    ptx::copy_async_wait<0>();
    __syncthreads();
    if (turn + 1 < turns) fetch(turn + 1);
    const int key = turn * C::step;
    if (A::causal && key > row + own + C::rows_of_warp - 1 + offset) continue;
    float scores[C::fragments][C::step / 8][4] = {}, pulls[C::fragments][C::step / 8][4] = {};
    mma::add_dots(scores, query, own, stages.x(turn));
    mma::add_dots(pulls, pull, own, stages.y(turn));
    const bool cut = is_cut<A, C::rows_of_warp, C::step>(row + own, key, offset);
#pragma unroll
    for (int m = 0; m < C::fragments; ++m)
#pragma unroll
      for (int n = 0; n < C::step / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int i = row + own + 16 * m + row_of(e), t = key + 8 * n + column_of(e);
          const bool hidden = cut && (t >= A::keys || (A::causal && t > i + offset));
          const float p = hidden ? 0.0f : ptx::exp2_approximate(scores[m][n][e] * (scale * kLog2E) - log_total[m][e / 2]);
          scores[m][n][e] = p * (pulls[m][n][e] - shift[m][e / 2]);
        }
    mma::add_weighted(sums, scores, stages.x(turn), 0);
  }
  float factor[C::fragments][2];
  fill(factor, scale);
  store(dq + b * A::dq_batch + h * A::head_dim, A::dq_row, row + own, A::queries, 0, A::head_dim, sums, factor);
}

template <class A, class E>
struct KeysMemory {
  using C = KeysCut<A>;
  using Key = mma::Tile<E, C::rows, Sizes<A>::width>;
  using Value = mma::Tile<E, C::rows, Sizes<A>::values>;
  using Queries = Stages<E, C::step, Sizes<A>::width, Sizes<A>::values>;
  static constexpr int kBytes = (Key::kElements + Value::kElements) * int(sizeof(E)) + Queries::kBytes + 2 * 2 * C::step * int(sizeof(float));
  // A block adds up this many columns of dk and of dv, which lie in registers; more are further blocks.
  static constexpr int parts = (Sizes<A>::widest + 127) / 128;
  static constexpr int k_columns = mma::rounded_up((Sizes<A>::width + parts - 1) / parts, 16), v_columns = mma::rounded_up((Sizes<A>::values + parts - 1) / parts, 16);
};

/// dk = scale ds^T q and dv = p^T d_o, over all query heads that read a key head. Grid: key tiles x (batch * kv_heads), then parts of the columns.
template <class A, class E, class Out, class Begin = Whole>
__global__ void __launch_bounds__(KeysCut<A>::threads) backward_keys(const E* __restrict__ q, const E* __restrict__ k, const E* __restrict__ v, const float* __restrict__ lse,
                                                                     const E* __restrict__ d_o, const float* __restrict__ delta, Out* __restrict__ dk,
                                                                     Out* __restrict__ dv, float scale, const Begin begin) {
  using C = KeysCut<A>;
  using S = Sizes<A>;
  using Memory = KeysMemory<A, E>;
  extern __shared__ __align__(128) char memory[];
  const typename Memory::Key keys{reinterpret_cast<E*>(memory)};
  const typename Memory::Value values{keys.data + Memory::Key::kElements};
  const typename Memory::Queries stages{values.data + Memory::Value::kElements};
  float* const of_rows = reinterpret_cast<float*>(stages.data + 2 * Memory::Queries::kElements);  // per stage: log totals, deltas
  constexpr int tiles = (A::keys + C::rows - 1) / C::rows, share = A::heads / A::kv_heads, row_tiles = (A::queries + C::step - 1) / C::step;
  const int key = blockIdx.x % tiles * C::rows, of_group = blockIdx.x / tiles, b = of_group / A::kv_heads, group = of_group % A::kv_heads;
  const int own = threadIdx.x / 32 * C::rows_of_warp, part = blockIdx.y, offset = offset_of<A>(begin);
  const int skipped = A::causal && key > offset ? (key - offset) / C::step : 0;  // tiles of queries that see none of the keys
  const int turns = share * (row_tiles - skipped);  // not one where all queries come before the keys
  auto head_of = [&](int turn) { return group * share + turn / (row_tiles - skipped); };
  auto row_of_turn = [&](int turn) { return (skipped + turn % (row_tiles - skipped)) * C::step; };
  auto fetch = [&](int turn) {
    const int h = head_of(turn), row = row_of_turn(turn);
    stages.x(turn).template fetch<C::threads>(q + b * A::q_batch + h * A::head_dim, A::q_row, row, A::queries, A::head_dim);
    stages.y(turn).template fetch<C::threads>(d_o + b * A::d_o_batch + h * A::value_dim, A::d_o_row, row, A::queries, A::value_dim);
    if (threadIdx.x < 2 * C::step) {
      const int i = row + threadIdx.x % C::step;
      const float* const from = (threadIdx.x < C::step ? lse : delta) + (int64_t(b) * A::heads + h) * A::queries;
      ptx::copy_async<4>(of_rows + turn % 2 * 2 * C::step + threadIdx.x, i < A::queries ? from + i : from, i < A::queries ? 4 : 0);
    }
    ptx::copy_async_commit();
  };
  static_assert(2 * C::step <= C::threads, "a thread per number");
  if (turns > 0) {
    keys.template fetch<C::threads>(k + b * A::k_batch + group * A::head_dim, A::k_row, key, A::keys, A::head_dim);
    values.template fetch<C::threads>(v + b * A::v_batch + group * A::value_dim, A::v_row, key, A::keys, A::value_dim);
    fetch(0);
  }

  float dk_sums[C::fragments][Memory::k_columns / 8][4] = {}, dv_sums[C::fragments][Memory::v_columns / 8][4] = {};
  for (int turn = 0; turn < turns; ++turn) {
    ptx::copy_async_wait<0>();
    __syncthreads();
    if (turn + 1 < turns) fetch(turn + 1);
    const int row = row_of_turn(turn);
    if (A::causal && key + own > row + C::step - 1 + offset) continue;
    const float *const log_total = of_rows + turn % 2 * 2 * C::step, *const shift = log_total + C::step;
    float scores[C::fragments][C::step / 8][4] = {}, pulls[C::fragments][C::step / 8][4] = {};
    mma::add_dots(scores, keys, own, stages.x(turn));
    const bool cut = A::causal && key + own + C::rows_of_warp - 1 > row + offset;
#pragma unroll
    for (int n = 0; n < C::step / 8; ++n)
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int at = 8 * n + column_of(c);
        const float less = log_total[at] * kLog2E;
#pragma unroll
        for (int m = 0; m < C::fragments; ++m)
#pragma unroll
          for (int e = c; e < 4; e += 2) {
            const bool hidden = cut && key + own + 16 * m + row_of(e) > row + at + offset;
            scores[m][n][e] = hidden ? 0.0f : ptx::exp2_approximate(scores[m][n][e] * (scale * kLog2E) - less);
          }
      }
    mma::add_weighted(dv_sums, scores, stages.y(turn), part * (Memory::v_columns / 8));
    mma::add_dots(pulls, values, own, stages.y(turn));
#pragma unroll
    for (int n = 0; n < C::step / 8; ++n)
#pragma unroll
      for (int m = 0; m < C::fragments; ++m)
#pragma unroll
        for (int e = 0; e < 4; ++e) scores[m][n][e] *= pulls[m][n][e] - shift[8 * n + column_of(e)];
    mma::add_weighted(dk_sums, scores, stages.x(turn), part * (Memory::k_columns / 8));
  }
  float factor[C::fragments][2];
  fill(factor, 1);
  store(dv + b * A::dv_batch + group * A::value_dim, A::dv_row, key + own, A::keys, part * Memory::v_columns, A::value_dim, dv_sums, factor);
  fill(factor, scale);
  store(dk + b * A::dk_batch + group * A::head_dim, A::dk_row, key + own, A::keys, part * Memory::k_columns, A::head_dim, dk_sums, factor);
}
}  // namespace flash

/// Launches the backward pass: dq, dk and dv are overwritten; `delta` is room for batch x heads x queries floats.
template <class A, class E, class Out, class Gradient, class Begin = attention::Whole>
void attention_backward_mma(cudaStream_t stream, const E* q, const E* k, const E* v, const Out* o, const float* lse, const E* d_o, Gradient* dq, Gradient* dk, Gradient* dv,
                            float scale, float* delta, Begin begin = {}) {
  using namespace flash;
  launch_row_products<A>(stream, o, d_o, delta);
  constexpr int query_bytes = QueriesMemory<A, E>::kBytes, query_tiles = (A::queries + QueriesCut<A>::rows - 1) / QueriesCut<A>::rows;
  allow(backward_queries<A, E, Gradient, Begin>, query_bytes);
  backward_queries<A, E, Gradient, Begin><<<query_tiles * A::batch * A::heads, QueriesCut<A>::threads, query_bytes, stream>>>(q, k, v, lse, d_o, delta, dq, scale, begin);
  constexpr int key_bytes = KeysMemory<A, E>::kBytes, key_tiles = (A::keys + KeysCut<A>::rows - 1) / KeysCut<A>::rows;
  allow(backward_keys<A, E, Gradient, Begin>, key_bytes);
  const dim3 key_grid(key_tiles * A::batch * A::kv_heads, KeysMemory<A, E>::parts);
  backward_keys<A, E, Gradient, Begin><<<key_grid, KeysCut<A>::threads, key_bytes, stream>>>(q, k, v, lse, d_o, delta, dk, dv, scale, begin);
}

}  // namespace tsr
