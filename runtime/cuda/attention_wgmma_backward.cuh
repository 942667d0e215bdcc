// The backward pass of attention_wgmma.cuh for heads of at most 128 columns: as in attention_mma_backward.cuh one kernel for the
// queries' gradients and one for those of keys and values, which both compute the scores, so that nothing is added up between blocks.
//
// Both are cut alike. A block owns 128 rows of one side (queries and the gradients of their results, or keys and values), each of
// its two computing warpgroups 64. The last warpgroup copies: those rows once, then tiles of the other side around a ring of stages.
// Weights and their gradients go from the sums of one product to the left operand of the next without leaving registers.
#pragma once
#include "attention_mma_backward.cuh"
#include "attention_wgmma.cuh"

namespace tsr {

namespace flash {

/// How both are cut. x and y are q and d_o on one side, k and v on the other; `step` rows of the other side are a tile.
template <class A>
struct PairCut {
  static constexpr int groups = 2, rows = 64 * groups, threads = 128 * (groups + 1), warps = 4 * groups, step = 64;
  static constexpr int x_panels = mma::rounded_up(A::head_dim, kPanel) / kPanel, y_panels = mma::rounded_up(A::value_dim, kPanel) / kPanel;
  static constexpr int x_columns = mma::rounded_up(A::head_dim, 32), y_columns = mma::rounded_up(A::value_dim, 32);  // of sums
  static constexpr int own_bytes = rows * (x_panels + y_panels) * kPanelRow, tile_bytes = step * (x_panels + y_panels) * kPanelRow;
  static constexpr int number_bytes = 2 * step * int(sizeof(float));  // of a stage: log totals and deltas, if its rows are queries
  static constexpr int room = (216 * 1024 - own_bytes) / (tile_bytes + number_bytes), stages = room < 4 ? room : 4;
  static_assert(stages >= 2, "a tile is copied while another one is computed with");
  static constexpr int tiles_bytes = own_bytes + stages * tile_bytes, bytes = tiles_bytes + stages * number_bytes + (1 + 4 * stages) * int(sizeof(uint64_t));
};

/// The block's shared memory.
template <class C>
struct PairMemory : Barriers<C::stages> {
  char* data;
  __device__ explicit PairMemory(char* data) : Barriers<C::stages>{reinterpret_cast<uint64_t*>(data + C::tiles_bytes + C::stages * C::number_bytes)}, data(data) {}
  __device__ char* own_x() const { return data; }
  __device__ char* own_y() const { return data + C::rows * C::x_panels * kPanelRow; }
  __device__ char* x(int stage) const { return data + C::own_bytes + stage * C::tile_bytes; }
  __device__ char* y(int stage) const { return x(stage) + C::step * C::x_panels * kPanelRow; }
  __device__ float* numbers(int stage) const { return reinterpret_cast<float*>(data + C::tiles_bytes + stage * C::number_bytes); }
};

#ifdef TSR_HAS_SM_90A
/// The warp has read what it was to read.
__device__ inline void give_back(uint64_t* barrier) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) ptx::mbarrier_arrive(barrier);
}

/// Copies the rows that a block owns, from `row` on; by one thread.
template <class C>
__device__ inline void load_own(const PairMemory<C>& memory, const CUtensorMap* x, const CUtensorMap* y, int head, int row, int b) {
  load_tile<C::x_panels>(memory.own_x(), x, C::rows, head, row, b, memory.own_here());
  load_tile<C::y_panels>(memory.own_y(), y, C::rows, head, row, b, memory.own_here());
}

/// Copies a turn's tiles, which begin at `row`, when their stage is free; by one thread.
template <class C>
__device__ inline void load_pair(const PairMemory<C>& memory, int turn, const CUtensorMap* x, const CUtensorMap* y, int head, int row, int b) {
  const int stage = turn % C::stages, parity = (turn / C::stages + 1) % 2;
  if (turn >= C::stages) ptx::mbarrier_wait(memory.x_done(stage), parity);
  load_tile<C::x_panels>(memory.x(stage), x, C::step, head, row, b, memory.x_here(stage));
  if (turn >= C::stages) ptx::mbarrier_wait(memory.y_done(stage), parity);
  load_tile<C::y_panels>(memory.y(stage), y, C::step, head, row, b, memory.y_here(stage));
}

/// A turn's tiles come and go without being used.
template <class C>
__device__ inline void pass_over(const PairMemory<C>& memory, int turn) {
  const int stage = turn % C::stages, parity = turn / C::stages % 2;
  ptx::mbarrier_wait(memory.x_here(stage), parity);
  give_back(memory.x_done(stage));
  ptx::mbarrier_wait(memory.y_here(stage), parity);
  give_back(memory.y_done(stage));
}

/// Weights of a warp's 16 rows from `row` on in place of their scores; keys from `key` on.
template <class A, int N>
__device__ inline void weigh_rows(float (&scores)[1][N][4], const float (&log_total)[2], int row, int key, int offset, float scale) {
  hide<A>(scores, row, key, offset);
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) scores[0][n][e] = ptx::exp2_approximate(scores[0][n][e] * scale - log_total[e / 2]);
}

/// The same of a warp's 16 keys, of which query i sees the first if `first` <= i; queries from `row` on, with logarithms of their totals.
template <class A, int N>
__device__ inline void weigh_columns(float (&scores)[N][4], const float* log_total, int row, int first, float scale) {
  if (A::causal && first + 15 > row)
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e)
        if (first + row_of(e) > row + 8 * n + column_of(e)) scores[n][e] = -infinity<float>();
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) scores[n][e] = ptx::exp2_approximate(scores[n][e] * scale - log_total[8 * n + column_of(e)]);
}
#endif

/// dq = scale ds k with ds = p (d_o v^T - delta). Grid: query tiles x (batch * heads). The product of a tile's ds with its keys is under
/// way while ds of the next tile is computed.
template <class A, class E, class Out, class Begin = Whole>
__global__ void __launch_bounds__(PairCut<A>::threads, 1)
    backward_queries_wide([[maybe_unused]] const __grid_constant__ CUtensorMap q, [[maybe_unused]] const __grid_constant__ CUtensorMap k, [[maybe_unused]] const __grid_constant__ CUtensorMap v,
                          [[maybe_unused]] const __grid_constant__ CUtensorMap d_o, [[maybe_unused]] const float* __restrict__ lse, [[maybe_unused]] const float* __restrict__ delta,
                          [[maybe_unused]] Out* __restrict__ dq, [[maybe_unused]] float scale, [[maybe_unused]] const Begin begin) {
#ifdef TSR_HAS_SM_90A
  using C = PairCut<A>;
  using S = Sizes<A>;
  extern __shared__ __align__(1024) char wide_memory[];
  const PairMemory<C> memory{wide_memory};
  constexpr int tiles = (A::queries + C::rows - 1) / C::rows;
  const int row = (tiles - 1 - int(blockIdx.x % tiles)) * C::rows, of_head = blockIdx.x / tiles, offset = offset_of<A>(begin);  // long rows first
  const int b = of_head / A::heads, h = of_head % A::heads, group = threadIdx.x / 128;
  const int turns = tiles_seen<A, C::step>(row + C::rows - 1, offset);
  init_barriers<2, 0, C>(memory);
  if (group == C::groups) {
    ptx::registers_give<24>();
    if (threadIdx.x % 128 != 0) return;
    load_own(memory, &q, &d_o, h, row, b);
    for (int turn = 0; turn < turns; ++turn) load_pair(memory, turn, &k, &v, h / (A::heads / A::kv_heads), turn * C::step, b);
    return;
  }
  ptx::registers_take<240>();
  const int own = row + 64 * group, own_turns = tiles_seen<A, C::step>(own + 63, offset), own_row = own + threadIdx.x % 128 / 32 * 16;
  const char *const query = memory.own_x() + 64 * group * kPanelRow, *const pull = memory.own_y() + 64 * group * kPanelRow;
  float log_total[2], shift[2], sums[1][C::x_columns / 8][4] = {}, scores[1][C::step / 8][4], pulls[C::step / 8][4];
  uint32_t weights[C::step / 16][4];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int i = own_row + row_of(2 * half);
    const bool inside = i < A::queries;
    log_total[half] = inside ? lse[int64_t(of_head) * A::queries + i] * kLog2E : 0;
    shift[half] = inside ? delta[int64_t(of_head) * A::queries + i] : 0;
  }
  auto ask_pair = [&](int turn) {
    const int stage = turn % C::stages, parity = turn / C::stages % 2;
    ptx::mbarrier_wait(memory.x_here(stage), parity);
    ask_dots<E, S::width, C::rows, C::step>(scores[0], query, memory.x(stage));
    ptx::mbarrier_wait(memory.y_here(stage), parity);
    ask_dots<E, S::values, C::rows, C::step>(pulls, pull, memory.y(stage));
  };
  auto pull_scores = [&] {
#pragma unroll
    for (int n = 0; n < C::step / 8; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) scores[0][n][e] *= pulls[n][e] - shift[e / 2];
  };
  ptx::mbarrier_wait(memory.own_here(), 0);
  ask_pair(0);
  ptx::wgmma_wait<1>();
  weigh_rows<A>(scores, log_total, own_row, 0, offset, scale * kLog2E);
  ptx::wgmma_wait<0>();
  give_back(memory.y_done(0));
  pull_scores();
  round_weights<E>(weights, scores[0]);
  for (int turn = 1; turn < own_turns; ++turn) {
    const int stage = turn % C::stages, before = (turn - 1) % C::stages;
    ask_pair(turn);
    ask_weighted<E>(sums[0], weights, memory.x(before));
    ptx::wgmma_wait<2>();  // the scores are here
    weigh_rows<A>(scores, log_total, own_row, turn * C::step, offset, scale * kLog2E);
    ptx::wgmma_wait<1>();
    give_back(memory.y_done(stage));
    pull_scores();
    ptx::wgmma_wait<0>();
    give_back(memory.x_done(before));
    round_weights<E>(weights, scores[0]);
  }
  const int last = (own_turns - 1) % C::stages;
  ask_weighted<E>(sums[0], weights, memory.x(last));
  ptx::wgmma_wait<0>();
  give_back(memory.x_done(last));
  for (int turn = own_turns; turn < turns; ++turn) pass_over(memory, turn);  // of the warpgroup below alone
  float factor[1][2];
  fill(factor, scale);
  store(dq + b * A::dq_batch + h * A::head_dim, A::dq_row, own_row, A::queries, 0, A::head_dim, sums, factor);
#else
  __trap();  // launched where no code for sm_90a is
#endif
}

/// dk = scale ds^T q and dv = p^T d_o, over all query heads that read a key head, in order. Grid: key tiles x (batch * kv_heads).
template <class A, class E, class Out, class Begin = Whole>
__global__ void __launch_bounds__(PairCut<A>::threads, 1)
    backward_keys_wide([[maybe_unused]] const __grid_constant__ CUtensorMap q, [[maybe_unused]] const __grid_constant__ CUtensorMap k, [[maybe_unused]] const __grid_constant__ CUtensorMap v,
                       [[maybe_unused]] const __grid_constant__ CUtensorMap d_o, [[maybe_unused]] const float* __restrict__ lse, [[maybe_unused]] const float* __restrict__ delta,
                       [[maybe_unused]] Out* __restrict__ dk, [[maybe_unused]] Out* __restrict__ dv, [[maybe_unused]] float scale, [[maybe_unused]] const Begin begin) {
#ifdef TSR_HAS_SM_90A
  using C = PairCut<A>;
  using S = Sizes<A>;
  extern __shared__ __align__(1024) char wide_memory[];
  const PairMemory<C> memory{wide_memory};
  constexpr int tiles = (A::keys + C::rows - 1) / C::rows, share = A::heads / A::kv_heads, row_tiles = (A::queries + C::step - 1) / C::step;
  const int key = blockIdx.x % tiles * C::rows, of_group = blockIdx.x / tiles, b = of_group / A::kv_heads, head = of_group % A::kv_heads;
  const int group = threadIdx.x / 128;
  // What depends on the place of the queries is computed anew in every turn: registers are few, and `begin` is near.
  auto skipped = [&] { return A::causal && key > offset_of<A>(begin) ? (key - offset_of<A>(begin)) / C::step : 0; };  // tiles of queries that see none of the keys
  auto turns = [&] { return share * (row_tiles - skipped()); };
  auto row_after = [&](int row) { return row + C::step < A::queries ? row + C::step : skipped() * C::step; };  // in the next turn
  init_barriers<2, 32, C>(memory);
  if (group == C::groups) {
    ptx::registers_give<24>();
    const int lane = threadIdx.x % 128;
    if (lane >= 32) return;
    if (lane == 0) load_own(memory, &k, &v, head, key, b);
    for (int turn = 0, row = skipped() * C::step, h = head * share; turn < turns(); ++turn, h += row + C::step < A::queries ? 0 : 1, row = row_after(row)) {
      const int stage = turn % C::stages;
      if (lane == 0) load_pair(memory, turn, &q, &d_o, h, row, b);
      if (turn >= C::stages) ptx::mbarrier_wait(memory.x_done(stage), (turn / C::stages + 1) % 2);
      const int64_t of_head = (int64_t(b) * A::heads + h) * A::queries;
      for (int at = lane; at < C::step; at += 32) {
        const bool inside = row + at < A::queries;
        memory.numbers(stage)[at] = inside ? lse[of_head + row + at] * kLog2E : 0;
        memory.numbers(stage)[C::step + at] = inside ? delta[of_head + row + at] : 0;
      }
      ptx::mbarrier_arrive(memory.x_here(stage));
    }
    return;
  }
  ptx::registers_take<240>();
  const int own_row = key + 64 * group + threadIdx.x % 128 / 32 * 16;
  auto first = [&] { return key + 64 * group - offset_of<A>(begin); };  // the query that sees the warpgroup's first key
  const char *const keys = memory.own_x() + 64 * group * kPanelRow, *const values = memory.own_y() + 64 * group * kPanelRow;
  float dk_sums[1][C::x_columns / 8][4] = {}, dv_sums[1][C::y_columns / 8][4] = {};
  uint32_t pulled[C::step / 16][4];
  int asked = -1;  // the stage of the queries that a product with `pulled` is under way with, if one is
  auto settle = [&] {
    if (asked >= 0) give_back(memory.x_done(asked));
    asked = -1;
  };
  ptx::mbarrier_wait(memory.own_here(), 0);
  for (int turn = 0, row = skipped() * C::step; turn < turns(); ++turn, row = row_after(row)) {
    const int stage = turn % C::stages, parity = turn / C::stages % 2;
    if (A::causal && first() > row + C::step - 1) {
      ptx::wgmma_wait<0>();
      settle();
      pass_over(memory, turn);
      continue;
    }
    const float *const log_total = memory.numbers(stage), *const shift = log_total + C::step;
    float scores[C::step / 8][4], pulls[C::step / 8][4];
    uint32_t weights[C::step / 16][4];
    ptx::mbarrier_wait(memory.x_here(stage), parity);
    ask_dots<E, S::width, C::rows, C::step>(scores, keys, memory.x(stage));
    ptx::mbarrier_wait(memory.y_here(stage), parity);
    ask_dots<E, S::values, C::rows, C::step>(pulls, values, memory.y(stage));
    ptx::wgmma_wait<1>();  // the scores are here
    settle();
    weigh_columns<A>(scores, log_total, row, first() + threadIdx.x % 128 / 32 * 16, scale * kLog2E);
    round_weights<E>(weights, scores);
    ask_weighted<E>(dv_sums[0], weights, memory.y(stage));
    ptx::wgmma_wait<1>();
#pragma unroll
    for (int n = 0; n < C::step / 8; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) scores[n][e] *= pulls[n][e] - shift[8 * n + column_of(e)];
    round_weights<E>(pulled, scores);
    ask_weighted<E>(dk_sums[0], pulled, memory.x(stage));
    asked = stage;
    ptx::wgmma_wait<1>();
    give_back(memory.y_done(stage));
  }
  ptx::wgmma_wait<0>();
  settle();
  float factor[1][2];
  fill(factor, 1);
  store(dv + b * A::dv_batch + head * A::value_dim, A::dv_row, own_row, A::keys, 0, A::value_dim, dv_sums, factor);
  fill(factor, scale);
  store(dk + b * A::dk_batch + head * A::head_dim, A::dk_row, own_row, A::keys, 0, A::head_dim, dk_sums, factor);
#else
  __trap();  // launched where no code for sm_90a is
#endif
}

/// Launches both, after row_products; false, and nothing is launched, where an operand cannot be described to the accelerator.
template <class A, class E, class Out, class Gradient, class Begin = Whole>
bool launch_wide_backward(cudaStream_t stream, const E* q, const E* k, const E* v, const Out* o, const float* lse, const E* d_o, Gradient* dq, Gradient* dk, Gradient* dv, float scale,
                          float* delta, Begin begin = {}) {
  using C = PairCut<A>;
  using Axes = HeadAxes<A>;
  const cuda::TensorAxes d_o_axes{4, {A::value_dim, A::heads, A::queries, A::batch}, {1, A::value_dim, A::d_o_row, A::d_o_batch}};
  struct Maps {
    CUtensorMap q, k, v, d_o;
  } of_queries, of_keys;  // for the kernel that owns them
  auto describe = [&](Maps& maps, uint32_t queries, uint32_t keys) {  // in tiles of so many rows
    return cuda::describe(maps.q, q, Axes::q, {kPanel, 1, queries, 1}) && cuda::describe(maps.k, k, Axes::k, {kPanel, 1, keys, 1}) && cuda::describe(maps.v, v, Axes::v, {kPanel, 1, keys, 1}) &&
           cuda::describe(maps.d_o, d_o, d_o_axes, {kPanel, 1, queries, 1});
  };
  if (!describe(of_queries, C::rows, C::step) || !describe(of_keys, C::step, C::rows)) return false;
  launch_row_products<A>(stream, o, d_o, delta);
  constexpr int query_tiles = (A::queries + C::rows - 1) / C::rows, key_tiles = (A::keys + C::rows - 1) / C::rows;
  allow(backward_queries_wide<A, E, Gradient, Begin>, C::bytes);
  backward_queries_wide<A, E, Gradient, Begin>
      <<<query_tiles * A::batch * A::heads, C::threads, C::bytes, stream>>>(of_queries.q, of_queries.k, of_queries.v, of_queries.d_o, lse, delta, dq, scale, begin);
  allow(backward_keys_wide<A, E, Gradient, Begin>, C::bytes);
  backward_keys_wide<A, E, Gradient, Begin>
      <<<key_tiles * A::batch * A::kv_heads, C::threads, C::bytes, stream>>>(of_keys.q, of_keys.k, of_keys.v, of_keys.d_o, lse, delta, dk, dv, scale, begin);
  return true;
}
}  // namespace flash

/// Launches the backward pass in the form that suits the device and the heads.
template <class A, class E, class Out, class Gradient, class Begin = attention::Whole>
void attention_backward_tensor_cores(cudaStream_t stream, const E* q, const E* k, const E* v, const Out* o, const float* lse, const E* d_o, Gradient* dq, Gradient* dk, Gradient* dv,
                                     float scale, float* delta, Begin begin = {}) {
#ifdef TSR_SM_90A
  if constexpr (flash::Sizes<A>::widest <= 128)  // the sums of both, dk and dv, lie in a thread's registers
    if (flash::runs_sm_90a() && flash::launch_wide_backward<A>(stream, q, k, v, o, lse, d_o, dq, dk, dv, scale, delta, begin)) return;
#endif
  attention_backward_mma<A>(stream, q, k, v, o, lse, d_o, dq, dk, dv, scale, delta, begin);
}

}  // namespace tsr
