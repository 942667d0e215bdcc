// NCCL, found in libnccl.so.2 when a program starts on several GPUs: it is built without it. The emulation has another file
// in this one's place.
#pragma once
#include <dlfcn.h>

#include <string>

#include "../comm/nccl_api.h"
#include "../error.h"

namespace tsr {
namespace comm {

inline Error no_nccl(const std::string& why) {
  return Error("T0946", "the ranks run on GPUs, and NCCL cannot be used: " + why, "install NCCL 2.18 or later, e.g. `pip install nvidia-nccl-cu13`, and put its folder into LD_LIBRARY_PATH");
}

template <class Function>
inline void find_in(void* library, const char* name, Function* out) {
  *out = reinterpret_cast<Function>(dlsym(library, name));
  if (!*out) throw no_nccl(std::string("it has no ") + name);
}

inline Nccl218 nccl_library() {
  void* const library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
  if (!library) throw no_nccl(dlerror());
  Nccl218 out{};
  find_in(library, "ncclGetVersion", &out.version), find_in(library, "ncclGetUniqueId", &out.unique_id), find_in(library, "ncclGetErrorString", &out.error_text);
  int number = 0;
  out.version(&number);
  if (number < 21800) throw no_nccl(format("libnccl.so.2 is version %d.%d; communicators are split since 2.18", number / 10000, number / 100 % 100));
  find_in(library, "ncclCommInitRankConfig", &out.init), find_in(library, "ncclCommSplit", &out.split), find_in(library, "ncclCommGetAsyncError", &out.async_error);
  find_in(library, "ncclCommFinalize", &out.finalize), find_in(library, "ncclCommDestroy", &out.destroy), find_in(library, "ncclCommAbort", &out.abort);
  find_in(library, "ncclAllReduce", &out.all_reduce), find_in(library, "ncclAllGather", &out.all_gather), find_in(library, "ncclReduceScatter", &out.reduce_scatter);
  find_in(library, "ncclBroadcast", &out.broadcast), find_in(library, "ncclSend", &out.send), find_in(library, "ncclRecv", &out.receive);
  find_in(library, "ncclGroupStart", &out.group_start), find_in(library, "ncclGroupEnd", &out.group_end);
  return out;
}

}  // namespace comm
}  // namespace tsr
