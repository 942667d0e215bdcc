// The functions of runtime/cuda/ptx.cuh on the host. Asynchronous copies land as late as CUDA allows, or (TSR_EMULATION_ASYNC)
// early, or at random: code that reads before it waits gets what was there. Products of a warp are added up in double and
// rounded once; how a tensor core rounds in between is not modelled.
#pragma once
#include <vector>

#include "builtins.h"

namespace tsr::emulation {
/// A copy that a thread issued; `number` orders groups.
struct PendingCopy {
  void* to;
  const void* from;
  int bytes, valid;
  Site site;
};
/// Of the current thread: copies not landed, and how many of them each committed group ends with.
struct PendingCopies {
  std::vector<PendingCopy> copies;
  std::vector<size_t> groups;
  std::vector<std::function<void()>> stores;  // of tiles, from shared memory
  std::vector<size_t> store_groups;
};
PendingCopies& pending_copies();
bool lands_now();
void land(const PendingCopy& copy);
void land_groups(size_t keep);
/// Work of the copy engine, which the scheduler does at some time; it arrives at the barrier with its bytes.
void enqueue_work(uint32_t bytes, uint64_t* barrier, const Site& site, std::function<void()> copy);
void enqueue_bulk(void* to, const void* from, uint32_t bytes, uint64_t* barrier, const Site& site);
void mbarrier_init(uint64_t* b, uint32_t arrivals, const Site& site);
void mbarrier_arrive(uint64_t* b, uint32_t expected_bytes, const Site& site);
void mbarrier_wait(uint64_t* b, uint32_t parity, const Site& site);
char* shared_of(unsigned rank, const void* p, const Site& site);

enum class Element { bf16, f16, tf32 };
struct MmaOperands {
  float* d;
  const uint32_t *a, *b;
};
template <Element E>
float element(uint32_t word, int half) {
  if constexpr (E == Element::tf32) return bits<float>(word & 0xffffe000u);
  const uint16_t raw = uint16_t(half != 0 ? word >> 16 : word);
  if constexpr (E == Element::bf16) return bits<float>(uint32_t(raw) << 16);
  else return float(bits<_Float16>(raw));
}

/// All lanes' fragments to matrices, the product, and back.
template <Element E>
void multiply_fragments(void** operands, uint32_t lanes) {
  if (lanes != ~0u) fail("mma: lanes %08x take part, all 32 have to", lanes);
  constexpr int per_word = E == Element::tf32 ? 1 : 2, depth = 8 * per_word;
  float a[16][depth], b[depth][8];
  for (int lane = 0; lane < 32; ++lane) {
    const auto& x = *static_cast<const MmaOperands*>(operands[lane]);
    const int group = lane / 4, place = lane % 4;
    for (int h = 0; h < per_word; ++h) {
      const int column = per_word == 2 ? 2 * place + h : place;
      for (int i = 0; i < 4; ++i) a[group + 8 * (i % 2)][column + depth / 2 * (i / 2)] = element<E>(x.a[i], h);
      for (int i = 0; i < 2; ++i) b[column + depth / 2 * i][group] = element<E>(x.b[i], h);
    }
  }
  for (int row = 0; row < 16; ++row)
    for (int column = 0; column < 8; ++column) {
      float& d = static_cast<MmaOperands*>(operands[row % 8 * 4 + column / 2])->d[row / 8 * 2 + column % 2];
      double sum = d;
      for (int k = 0; k < depth; ++k) sum += double(a[row][k]) * double(b[k][column]);
      d = float(sum);
    }
}
template <Element E>
void mma(float* d, const uint32_t* a, const uint32_t* b, const Site& site) {
  MmaOperands mine{d, a, b};
  warp_collective(~0u, &mine, multiply_fragments<E>, site);
}

struct MatrixRow {
  const void* row;
  uint32_t* out;
};
template <int Count, bool Transposed>
void load_matrices(uint32_t* out, const void* row, const Site& site) {
  if (int(current->lane) < 8 * Count) {
    if (uintptr_t(row) % 16 != 0) fail("%s at %s:%d: the address of a row is no multiple of 16", site.what, site.file, site.line);
    need_shared(row, 16, site);
    race::access(row, 16, false, race::Kind::plain, site);
  }
  MatrixRow mine{row, out};
  warp_collective(
      ~0u, &mine,
      [](void** operands, uint32_t lanes) {
        if (lanes != ~0u) fail("ldmatrix: lanes %08x take part, all 32 have to", lanes);
        for (int j = 0; j < Count; ++j) {
          uint16_t m[8][8];
          for (int i = 0; i < 8; ++i) memcpy(m[i], static_cast<MatrixRow*>(operands[8 * j + i])->row, 16);
          for (int lane = 0; lane < 32; ++lane) {
            const int r = lane / 4, c = 2 * (lane % 4);
            const uint32_t low = Transposed ? m[c][r] : m[r][c], high = Transposed ? m[c + 1][r] : m[r][c + 1];
            static_cast<MatrixRow*>(operands[lane])->out[j] = low | high << 16;
          }
        }
      },
      site);
}
}  // namespace tsr::emulation

namespace tsr::ptx {
using emulation::Element;

inline uint32_t shared_address(const void* p) { return uint32_t(uintptr_t(p) & (emulation::kSharedWindow - 1)); }
inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], TSR_HERE) { emulation::mma<Element::bf16>(d, a, b, {"mma_bf16", file_, line_}); }
inline void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], TSR_HERE) { emulation::mma<Element::f16>(d, a, b, {"mma_f16", file_, line_}); }
inline void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], TSR_HERE) { emulation::mma<Element::tf32>(d, a, b, {"mma_tf32", file_, line_}); }
inline uint32_t to_tf32(float x) { return x - x == 0 ? (emulation::bits<uint32_t>(x) + 0x1000u) & 0xffffe000u : emulation::bits<uint32_t>(x); }

inline uint32_t pack_bf16(float low, float high) { return uint32_t(__nv_bfloat16(low).raw) | uint32_t(__nv_bfloat16(high).raw) << 16; }
inline uint32_t pack_f16(float low, float high) {
  return uint32_t(emulation::bits<uint16_t>(__half(low).raw)) | uint32_t(emulation::bits<uint16_t>(__half(high).raw)) << 16;
}
inline float exp2_approximate(float x) { return x < -126 ? 0.0f : exp2f(x); }

inline void ldmatrix_x2(uint32_t (&r)[2], const void* row, TSR_HERE) { emulation::load_matrices<2, false>(r, row, {"ldmatrix_x2", file_, line_}); }
inline void ldmatrix_x4(uint32_t (&r)[4], const void* row, TSR_HERE) { emulation::load_matrices<4, false>(r, row, {"ldmatrix_x4", file_, line_}); }
inline void ldmatrix_x2_transposed(uint32_t (&r)[2], const void* row, TSR_HERE) { emulation::load_matrices<2, true>(r, row, {"ldmatrix_x2_transposed", file_, line_}); }
inline void ldmatrix_x4_transposed(uint32_t (&r)[4], const void* row, TSR_HERE) { emulation::load_matrices<4, true>(r, row, {"ldmatrix_x4_transposed", file_, line_}); }

template <int Bytes>
void copy_async(void* to, const void* from, int valid = Bytes, TSR_HERE) {
  static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16, "of 4, 8 or 16 bytes");
  const emulation::Site site{"copy_async", file_, line_};
  if ((uintptr_t(to) | uintptr_t(from)) % Bytes != 0) emulation::fail("copy_async at %s:%d: an address is no multiple of %d", file_, line_, Bytes);
  if (valid < 0 || valid > Bytes) emulation::fail("copy_async at %s:%d: %d valid bytes of %d", file_, line_, valid, Bytes);
  emulation::need_shared(to, Bytes, site);
  emulation::race::access(from, size_t(valid), false, emulation::race::Kind::plain, site);
  emulation::race::access(to, Bytes, true, emulation::race::Kind::copy_issued, site);
  const emulation::PendingCopy copy{to, from, Bytes, valid, site};
  if (emulation::lands_now()) emulation::land(copy);
  else emulation::pending_copies().copies.push_back(copy);
}
inline void copy_async_commit() { emulation::pending_copies().groups.push_back(emulation::pending_copies().copies.size()); }
template <int Pending>
void copy_async_wait() { emulation::land_groups(Pending); }

inline void barrier_sync(int id, int threads, TSR_HERE) { emulation::barrier(id, unsigned(threads), true, 0, {"barrier_sync", file_, line_}); }
inline void barrier_arrive(int id, int threads, TSR_HERE) { emulation::barrier(id, unsigned(threads), false, 0, {"barrier_arrive", file_, line_}); }
inline void cluster_sync(TSR_HERE) { emulation::group_barrier({"cluster_sync", file_, line_}); }
inline unsigned cluster_rank() { return emulation::current->block->rank; }
template <class T>
T* map_shared(T* p, unsigned rank, TSR_HERE) { return reinterpret_cast<T*>(emulation::shared_of(rank, p, {"map_shared", file_, line_})); }

inline void mbarrier_init(uint64_t* b, uint32_t arrivals, TSR_HERE) { emulation::mbarrier_init(b, arrivals, {"mbarrier_init", file_, line_}); }
inline void mbarrier_arrive(uint64_t* b, TSR_HERE) { emulation::mbarrier_arrive(b, 0, {"mbarrier_arrive", file_, line_}); }
inline void mbarrier_arrive_expect(uint64_t* b, uint32_t bytes, TSR_HERE) { emulation::mbarrier_arrive(b, bytes, {"mbarrier_arrive_expect", file_, line_}); }
inline void mbarrier_wait(uint64_t* b, uint32_t parity, TSR_HERE) { emulation::mbarrier_wait(b, parity, {"mbarrier_wait", file_, line_}); }
inline void fence_mbarrier_init() {}
inline void copy_bulk(void* to, const void* from, uint32_t bytes, uint64_t* b, TSR_HERE) { emulation::enqueue_bulk(to, from, bytes, b, {"copy_bulk", file_, line_}); }
}  // namespace tsr::ptx
