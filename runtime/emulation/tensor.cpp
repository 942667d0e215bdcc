// Tiles of tensors: maps as the driver encodes them, and the copies of the tensor memory accelerator.
#include "ptx_sm90.h"
#include "scheduler.h"

namespace tsr::emulation {
namespace {

/// Calls f(in shared memory, in global memory, valid bytes) for every piece of 16 bytes of a tile.
template <class F>
void for_pieces(const TensorMap& map, const int* at, char* tile, const F& f) {
  const uint32_t per_piece = 16 / map.bytes;
  uint32_t count = 1;
  for (int i = 0; i < map.rank; ++i) count *= map.box[i];
  for (uint32_t first = 0; first < count; first += per_piece) {
    uint32_t rest = first;
    int64_t offset = 0, valid = 0;
    for (int i = 0; i < map.rank; ++i) {
      const int64_t x = at[i] + int64_t(rest % map.box[i]), left = int64_t(map.sizes[i]) - x;
      rest /= map.box[i];
      if (i == 0) valid = x < 0 ? 0 : left < per_piece ? left : per_piece;
      else if (x < 0 || left <= 0) valid = 0;
      offset += x * int64_t(map.strides[i]);
    }
    const uintptr_t linear = uintptr_t(tile) + first * map.bytes;
    f(reinterpret_cast<char*>(linear ^ (linear >> 3 & map.swizzle)), map.base + offset, valid > 0 ? size_t(valid) * map.bytes : 0);
  }
}

TensorMap read(const CUtensorMap* map, int rank, const void* tile, const Site& site) {
  TensorMap found;
  memcpy(&found, map, sizeof found);
  if (found.rank != rank) fail("%s at %s:%d: %d coordinates for a map of %d axes", site.what, site.file, site.line, rank, found.rank);
  if (uintptr_t(tile) % (found.swizzle != 0 ? 1024 : 128) != 0) fail("%s at %s:%d: the tile does not begin where its pattern does, at a multiple of %d bytes", site.what, site.file, site.line, found.swizzle != 0 ? 1024 : 128);
  return found;
}

void copy_out(const TensorMap& map, const int* at, char* tile, const Site& site) {
  for_pieces(map, at, tile, [&](char* shared, char* global, size_t bytes) {
    if (bytes == 0) return;
    race::access(shared, bytes, false, race::Kind::async_proxy, site);
    race::access(global, bytes, true, race::Kind::async_proxy, site);
    memcpy(global, shared, bytes);
  });
}

}  // namespace

void tensor_load(void* to, const CUtensorMap* from, const int* at, int rank, uint64_t* barrier, const Site& site) {
  const TensorMap map = read(from, rank, to, site);
  uint32_t bytes = map.bytes;
  std::vector<int> place(at, at + rank);
  for (int i = 0; i < rank; ++i) bytes *= map.box[i];
  need_shared(to, bytes, site);
  for_pieces(map, at, static_cast<char*>(to), [&](char* shared, char* global, size_t valid) {
    if (valid > 0) race::access(global, valid, false, race::Kind::async_proxy, site);
    race::access(shared, 16, true, race::Kind::bulk_issued, site);
  });
  enqueue_work(bytes, barrier, site, [=] {
    for_pieces(map, place.data(), static_cast<char*>(to), [&](char* shared, char* global, size_t valid) {
      race::access(shared, 16, true, race::Kind::bulk_landed, site);
      if (valid > 0) memcpy(shared, global, valid);
      memset(shared + valid, 0, 16 - valid);
    });
  });
}

void tensor_store(const CUtensorMap* to, const int* at, int rank, const void* from, const Site& site) {
  const TensorMap map = read(to, rank, from, site);
  char* const tile = static_cast<char*>(const_cast<void*>(from));
  std::vector<int> place(at, at + rank);
  for_pieces(map, at, tile, [&](char* shared, char*, size_t) {
    need_shared(shared, 16, site);
    race::access(shared, 16, false, race::Kind::async_proxy, site);
  });
  if (lands_now()) copy_out(map, at, tile, site);
  else pending_copies().stores.push_back([=] { copy_out(map, place.data(), tile, site); });
}

void tensor_store_commit() { pending_copies().store_groups.push_back(pending_copies().stores.size()); }

void tensor_store_wait(size_t keep) {
  PendingCopies& pending = pending_copies();
  if (pending.store_groups.size() <= keep) return;
  const size_t last = pending.store_groups.size() - keep, count = pending.store_groups[last - 1];
  for (size_t i = 0; i < count; ++i) pending.stores[i]();
  pending.stores.erase(pending.stores.begin(), pending.stores.begin() + long(count));
  pending.store_groups.erase(pending.store_groups.begin(), pending.store_groups.begin() + long(last));
  for (size_t& end : pending.store_groups) end -= count;
}

void fence_proxy_async() { race::fence_proxy(); }

}  // namespace tsr::emulation

extern "C" {
using namespace tsr::emulation;

CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* address, const cuuint64_t* sizes, const cuuint64_t* strides, const cuuint32_t* box,
                                const cuuint32_t* steps, CUtensorMapInterleave, CUtensorMapSwizzle swizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  TensorMap found{static_cast<char*>(address), {}, {}, {}, uint8_t(rank), uint8_t(type == CU_TENSOR_MAP_DATA_TYPE_FLOAT32 ? 4 : 2), 0};
  bool good = rank >= 1 && rank <= 5 && uintptr_t(address) % 16 == 0 && (swizzle == CU_TENSOR_MAP_SWIZZLE_NONE || swizzle == CU_TENSOR_MAP_SWIZZLE_128B);
  for (cuuint32_t i = 0; good && i < rank; ++i) {
    found.sizes[i] = sizes[i], found.box[i] = box[i], found.strides[i] = i == 0 ? found.bytes : strides[i - 1];
    good = sizes[i] > 0 && box[i] > 0 && box[i] <= 256 && steps[i] == 1 && (i == 0 || (strides[i - 1] % 16 == 0 && strides[i - 1] < uint64_t(1) << 40));
  }
  const size_t row = good ? size_t(box[0]) * found.bytes : 0;
  good = good && row % 16 == 0 && (swizzle == CU_TENSOR_MAP_SWIZZLE_NONE || row <= 128);
  if (!good) return CUDA_ERROR_INVALID_VALUE;
  found.swizzle = swizzle == CU_TENSOR_MAP_SWIZZLE_128B ? 0x70 : 0;
  *map = {};
  memcpy(map, &found, sizeof found);
  return CUDA_SUCCESS;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned, unsigned long long, cudaDriverEntryPointQueryResult* status) {
  const bool known = strcmp(name, "cuTensorMapEncodeTiled") == 0;
  *function = known ? reinterpret_cast<void*>(&cuTensorMapEncodeTiled) : nullptr;
  *status = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}
}
