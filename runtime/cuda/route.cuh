// Routing of tokens to experts on the device: a stable counting sort of slots (token, choice) by expert, and capacity limits.
// Same results as runtime/experts.h, whatever the order of the threads: positions are counted, not drawn by atomics.
#pragma once
#include "context.cuh"
#include "reduce.cuh"

namespace tsr {

constexpr int kRouteChunk = 256;  // slots that one warp sorts
constexpr int kRouteWarps = 4;

/// Chunks of a number of slots; a counting sort needs as many times experts + 1 numbers of memory.
__host__ __device__ constexpr int64_t route_chunks(int64_t slots) { return (slots + kRouteChunk - 1) / kRouteChunk; }

/// The expert that a slot chose; `experts`, which means none, for every number that is not one's.
template <class I>
__device__ inline int expert_of(I chosen, int experts) { return chosen >= 0 && chosen < experts ? int(chosen) : experts; }

/// The lanes of the warp that hold the same value of `bits` bits; `live` are those that hold one at all.
__device__ inline unsigned lanes_with(int value, int bits, unsigned live) {
  unsigned same = live;
  for (int b = 0; b < bits; ++b) {
    const unsigned ones = __ballot_sync(kWholeWarp, (value >> b & 1) != 0);
    same &= (value >> b & 1) != 0 ? ones : ~ones;
  }
  return same;
}

/// Walks the slots of a warp's chunk in order, 32 at a time. before[e] is the warp's own array of experts + 1 numbers; every
/// slot gets what its expert's number was, plus one for each earlier slot of the chunk with this expert: place(slot, number).
template <class I, class F>
__device__ inline void walk_chunk(const I* chosen, int64_t slots, int experts, int64_t chunk, int* before, F place) {
  const int lane = threadIdx.x % 32;
  int bits = 1;
  while (experts >> bits != 0) ++bits;
  for (int64_t first = chunk * kRouteChunk; first < (chunk + 1) * kRouteChunk && first < slots; first += 32) {
    const int64_t slot = first + lane;
    const unsigned live = __ballot_sync(kWholeWarp, slot < slots);
    const int e = slot < slots ? expert_of(chosen[slot], experts) : 0;
    const unsigned same = lanes_with(e, bits, live);
    if (slot < slots) place(slot, before[e] + __popc(same & ((1u << lane) - 1)));
    __syncwarp();
    if (slot < slots && (same & ((1u << lane) - 1)) == 0) before[e] += __popc(same);  // the first of its expert counts all
    __syncwarp();
  }
}

/// counts[chunk][e]: slots of expert e in a chunk.
template <class I>
__global__ void __launch_bounds__(kRouteWarps * 32) route_count(const I* __restrict__ chosen, int64_t slots, int experts, int* __restrict__ counts) {
  extern __shared__ int before_all[];
  int* const before = before_all + threadIdx.x / 32 * (experts + 1);
  const int64_t chunk = int64_t(blockIdx.x) * kRouteWarps + threadIdx.x / 32;
  for (int e = threadIdx.x % 32; e <= experts; e += 32) before[e] = 0;
  __syncwarp();
  walk_chunk(chosen, slots, experts, chunk, before, [](int64_t, int) {});
  if (chunk < route_chunks(slots))
    for (int e = threadIdx.x % 32; e <= experts; e += 32) counts[chunk * (experts + 1) + e] = before[e];
}

/// counts becomes the first position of every expert's slots of every chunk; offsets that of every expert. I is int. One block.
template <class I>
__global__ void __launch_bounds__(256) route_scan(I* __restrict__ counts, int64_t chunks, int experts, I* __restrict__ offsets) {
  extern __shared__ int first[];
  for (int e = threadIdx.x; e <= experts; e += 256) {
    int sum = 0;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const int n = counts[chunk * (experts + 1) + e];
      counts[chunk * (experts + 1) + e] = sum;
      sum += n;
    }
    first[e] = sum;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    int sum = 0;
    for (int e = 0; e <= experts; ++e) {
      const int n = first[e];
      first[e] = sum;
      offsets[e] = sum;
      sum += n;
    }
  }
  __syncthreads();
  for (int64_t i = threadIdx.x; i < chunks * (experts + 1); i += 256) counts[i] += first[i % (experts + 1)];
}

/// Every slot goes to its position.
template <class I>
__global__ void __launch_bounds__(kRouteWarps * 32) route_place(const I* __restrict__ chosen, int64_t slots, int experts, const int* __restrict__ starts, int* __restrict__ order,
                                                                int* __restrict__ inverse) {
  extern __shared__ int before_all[];
  int* const before = before_all + threadIdx.x / 32 * (experts + 1);
  const int64_t chunk = int64_t(blockIdx.x) * kRouteWarps + threadIdx.x / 32;
  if (chunk < route_chunks(slots))
    for (int e = threadIdx.x % 32; e <= experts; e += 32) before[e] = starts[chunk * (experts + 1) + e];
  __syncwarp();
  walk_chunk(chosen, slots, experts, chunk, before, [=](int64_t slot, int position) {
    order[position] = int(slot);
    inverse[slot] = position;
  });
}

/// Whether slot a keeps its expert rather than b: the larger gate, then the lower slot; a NaN is below every number.
template <class T>
__device__ inline bool keeps_rather(const T* gates, int a, int b) {
  const T x = gates[a], y = gates[b];
  const bool no_x = x != x, no_y = y != y;
  if (no_x != no_y) return no_y;
  return no_x || x == y ? a < b : x > y;
}

/// kept[slot] = the expert for the `capacity` best slots of every expert, else `experts`. A thread counts the better ones.
template <class T>
__global__ void __launch_bounds__(128) limit_slots(const T* __restrict__ gates, const int* __restrict__ order, const int* __restrict__ offsets, int64_t slots, int experts, int64_t capacity,
                                                   int* __restrict__ kept) {
  const int64_t position = int64_t(blockIdx.x) * 128 + threadIdx.x;
  if (position >= slots) return;
  int expert = 0;
  while (expert < experts && position >= offsets[expert + 1]) ++expert;
  const int slot = order[position];
  int64_t better = 0;
  if (expert < experts)
    for (int p = offsets[expert]; p < offsets[expert + 1] && better < capacity; ++p) better += keeps_rather(gates, order[p], slot) ? 1 : 0;
  kept[slot] = better < capacity ? expert : experts;
}

namespace cuda {

/// order[p] is the slot at position p, inverse[slot] its position; expert e has positions offsets[e] .. offsets[e + 1], slots
/// without an expert come last, equal ones keep their order. `counts`: route_chunks(slots) * (experts + 1) numbers.
template <class I>
void route(cudaStream_t stream, const I* chosen, int64_t slots, int experts, int* order, int* offsets, int* inverse, int* counts) {
  const int64_t chunks = route_chunks(slots);
  const unsigned blocks = unsigned((chunks + kRouteWarps - 1) / kRouteWarps);
  const size_t row = size_t(experts + 1) * sizeof(int);
  route_count<I><<<blocks, kRouteWarps * 32, kRouteWarps * row, stream>>>(chosen, slots, experts, counts);
  route_scan<int><<<1, 256, row, stream>>>(counts, chunks, experts, offsets);
  route_place<I><<<blocks, kRouteWarps * 32, kRouteWarps * row, stream>>>(chosen, slots, experts, counts, order, inverse);
}

/// kept[slot] = chosen[slot] for the `capacity` slots of largest gate of every expert (ties: the lowest slot), else `experts`.
/// `work` holds 2 * slots + experts + 1 numbers.
template <class I, class T>
void limit(cudaStream_t stream, const I* chosen, const T* gates, int* work, int64_t slots, int experts, int64_t capacity, int* kept, int* counts) {
  int *const order = work, *const inverse = work + slots, *const offsets = work + 2 * slots;
  route(stream, chosen, slots, experts, order, offsets, inverse, counts);
  limit_slots<T><<<unsigned((slots + 127) / 128), 128, 0, stream>>>(gates, order, offsets, slots, experts, capacity, kept);
}

}  // namespace cuda
}  // namespace tsr
