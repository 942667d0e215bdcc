// Kernels as templates write them, each with the mistakes that are made in it: `matrix CASE BUG` runs one. BUG 0 is right.
// Prints the largest error; exits with 1 if that is not small, 2 if CUDA reported an error.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

template <class T>
struct Device {
  explicit Device(const std::vector<T>& host) : n(host.size()) {
    cudaMalloc(&p, n * sizeof(T));
    cudaMemcpy(p, host.data(), n * sizeof(T), cudaMemcpyHostToDevice);
  }
  ~Device() { cudaFree(p); }
  std::vector<T> host() const {
    std::vector<T> out(n);
    cudaMemcpy(out.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost);
    return out;
  }
  size_t n;
  T* p = nullptr;
};
static std::vector<float> ramp(size_t n) {
  std::vector<float> out(n);
  for (size_t i = 0; i < n; ++i) out[i] = float(int(i * 37 % 101) - 50) / 50;
  return out;
}

// ---- a product in tiles. 1: no barrier after the fill; 2: none before the next fill; 3: a barrier that not all reach;
// 4: a store behind the result; 5: a store behind the tile; 6: threads that return before a barrier ----
template <int Bug>
__global__ void __launch_bounds__(256) product(const float* a, const float* b, float* c, int m, int n, int k) {
  __shared__ float a_tile[16][16], b_tile[16][16];
  const int x = threadIdx.x % 16, y = threadIdx.x / 16, row = blockIdx.y * 16 + y, column = blockIdx.x * 16 + x;
  if (Bug == 6 && row >= m) return;
  float sum = 0;
  for (int first = 0; first < k; first += 16) {
    a_tile[y][x] = row < m && first + x < k ? a[row * k + first + x] : 0.0f;
    b_tile[y][x] = first + y < k && column < n ? b[(first + y) * n + column] : 0.0f;
    if (Bug == 5 && threadIdx.x == 255) b_tile[y][x + 1 + int(sum != sum)] = 0;
    if (Bug == 3) {
      if (threadIdx.x < 128) __syncthreads();
    } else if (Bug != 1) {
      __syncthreads();
    }
    for (int p = 0; p < 16; ++p) sum += a_tile[y][p] * b_tile[p][x];
    if (Bug != 2) __syncthreads();
  }
  if (row < m && column < n) c[row * n + column + (Bug == 4 ? n : 0)] = sum;
}
template <int Bug>
static double run_product() {
  const int m = 40, n = 24, k = 36;
  const std::vector<float> a = ramp(m * k), b = ramp(k * n);
  Device<float> da(a), db(b), dc(std::vector<float>(m * n, 0));
  product<Bug><<<dim3((n + 15) / 16, (m + 15) / 16), 256>>>(da.p, db.p, dc.p, m, n, k);
  const std::vector<float> c = dc.host();
  double worst = 0;
  for (int i = 0; i < m; ++i)
    for (int j = 0; j < n; ++j) {
      double want = 0;
      for (int p = 0; p < k; ++p) want += double(a[i * k + p]) * b[p * n + j];
      worst = fmax(worst, fabs(want - c[i * n + j]));
      if (!(c[i * n + j] == c[i * n + j])) worst = INFINITY;
    }
  return worst;
}

// ---- softmax of rows with two reductions over a block. 1: the second reuses memory that is still being read;
// 2: half a warp shuffles with a whole mask; 3: lanes disagree about the shuffle; 4: a shuffle from outside of the mask;
// 5: results handed over within a warp without __syncwarp; 6: shared memory read before it is written ----
template <int Bug>
__device__ float block_sum(float x, float* of_warp) {
  for (int d = 16; d > 0; d /= 2) {
    if (Bug == 2) {
      if (threadIdx.x % 32 < 16) x += __shfl_xor_sync(0xffffffffu, x, d);
    } else if (Bug == 3 && threadIdx.x % 2 == 1) {
      x += __shfl_down_sync(0xffffffffu, x, d);
    } else {
      x += __shfl_xor_sync(Bug == 4 ? (threadIdx.x % 32 < 16 ? 0x0000ffffu : 0xffff0000u) : 0xffffffffu, x, d);
    }
  }
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = x;
  __syncthreads();
  float sum = 0;
  for (int w = 0; w < 4 + (Bug == 6); ++w) sum += w < 4 ? of_warp[w] : of_warp[w] * 0 == 0 ? of_warp[w] : 0.0f;
  if (Bug != 1) __syncthreads();
  return sum;
}
template <int Bug>
__global__ void __launch_bounds__(128) softmax(const float* x, float* y, int n) {
  __shared__ float of_warp[8];
  x += blockIdx.x * n, y += blockIdx.x * n;
  float sum = 0;
  for (int i = threadIdx.x; i < n; i += 128) sum += x[i];
  float shift = block_sum<Bug>(sum, of_warp) / n;
  if (Bug == 5) {
    if (threadIdx.x % 32 == 0) of_warp[4 + threadIdx.x / 32] = shift;
    shift = of_warp[4 + threadIdx.x / 32];
  }
  sum = 0;
  for (int i = threadIdx.x; i < n; i += 128) sum += expf(x[i] - shift);
  sum = block_sum<Bug>(sum, of_warp);
  for (int i = threadIdx.x; i < n; i += 128) y[i] = expf(x[i] - shift) / sum;
}
template <int Bug>
static double run_softmax() {
  const int rows = 3, n = 200;
  const std::vector<float> x = ramp(rows * n);
  Device<float> dx(x), dy(std::vector<float>(rows * n, 0));
  softmax<Bug><<<rows, 128>>>(dx.p, dy.p, n);
  const std::vector<float> y = dy.host();
  double worst = 0;
  for (int r = 0; r < rows; ++r) {
    double total = 0;
    for (int i = 0; i < n; ++i) total += exp(double(x[r * n + i]));
    for (int i = 0; i < n; ++i) worst = fmax(worst, y[r * n + i] == y[r * n + i] ? fabs(exp(double(x[r * n + i])) / total - y[r * n + i]) : INFINITY);
  }
  return worst;
}

// ---- the last block adds up what all left. 1: counts with a plain add; 2: every block adds its part to one float;
// 3: the counter is raised before the part is written; 4: dynamic shared memory one element short ----
template <int Bug>
__global__ void __launch_bounds__(64) total(const float* x, float* parts, unsigned* count, float* out, int n) {
  extern __shared__ float values[];
  __shared__ unsigned place;
  const int i = blockIdx.x * 64 + threadIdx.x;
  values[threadIdx.x] = i < n ? x[i] : 0.0f;
  __syncthreads();
  for (int half = 32; half > 0; half /= 2) {
    if (int(threadIdx.x) < half) values[threadIdx.x] += values[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x == 0) {
    if (Bug == 2) *out += values[0];
    if (Bug == 3) place = atomicAdd(count, 1u);
    parts[blockIdx.x] = values[0];
    __threadfence();
    if (Bug == 1) place = (*count)++;
    else if (Bug != 3) place = atomicAdd(count, 1u);
  }
  __syncthreads();
  if (Bug == 2 || place + 1 != gridDim.x) return;
  if (threadIdx.x == 0) {
    float sum = 0;
    for (unsigned b = 0; b < gridDim.x; ++b) sum += parts[b];
    *out = sum;
  }
}
template <int Bug>
static double run_total() {
  const int n = 300, blocks = (n + 63) / 64;
  const std::vector<float> x = ramp(n);
  Device<float> dx(x), parts(std::vector<float>(blocks, 0)), out(std::vector<float>(1, 0));
  Device<unsigned> count(std::vector<unsigned>(1, 0));
  total<Bug><<<blocks, 64, (Bug == 4 ? 63 : 64) * sizeof(float)>>>(dx.p, parts.p, count.p, out.p, n);
  double want = 0;
  for (float v : x) want += v;
  const float have = out.host()[0];
  return have == have ? fabs(want - have) : INFINITY;
}

// ---- host code. 1: reads a result before its stream is done; 2: another stream does not wait for the event;
// 3: copies more than there is; 4: a block of 2048 threads; 5: host memory given for the device's; 6: waits while capturing;
// 7: takes memory meanwhile ----
__global__ void scale(float* x, float by, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) x[i] *= by;
}
template <int Bug>
static double run_host() {
  const int n = 100;
  const std::vector<float> x = ramp(n);
  Device<float> dx(x);
  float *back = nullptr, *more = nullptr;
  cudaMallocHost(&back, n * sizeof(float));
  memset(back, 0, n * sizeof(float));
  cudaStream_t first, second;
  cudaEvent_t scaled;
  cudaGraph_t graph;
  cudaGraphExec_t step;
  cudaStreamCreate(&first), cudaStreamCreate(&second), cudaEventCreate(&scaled);
  cudaStreamBeginCapture(first, cudaStreamCaptureModeThreadLocal);
  scale<<<2, Bug == 4 ? 2048 : 64, 0, first>>>(dx.p, 3.0f, n);
  if (Bug == 6 && cudaStreamSynchronize(first) != cudaSuccess) return INFINITY;
  if (Bug == 7 && cudaMalloc(&more, 4) != cudaSuccess) return INFINITY;
  cudaStreamEndCapture(first, &graph);
  cudaGraphInstantiate(&step, graph, 0);
  for (int i = 0; i < 2; ++i) cudaGraphLaunch(step, first);
  cudaEventRecord(scaled, first);
  if (Bug != 2) cudaStreamWaitEvent(second, scaled);
  cudaMemcpyAsync(back, dx.p, (n + (Bug == 3)) * sizeof(float), cudaMemcpyDeviceToHost, second);
  if (Bug == 5) cudaMemcpyAsync(const_cast<float*>(x.data()), back, 4, cudaMemcpyHostToDevice, second);
  if (Bug != 1) cudaStreamSynchronize(second);
  double worst = 0;
  for (int i = 0; i < n; ++i) worst = fmax(worst, fabs(9.0 * x[i] - back[i]));
  cudaDeviceSynchronize();
  cudaGraphExecDestroy(step), cudaGraphDestroy(graph), cudaEventDestroy(scaled);
  cudaStreamDestroy(first), cudaStreamDestroy(second), cudaFreeHost(back);
  return worst;
}

// ---- a graph of two streams. 1: the second does not wait for the first; 2: nor the first for the second at the end;
// 3: the second goes on behind what the first waits for; 4: the capture ends in the second; 5: the first waits too late ----
template <int Bug>
static double run_graph() {
  const int n = 100;
  const size_t bytes = n * sizeof(float);
  const std::vector<float> x = ramp(n);
  Device<float> dx(x), dy(std::vector<float>(n, 0));
  cudaStream_t first, second;
  cudaEvent_t forked, joined;
  cudaGraph_t graph;
  cudaGraphExec_t step;
  cudaStreamCreate(&first), cudaStreamCreate(&second), cudaEventCreate(&forked), cudaEventCreate(&joined);
  cudaStreamBeginCapture(first, cudaStreamCaptureModeThreadLocal);
  scale<<<2, 64, 0, first>>>(dx.p, 2.0f, n);
  cudaEventRecord(forked, first);
  if (Bug != 1) cudaStreamWaitEvent(second, forked);
  cudaMemcpyAsync(dy.p, dx.p, bytes, cudaMemcpyDeviceToDevice, second);
  cudaEventRecord(joined, second);
  if (Bug == 3) cudaMemsetAsync(dy.p, 0, 4, second);
  if (Bug != 2 && Bug != 5) cudaStreamWaitEvent(first, joined);
  scale<<<2, 64, 0, first>>>(dy.p, 3.0f, n);
  if (Bug == 5) cudaStreamWaitEvent(first, joined);
  if (cudaStreamEndCapture(Bug == 4 ? second : first, &graph) != cudaSuccess) return INFINITY;
  cudaGraphInstantiate(&step, graph, 0);
  for (int i = 0; i < 2; ++i) cudaGraphLaunch(step, first);
  cudaStreamSynchronize(first);
  const std::vector<float> y = dy.host();
  double worst = 0;
  for (int i = 0; i < n; ++i) worst = fmax(worst, fabs(12.0 * x[i] - y[i]));
  cudaGraphExecDestroy(step), cudaGraphDestroy(graph), cudaEventDestroy(forked), cudaEventDestroy(joined);
  cudaStreamDestroy(first), cudaStreamDestroy(second);
  return worst;
}

// ---- collectives one by one against what they should give; no bugs, the result is the number of mistakes ----
__global__ void collectives(int* mistakes) {
  const int lane = threadIdx.x % 32, thread = threadIdx.x;
  int wrong = 0;
  const unsigned all = 0xffffffffu, half = lane < 16 ? 0x0000ffffu : 0xffff0000u;
  wrong += __shfl_sync(all, lane * 3, 5) != 15;
  wrong += __shfl_sync(all, lane, 2, 8) != (lane & ~7) + 2;
  wrong += __shfl_up_sync(all, lane, 3) != (lane < 3 ? lane : lane - 3);
  wrong += __shfl_down_sync(all, lane, 3, 16) != (lane % 16 + 3 < 16 ? lane + 3 : lane);
  wrong += __shfl_xor_sync(half, double(lane), 9) != double(lane ^ 9);
  wrong += __ballot_sync(all, lane % 3 == 0) != 0x49249249u;
  wrong += __ballot_sync(half, 1) != half;
  wrong += __any_sync(all, lane == 31) != 1 || __any_sync(all, 0) != 0;
  wrong += __all_sync(all, 1) != 1 || __all_sync(all, lane != 7) != 0;
  wrong += __reduce_add_sync(all, unsigned(lane)) != 496u || __reduce_max_sync(half, lane - 40) != (lane < 16 ? -25 : -9) || __reduce_min_sync(all, lane + 2) != 2;
  wrong += __syncthreads_count(thread < 40) != 40 || __syncthreads_or(thread == 63) == 0 || __syncthreads_and(thread < 63) != 0 || __syncthreads_and(1) == 0;
  wrong += __popc(0xf0f0u) != 8 || __ffs(8) != 4 || __clz(1) != 31 || __float_as_int(1.0f) != 0x3f800000;
  __shared__ int counts[8];
  if (thread < 8) counts[thread] = thread == 3 ? 1000 : 0;
  __syncthreads();
  atomicAdd(&counts[0], 2), atomicMax(&counts[1], thread), atomicOr(&counts[2], 1 << (thread % 8)), atomicMin(&counts[3], 100 - thread);
  atomicInc(reinterpret_cast<unsigned*>(&counts[4]), 9u);
  while (atomicCAS(&counts[5], 0, 1) != 0) {}
  counts[6] += 1;  // one at a time
  atomicExch(&counts[5], 0);
  __syncthreads();
  wrong += counts[0] != 2 * 64 || counts[1] != 63 || counts[2] != 255 || counts[3] != 37 || counts[4] != 4 || counts[6] != 64;
  wrong += gridDim.x != 2 || blockDim.x != 64 || warpSize != 32;
  atomicAdd(mistakes, wrong);
}
template <int>
static double run_collectives() {
  Device<int> mistakes(std::vector<int>(1, 0));
  collectives<<<2, 64>>>(mistakes.p);
  return mistakes.host()[0];
}

#define BUGS(name) {#name, {run_##name<0>, run_##name<1>, run_##name<2>, run_##name<3>, run_##name<4>, run_##name<5>, run_##name<6>, run_##name<7>}}
int main(int, char** argv) {
  static const struct {
    const char* name;
    double (*run[8])();
  } cases[] = {BUGS(product), BUGS(softmax), BUGS(total), BUGS(host), BUGS(graph), BUGS(collectives)};
  for (const auto& c : cases) {
    if (strcmp(c.name, argv[1]) != 0) continue;
    const double error = c.run[atoi(argv[2])]();
    const cudaError_t code = cudaGetLastError();
    printf("%s %s: error %g, %s\n", argv[1], argv[2], error, cudaGetErrorString(code));
    return code != cudaSuccess ? 2 : error <= 1e-5 ? 0 : 1;
  }
  return 3;
}
