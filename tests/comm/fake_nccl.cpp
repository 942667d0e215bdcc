// A libnccl.so.2 without GPUs: the emulation's stand-in behind NCCL's names. FAKE_NCCL_FAIL=N: the exchange number N never
// ends, and the communicator says that a remote rank is gone. FAKE_NCCL_OLD: it is a version that cannot split.
// FAKE_NCCL_BACKWARDS: all-reduces add from the last rank to the first.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>

#include "runtime/emulation/nccl.h"

namespace nccl = tsr::emulation::nccl;
using Comm = tsr::comm::Nccl218::Comm;

// Whether this exchange goes wrong.
static bool broken(Comm comm) {
  static const int at = getenv("FAKE_NCCL_FAIL") ? atoi(getenv("FAKE_NCCL_FAIL")) : -1;
  static int exchanges = 0;
  return nccl::of(comm)->failed = nccl::of(comm)->failed || exchanges++ == at;
}

// The communicator with its ranks in the other order.
static Comm backwards(Comm comm) {
  static std::map<Comm, Comm> known;
  Comm& found = known[comm];
  if (!found) {
    auto* const other = new nccl::Communicator(*nccl::of(comm));
    std::reverse(other->group.ranks.begin(), other->group.ranks.end());
    other->group.me = other->group.size() - 1 - other->group.me;
    found = nccl::as_comm(other);
  }
  return found;
}

extern "C" {

int ncclGetVersion(int* version) { return *version = getenv("FAKE_NCCL_OLD") ? 21602 : 22100, 0; }
const char* ncclGetErrorString(int code) { return nccl::error_text(code); }
int ncclGetUniqueId(tsr::comm::Nccl218::UniqueId* id) { return nccl::unique_id(id); }
int ncclCommInitRankConfig(Comm* out, int ranks, tsr::comm::Nccl218::UniqueId id, int rank, tsr::comm::Nccl218::Config* config) { return nccl::init(out, ranks, id, rank, config); }
int ncclCommSplit(Comm comm, int color, int key, Comm* out, tsr::comm::Nccl218::Config* config) { return nccl::split(comm, color, key, out, config); }
int ncclCommGetAsyncError(Comm comm, int* state) { return nccl::async_error(comm, state); }
int ncclCommFinalize(Comm comm) { return nccl::finalize(comm); }
int ncclCommDestroy(Comm comm) { return nccl::destroy(comm); }
int ncclCommAbort(Comm comm) {
  fprintf(stderr, "aborted %d\n", nccl::of(comm)->group.axis);
  return nccl::abort(comm);
}
int ncclAllReduce(const void* in, void* out, size_t count, int type, int op, Comm comm, void* stream) {
  return broken(comm), nccl::all_reduce(in, out, count, type, op, getenv("FAKE_NCCL_BACKWARDS") ? backwards(comm) : comm, stream);
}
int ncclAllGather(const void* in, void* out, size_t count, int type, Comm comm, void* stream) { return broken(comm), nccl::all_gather(in, out, count, type, comm, stream); }
int ncclReduceScatter(const void* in, void* out, size_t count, int type, int op, Comm comm, void* stream) { return broken(comm), nccl::reduce_scatter(in, out, count, type, op, comm, stream); }
int ncclBroadcast(const void* in, void* out, size_t count, int type, int root, Comm comm, void* stream) { return broken(comm), nccl::broadcast(in, out, count, type, root, comm, stream); }
int ncclSend(const void* data, size_t count, int type, int peer, Comm comm, void* stream) { return nccl::send(data, count, type, peer, comm, stream); }
int ncclRecv(void* data, size_t count, int type, int peer, Comm comm, void* stream) { return nccl::receive(data, count, type, peer, comm, stream); }
int ncclGroupStart() { return nccl::group_start(); }
int ncclGroupEnd() { return nccl::group_end(); }

}  // extern "C"
