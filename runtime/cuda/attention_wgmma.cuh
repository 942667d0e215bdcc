// Exact softmax attention forward as sm_90a has it (Shah et al., "FlashAttention-3", 2024, without its 8-bit part): operands come by the
// tensor memory accelerator, products are a warpgroup's. A, operands and results are as in attention_mma.cuh, which serves other GPUs.
//
// The last warpgroup of a block gives its registers away and copies: q once, then tiles of k and v around a ring of stages. Each of the
// others owns 64 queries. A stage goes back when every warp has said that its products are done with it. The weights of a tile are
// computed while the product of the weights before them with their values is under way.
#pragma once
#include "attention_mma.cuh"
#include "tensor_map.cuh"

namespace tsr {

namespace flash {

/// Tiles are panels of 64 columns, rows of 128 bytes, one panel behind the other.
constexpr int kPanel = 64, kPanelRow = 128;

/// How the kernel is cut: `groups` warpgroups of 64 queries, `step` keys at a time, `stages` tiles of keys and of values.
template <class A>
struct WideCut {
  static constexpr int groups = 2, rows = 64 * groups, threads = 128 * (groups + 1), warps = 4 * groups;
  static constexpr int step = Sizes<A>::widest <= 128 ? 128 : 64;
  static constexpr int panels = mma::rounded_up(A::head_dim, kPanel) / kPanel, value_panels = mma::rounded_up(A::value_dim, kPanel) / kPanel;
  static constexpr int columns = mma::rounded_up(A::value_dim, 32);  // of the sums
  static constexpr int query_bytes = rows * panels * kPanelRow, key_bytes = step * panels * kPanelRow, value_bytes = step * value_panels * kPanelRow;
  static constexpr int room = (216 * 1024 - query_bytes) / (key_bytes + value_bytes), stages = room < 4 ? room : 4;
  static_assert(stages >= 2, "a tile is copied while another one is computed with");
  static constexpr int tiles_bytes = query_bytes + stages * (key_bytes + value_bytes), bytes = tiles_bytes + 64 * int(sizeof(uint64_t));
};

/// A block's barriers. One ends a phase when the rows that the block owns, or a stage's tile of either kind, are here; and when all
/// warps are done with that.
template <int Stages>
struct Barriers {
  uint64_t* first;
  __device__ uint64_t* own_here() const { return first; }
  __device__ uint64_t* x_here(int stage) const { return first + 1 + stage; }
  __device__ uint64_t* y_here(int stage) const { return first + 1 + Stages + stage; }
  __device__ uint64_t* x_done(int stage) const { return first + 1 + 2 * Stages + stage; }
  __device__ uint64_t* y_done(int stage) const { return first + 1 + 3 * Stages + stage; }
};

/// The block's shared memory; keys are the tiles x, values y.
template <class A>
struct WideMemory : Barriers<WideCut<A>::stages> {
  using C = WideCut<A>;
  char* data;
  __device__ explicit WideMemory(char* data) : Barriers<C::stages>{reinterpret_cast<uint64_t*>(data + C::tiles_bytes)}, data(data) {}
  __device__ char* query() const { return data; }
  __device__ char* key(int stage) const { return data + C::query_bytes + stage * C::key_bytes; }
  __device__ char* value(int stage) const { return data + C::query_bytes + C::stages * C::key_bytes + stage * C::value_bytes; }
};

#ifdef TSR_HAS_SM_90A
/// Makes the barriers: `Owned` copies bring the block's own rows, `Writers` threads arrive at x_here beside the copy. All threads of the block.
template <int Owned, int Writers, class C>
__device__ inline void init_barriers(const Barriers<C::stages>& barriers) {
  if (threadIdx.x == 0) {
    ptx::mbarrier_init(barriers.own_here(), Owned);
    for (int stage = 0; stage < C::stages; ++stage) {
      ptx::mbarrier_init(barriers.x_here(stage), 1 + Writers), ptx::mbarrier_init(barriers.y_here(stage), 1);
      ptx::mbarrier_init(barriers.x_done(stage), C::warps), ptx::mbarrier_init(barriers.y_done(stage), C::warps);
    }
    ptx::fence_mbarrier_init();
  }
  __syncthreads();
}

template <bool Along, int N>
__device__ inline void wgmma(const __nv_bfloat16*, float (&d)[N][4], uint64_t a, uint64_t b, bool add) { ptx::wgmma_bf16<Along>(d, a, b, add); }
template <bool Along, int N>
__device__ inline void wgmma(const __half*, float (&d)[N][4], uint64_t a, uint64_t b, bool add) { ptx::wgmma_f16<Along>(d, a, b, add); }
template <bool Along, int N>
__device__ inline void wgmma(const __nv_bfloat16*, float (&d)[N][4], const uint32_t (&a)[4], uint64_t b, bool add) { ptx::wgmma_bf16<Along>(d, a, b, add); }
template <bool Along, int N>
__device__ inline void wgmma(const __half*, float (&d)[N][4], const uint32_t (&a)[4], uint64_t b, bool add) { ptx::wgmma_f16<Along>(d, a, b, add); }

/// Copies the panels of a tile: `box` rows from `row` on, of head `head` of batch element b.
template <int Panels>
__device__ inline void load_tile(char* to, const CUtensorMap* map, int box, int head, int row, int b, uint64_t* here) {
  ptx::mbarrier_arrive_expect(here, uint32_t(Panels * box * kPanelRow));
#pragma unroll
  for (int panel = 0; panel < Panels; ++panel) ptx::tensor_load(to + panel * box * kPanelRow, map, {panel * kPanel, head, row, b}, here);
}

/// Asks for products (64 x YRows) = x y^T over `Terms` columns, of a warpgroup's 64 rows of a tile of XRows.
template <class E, int Terms, int XRows, int YRows>
__device__ inline void ask_dots(float (&products)[YRows / 8][4], const char* x, const char* y) {
  ptx::wgmma_fence();
#pragma unroll
  for (int part = 0; part < Terms / 16; ++part) {
    const int panel = part / 4, within = part % 4 * 32;
    const uint64_t left = ptx::shared_operand(x + panel * XRows * kPanelRow + within, 8 * kPanelRow, 16);
    const uint64_t right = ptx::shared_operand(y + panel * YRows * kPanelRow + within, 8 * kPanelRow, 16);
    wgmma<true>(static_cast<const E*>(nullptr), products, left, right, part > 0);
  }
  ptx::wgmma_commit();
}

/// Asks for sums (64 x columns) += weights x for 16 rows of a tile of `Rows`, for the columns from `First` on.
template <class E, int Rows, int First, int V>
__device__ inline void ask_columns(float (&sums)[V][4], const uint32_t (&weights)[4], const char* x) {
  constexpr int left = 8 * V - First, width = left >= 128 ? 128 : left >= 64 ? 64 : 32;
  if constexpr (left > 0) {
    float(&part)[width / 8][4] = reinterpret_cast<float(&)[width / 8][4]>(sums[First / 8]);
    const uint64_t right = ptx::shared_operand(x + First / kPanel * Rows * kPanelRow, 8 * kPanelRow, Rows * kPanelRow);
    wgmma<false>(static_cast<const E*>(nullptr), part, weights, right, true);
    ask_columns<E, Rows, First + width>(sums, weights, x);
  }
}

/// Asks for sums += weights x, for all rows of a tile.
template <class E, int V, int N>
__device__ inline void ask_weighted(float (&sums)[V][4], const uint32_t (&weights)[N][4], const char* x) {
  ptx::wgmma_fence();
#pragma unroll
  for (int part = 0; part < N; ++part) ask_columns<E, 16 * N, 0>(sums, weights[part], x + part * 16 * kPanelRow);
  ptx::wgmma_commit();
}

/// Weights rounded to E, as left operands of 16 keys each.
template <class E, int N>
__device__ inline void round_weights(uint32_t (&rounded)[N / 2][4], const float (&weights)[N][4]) {
#pragma unroll
  for (int part = 0; part < N / 2; ++part)
#pragma unroll
    for (int i = 0; i < 4; ++i) rounded[part][i] = mma::Unit<E>::pack(weights[2 * part + i / 2][i % 2 * 2], weights[2 * part + i / 2][i % 2 * 2 + 1]);
}

/// Tiles of `Step` keys that some row up to `last` sees.
template <class A, int Step>
__device__ inline int tiles_seen(int last, int offset) {
  const int end = last + 1 + offset;
  return ((A::causal && end < A::keys ? end : A::keys) + Step - 1) / Step;
}

/// What the copying thread does: tiles of keys and values in the order in which they are used.
template <class A>
__device__ inline void copy_tiles(const WideMemory<A>& memory, const CUtensorMap* q, const CUtensorMap* k, const CUtensorMap* v, int row, int turns, int b, int h) {
  using C = WideCut<A>;
  const int group = h / (A::heads / A::kv_heads);
  load_tile<C::panels>(memory.query(), q, C::rows, h, row, b, memory.own_here());
  for (int turn = 0; turn < turns; ++turn) {
    const int stage = turn % C::stages, parity = (turn / C::stages + 1) % 2;
    if (turn >= C::stages) ptx::mbarrier_wait(memory.x_done(stage), parity);
    load_tile<C::panels>(memory.key(stage), k, C::step, group, turn * C::step, b, memory.x_here(stage));
    if (turn >= C::stages) ptx::mbarrier_wait(memory.y_done(stage), parity);
    load_tile<C::value_panels>(memory.value(stage), v, C::step, group, turn * C::step, b, memory.y_here(stage));
  }
}
#endif

/// Grid: query tiles x (batch * heads).
template <class A, class E, class Out, class Begin = Whole>
__global__ void __launch_bounds__(WideCut<A>::threads, 1) forward_wide([[maybe_unused]] const __grid_constant__ CUtensorMap q, [[maybe_unused]] const __grid_constant__ CUtensorMap k,
                                                                       [[maybe_unused]] const __grid_constant__ CUtensorMap v, [[maybe_unused]] Out* __restrict__ o,
                                                                       [[maybe_unused]] float* __restrict__ lse, [[maybe_unused]] float scale, [[maybe_unused]] const Begin begin) {
#ifdef TSR_HAS_SM_90A
  using C = WideCut<A>;
  using S = Sizes<A>;
  extern __shared__ __align__(1024) char wide_memory[];
  const WideMemory<A> memory{wide_memory};
  constexpr int tiles = (A::queries + C::rows - 1) / C::rows;
  const int row = (tiles - 1 - int(blockIdx.x % tiles)) * C::rows, of_head = blockIdx.x / tiles, offset = offset_of<A>(begin);  // long rows first
  const int b = of_head / A::heads, h = of_head % A::heads, group = threadIdx.x / 128;
  const int turns = tiles_seen<A, C::step>(row + C::rows - 1, offset);
  init_barriers<1, 0, C>(memory);
  if (group == C::groups) {
    ptx::registers_give<24>();
    if (threadIdx.x % 128 == 0) copy_tiles<A>(memory, &q, &k, &v, row, turns, b, h);
    return;
  }
  ptx::registers_take<240>();
  const int own = row + 64 * group, own_turns = tiles_seen<A, C::step>(own + 63, offset), own_row = own + threadIdx.x % 128 / 32 * 16;
  auto done = [](uint64_t* barrier) {
    if (threadIdx.x % 32 == 0) ptx::mbarrier_arrive(barrier);
  };
  float largest[1][2], total[1][2], shrink[1][2], sums[1][C::columns / 8][4] = {}, scores[1][C::step / 8][4];
  uint32_t weights[C::step / 16][4];
  fill(largest, -infinity<float>());
  fill(total, 0);
  const char* const query = memory.query() + 64 * group * kPanelRow;
  ptx::mbarrier_wait(memory.own_here(), 0);
  ptx::mbarrier_wait(memory.x_here(0), 0);
  ask_dots<E, S::width, C::rows, C::step>(scores[0], query, memory.key(0));
  ptx::wgmma_wait<0>();
  done(memory.x_done(0));
  hide<A>(scores, own_row, 0, offset);
  soften(scores, largest, total, shrink, scale * kLog2E);
  round_weights<E>(weights, scores[0]);
  for (int turn = 1; turn < own_turns; ++turn) {
    const int stage = turn % C::stages, before = (turn - 1) % C::stages;
    ptx::mbarrier_wait(memory.x_here(stage), turn / C::stages % 2);
    ask_dots<E, S::width, C::rows, C::step>(scores[0], query, memory.key(stage));
    ptx::mbarrier_wait(memory.y_here(before), (turn - 1) / C::stages % 2);
    ask_weighted<E>(sums[0], weights, memory.value(before));
    ptx::wgmma_wait<1>();  // the scores are here
    done(memory.x_done(stage));
    hide<A>(scores, own_row, turn * C::step, offset);
    soften(scores, largest, total, shrink, scale * kLog2E);
    ptx::wgmma_wait<0>();
    done(memory.y_done(before));
    rescale(sums, shrink);
    round_weights<E>(weights, scores[0]);
  }
  const int last = (own_turns - 1) % C::stages;
  ptx::mbarrier_wait(memory.y_here(last), (own_turns - 1) / C::stages % 2);
  ask_weighted<E>(sums[0], weights, memory.value(last));
  ptx::wgmma_wait<0>();
  done(memory.y_done(last));
  for (int turn = own_turns; turn < turns; ++turn) {  // of the warpgroup below alone
    const int stage = turn % C::stages, parity = turn / C::stages % 2;
    ptx::mbarrier_wait(memory.x_here(stage), parity);
    done(memory.x_done(stage));
    ptx::mbarrier_wait(memory.y_here(stage), parity);
    done(memory.y_done(stage));
  }
  finish<A>(o + b * A::o_batch + h * A::value_dim, lse + int64_t(of_head) * A::queries, own_row, largest, total, sums, scale);
#else
  __trap();  // launched where no code for sm_90a is
#endif
}

/// Whether this program has code for sm_90a, and the device runs it.
inline bool runs_sm_90a() {
#ifdef TSR_SM_90A
  int device = 0, major = 0, minor = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  return major == 9 && minor == 0;
#else
  return false;
#endif
}

/// Operands as the accelerator sees them: columns of a head, heads, rows, batch elements.
template <class A>
struct HeadAxes {
  static constexpr cuda::TensorAxes q{4, {A::head_dim, A::heads, A::queries, A::batch}, {1, A::head_dim, A::q_row, A::q_batch}};
  static constexpr cuda::TensorAxes k{4, {A::head_dim, A::kv_heads, A::keys, A::batch}, {1, A::head_dim, A::k_row, A::k_batch}};
  static constexpr cuda::TensorAxes v{4, {A::value_dim, A::kv_heads, A::keys, A::batch}, {1, A::value_dim, A::v_row, A::v_batch}};
};

/// Launches forward_wide; false where an operand cannot be described to the accelerator.
template <class A, class E, class Out, class Begin = Whole>
bool launch_wide(cudaStream_t stream, const E* q, const E* k, const E* v, Out* o, float* lse, float scale, Begin begin = {}) {
  using C = WideCut<A>;
  constexpr int tiles = (A::queries + C::rows - 1) / C::rows;
  using Axes = HeadAxes<A>;
  CUtensorMap q_map, k_map, v_map;
  if (!cuda::describe(q_map, q, Axes::q, {kPanel, 1, C::rows, 1}) || !cuda::describe(k_map, k, Axes::k, {kPanel, 1, C::step, 1}) || !cuda::describe(v_map, v, Axes::v, {kPanel, 1, C::step, 1}))
    return false;
  allow(forward_wide<A, E, Out, Begin>, C::bytes);
  forward_wide<A, E, Out, Begin><<<tiles * A::batch * A::heads, C::threads, C::bytes, stream>>>(q_map, k_map, v_map, o, lse, scale, begin);
  return true;
}
}  // namespace flash

/// Launches the forward pass in the form that suits the device.
template <class A, class E, class Out, class Begin = attention::Whole>
void attention_forward_tensor_cores(cudaStream_t stream, const E* q, const E* k, const E* v, Out* o, float* lse, float scale, Begin begin = {}) {
#ifdef TSR_SM_90A
  if (flash::runs_sm_90a() && flash::launch_wide<A>(stream, q, k, v, o, lse, scale, begin)) return;
#endif
  attention_forward_mma<A>(stream, q, k, v, o, lse, scale, begin);
}

}  // namespace tsr
