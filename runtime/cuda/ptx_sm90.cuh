// Instructions of sm_90a, one thin wrapper each: copies of tiles by the tensor memory accelerator, and products of a warpgroup
// (128 threads) on operands in shared memory. Under the emulation runtime/emulation/ptx_sm90.h stands in this file's place.
// What compiles for other architectures leaves the bodies of its kernels out (TSR_HAS_SM_90A).
//
// Tiles lie in shared memory as the accelerator writes them with CU_TENSOR_MAP_SWIZZLE_128B: rows of 128 bytes, of which piece p
// (16 bytes) of row r lies at place p ^ (r % 8). A tile begins at a multiple of 1024 bytes.
#pragma once
#include "ptx.cuh"
#include <cuda.h>  // CUtensorMap

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define TSR_HAS_SM_90A 1
#endif

namespace tsr::ptx {
#ifdef TSR_HAS_SM_90A

/// What this thread, or threads it has synchronized with, wrote to memory comes before what copies and products of a warpgroup
/// do there that are asked for later.
__device__ inline void fence_proxy_async() { asm volatile("fence.proxy.async;" ::: "memory"); }

// ---- registers of a warpgroup: a multiple of 8, from 24 to 240 ----

template <int Count>
__device__ inline void registers_give() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Count)); }
template <int Count>
__device__ inline void registers_take() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Count)); }

// ---- tiles of a tensor in global memory; `at`: the coordinates of the first element, innermost axis first ----

/// Starts to copy a tile to shared memory, zeros for what is outside of the tensor; it arrives at the barrier with all its bytes.
__device__ inline void tensor_load(void* to, const CUtensorMap* map, const int (&at)[1], uint64_t* b) {
  asm volatile("cp.async.bulk.tensor.1d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3}], [%2];" ::"r"(shared_address(to)), "l"(map), "r"(shared_address(b)), "r"(at[0])
               : "memory");
}
__device__ inline void tensor_load(void* to, const CUtensorMap* map, const int (&at)[2], uint64_t* b) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(shared_address(to)), "l"(map), "r"(shared_address(b)), "r"(at[0]), "r"(at[1])
               : "memory");
}
__device__ inline void tensor_load(void* to, const CUtensorMap* map, const int (&at)[3], uint64_t* b) {
  asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(shared_address(to)), "l"(map), "r"(shared_address(b)), "r"(at[0]), "r"(at[1]), "r"(at[2])
               : "memory");
}
__device__ inline void tensor_load(void* to, const CUtensorMap* map, const int (&at)[4], uint64_t* b) {
  asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(shared_address(to)), "l"(map), "r"(shared_address(b)), "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3])
               : "memory");
}
/// Starts to copy a tile from shared memory; what is outside of the tensor is left out.
__device__ inline void tensor_store(const CUtensorMap* map, const int (&at)[1], const void* from) {
  asm volatile("cp.async.bulk.tensor.1d.global.shared::cta.bulk_group [%0, {%2}], [%1];" ::"l"(map), "r"(shared_address(from)), "r"(at[0]) : "memory");
}
__device__ inline void tensor_store(const CUtensorMap* map, const int (&at)[2], const void* from) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map), "r"(shared_address(from)), "r"(at[0]), "r"(at[1]) : "memory");
}
__device__ inline void tensor_store(const CUtensorMap* map, const int (&at)[3], const void* from) {
  asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(map), "r"(shared_address(from)), "r"(at[0]), "r"(at[1]), "r"(at[2]) : "memory");
}
__device__ inline void tensor_store(const CUtensorMap* map, const int (&at)[4], const void* from) {
  asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(map), "r"(shared_address(from)), "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]) : "memory");
}
/// Makes a group of the stores since the last one.
__device__ inline void tensor_store_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
/// Waits until all but the newest `Pending` groups of this thread have read their shared memory.
template <int Pending>
__device__ inline void tensor_store_wait() { asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(Pending) : "memory"); }

// ---- products of a warpgroup: d (64 x N, float) = a (64 x 16) b (16 x N), plus d if `add`; all 128 threads ----
//
// Warp w of the four holds rows 16 w .. 16 w + 15: d[n] is the fragment of columns 8 n .. 8 n + 7 as `mma` has it, and a, where it is
// in registers, the left fragment of `mma`. Registers that a product names must be left alone until it has been waited for.

/// Where an operand lies in shared memory. Terms along the rows of the tile (K-major): `group` is the distance of 8 rows, `panel` is not
/// read; 16 terms further are 32 bytes. Lines along the rows of the tile (MN-major): `group` is the distance of 8 terms, `panel` that of 64 lines.
__device__ inline uint64_t shared_operand(const void* p, uint32_t group, uint32_t panel) {
  const uint64_t swizzle_128 = uint64_t(1) << 62;
  return swizzle_128 | uint64_t(group >> 4) << 32 | uint64_t(panel >> 4) << 16 | (shared_address(p) & 0x3ffff) >> 4;
}
/// Before the first product, and after registers that products name have been changed.
__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
/// Makes a group of the products since the last one.
__device__ inline void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/// Waits for all but the newest `Pending` groups.
template <int Pending>
__device__ inline void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory"); }

// Along: whether the terms of a column of b lie side by side (K-major).
#define TSR_FOUR(i) "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])
#define TSR_SIXTEEN(i) TSR_FOUR(i), TSR_FOUR(i + 1), TSR_FOUR(i + 2), TSR_FOUR(i + 3)
#define TSR_NUMBERS_16 \
  "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}"
#define TSR_NUMBERS_32 \
  "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}"
#define TSR_NUMBERS_64 \
  "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"\
  "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}"
template <bool Along>
__device__ inline void wgmma_bf16(float (&d)[4][4], uint64_t a, uint64_t b, bool add) {
  asm volatile(
      "{ .reg .pred add; setp.ne.b32 add, %18, 0; wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 "
      TSR_NUMBERS_16 ", %16, %17, add, 1, 1, 0, %19; }"
      : TSR_SIXTEEN(0)
      : "l"(a), "l"(b), "r"(int(add)), "n"(Along ? 0 : 1)
      : "memory");
}
template <bool Along>
__device__ inline void wgmma_bf16(float (&d)[4][4], const uint32_t (&a)[4], uint64_t b, bool add) {
  asm volatile(
      "{ .reg .pred add; setp.ne.b32 add, %21, 0; wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 "
      TSR_NUMBERS_16 ", {%16,%17,%18,%19}, %20, add, 1, 1, %22; }"
      : TSR_SIXTEEN(0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(add)), "n"(Along ? 0 : 1)
      : "memory");
}
template <bool Along>
__device__ inline void wgmma_f16(float (&d)[4][4], uint64_t a, uint64_t b, bool add) {
  asm volatile(
      "{ .reg .pred add; setp.ne.b32 add, %18, 0; wgmma.mma_async.sync.aligned.m64n32k16.f32.f16.f16 "
      TSR_NUMBERS_16 ", %16, %17, add, 1, 1, 0, %19; }"
      : TSR_SIXTEEN(0)
      : "l"(a), "l"(b), "r"(int(add)), "n"(Along ? 0 : 1)
      : "memory");
}
template <bool Along>
__device__ inline void wgmma_f16(float (&d)[4][4], const uint32_t (&a)[4], uint64_t b, bool add) {
  asm volatile(
      "{ .reg .pred add; setp.ne.b32 add, %21, 0; wgmma.mma_async.sync.aligned.m64n32k16.f32.f16.f16 "
      TSR_NUMBERS_16 ", {%16,%17,%18,%19}, %20, add, 1, 1, %22; }"
      : TSR_SIXTEEN(0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(add)), "n"(Along ? 0 : 1)
      : "memory");
}
template <bool Along>
__device__ inline void wgmma_bf16(float (&d)[8][4], uint64_t a, uint64_t b, bool add) {
  asm volatile(
      "{ .reg .pred add; setp.ne.b32 add, %34, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      TSR_NUMBERS_32 ", %32, %33, add, 1, 1, 0, %35; }"
      : TSR_SIXTEEN(0), TSR_SIXTEEN(4)
      : "l"(a), "l"(b), "r"(int(add)), "n"(Along ? 0 : 1)
      : "memory");
}
template <bool Along>
__device__ inline void wgmma_bf16(float (&d)[8][4], const uint32_t (&a)[4], uint64_t b, bool add) {
  asm volatile(
      "{ .reg .pred add; setp.ne.b32 add, %37, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      TSR_NUMBERS_32 ", {%32,%33,%34,%35}, %36, add, 1, 1, %38; }"
      : TSR_SIXTEEN(0), TSR_SIXTEEN(4)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(add)), "n"(Along ? 0 : 1)
      : "memory");
}
template <bool Along>
__device__ inline void wgmma_f16(float (&d)[8][4], uint64_t a, uint64_t b, bool add) {
  asm volatile(
      "{ .reg .pred add; setp.ne.b32 add, %34, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 "
      TSR_NUMBERS_32 ", %32, %33, add, 1, 1, 0, %35; }"
      : TSR_SIXTEEN(0), TSR_SIXTEEN(4)
      : "l"(a), "l"(b), "r"(int(add)), "n"(Along ? 0 : 1)
      : "memory");
}
template <bool Along>
__device__ inline void wgmma_f16(float (&d)[8][4], const uint32_t (&a)[4], uint64_t b, bool add) {
  asm volatile(
      "{ .reg .pred add; setp.ne.b32 add, %37, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 "
      TSR_NUMBERS_32 ", {%32,%33,%34,%35}, %36, add, 1, 1, %38; }"
      : TSR_SIXTEEN(0), TSR_SIXTEEN(4)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(add)), "n"(Along ? 0 : 1)
      : "memory");
}
template <bool Along>
__device__ inline void wgmma_bf16(float (&d)[16][4], uint64_t a, uint64_t b, bool add) {
  asm volatile(
      "{ .reg .pred add; setp.ne.b32 add, %66, 0; wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
      TSR_NUMBERS_64 ", %64, %65, add, 1, 1, 0, %67; }"
      : TSR_SIXTEEN(0), TSR_SIXTEEN(4), TSR_SIXTEEN(8), TSR_SIXTEEN(12)
      : "l"(a), "l"(b), "r"(int(add)), "n"(Along ? 0 : 1)
      : "memory");
}
template <bool Along>
__device__ inline void wgmma_bf16(float (&d)[16][4], const uint32_t (&a)[4], uint64_t b, bool add) {
  asm volatile(
      "{ .reg .pred add; setp.ne.b32 add, %69, 0; wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
      TSR_NUMBERS_64 ", {%64,%65,%66,%67}, %68, add, 1, 1, %70; }"
      : TSR_SIXTEEN(0), TSR_SIXTEEN(4), TSR_SIXTEEN(8), TSR_SIXTEEN(12)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(add)), "n"(Along ? 0 : 1)
      : "memory");
}
template <bool Along>
__device__ inline void wgmma_f16(float (&d)[16][4], uint64_t a, uint64_t b, bool add) {
  asm volatile(
      "{ .reg .pred add; setp.ne.b32 add, %66, 0; wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 "
      TSR_NUMBERS_64 ", %64, %65, add, 1, 1, 0, %67; }"
      : TSR_SIXTEEN(0), TSR_SIXTEEN(4), TSR_SIXTEEN(8), TSR_SIXTEEN(12)
      : "l"(a), "l"(b), "r"(int(add)), "n"(Along ? 0 : 1)
      : "memory");
}
template <bool Along>
__device__ inline void wgmma_f16(float (&d)[16][4], const uint32_t (&a)[4], uint64_t b, bool add) {
  asm volatile(
      "{ .reg .pred add; setp.ne.b32 add, %69, 0; wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 "
      TSR_NUMBERS_64 ", {%64,%65,%66,%67}, %68, add, 1, 1, %70; }"
      : TSR_SIXTEEN(0), TSR_SIXTEEN(4), TSR_SIXTEEN(8), TSR_SIXTEEN(12)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(add)), "n"(Along ? 0 : 1)
      : "memory");
}
#undef TSR_FOUR
#undef TSR_SIXTEEN
#undef TSR_NUMBERS_16
#undef TSR_NUMBERS_32
#undef TSR_NUMBERS_64
#endif

}  // namespace tsr::ptx
