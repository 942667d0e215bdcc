// The functions of NCCL that we call. Names and numbers are those of NCCL's documentation (2.18 and later).
#pragma once
#include <climits>
#include <cstddef>

namespace tsr {
namespace comm {

struct Nccl218 {
  using Comm = struct NcclCommunicator*;
  enum Result : int { kSuccess = 0, kInvalidArgument = 4, kRemoteError = 6, kInProgress = 7 };
  enum Type : int { kInt8 = 0, kInt32 = 2, kInt64 = 4, kFloat32 = 7, kFloat64 = 8 };
  enum Op : int { kSum = 0, kMax = 2, kMin = 3 };
  struct UniqueId { char bytes[128]; };
  // As far as 2.18 knows it; a later NCCL reads `size` of it and takes the rest as not set.
  struct Config {
    size_t size = sizeof(Config);
    unsigned magic = 0xcafebeef, version = 21800;
    int blocking = 0, cluster = INT_MIN, least_blocks = INT_MIN, most_blocks = INT_MIN;
    const char* net = nullptr;
    int share = INT_MIN;
  };

  int (*version)(int*);
  int (*unique_id)(UniqueId*);
  int (*init)(Comm*, int ranks, UniqueId, int rank, Config*);
  int (*split)(Comm, int color, int key, Comm*, Config*);
  int (*async_error)(Comm, int*);
  int (*finalize)(Comm);
  int (*destroy)(Comm);
  int (*abort)(Comm);
  int (*all_reduce)(const void*, void*, size_t count, int type, int op, Comm, void* stream);
  int (*all_gather)(const void*, void*, size_t count, int type, Comm, void* stream);
  int (*reduce_scatter)(const void*, void*, size_t count, int type, int op, Comm, void* stream);
  int (*broadcast)(const void*, void*, size_t count, int type, int root, Comm, void* stream);
  int (*send)(const void*, size_t count, int type, int peer, Comm, void* stream);
  int (*receive)(void*, size_t count, int type, int peer, Comm, void* stream);
  int (*group_start)();
  int (*group_end)();
  const char* (*error_text)(int);
};

}  // namespace comm
}  // namespace tsr
