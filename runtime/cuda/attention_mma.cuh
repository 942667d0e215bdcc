// Exact softmax attention on tensor cores (sm_80), forward and backward: bf16 or fp16 operands, sums in float (Dao et al.,
// "FlashAttention", 2022, and "FlashAttention-2", 2023). `A` is as in attention.cuh; head_dim, value_dim and all distances are
// multiples of 8, pointers of 16 bytes, the scale is positive. Queries begin where `begin` says, as there; the constant costs no register.
//
// Every warp owns 16 or 32 rows and keeps their scores, and what it adds up for them, in registers: scores become weights and
// those the left operand of the next product without leaving it. The other side of the products comes through shared memory in
// tiles; while one is computed with, the next is copied. Under a causal mask, tiles that no row sees are not touched, and
// warps leave out those that their own rows do not see. The backward pass is two kernels, one for queries and one for keys, which
// both compute the scores: nothing is added up between blocks, so the result is the same bit for bit in every run.
#pragma once
#include "attention.cuh"
#include "reduce.cuh"
#include "tile.cuh"

namespace tsr {

namespace flash {
using attention::offset_of, attention::Whole;
constexpr float kLog2E = 1.44269504088896340736f, kLn2 = 0.69314718055994530942f;

/// Sizes of a problem that all kernels share.
template <class A>
struct Sizes {
  static constexpr int width = mma::rounded_up(A::head_dim, 16), values = mma::rounded_up(A::value_dim, 16);  // of tiles
  static constexpr int widest = width > values ? width : values;
  static_assert(A::head_dim % 8 == 0 && A::value_dim % 8 == 0, "copies are of 8 elements");
  static_assert(widest <= 256, "of a head's columns");
};

/// How a kernel is cut: blocks of `warps` warps with `fragments` times 16 rows each, `step` rows of the other side at a time.
template <int Warps, int Fragments, int Step>
struct Cut {
  static constexpr int warps = Warps, fragments = Fragments, step = Step;
  static constexpr int threads = 32 * Warps, rows_of_warp = 16 * Fragments, rows = Warps * rows_of_warp;
};
template <bool Small, class A, class B>
struct Choice {
  using type = A;
};
template <class A, class B>
struct Choice<false, A, B> {
  using type = B;
};
/// One of three cuts, for heads of at most 64, 128 and 256 columns. A::warps, 4 or 8, is of the first; it changes no result.
template <class A, class Narrow, class Middle, class Wide>
using ByWidth = typename Choice<Sizes<A>::widest <= 64, Narrow, typename Choice<Sizes<A>::widest <= 128, Middle, Wide>::type>::type;

template <class A>
using ForwardCut = ByWidth<A, Cut<A::warps, 2, 64>, Cut<4, 2, 32>, Cut<8, 1, 32>>;
template <class A>
using QueriesCut = ByWidth<A, Cut<A::warps, 2, 32>, Cut<4, 1, 64>, Cut<4, 1, 16>>;
template <class A>
using KeysCut = ByWidth<A, Cut<A::warps, 1, 64>, Cut<4, 1, 32>, Cut<4, 1, 32>>;

/// Whether some of the rows from `row` on and of the keys from `key` on do not see each other, by the mask or for being none.
template <class A, int Rows, int Keys>
__device__ inline bool is_cut(int row, int key, int offset) {
  return key + Keys > A::keys || (A::causal && key + Keys - 1 > row + offset);
}

/// Positions of a lane's four sums in a fragment: row of sum e, and column of it.
__device__ inline int row_of(int e) { return threadIdx.x % 32 / 4 + e / 2 * 8; }
__device__ inline int column_of(int e) { return threadIdx.x % 4 * 2 + e % 2; }

/// Combined over the four lanes that share a row.
template <class Op>
__device__ inline float quad_reduce(float x) {
  x = Op::combine(x, __shfl_xor_sync(kWholeWarp, x, 1));
  return Op::combine(x, __shfl_xor_sync(kWholeWarp, x, 2));
}

/// Writes a warp's sums to rows [row, ...) of x, from column `first` on, times `factor` per row.
template <int M, int N, class Out>
__device__ inline void store(Out* x, int64_t stride, int row, int rows, int first, int columns, const float (&sums)[M][N][4], const float (&factor)[M][2]) {
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int r = row + 16 * m + row_of(2 * half);
      if (r >= rows) continue;
#pragma unroll
      for (int n = 0; n < N; ++n) {
        const int c = first + 8 * n + column_of(0);
        if (c < columns) mma::store_two(x + r * stride + c, sums[m][n][2 * half] * factor[m][half], sums[m][n][2 * half + 1] * factor[m][half]);
      }
    }
}
template <int M>
__device__ inline void fill(float (&x)[M][2], float value) {
#pragma unroll
  for (int m = 0; m < M; ++m) x[m][0] = x[m][1] = value;
}

/// Lets a kernel take `bytes` of shared memory, which is more than it may without asking.
template <class Kernel>
void allow(Kernel kernel, int bytes) {
  if (bytes > 48 * 1024) cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

/// Two pairs of tiles that take turns, behind each other in shared memory.
template <class E, int Rows, int Width, int Values>
struct Stages {
  using X = mma::Tile<E, Rows, Width>;
  using Y = mma::Tile<E, Rows, Values>;
  static constexpr int kElements = X::kElements + Y::kElements, kBytes = 2 * kElements * int(sizeof(E));
  E* data;
  __device__ X x(int turn) const { return {data + turn % 2 * kElements}; }
  __device__ Y y(int turn) const { return {data + turn % 2 * kElements + X::kElements}; }
};

template <class A, class E>
struct ForwardMemory {
  using Query = mma::Tile<E, ForwardCut<A>::rows, Sizes<A>::width>;
  using Keys = Stages<E, ForwardCut<A>::step, Sizes<A>::width, Sizes<A>::values>;
  static constexpr int kBytes = Query::kElements * int(sizeof(E)) + Keys::kBytes;
};

/// The weights of a tile in place of its scores: 2^(scale (score - largest)). `scale` includes log2 e. What was added up before has to
/// shrink to the new largest score of each row; the totals do here.
template <int M, int N>
__device__ inline void soften(float (&scores)[M][N][4], float (&largest)[M][2], float (&total)[M][2], float (&shrink)[M][2], float scale) {
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float now = largest[m][half];
#pragma unroll
      for (int n = 0; n < N; ++n) now = tsr_max(tsr_max(now, scores[m][n][2 * half]), scores[m][n][2 * half + 1]);
      now = quad_reduce<MaxOf>(now);  // a number: every row sees the first key
      shrink[m][half] = ptx::exp2_approximate((largest[m][half] - now) * scale);
      largest[m][half] = now;
      total[m][half] *= shrink[m][half];
#pragma unroll
      for (int n = 0; n < N; ++n)
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; ++e) {
          scores[m][n][e] = ptx::exp2_approximate(scores[m][n][e] * scale - now * scale);
          total[m][half] += scores[m][n][e];
        }
    }
}
template <int M, int V>
__device__ inline void rescale(float (&sums)[M][V][4], const float (&shrink)[M][2]) {
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int n = 0; n < V; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[m][n][e] *= shrink[m][e / 2];
}

/// Scores of keys that a row does not see become -infinity: rows from `row` on, keys from `key` on.
template <class A, int M, int N>
__device__ inline void hide(float (&scores)[M][N][4], int row, int key, int offset) {
  if (!is_cut<A, 16 * M, 8 * N>(row, key, offset)) return;
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int i = row + 16 * m + row_of(e), t = key + 8 * n + column_of(e);
        if (t >= A::keys || (A::causal && t > i + offset)) scores[m][n][e] = -infinity<float>();
      }
}

/// Divides what a warp's rows have added up by their totals, and stores it and the logarithms of those; o and lse are the head's.
template <class A, int M, int V, class Out>
__device__ inline void finish(Out* o, float* lse, int row, const float (&largest)[M][2], const float (&total)[M][2], const float (&sums)[M][V][4], float scale) {
  float factor[M][2];
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float all = quad_reduce<SumOf>(total[m][half]);
      const int i = row + 16 * m + row_of(2 * half);
      factor[m][half] = 1 / all;
      if (threadIdx.x % 4 == 0 && i < A::queries) lse[i] = largest[m][half] * scale + logf(all);
    }
  store(o, A::o_row, row, A::queries, 0, A::value_dim, sums, factor);
}

/// o = softmax(scale q k^T) v and lse = log of the sum of exponentials. Grid: query tiles x (batch * heads).
template <class A, class E, class Out, class Begin = Whole>
__global__ void __launch_bounds__(ForwardCut<A>::threads) forward(const E* __restrict__ q, const E* __restrict__ k, const E* __restrict__ v, Out* __restrict__ o,
                                                                  float* __restrict__ lse, float scale, const Begin begin) {
  using C = ForwardCut<A>;
  using S = Sizes<A>;
  using Memory = ForwardMemory<A, E>;
  extern __shared__ __align__(128) char memory[];
  const typename Memory::Query query{reinterpret_cast<E*>(memory)};
  const typename Memory::Keys stages{query.data + Memory::Query::kElements};
  constexpr int tiles = (A::queries + C::rows - 1) / C::rows;
  const int row = (tiles - 1 - int(blockIdx.x % tiles)) * C::rows, of_head = blockIdx.x / tiles, offset = offset_of<A>(begin);  // long rows first
  const int b = of_head / A::heads, h = of_head % A::heads, group = h / (A::heads / A::kv_heads);
  const int own = threadIdx.x / 32 * C::rows_of_warp;
  const E* const k_head = k + b * A::k_batch + group * A::head_dim;
  const E* const v_head = v + b * A::v_batch + group * A::value_dim;
  auto fetch = [&](int turn) {
    stages.x(turn).template fetch<C::threads>(k_head, A::k_row, turn * C::step, A::keys, A::head_dim);
    stages.y(turn).template fetch<C::threads>(v_head, A::v_row, turn * C::step, A::keys, A::value_dim);
    ptx::copy_async_commit();
  };
  const int seen = A::causal && row + C::rows + offset < A::keys ? row + C::rows + offset : A::keys;  // keys of any row
  const int turns = (seen + C::step - 1) / C::step;
  query.template fetch<C::threads>(q + b * A::q_batch + h * A::head_dim, A::q_row, row, A::queries, A::head_dim);
  fetch(0);

  float largest[C::fragments][2], total[C::fragments][2], sums[C::fragments][S::values / 8][4] = {};
  fill(largest, -infinity<float>());
  fill(total, 0);
  for (int turn = 0; turn < turns; ++turn) {
    ptx::copy_async_wait<0>();
    __syncthreads();  // the tile is here for all, and the one before it is done with
    if (turn + 1 < turns) fetch(turn + 1);
    const int key = turn * C::step;
    if (A::causal && key > row + own + C::rows_of_warp - 1 + offset) continue;
    float scores[C::fragments][C::step / 8][4] = {};
    mma::add_dots(scores, query, own, stages.x(turn));
    hide<A>(scores, row + own, key, offset);
    float shrink[C::fragments][2];
    soften(scores, largest, total, shrink, scale * kLog2E);
    rescale(sums, shrink);
    mma::add_weighted(sums, scores, stages.y(turn), 0);
  }

  finish<A>(o + b * A::o_batch + h * A::value_dim, lse + int64_t(of_head) * A::queries, row + own, largest, total, sums, scale);
}
}  // namespace flash

/// Launches the forward pass: o (E or float) and lse (batch x heads x queries) are overwritten.
template <class A, class E, class Out, class Begin = attention::Whole>
void attention_forward_mma(cudaStream_t stream, const E* q, const E* k, const E* v, Out* o, float* lse, float scale, Begin begin = {}) {
  using namespace flash;
  using C = ForwardCut<A>;
  constexpr int bytes = ForwardMemory<A, E>::kBytes, tiles = (A::queries + C::rows - 1) / C::rows;
  allow(forward<A, E, Out, Begin>, bytes);
  forward<A, E, Out, Begin><<<tiles * A::batch * A::heads, C::threads, bytes, stream>>>(q, k, v, o, lse, scale, begin);
}

}  // namespace tsr
