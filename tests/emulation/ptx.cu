// Every wrapper of runtime/cuda/ptx.cuh on registers and bytes that the test gives and reads back: no layout is known here.
#include "runtime/cuda/ptx.cuh"

using namespace tsr::ptx;

template <int Kind>
__global__ void product(const uint32_t* a, const uint32_t* b, float* d) {
  const int lane = threadIdx.x;
  uint32_t ra[4], rb[2];
  float rd[4];
  for (int i = 0; i < 4; ++i) ra[i] = a[lane * 4 + i], rd[i] = d[lane * 4 + i];
  for (int i = 0; i < 2; ++i) rb[i] = b[lane * 2 + i];
  if (Kind == 0) mma_bf16(rd, ra, rb);
  if (Kind == 1) mma_f16(rd, ra, rb);
  if (Kind == 2) mma_tf32(rd, ra, rb);
  for (int i = 0; i < 4; ++i) d[lane * 4 + i] = rd[i];
}

// rows[lane]: which 16 bytes the lane names.
template <int Count, bool Transposed>
__global__ void matrices(const uint16_t* values, const int* rows, uint32_t* out) {
  __shared__ __align__(16) uint16_t tile[64 * 8];
  for (int i = threadIdx.x; i < 64 * 8; i += 32) tile[i] = values[i];
  __syncwarp();
  uint32_t r[Count];
  const void* const row = tile + rows[threadIdx.x] * 8;
  if constexpr (Count == 2 && Transposed) ldmatrix_x2_transposed(r, row);
  if constexpr (Count == 2 && !Transposed) ldmatrix_x2(r, row);
  if constexpr (Count == 4 && Transposed) ldmatrix_x4_transposed(r, row);
  if constexpr (Count == 4 && !Transposed) ldmatrix_x4(r, row);
  for (int i = 0; i < Count; ++i) out[threadIdx.x * Count + i] = r[i];
}

// Sums over rounds of 128 floats, copied one round ahead. bug 1: waits for one group too few; 2: no barrier after the wait;
// 3: no barrier before the buffer is filled again.
template <int Bug>
__global__ void pipeline(const float* x, float* out, int n) {
  __shared__ __align__(16) float stage[2][128];
  const int rounds = (n + 127) / 128, at = threadIdx.x * 4;
  auto fetch = [&](int round) {
    const int first = round * 128 + at, left = n - first;
    if (round < rounds) copy_async<16>(&stage[round % 2][at], left > 0 ? x + first : x, left >= 4 ? 16 : left > 0 ? left * 4 : 0);
    copy_async_commit();
  };
  fetch(0);
  float sum = 0;
  for (int round = 0; round < rounds; ++round) {
    fetch(round + 1);
    copy_async_wait<Bug == 1 ? 2 : 1>();
    if (Bug != 2) __syncthreads();
    sum += stage[round % 2][127 - threadIdx.x] + stage[round % 2][threadIdx.x + 32] + stage[round % 2][threadIdx.x] + stage[round % 2][95 - threadIdx.x];
    if (Bug != 3) __syncthreads();
  }
  out[threadIdx.x] = sum;
}

// Two warps: the first produces, the second consumes, through named barriers. Also blocks of a cluster that read each other's memory.
__global__ void handover(float* out) {
  __shared__ float box[32];
  const int lane = threadIdx.x % 32;
  for (int round = 0; round < 3; ++round) {
    if (threadIdx.x < 32) {
      if (round > 0) barrier_sync(2, 64);
      box[lane] = float(round * 100 + lane);
      barrier_arrive(1, 64);
    } else {
      barrier_sync(1, 64);
      out[round * 32 + lane] = box[31 - lane];
      if (round < 2) barrier_arrive(2, 64);
    }
  }
}
template <int Bug>
__global__ void neighbours([[maybe_unused]] float* out) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  __shared__ float mine[32];
  mine[threadIdx.x] = float(cluster_rank() * 1000 + threadIdx.x);
  if (Bug != 1) cluster_sync();
  out[blockIdx.x * 32 + threadIdx.x] = *map_shared(&mine[threadIdx.x], cluster_rank() ^ 1);
  cluster_sync();
#endif
}

// Bulk copies through a ring of two stages. bug 1: the wrong parity; 2: refills without waiting; 3: announces too few bytes.
template <int Bug>
__global__ void ring([[maybe_unused]] const float* x, [[maybe_unused]] float* out, [[maybe_unused]] int rounds) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  __shared__ __align__(16) float stage[2][64];
  __shared__ uint64_t full[2], empty[2];
  if (threadIdx.x == 0) {
    for (int s = 0; s < 2; ++s) mbarrier_init(&full[s], 1), mbarrier_init(&empty[s], 64);
    fence_mbarrier_init();
  }
  __syncthreads();
  if (threadIdx.x >= 64) {
    if (threadIdx.x == 64)
      for (int round = 0; round < rounds; ++round) {
        const int s = round % 2;
        if (round >= 2 && Bug != 2) mbarrier_wait(&empty[s], (round / 2 + 1) % 2);
        mbarrier_arrive_expect(&full[s], Bug == 3 ? 128 : 256);
        copy_bulk(stage[s], x + round * 64, 256, &full[s]);
      }
  } else {
    float sum = 0;
    for (int round = 0; round < rounds; ++round) {
      const int s = round % 2;
      mbarrier_wait(&full[s], (round / 2 + (Bug == 1)) % 2);
      sum += stage[s][63 - threadIdx.x];
      mbarrier_arrive(&empty[s]);
    }
    out[threadIdx.x] = sum;
  }
#endif
}

template <class T>
static T* device(const T* host, size_t n) {
  T* p = nullptr;
  cudaMalloc(&p, n * sizeof(T));
  if (host != nullptr) cudaMemcpy(p, host, n * sizeof(T), cudaMemcpyHostToDevice);
  return p;
}
template <class T>
static int back(T* host, T* p, size_t n) {
  cudaMemcpy(host, p, n * sizeof(T), cudaMemcpyDeviceToHost);
  return int(cudaDeviceSynchronize());
}

extern "C" int run_product(int kind, const uint32_t* a, const uint32_t* b, float* d) {
  uint32_t *da = device(a, 128), *db = device(b, 64);
  float* dd = device(d, 128);
  if (kind == 0) product<0><<<1, 32>>>(da, db, dd);
  if (kind == 1) product<1><<<1, 32>>>(da, db, dd);
  if (kind == 2) product<2><<<1, 32>>>(da, db, dd);
  return back(d, dd, 128);
}
extern "C" int run_matrices(int count, int transposed, const uint16_t* values, const int* rows, uint32_t* out) {
  uint16_t* dv = device(values, 512);
  int* dr = device(rows, 32);
  uint32_t* o = device(out, size_t(32 * count));
  if (count == 2 && transposed) matrices<2, true><<<1, 32>>>(dv, dr, o);
  if (count == 2 && !transposed) matrices<2, false><<<1, 32>>>(dv, dr, o);
  if (count == 4 && transposed) matrices<4, true><<<1, 32>>>(dv, dr, o);
  if (count == 4 && !transposed) matrices<4, false><<<1, 32>>>(dv, dr, o);
  return back(out, o, size_t(32 * count));
}
extern "C" int run_pipeline(int bug, const float* x, int n, float* out) {
  float *dx = device(x, size_t(n)), *o = device(out, 32);
  if (bug == 0) pipeline<0><<<1, 32>>>(dx, o, n);
  if (bug == 1) pipeline<1><<<1, 32>>>(dx, o, n);
  if (bug == 2) pipeline<2><<<1, 32>>>(dx, o, n);
  if (bug == 3) pipeline<3><<<1, 32>>>(dx, o, n);
  return back(out, o, 32);
}
extern "C" int run_handover(float* out) {
  float* o = device(out, 96);
  handover<<<1, 64>>>(o);
  return back(out, o, 96);
}
template <int Bug>
static void launch_neighbours(float* out) {
  cudaLaunchAttribute together = {};
  together.id = cudaLaunchAttributeClusterDimension;
  together.val.clusterDim.x = 2, together.val.clusterDim.y = together.val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(4), config.blockDim = dim3(32), config.attrs = &together, config.numAttrs = 1;
  cudaLaunchKernelEx(&config, neighbours<Bug>, out);
}
extern "C" int run_neighbours(int bug, float* out) {
  float* o = device(out, 128);
  if (bug == 0) launch_neighbours<0>(o);
  else launch_neighbours<1>(o);
  return back(out, o, 128);
}
extern "C" int run_ring(int bug, const float* x, int rounds, float* out) {
  float *dx = device(x, size_t(rounds * 64)), *o = device(out, 64);
  if (bug == 0) ring<0><<<1, 96>>>(dx, o, rounds);
  if (bug == 1) ring<1><<<1, 96>>>(dx, o, rounds);
  if (bug == 2) ring<2><<<1, 96>>>(dx, o, rounds);
  if (bug == 3) ring<3><<<1, 96>>>(dx, o, rounds);
  return back(out, o, 64);
}
extern "C" float round_tf32(float x) {
  union {
    uint32_t u;
    float f;
  } bits;
#ifdef TSR_EMULATION
  bits.u = to_tf32(x);
#else
  bits.f = x;
#endif
  return bits.f;
}
