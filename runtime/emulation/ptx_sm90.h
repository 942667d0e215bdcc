// The functions of runtime/cuda/ptx_sm90.cuh on the host. Products of a warpgroup happen warp by warp, when the warp waits for them (or
// TSR_EMULATION_ASYNC: when they are asked for, or at random); the registers that they name have to be left alone until then.
#pragma once
#include "ptx.h"
#include "tensor_map.h"

#define TSR_HAS_SM_90A 1

namespace tsr::emulation {
/// What a lane gives to a product: its sums, its part of a left operand in registers (else null), the operands in shared memory.
struct LaneProduct {
  float* d;
  const uint32_t* a;
  uint64_t left, right;
  int columns;
  bool along, add;
  Element element;
  Site site;
};
void wgmma(LaneProduct product);
void wgmma_fence(const Site& site);
void wgmma_commit(const Site& site);
void wgmma_wait(size_t pending, const Site& site);
void fence_proxy_async();
void tensor_load(void* to, const CUtensorMap* map, const int* at, int rank, uint64_t* barrier, const Site& site);
void tensor_store(const CUtensorMap* map, const int* at, int rank, const void* from, const Site& site);
void tensor_store_commit();
void tensor_store_wait(size_t pending);
}  // namespace tsr::emulation

namespace tsr::ptx {
inline void fence_proxy_async() { emulation::fence_proxy_async(); }
template <int Count>
void registers_give() { static_assert(Count >= 24 && Count <= 240 && Count % 8 == 0, "as the ISA has it"); }
template <int Count>
void registers_take() { static_assert(Count >= 24 && Count <= 240 && Count % 8 == 0, "as the ISA has it"); }

template <int Rank>
void tensor_load(void* to, const CUtensorMap* map, const int (&at)[Rank], uint64_t* b, TSR_HERE) { emulation::tensor_load(to, map, at, Rank, b, {"tensor_load", file_, line_}); }
template <int Rank>
void tensor_store(const CUtensorMap* map, const int (&at)[Rank], const void* from, TSR_HERE) { emulation::tensor_store(map, at, Rank, from, {"tensor_store", file_, line_}); }
inline void tensor_store_commit() { emulation::tensor_store_commit(); }
template <int Pending>
void tensor_store_wait() { emulation::tensor_store_wait(Pending); }

inline uint64_t shared_operand(const void* p, uint32_t group, uint32_t panel) {
  return uint64_t(1) << 62 | uint64_t(group >> 4) << 32 | uint64_t(panel >> 4) << 16 | (shared_address(p) & 0x3ffff) >> 4;
}
inline void wgmma_fence(TSR_HERE) { emulation::wgmma_fence({"wgmma_fence", file_, line_}); }
inline void wgmma_commit(TSR_HERE) { emulation::wgmma_commit({"wgmma_commit", file_, line_}); }
template <int Pending>
void wgmma_wait(TSR_HERE) { emulation::wgmma_wait(Pending, {"wgmma_wait", file_, line_}); }

#define TSR_WGMMA(name, kind)                                                                                          \
  template <bool Along, int Pieces>                                                                                    \
  void name(float (&d)[Pieces][4], uint64_t a, uint64_t b, bool add, TSR_HERE) {                                       \
    emulation::wgmma({d[0], nullptr, a, b, 8 * Pieces, Along, add, Element::kind, {#name, file_, line_}});             \
  }                                                                                                                    \
  template <bool Along, int Pieces>                                                                                    \
  void name(float (&d)[Pieces][4], const uint32_t (&a)[4], uint64_t b, bool add, TSR_HERE) {                           \
    emulation::wgmma({d[0], a, 0, b, 8 * Pieces, Along, add, Element::kind, {#name, file_, line_}});                   \
  }
TSR_WGMMA(wgmma_bf16, bf16)
TSR_WGMMA(wgmma_f16, f16)
#undef TSR_WGMMA
}  // namespace tsr::ptx
