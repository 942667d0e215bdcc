// The functions of NCCL that we call, found in libnccl.so.2 when a program starts on several GPUs: it is built and runs on
// one without them. Names and numbers are those of NCCL's documentation (2.18 and later).
#pragma once
#include <dlfcn.h>

#include <climits>
#include <cstddef>
#include <string>

#include "../error.h"

namespace tsr {
namespace comm {

struct Nccl218 {
  using Comm = struct NcclCommunicator*;
  enum Result : int { kSuccess = 0, kInProgress = 7 };
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

  Nccl218() {
    void* const library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (!library) throw missing(dlerror());
    find(library, "ncclGetVersion", &version), find(library, "ncclGetUniqueId", &unique_id), find(library, "ncclGetErrorString", &error_text);
    int number = 0;
    version(&number);
    if (number < 21800) throw missing(format("libnccl.so.2 is version %d.%d; communicators are split since 2.18", number / 10000, number / 100 % 100));
    find(library, "ncclCommInitRankConfig", &init), find(library, "ncclCommSplit", &split), find(library, "ncclCommGetAsyncError", &async_error);
    find(library, "ncclCommFinalize", &finalize), find(library, "ncclCommDestroy", &destroy), find(library, "ncclCommAbort", &abort);
    find(library, "ncclAllReduce", &all_reduce), find(library, "ncclAllGather", &all_gather), find(library, "ncclReduceScatter", &reduce_scatter);
    find(library, "ncclBroadcast", &broadcast), find(library, "ncclSend", &send), find(library, "ncclRecv", &receive);
    find(library, "ncclGroupStart", &group_start), find(library, "ncclGroupEnd", &group_end);
  }

 private:
  static Error missing(const std::string& why) {
    return Error("T0946", "the ranks run on GPUs, and NCCL cannot be used: " + why, "install NCCL 2.18 or later, e.g. `pip install nvidia-nccl-cu13`, and put its folder into LD_LIBRARY_PATH");
  }
  template <class Function>
  static void find(void* library, const char* name, Function* out) {
    *out = reinterpret_cast<Function>(dlsym(library, name));
    if (!*out) throw missing(std::string("it has no ") + name);
  }
};

}  // namespace comm
}  // namespace tsr
