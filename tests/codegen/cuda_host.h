// A small host stand-in for CUDA, for tests: every thread of a block is a fiber (ucontext), blocks run one after another,
// and barriers and warp collectives are points where fibers wait for each other. No timing, no races, no asynchrony.
// The test rewrites `kernel<<<grid, block, 0, stream>>>(...)` into host::launch.
#pragma once
#include <math.h>
#include <stdio.h>
#include <ucontext.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0, cudaErrorMemoryAllocation = 2 };
enum cudaDataType { CUDA_R_32F = 0, CUDA_R_64F = 1 };
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return "host"; }
inline cudaError_t cudaMalloc(void** p, size_t n) { return (*p = aligned_alloc(256, (n + 255) / 256 * 256)) ? cudaSuccess : cudaErrorMemoryAllocation; }
inline cudaError_t cudaFree(void* p) { return free(p), cudaSuccess; }
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1 };
inline cudaError_t cudaMemcpy(void* to, const void* from, size_t n, cudaMemcpyKind) { return memcpy(to, from, n), cudaSuccess; }
inline cudaError_t cudaMemsetAsync(void* p, int value, size_t n, cudaStream_t) { return memset(p, value, n), cudaSuccess; }

inline dim3 threadIdx, blockIdx, blockDim, gridDim;  // of the fiber that runs

namespace host {
constexpr size_t kStack = 128 << 10;
struct Fiber {
  ucontext_t context;
  dim3 thread;
  unsigned linear = 0;
  const void* given = nullptr;  // operand of the collective this fiber waits in
  enum { ready, at_block, at_warp, done } state = ready;
};
inline std::vector<Fiber> fibers;
inline std::vector<char> stacks;
inline Fiber* current = nullptr;
inline ucontext_t scheduler;
inline std::function<void()> body;
inline int vote_sum = 0, vote_result = 0;

inline void wait(int state) {
  current->state = decltype(current->state)(state);
  swapcontext(&current->context, &scheduler);
}
inline void entry() {
  body();
  current->state = Fiber::done;
  swapcontext(&current->context, &scheduler);
}
/// Lets the fibers [first, last) go on if each of them waits at `state` or is done.
inline bool release(size_t first, size_t last, int state) {
  bool any = false;
  for (size_t i = first; i < last; ++i) {
    if (fibers[i].state != state && fibers[i].state != Fiber::done) return false;
    any = any || fibers[i].state == state;
  }
  for (size_t i = first; i < last; ++i)
    if (fibers[i].state == state) fibers[i].state = Fiber::ready;
  return any;
}
inline void run_block() {
  const size_t n = size_t(blockDim.x) * blockDim.y * blockDim.z;
  fibers.resize(n);
  if (stacks.size() < n * kStack) stacks.resize(n * kStack);
  for (size_t i = 0; i < n; ++i) {
    Fiber& f = fibers[i];
    f.linear = unsigned(i), f.state = Fiber::ready;
    f.thread = dim3(unsigned(i % blockDim.x), unsigned(i / blockDim.x % blockDim.y), unsigned(i / blockDim.x / blockDim.y));
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = stacks.data() + i * kStack, f.context.uc_stack.ss_size = kStack, f.context.uc_link = nullptr;
    makecontext(&f.context, entry, 0);
  }
  for (bool left = true; left;) {
    bool ran = false;
    left = false;
    for (size_t i = 0; i < n; ++i) {
      if (fibers[i].state == Fiber::ready) {
        current = &fibers[i];
        threadIdx = current->thread;
        swapcontext(&scheduler, &current->context);
        ran = true;
      }
      left = left || fibers[i].state != Fiber::done;
    }
    for (size_t w = 0; w < n; w += 32) ran = release(w, w + 32 < n ? w + 32 : n, Fiber::at_warp) || ran;
    if (release(0, n, Fiber::at_block)) ran = true, vote_result = vote_sum, vote_sum = 0;
    if (left && !ran) fprintf(stderr, "deadlock: threads wait at different barriers\n"), abort();
  }
}
template <class F>
void launch(dim3 blocks, dim3 threads, cudaStream_t, F f) {
  gridDim = blocks, blockDim = threads, body = f;
  for (unsigned z = 0; z < gridDim.z; ++z)
    for (unsigned y = 0; y < gridDim.y; ++y)
      for (unsigned x = 0; x < gridDim.x; ++x) blockIdx = dim3(x, y, z), run_block();
}
/// The operand of lane `lane` of this warp, while all lanes wait.
template <class T>
T of_lane(const T& mine, unsigned lane) {
  current->given = &mine;
  wait(Fiber::at_warp);
  const T result = *static_cast<const T*>(fibers[current->linear / 32 * 32 + lane].given);
  wait(Fiber::at_warp);  // nobody's operand dies before all have read
  return result;
}
}  // namespace host

inline void __syncthreads() { host::wait(host::Fiber::at_block); }
inline int __syncthreads_or(int x) {
  host::vote_sum += x != 0;
  __syncthreads();
  return host::vote_result != 0;
}
inline void __syncwarp(unsigned = ~0u) { host::wait(host::Fiber::at_warp); }
template <class T>
T __shfl_xor_sync(unsigned, T x, int distance) { return host::of_lane(x, (host::current->linear % 32) ^ unsigned(distance)); }
inline unsigned __ballot_sync(unsigned, int x) {
  host::current->given = &x;
  host::wait(host::Fiber::at_warp);
  unsigned bits = 0;
  for (unsigned lane = 0; lane < 32; ++lane)
    bits |= unsigned(*static_cast<const int*>(host::fibers[host::current->linear / 32 * 32 + lane].given) != 0) << lane;
  host::wait(host::Fiber::at_warp);
  return bits;
}
inline int __ffs(int x) { return __builtin_ffs(x); }
inline float rsqrt(float x) { return 1 / sqrtf(x); }
inline double rsqrt(double x) { return 1 / sqrt(x); }
