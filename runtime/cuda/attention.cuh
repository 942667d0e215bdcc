// Exact softmax attention without an S x S matrix in memory, forward and backward (Dao et al., "FlashAttention", 2022;
// backward in two passes, so that no sum needs an atomic). CUDA cores, float or double, any head size and length.
//
// A block has A::warps warps, four usually, and owns a tile of 32 rows; each warp owns as many of them. How many there are
// changes no sum. Products over the head dimension run through shared memory in slices, so the tiles do not grow with the
// head. What a block adds up lies in registers:
// `out_columns` at a time, further columns are further blocks (blockIdx.z), which recompute the scores.
//
// `A` lists batch, queries, keys, heads, kv_heads, head_dim, value_dim, causal, warps and the distances of batch elements and of rows
// (q_batch, q_row...) of q k v o and, backward, d_o dq dk dv. Query head h reads key head h / (heads / kv_heads). With a causal mask, query i sees keys
// 0 .. i + keys - queries or, where `begin` is given, 0 .. i + *begin: the queries are part of more, which begins there.
#pragma once
#include "reduce.cuh"

namespace tsr {

namespace attention {
constexpr int kTile = 32, kSlice = 32;
template <class A>
constexpr int threads = 32 * A::warps;
template <class A>
constexpr int rows_of_warp = kTile / A::warps;
/// Columns that a block adds up at once: all of a head up to 128 (float; a warp's registers) or 32 (double).
template <class T, int Width>
constexpr int out_columns = sizeof(T) != 4 || Width <= 32 ? 32 : Width <= 64 ? 64 : 128;

/// Copies columns [first, first + Width) of rows [row, row + 32) into shared memory; zeros beyond `rows` and `columns`.
template <int Width, int Threads, int Pitch, class T>
__device__ inline void load_tile(T (&tile)[kTile][Pitch], const T* x, int64_t stride, int row, int rows, int first, int columns) {
  for (int i = threadIdx.x; i < kTile * Width; i += Threads) {
    const int r = i / Width, c = i % Width;
    tile[r][c] = row + r < rows && first + c < columns ? x[(row + r) * stride + first + c] : T(0);
  }
}

/// products[r] = x[row of this warp + r] . y[row of this lane] over `depth` columns; the tiles are slices of both. All threads.
template <int Rows, class T>
__device__ inline void dot_rows(T (&products)[Rows], T (&x_tile)[kTile][kSlice + 1], T (&y_tile)[kTile][kSlice + 1], const T* x, int64_t x_stride, int x_row,
                                int x_rows, const T* y, int64_t y_stride, int y_row, int y_rows, int depth) {
  constexpr int all = 32 * kTile / Rows;
  const int lane = threadIdx.x % 32, own = threadIdx.x / 32 * Rows;
#pragma unroll
  for (int r = 0; r < Rows; ++r) products[r] = 0;
  for (int first = 0; first < depth; first += kSlice) {
    __syncthreads();
    load_tile<kSlice, all>(x_tile, x, x_stride, x_row, x_rows, first, depth);
    load_tile<kSlice, all>(y_tile, y, y_stride, y_row, y_rows, first, depth);
    __syncthreads();
#pragma unroll 8
    for (int d = 0; d < kSlice; ++d) {
      const T of_lane = y_tile[lane][d];
#pragma unroll
      for (int r = 0; r < Rows; ++r) products[r] += x_tile[own + r][d] * of_lane;
    }
  }
}

/// sums[r][j] += weights[row of this warp + r] . column (lane + 32 j) of the tile, for the columns below `columns`.
template <int Columns, int Rows, class T>
__device__ inline void add_weighted(T (&sums)[Rows][Columns / 32], const T (&weights)[kTile][kTile], const T (&tile)[kTile][Columns], int columns) {
  const int lane = threadIdx.x % 32, own = threadIdx.x / 32 * Rows;
#pragma unroll
  for (int j = 0; j < Columns / 32; ++j) {
    if (j * 32 >= columns) break;
    for (int t = 0; t < kTile; ++t) {
      const T x = tile[t][j * 32 + lane];
#pragma unroll
      for (int r = 0; r < Rows; ++r) sums[r][j] += weights[own + r][t] * x;
    }
  }
}

/// Writes the columns [first, first + Columns) of a warp's rows, times `factor` per row.
template <int Columns, int Rows, class T>
__device__ inline void store_rows(T* x, int64_t stride, int row, int rows, int first, int columns, const T (&sums)[Rows][Columns / 32], const T (&factor)[Rows]) {
  const int lane = threadIdx.x % 32, own = threadIdx.x / 32 * Rows;
#pragma unroll
  for (int j = 0; j < Columns / 32; ++j) {
    const int c = first + j * 32 + lane;
    if (c >= columns) break;
#pragma unroll
    for (int r = 0; r < Rows; ++r)
      if (row + own + r < rows) x[(row + own + r) * stride + c] = sums[r][j] * factor[r];
  }
}

/// The last key that the first query sees under a causal mask.
template <class A>
__device__ inline int offset_of(const int* begin) { return *begin; }
/// Queries that begin where their number says, which the compiler then knows.
struct Whole {};
template <class A>
__device__ inline int offset_of(Whole) { return A::keys - A::queries; }

/// Whether query i sees key t.
template <class A>
__device__ inline bool sees(int i, int t, int offset) { return i < A::queries && t < A::keys && (!A::causal || t <= i + offset); }

/// o = softmax(scale q k^T) v and lse = log of the sum of exponentials. Grid: (batch * heads) x query tiles x slices of o.
template <class A, class T, class Begin>
__global__ void __launch_bounds__(threads<A>) forward(const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v, T* __restrict__ o, T* __restrict__ lse, T scale, const Begin begin) {
  constexpr int own_rows = rows_of_warp<A>, out = out_columns<T, A::value_dim>;
  __shared__ T q_tile[kTile][kSlice + 1], k_tile[kTile][kSlice + 1], v_tile[kTile][out], weights[kTile][kTile];
  const int row = blockIdx.y * kTile, b = blockIdx.x / A::heads, h = blockIdx.x % A::heads, group = h / (A::heads / A::kv_heads);
  const int first = blockIdx.z * out, lane = threadIdx.x % 32, own = threadIdx.x / 32 * own_rows;
  const T* const q_head = q + b * A::q_batch + h * A::head_dim;
  const T* const k_head = k + b * A::k_batch + group * A::head_dim;
  const T* const v_head = v + b * A::v_batch + group * A::value_dim;
  T largest[own_rows], total[own_rows], sums[own_rows][out / 32] = {};
#pragma unroll
  for (int r = 0; r < own_rows; ++r) largest[r] = -infinity<T>(), total[r] = 0;
  const int offset = offset_of<A>(begin), last = A::causal ? row + kTile - 1 + offset : A::keys - 1;
  for (int key = 0; key < A::keys && key <= last; key += kTile) {
    T scores[own_rows];
    dot_rows(scores, q_tile, k_tile, q_head, A::q_row, row, A::queries, k_head, A::k_row, key, A::keys, A::head_dim);
    load_tile<out, threads<A>>(v_tile, v_head, A::v_row, key, A::keys, first, A::value_dim);
#pragma unroll
    for (int r = 0; r < own_rows; ++r) {
      const T score = sees<A>(row + own + r, key + lane, offset) ? scores[r] * scale : -infinity<T>();
      const T now = tsr_max(largest[r], warp_max(score));
      const T shrink = now == largest[r] ? T(1) : exp(largest[r] - now);  // both may be -infinity: a row that sees no key yet
      const T weight = score == -infinity<T>() ? T(0) : exp(score - now);
      weights[own + r][lane] = weight;
      total[r] = total[r] * shrink + warp_sum(weight);
      largest[r] = now;
#pragma unroll
      for (int j = 0; j < out / 32; ++j) sums[r][j] *= shrink;
    }
    __syncthreads();
    add_weighted<out>(sums, weights, v_tile, A::value_dim - first);
  }
  T factor[own_rows];
#pragma unroll
  for (int r = 0; r < own_rows; ++r) {
    factor[r] = T(1) / total[r];
    if (blockIdx.z == 0 && lane == 0 && row + own + r < A::queries) lse[int64_t(blockIdx.x) * A::queries + row + own + r] = largest[r] + log(total[r]);
  }
  store_rows<out>(o + b * A::o_batch + h * A::value_dim, A::o_row, row, A::queries, first, A::value_dim, sums, factor);
}

/// delta = sum over a head's columns of o * d_o. One warp per row.
template <class A, class T>
__global__ void __launch_bounds__(threads<A>) row_products(const T* __restrict__ o, const T* __restrict__ d_o, T* __restrict__ delta) {
  const int64_t at = int64_t(blockIdx.x) * A::warps + threadIdx.x / 32;
  if (at >= int64_t(A::batch) * A::heads * A::queries) return;
  const int i = at % A::queries, h = at / A::queries % A::heads, b = at / A::queries / A::heads;
  const T* const x = o + b * A::o_batch + h * A::value_dim + i * A::o_row;
  const T* const y = d_o + b * A::d_o_batch + h * A::value_dim + i * A::d_o_row;
  T sum = 0;
  for (int c = threadIdx.x % 32; c < A::value_dim; c += 32) sum += x[c] * y[c];
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) delta[at] = sum;
}

/// dq = ds k with ds = p (d_o v^T - delta) scale. Grid: (batch * heads) x query tiles x slices of dq.
template <class A, class T, class Begin>
__global__ void __launch_bounds__(threads<A>) backward_queries(const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v, const T* __restrict__ lse,
                                                             const T* __restrict__ d_o, const T* __restrict__ delta, T* __restrict__ dq, T scale, const Begin begin) {
  constexpr int own_rows = rows_of_warp<A>, out = out_columns<T, A::head_dim>;
  __shared__ T x_tile[kTile][kSlice + 1], y_tile[kTile][kSlice + 1], k_tile[kTile][out], weights[kTile][kTile];
  const int row = blockIdx.y * kTile, b = blockIdx.x / A::heads, h = blockIdx.x % A::heads, group = h / (A::heads / A::kv_heads);
  const int first = blockIdx.z * out, lane = threadIdx.x % 32, own = threadIdx.x / 32 * own_rows;
  const T* const q_head = q + b * A::q_batch + h * A::head_dim;
  const T* const k_head = k + b * A::k_batch + group * A::head_dim;
  const T* const v_head = v + b * A::v_batch + group * A::value_dim;
  const T* const d_head = d_o + b * A::d_o_batch + h * A::value_dim;
  T sums[own_rows][out / 32] = {}, log_total[own_rows], shift[own_rows], factor[own_rows];
#pragma unroll
  for (int r = 0; r < own_rows; ++r) {
    const bool inside = row + own + r < A::queries;
    const int64_t at = int64_t(blockIdx.x) * A::queries + row + own + r;
    log_total[r] = inside ? lse[at] : T(0), shift[r] = inside ? delta[at] : T(0), factor[r] = 1;
  }
  const int offset = offset_of<A>(begin), last = A::causal ? row + kTile - 1 + offset : A::keys - 1;
  for (int key = 0; key < A::keys && key <= last; key += kTile) {
    T scores[own_rows], pulls[own_rows];
    dot_rows(scores, x_tile, y_tile, q_head, A::q_row, row, A::queries, k_head, A::k_row, key, A::keys, A::head_dim);
    dot_rows(pulls, x_tile, y_tile, d_head, A::d_o_row, row, A::queries, v_head, A::v_row, key, A::keys, A::value_dim);
    load_tile<out, threads<A>>(k_tile, k_head, A::k_row, key, A::keys, first, A::head_dim);
#pragma unroll
    for (int r = 0; r < own_rows; ++r) {
      const T p = sees<A>(row + own + r, key + lane, offset) ? exp(scores[r] * scale - log_total[r]) : T(0);
      weights[own + r][lane] = p * (pulls[r] - shift[r]) * scale;
    }
    __syncthreads();
    add_weighted<out>(sums, weights, k_tile, A::head_dim - first);
  }
  store_rows<out>(dq + b * A::dq_batch + h * A::head_dim, A::dq_row, row, A::queries, first, A::head_dim, sums, factor);
}

/// dk = ds^T q and dv = p^T d_o, summed over the query heads of a key head in order. Grid: (batch * kv_heads) x key tiles x slices of both.
template <class A, class T, class Begin>
__global__ void __launch_bounds__(threads<A>) backward_keys(const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v, const T* __restrict__ lse,
                                                          const T* __restrict__ d_o, const T* __restrict__ delta, T* __restrict__ dk, T* __restrict__ dv, T scale, const Begin begin) {
  constexpr int own_rows = rows_of_warp<A>, out = out_columns<T, (A::head_dim > A::value_dim ? A::head_dim : A::value_dim)>, share = A::heads / A::kv_heads;
  __shared__ T x_tile[kTile][kSlice + 1], y_tile[kTile][kSlice + 1], row_tile[kTile][out], weights[kTile][kTile], pulled[kTile][kTile];
  const int key = blockIdx.y * kTile, b = blockIdx.x / A::kv_heads, group = blockIdx.x % A::kv_heads;
  const int first = blockIdx.z * out, lane = threadIdx.x % 32, own = threadIdx.x / 32 * own_rows;
  const T* const k_head = k + b * A::k_batch + group * A::head_dim;
  const T* const v_head = v + b * A::v_batch + group * A::value_dim;
  T dk_sums[own_rows][out / 32] = {}, dv_sums[own_rows][out / 32] = {}, factor[own_rows];
#pragma unroll
  for (int r = 0; r < own_rows; ++r) factor[r] = 1;
  const int offset = offset_of<A>(begin), earliest = A::causal && key > offset ? (key - offset) / kTile * kTile : 0;
  for (int h = group * share; h < (group + 1) * share; ++h) {
    const T* const q_head = q + b * A::q_batch + h * A::head_dim;
    const T* const d_head = d_o + b * A::d_o_batch + h * A::value_dim;
    const int64_t rows = (int64_t(b) * A::heads + h) * A::queries;
    for (int row = earliest; row < A::queries; row += kTile) {
      T scores[own_rows], pulls[own_rows];
      dot_rows(scores, x_tile, y_tile, k_head, A::k_row, key, A::keys, q_head, A::q_row, row, A::queries, A::head_dim);
      dot_rows(pulls, x_tile, y_tile, v_head, A::v_row, key, A::keys, d_head, A::d_o_row, row, A::queries, A::value_dim);
      const bool inside = row + lane < A::queries;
      const T log_total = inside ? lse[rows + row + lane] : T(0), shift = inside ? delta[rows + row + lane] : T(0);
#pragma unroll
      for (int r = 0; r < own_rows; ++r) {
        const T p = sees<A>(row + lane, key + own + r, offset) ? exp(scores[r] * scale - log_total) : T(0);
        weights[own + r][lane] = p;
        pulled[own + r][lane] = p * (pulls[r] - shift) * scale;
      }
      load_tile<out, threads<A>>(row_tile, d_head, A::d_o_row, row, A::queries, first, A::value_dim);
      __syncthreads();
      add_weighted<out>(dv_sums, weights, row_tile, A::value_dim - first);
      __syncthreads();
      load_tile<out, threads<A>>(row_tile, q_head, A::q_row, row, A::queries, first, A::head_dim);
      __syncthreads();
      add_weighted<out>(dk_sums, pulled, row_tile, A::head_dim - first);
      __syncthreads();
    }
  }
  store_rows<out>(dk + b * A::dk_batch + group * A::head_dim, A::dk_row, key, A::keys, first, A::head_dim, dk_sums, factor);
  store_rows<out>(dv + b * A::dv_batch + group * A::value_dim, A::dv_row, key, A::keys, first, A::value_dim, dv_sums, factor);
}

constexpr int tiles(int n, int size) { return (n + size - 1) / size; }
}  // namespace attention

/// Launches the forward pass: o and lse (batch x heads x queries) are overwritten.
template <class A, class T, class Begin = attention::Whole>
void attention_forward(cudaStream_t stream, const T* q, const T* k, const T* v, T* o, T* lse, T scale, Begin begin = {}) {
  using namespace attention;
  const dim3 grid(A::batch * A::heads, tiles(A::queries, kTile), tiles(A::value_dim, out_columns<T, A::value_dim>));
  forward<A, T, Begin><<<grid, threads<A>, 0, stream>>>(q, k, v, o, lse, scale, begin);
}

/// Launches the backward pass: dq, dk and dv are overwritten; `delta` is room for batch x heads x queries elements.
template <class A, class T, class Begin = attention::Whole>
void attention_backward(cudaStream_t stream, const T* q, const T* k, const T* v, const T* o, const T* lse, const T* d_o, T* dq, T* dk, T* dv, T scale, T* delta,
                        Begin begin = {}) {
  using namespace attention;
  constexpr int wide = A::head_dim > A::value_dim ? A::head_dim : A::value_dim;
  row_products<A, T><<<int((int64_t(A::batch) * A::heads * A::queries + A::warps - 1) / A::warps), threads<A>, 0, stream>>>(o, d_o, delta);
  const dim3 query_grid(A::batch * A::heads, tiles(A::queries, kTile), tiles(A::head_dim, out_columns<T, A::head_dim>));
  backward_queries<A, T, Begin><<<query_grid, threads<A>, 0, stream>>>(q, k, v, lse, d_o, delta, dq, scale, begin);
  const dim3 key_grid(A::batch * A::kv_heads, tiles(A::keys, kTile), tiles(wide, out_columns<T, wide>));
  backward_keys<A, T, Begin><<<key_grid, threads<A>, 0, stream>>>(q, k, v, lse, d_o, delta, dk, dv, scale, begin);
}

}  // namespace tsr
