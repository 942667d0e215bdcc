// The wrappers of runtime/cuda/ptx_sm90.cuh on bytes and registers that the test gives and reads back, and a ring of tiles with the
// mistakes that are made in one.
#include <cstdio>

#include "runtime/cuda/tensor_map.cuh"

using namespace tsr;
using namespace tsr::ptx;
using bf16 = __nv_bfloat16;

/// What the test says of a product: kind of elements (0 bf16, 1 fp16), left operand in registers, right one along the terms, places and
/// distances in bytes.
struct Product {
  int f16, registers, along, add;
  unsigned left, left_group, right, right_group, right_panel;
};

template <int Pieces, bool Along>
__device__ void multiply(const Product& p, float (&d)[Pieces][4], const uint32_t (&a)[4], const char* tile) {
#ifdef TSR_HAS_SM_90A
  const uint64_t left = shared_operand(tile + p.left, p.left_group, 16), right = shared_operand(tile + p.right, p.right_group, p.right_panel);
  wgmma_fence();
  if (p.f16 != 0 && p.registers != 0) wgmma_f16<Along>(d, a, right, p.add != 0);
  else if (p.f16 != 0) wgmma_f16<Along>(d, left, right, p.add != 0);
  else if (p.registers != 0) wgmma_bf16<Along>(d, a, right, p.add != 0);
  else wgmma_bf16<Along>(d, left, right, p.add != 0);
  wgmma_commit();
  wgmma_wait<0>();
#endif
}
template <int Pieces>
__global__ void __launch_bounds__(128) product(Product p, const uint32_t* bytes, int words, const uint32_t* a, float* sums) {
  extern __shared__ __align__(1024) char tile[];
#ifdef TSR_HAS_SM_90A
  for (int i = threadIdx.x; i < words; i += 128) reinterpret_cast<uint32_t*>(tile)[i] = bytes[i];
  fence_proxy_async();
  __syncthreads();
  float d[Pieces][4];
  uint32_t registers[4];
  for (int i = 0; i < 4; ++i) registers[i] = a[threadIdx.x * 4 + i];
  for (int i = 0; i < Pieces * 4; ++i) d[i / 4][i % 4] = sums[threadIdx.x * Pieces * 4 + i];
  if (p.along != 0) multiply<Pieces, true>(p, d, registers, tile);
  else multiply<Pieces, false>(p, d, registers, tile);
  for (int i = 0; i < Pieces * 4; ++i) sums[threadIdx.x * Pieces * 4 + i] = d[i / 4][i % 4];
#endif
}

/// Loads a tile and stores it again at another place; also gives its bytes as they lie in shared memory.
template <int Rank>
__global__ void __launch_bounds__(128) tiles(const __grid_constant__ CUtensorMap from, const __grid_constant__ CUtensorMap to, const int* at, int bytes, uint32_t* seen) {
  extern __shared__ __align__(1024) char tile[];
#ifdef TSR_HAS_SM_90A
  __shared__ uint64_t full;
  if (threadIdx.x == 0) {
    mbarrier_init(&full, 1);
    fence_mbarrier_init();
    mbarrier_arrive_expect(&full, unsigned(bytes));
    int place[Rank];
    for (int i = 0; i < Rank; ++i) place[i] = at[i];
    tensor_load(tile, &from, place, &full);
  }
  __syncthreads();
  mbarrier_wait(&full, 0);
  for (int i = threadIdx.x; i < bytes / 4; i += 128) seen[i] = reinterpret_cast<uint32_t*>(tile)[i];
  if (threadIdx.x == 0) {
    int place[Rank];
    for (int i = 0; i < Rank; ++i) place[i] = at[Rank + i];
    tensor_store(&to, place, tile);
    tensor_store_commit();
    tensor_store_wait<0>();
  }
#endif
}

// c (64 x 64) = sum over rounds of a[round] (64 x 64) b[round]^T, through a ring of two stages that a thread of the second warpgroup fills.
// 1: writes to a stage without a fence; 2: the wrong parity; 3: releases a stage before its products were waited for; 4: a descriptor
// with the distance of 4 rows; 5: no wgmma_fence; 6: changes a sum while products add to it; 7: fills a stage again without waiting;
// 8: stores a tile that was written without a fence; 9: announces too few bytes; 10: returns without waiting for its store.
constexpr int kTile = 64 * 128;  // bytes
template <int Bug>
__global__ void __launch_bounds__(256) ring(const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap b, const __grid_constant__ CUtensorMap c, int rounds) {
  extern __shared__ __align__(1024) char memory[];
#ifdef TSR_HAS_SM_90A
  uint64_t *const full = reinterpret_cast<uint64_t*>(memory + 5 * kTile), *const empty = full + 2;
  if (threadIdx.x == 0) {
    for (int s = 0; s < 2; ++s) mbarrier_init(&full[s], 1), mbarrier_init(&empty[s], 4);
    fence_mbarrier_init();
  }
  __syncthreads();
  if (threadIdx.x >= 128) {
    registers_give<40>();
    if (threadIdx.x != 128) return;
    for (int round = 0; round < rounds; ++round) {
      const int s = round % 2;
      if (round >= 2 && Bug != 7) mbarrier_wait(&empty[s], (round / 2 + 1) % 2);
      mbarrier_arrive_expect(&full[s], Bug == 9 ? kTile : 2 * kTile);
      tensor_load(memory + 2 * s * kTile, &a, {0, 64 * round}, &full[s]);
      tensor_load(memory + (2 * s + 1) * kTile, &b, {0, 64 * round}, &full[s]);
    }
    return;
  }
  registers_take<232>();
  float d[8][4] = {};
  for (int round = 0; round < rounds; ++round) {
    const int s = round % 2;
    mbarrier_wait(&full[s], (round / 2 + (Bug == 2)) % 2);
    char* const tile = memory + 2 * s * kTile;
    if (Bug == 1) {
      bf16* const x = reinterpret_cast<bf16*>(tile) + threadIdx.x;
      *x = bf16(-float(*x));
      *x = bf16(-float(*x));
      barrier_sync(1, 128);
    }
    if (Bug != 5) wgmma_fence();
    for (int step = 0; step < 4; ++step)
      wgmma_bf16<true>(d, shared_operand(tile + 32 * step, Bug == 4 ? 512 : 1024, 16), shared_operand(tile + kTile + 32 * step, 1024, 16), true);
    wgmma_commit();
    if (Bug == 6) d[0][0] *= 1.5f;
    if (Bug != 3) wgmma_wait<0>();
    if (threadIdx.x % 32 == 0) mbarrier_arrive(&empty[s]);
    if (Bug == 3) wgmma_wait<0>();
  }
  char* const out = memory + 4 * kTile;
  const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4;
  for (int n = 0; n < 8; ++n)
    for (int e = 0; e < 4; ++e) {
      const int r = row + e / 2 * 8;
      reinterpret_cast<bf16*>(out + r * 128 + (n ^ r % 8) * 16)[threadIdx.x % 4 * 2 + e % 2] = bf16(d[n][e]);
    }
  if (Bug != 8) fence_proxy_async();
  barrier_sync(1, 128);
  if (threadIdx.x != 0) return;
  tensor_store(&c, {0, 0}, out);
  tensor_store_commit();
  if (Bug != 10) tensor_store_wait<0>();
#endif
}

template <class T>
static T* device(const T* host, size_t n) {
  T* p = nullptr;
  cudaMalloc(&p, n * sizeof(T));
  cudaMemcpy(p, host, n * sizeof(T), cudaMemcpyHostToDevice);
  return p;
}
template <class T>
static int back(T* host, T* p, size_t n) {
  cudaMemcpy(host, p, n * sizeof(T), cudaMemcpyDeviceToHost);
  const cudaError_t error = cudaDeviceSynchronize();
  if (error != cudaSuccess) fprintf(stderr, "%s\n", cudaGetErrorString(error));
  return int(error);
}
template <class Kernel>
static void allow(Kernel kernel, int bytes) { cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes); }

extern "C" int run_wgmma(int columns, const int* p, const uint32_t* bytes, int words, const uint32_t* a, float* sums) {
  const Product s{p[0], p[1], p[2], p[3], unsigned(p[4]), unsigned(p[5]), unsigned(p[6]), unsigned(p[7]), unsigned(p[8])};
  uint32_t *db = device(bytes, size_t(words)), *da = device(a, 512);
  float* d = device(sums, size_t(64 * columns));
  if (columns == 32) product<4><<<1, 128, words * 4>>>(s, db, words, da, d);
  if (columns == 64) product<8><<<1, 128, words * 4>>>(s, db, words, da, d);
  if (columns == 128) product<16><<<1, 128, words * 4>>>(s, db, words, da, d);
  return back(sums, d, size_t(64 * columns));
}
template <int Rank>
static void launch_tiles(const CUtensorMap& from, const CUtensorMap& to, const int* at, int bytes, uint32_t* seen) { tiles<Rank><<<1, 128, bytes>>>(from, to, at, bytes, seen); }
extern "C" int run_tiles(int rank, const int64_t* sizes, const int64_t* strides, const uint32_t* box, const int* at, const uint16_t* x, uint16_t* y, int elements, uint32_t* seen) {
  cuda::TensorAxes axes{rank, {}, {}};
  for (int i = 0; i < rank; ++i) axes.sizes[i] = sizes[i], axes.strides[i] = strides[i];
  const uint32_t whole[4] = {box[0], box[1], box[2], box[3]};
  int bytes = 2;
  for (int i = 0; i < rank; ++i) bytes *= int(box[i]);
  uint16_t *dx = device(x, size_t(elements)), *dy = device(y, size_t(elements));
  uint32_t* ds = device(seen, size_t(bytes / 4));
  int* places = device(at, size_t(2 * rank));
  CUtensorMap from, to;
  if (!cuda::describe(from, reinterpret_cast<const bf16*>(dx), axes, whole) || !cuda::describe(to, reinterpret_cast<const bf16*>(dy), axes, whole)) return -1;
  if (rank == 1) launch_tiles<1>(from, to, places, bytes, ds);
  if (rank == 2) launch_tiles<2>(from, to, places, bytes, ds);
  if (rank == 3) launch_tiles<3>(from, to, places, bytes, ds);
  if (rank == 4) launch_tiles<4>(from, to, places, bytes, ds);
  back(y, dy, size_t(elements));
  return back(seen, ds, size_t(bytes / 4));
}
template <int Bug>
static void launch_ring(const CUtensorMap& a, const CUtensorMap& b, const CUtensorMap& c, int rounds) {
  allow(ring<Bug>, 5 * kTile + 64);
  ring<Bug><<<1, 256, 5 * kTile + 64>>>(a, b, c, rounds);
}
extern "C" int run_ring(int bug, const uint16_t* a, const uint16_t* b, int rounds, uint16_t* c) {
  const size_t n = size_t(rounds) * 64 * 64;
  const uint32_t box[4] = {64, 64, 1, 1};
  const cuda::TensorAxes axes{2, {64, 64 * rounds}, {1, 64}}, result{2, {64, 64}, {1, 64}};
  uint16_t *da = device(a, n), *db = device(b, n), *dc = device(c, 64 * 64);
  CUtensorMap maps[3];
  const bool good = cuda::describe(maps[0], reinterpret_cast<const bf16*>(da), axes, box) && cuda::describe(maps[1], reinterpret_cast<const bf16*>(db), axes, box) &&
                    cuda::describe(maps[2], reinterpret_cast<const bf16*>(dc), result, box);
  if (!good) return -1;
  constexpr void (*launches[])(const CUtensorMap&, const CUtensorMap&, const CUtensorMap&, int) = {launch_ring<0>, launch_ring<1>, launch_ring<2>, launch_ring<3>, launch_ring<4>, launch_ring<5>,
                                                                                                   launch_ring<6>, launch_ring<7>, launch_ring<8>, launch_ring<9>, launch_ring<10>};
  launches[bug](maps[0], maps[1], maps[2], rounds);
  return back(c, dc, 64 * 64);
}
