// What device code calls without a declaration: indices, barriers, warp collectives, atomics, intrinsics.
#pragma once
#include <math.h>

#include <algorithm>
#include <climits>
#include <type_traits>

#include "engine.h"

extern __thread uint3 threadIdx, blockIdx;  // of the thread that runs
extern __thread dim3 blockDim, gridDim;
constexpr int warpSize = 32;

// ---- barriers ----

inline void __syncthreads(TSR_HERE) { tsr::emulation::barrier(0, 0, true, 0, {"__syncthreads", file_, line_}); }
inline int __syncthreads_or(int x, TSR_HERE) { return tsr::emulation::barrier(0, 0, true, x != 0, {"__syncthreads_or", file_, line_}) != 0; }
inline int __syncthreads_and(int x, TSR_HERE) { return tsr::emulation::barrier(0, 0, true, x == 0, {"__syncthreads_and", file_, line_}) == 0; }
inline int __syncthreads_count(int x, TSR_HERE) { return tsr::emulation::barrier(0, 0, true, x != 0, {"__syncthreads_count", file_, line_}); }

inline void __syncwarp(unsigned mask = ~0u, TSR_HERE) {
  unsigned number = tsr::emulation::current->number;
  tsr::emulation::warp_collective(
      mask, &number,
      [](void** operands, uint32_t lanes) {
        unsigned numbers[32];
        size_t count = 0;
        for (; lanes != 0; lanes &= lanes - 1) numbers[count++] = *static_cast<unsigned*>(operands[__builtin_ctz(lanes)]);
        tsr::emulation::race::join(numbers, count);
      },
      {"__syncwarp", file_, line_});
}

// ---- collectives of a warp; they order nothing in memory ----

namespace tsr::emulation {
template <class T>
struct Shuffle {
  T value, result;
  int source;
  Site site;
};

/// The value of lane `source`, which may be any lane of the mask.
template <class T>
T shuffle(unsigned mask, T value, int source, const Site& site) {
  Shuffle<T> mine{value, value, source, site};
  warp_collective(
      mask, &mine,
      [](void** operands, uint32_t lanes) {
        for (uint32_t rest = lanes; rest != 0; rest &= rest - 1) {
          auto& to = *static_cast<Shuffle<T>*>(operands[__builtin_ctz(rest)]);
          if ((lanes >> to.source & 1) == 0) fail("%s at %s:%d reads lane %d, which takes no part (mask %08x)", to.site.what, to.site.file, to.site.line, to.source, lanes);
          to.result = static_cast<Shuffle<T>*>(operands[to.source])->value;
        }
      },
      site);
  return mine.result;
}

struct Reduction {
  int64_t value;
  int64_t result;
};
/// All lanes get `combine` of the lanes' values, in rising order of lanes.
template <class Combine>
int64_t reduce_lanes(unsigned mask, int64_t value, const Site& site) {
  Reduction mine{value, 0};
  warp_collective(
      mask, &mine,
      [](void** operands, uint32_t lanes) {
        const uint32_t first = uint32_t(__builtin_ctz(lanes));
        int64_t all = Combine::start(static_cast<Reduction*>(operands[first])->value, first);
        for (uint32_t rest = lanes & (lanes - 1); rest != 0; rest &= rest - 1) {
          const uint32_t lane = uint32_t(__builtin_ctz(rest));
          all = Combine::add(all, static_cast<Reduction*>(operands[lane])->value, lane);
        }
        for (uint32_t rest = lanes; rest != 0; rest &= rest - 1) static_cast<Reduction*>(operands[__builtin_ctz(rest)])->result = all;
      },
      site);
  return mine.result;
}
struct Ballot {
  static int64_t start(int64_t x, uint32_t lane) { return int64_t(x != 0) << lane; }
  static int64_t add(int64_t all, int64_t x, uint32_t lane) { return all | int64_t(x != 0) << lane; }
};
struct AddLanes {
  static int64_t start(int64_t x, uint32_t) { return x; }
  static int64_t add(int64_t all, int64_t x, uint32_t) { return all + x; }
};
struct MaxLanes {
  static int64_t start(int64_t x, uint32_t) { return x; }
  static int64_t add(int64_t all, int64_t x, uint32_t) { return all > x ? all : x; }
};
struct MinLanes {
  static int64_t start(int64_t x, uint32_t) { return x; }
  static int64_t add(int64_t all, int64_t x, uint32_t) { return all < x ? all : x; }
};
inline int lane() { return int(current->lane); }
}  // namespace tsr::emulation

template <class T>
T __shfl_sync(unsigned mask, T x, int source, int width = 32, TSR_HERE) {
  const int lane = tsr::emulation::lane();
  return tsr::emulation::shuffle(mask, x, (lane & ~(width - 1)) | (source & (width - 1)), {"__shfl_sync", file_, line_});
}
template <class T>
T __shfl_xor_sync(unsigned mask, T x, int distance, int width = 32, TSR_HERE) {
  const int lane = tsr::emulation::lane(), source = lane ^ distance;
  return tsr::emulation::shuffle(mask, x, source < (lane & ~(width - 1)) + width ? source : lane, {"__shfl_xor_sync", file_, line_});
}
template <class T>
T __shfl_down_sync(unsigned mask, T x, unsigned distance, int width = 32, TSR_HERE) {
  const int lane = tsr::emulation::lane();
  return tsr::emulation::shuffle(mask, x, (lane & (width - 1)) + int(distance) < width ? lane + int(distance) : lane, {"__shfl_down_sync", file_, line_});
}
template <class T>
T __shfl_up_sync(unsigned mask, T x, unsigned distance, int width = 32, TSR_HERE) {
  const int lane = tsr::emulation::lane();
  return tsr::emulation::shuffle(mask, x, (lane & (width - 1)) >= int(distance) ? lane - int(distance) : lane, {"__shfl_up_sync", file_, line_});
}
inline unsigned __ballot_sync(unsigned mask, int x, TSR_HERE) { return unsigned(tsr::emulation::reduce_lanes<tsr::emulation::Ballot>(mask, x, {"__ballot_sync", file_, line_})); }
inline int __any_sync(unsigned mask, int x, TSR_HERE) { return tsr::emulation::reduce_lanes<tsr::emulation::Ballot>(mask, x, {"__any_sync", file_, line_}) != 0; }
inline int __all_sync(unsigned mask, int x, TSR_HERE) { return tsr::emulation::reduce_lanes<tsr::emulation::Ballot>(mask, x == 0, {"__all_sync", file_, line_}) == 0; }
template <class T>
T __reduce_add_sync(unsigned mask, T x, TSR_HERE) { return T(tsr::emulation::reduce_lanes<tsr::emulation::AddLanes>(mask, int64_t(x), {"__reduce_add_sync", file_, line_})); }
template <class T>
T __reduce_max_sync(unsigned mask, T x, TSR_HERE) { return T(tsr::emulation::reduce_lanes<tsr::emulation::MaxLanes>(mask, int64_t(x), {"__reduce_max_sync", file_, line_})); }
template <class T>
T __reduce_min_sync(unsigned mask, T x, TSR_HERE) { return T(tsr::emulation::reduce_lanes<tsr::emulation::MinLanes>(mask, int64_t(x), {"__reduce_min_sync", file_, line_})); }

// ---- atomics: of the device's scope, and taken as ordering what threads did before and do after ----

namespace tsr::emulation {
template <class T>
using Exactly = std::enable_if_t<true, T>;

template <class T, class F>
T read_modify_write(T* p, const Site& site, F next) {
  race::access(p, sizeof(T), true, race::Kind::atomic, site);
  race::acquire(p);
  T before, after;
  load(p, &before, sizeof before);
  do after = next(before);
  while (!compare_exchange(p, &before, &after, sizeof before));
  race::release(p);
  return before;
}
}  // namespace tsr::emulation

#define TSR_ATOMIC(name, expression)                                                                              \
  template <class T>                                                                                              \
  T name(T* p, tsr::emulation::Exactly<T> x, TSR_HERE) {                                                          \
    return tsr::emulation::read_modify_write(p, {#name, file_, line_}, [=](T old) -> T { return expression; });   \
  }
TSR_ATOMIC(atomicAdd, old + x)
TSR_ATOMIC(atomicSub, old - x)
TSR_ATOMIC(atomicMax, old < x ? x : old)
TSR_ATOMIC(atomicMin, x < old ? x : old)
TSR_ATOMIC(atomicExch, x)
TSR_ATOMIC(atomicAnd, old & x)
TSR_ATOMIC(atomicOr, old | x)
TSR_ATOMIC(atomicXor, old ^ x)
TSR_ATOMIC(atomicInc, old >= x ? T(0) : T(old + 1))
#undef TSR_ATOMIC
template <class T>
T atomicCAS(T* p, tsr::emulation::Exactly<T> expected, tsr::emulation::Exactly<T> wanted, TSR_HERE) {
  const T old = tsr::emulation::read_modify_write(p, {"atomicCAS", file_, line_}, [=](T now) -> T { return now == expected ? wanted : now; });
  if (old != expected) tsr::emulation::yield();  // a loop around it waits for someone
  return old;
}
inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_system() { __threadfence(); }
inline void __threadfence_block() {}
inline void __nanosleep(unsigned) { tsr::emulation::yield(); }

// ---- arithmetic ----

template <class T>
T __ldg(const T* p) { return *p; }
inline float rsqrt(float x) { return 1 / sqrtf(x); }
inline double rsqrt(double x) { return 1 / sqrt(x); }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __int_as_float(int x) { return tsr::emulation::bits<float>(x); }
inline int __float_as_int(float x) { return tsr::emulation::bits<int>(x); }
inline float __uint_as_float(unsigned x) { return tsr::emulation::bits<float>(x); }
inline unsigned __float_as_uint(float x) { return tsr::emulation::bits<unsigned>(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(unsigned(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
using std::max;
using std::min;
