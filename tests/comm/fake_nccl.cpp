// A libnccl.so.2 without GPUs: the functions of runtime/comm/nccl_api.h over shared memory. Like NCCL's, its communicators
// are at work for a while before they are ready. FAKE_NCCL_FAIL=N: the exchange number N never ends, and the communicator
// says that a remote rank is gone.
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "runtime/comm/local.h"
#include "runtime/comm/nccl_api.h"
#include "runtime/comm/socket.h"

using namespace tsr;
using namespace tsr::comm;

constexpr int kAxes = kMaxAxes + 2;
enum { kSuccess = 0, kInvalidArgument = 4, kRemoteError = 6, kInProgress = 7 };

struct Communicator {
  std::shared_ptr<Local> memory;
  std::shared_ptr<int> splits;
  Group group;
  int busy = 3;  // so often it is found at work
  bool failed = false, open = true;
};
using Comm = Communicator*;

struct Message { const void* out; void* in; size_t bytes; int peer; };
static std::vector<Message> messages;
static Comm messages_of = nullptr;
static int depth = 0, exchanges = 0;

// What is on the stream before comes first.
static void drain(void* stream) {
  using Synchronize = int (*)(void*);
  static const Synchronize wait = reinterpret_cast<Synchronize>(dlsym(RTLD_DEFAULT, "cudaStreamSynchronize"));
  if (wait) wait(stream);
}

// Whether this exchange goes wrong.
static bool broken(Comm comm) {
  static const int at = getenv("FAKE_NCCL_FAIL") ? atoi(getenv("FAKE_NCCL_FAIL")) : -1;
  return comm->failed = comm->failed || exchanges++ == at;
}

template <class Work>
static int exchange(Comm comm, void* stream, const Work& work) {
  if (!comm->open || comm->busy > 0) return kInvalidArgument;  // asked for before it was ready
  drain(stream);
  if (!broken(comm)) work();
  return kSuccess;
}

static DType type_of(int type) { return type == 7 ? DType::f32 : type == 8 ? DType::f64 : type == 4 ? DType::i64 : DType::i32; }
static Reduce kind_of(int op) { return op == 0 ? Reduce::sum : op == 2 ? Reduce::max : Reduce::min; }
static size_t size_of(int type) { return type == 0 ? 1 : dtype_size(type_of(type)); }

extern "C" {

int ncclGetVersion(int* version) { return *version = getenv("FAKE_NCCL_OLD") ? 21602 : 22100, 0; }
const char* ncclGetErrorString(int code) { return code == kRemoteError ? "remote process exited or there was a network error" : "invalid argument"; }

int ncclGetUniqueId(Nccl218::UniqueId* id) {
  snprintf(id->bytes, sizeof id->bytes, "/dev/shm/tesserac.fake.%ld.%llx", long(getpid()), static_cast<unsigned long long>(clock_seconds() * 1e9));
  return 0;
}

int ncclCommInitRankConfig(Comm* out, int ranks, Nccl218::UniqueId id, int rank, Nccl218::Config* config) {
  if (config->size != 48 || config->magic != 0xcafebeef || config->blocking != 0) return kInvalidArgument;
  Layout layout;
  layout.world = ranks, layout.axes = kAxes, layout.chunk = 65536 * size_t(ranks);
  auto* const comm = new Communicator;
  if (rank == 0) {
    comm->memory.reset(new Local("", layout, 0));
    const std::string fresh = std::string(id.bytes) + ".part";
    FILE* const file = fopen(fresh.c_str(), "w");
    fputs(comm->memory->segment().path().c_str(), file);
    fclose(file);
    rename(fresh.c_str(), id.bytes);
  } else {
    FILE* file = nullptr;
    while (!(file = fopen(id.bytes, "r"))) usleep(1000);
    char path[200];
    if (!fgets(path, sizeof path, file)) return kInvalidArgument;
    fclose(file);
    comm->memory.reset(new Local(path, layout, rank));
  }
  comm->splits = std::make_shared<int>(0);
  comm->group.me = rank;
  for (int k = 0; k < ranks; ++k) comm->group.ranks.push_back(k);
  comm->memory->barrier(comm->group);
  if (rank == 0) comm->memory->segment().forget(), unlink(id.bytes);
  *out = comm;
  return kInProgress;
}

int ncclCommSplit(Comm comm, int color, int key, Comm* out, Nccl218::Config* config) {
  if (comm->busy > 0 || config->blocking != 0) return kInvalidArgument;
  auto* const part = new Communicator(*comm);
  std::vector<int> all(2 * comm->group.ranks.size()), mine = {color, key};
  comm->memory->all_gather(comm->group, mine.data(), all.data(), 2 * sizeof(int));
  std::map<int, int> members;
  for (size_t k = 0; k < comm->group.ranks.size(); ++k)
    if (all[2 * k] == color) members[all[2 * k + 1]] = comm->group.ranks[k];
  part->group = {++*comm->splits, color, 0, {}};
  for (const auto& member : members) {
    if (member.first == key) part->group.me = static_cast<int>(part->group.ranks.size());
    part->group.ranks.push_back(member.second);
  }
  part->busy = 3;
  *out = part;
  return kInProgress;
}

int ncclCommGetAsyncError(Comm comm, int* state) {
  *state = comm->failed ? kRemoteError : comm->busy > 0 ? kInProgress : kSuccess;
  if (comm->busy > 0) --comm->busy;
  return kSuccess;
}
int ncclCommFinalize(Comm comm) { return comm->busy = 2, kInProgress; }
int ncclCommDestroy(Comm comm) { return delete comm, kSuccess; }
int ncclCommAbort(Comm comm) {
  comm->open = false;
  fprintf(stderr, "aborted %d\n", comm->group.axis);
  return kSuccess;
}

int ncclAllReduce(const void* in, void* out, size_t count, int type, int op, Comm comm, void* stream) {
  return exchange(comm, stream, [&] {
    if (in != out) memcpy(out, in, count * size_of(type));
    comm->memory->all_reduce(comm->group, kind_of(op), type_of(type), out, int64_t(count));
  });
}
int ncclAllGather(const void* in, void* out, size_t count, int type, Comm comm, void* stream) {
  return exchange(comm, stream, [&] { comm->memory->all_gather(comm->group, in, out, count * size_of(type)); });
}
int ncclReduceScatter(const void* in, void* out, size_t count, int type, int op, Comm comm, void* stream) {
  return exchange(comm, stream, [&] { comm->memory->reduce_scatter(comm->group, kind_of(op), type_of(type), in, out, int64_t(count)); });
}
int ncclBroadcast(const void* in, void* out, size_t count, int type, int root, Comm comm, void* stream) {
  return exchange(comm, stream, [&] {
    if (in != out) memcpy(out, in, count * size_of(type));
    comm->memory->broadcast(comm->group, out, count * size_of(type), root);
  });
}
int ncclGroupStart() { return ++depth, kSuccess; }
int ncclSend(const void* data, size_t count, int type, int peer, Comm comm, void* stream) {
  drain(stream);
  return messages.push_back({data, nullptr, count * size_of(type), peer}), messages_of = comm, depth > 0 ? kSuccess : kInvalidArgument;
}
int ncclRecv(void* data, size_t count, int type, int peer, Comm comm, void* stream) {
  drain(stream);
  return messages.push_back({nullptr, data, count * size_of(type), peer}), messages_of = comm, depth > 0 ? kSuccess : kInvalidArgument;
}
// The messages of a group are one exchange. Ranks without any cannot know of it: everybody has sent something, if only to itself.
int ncclGroupEnd() {
  if (--depth > 0 || !messages_of) return kSuccess;
  Comm const comm = messages_of;
  const size_t n = comm->group.ranks.size();
  std::vector<size_t> given(n), taken(n);
  std::vector<char> out, in;
  for (size_t k = 0; k < n; ++k)
    for (const Message& m : messages)
      if (static_cast<size_t>(m.peer) == k) {
        if (m.out) given[k] += m.bytes, out.insert(out.end(), static_cast<const char*>(m.out), static_cast<const char*>(m.out) + m.bytes);
        else taken[k] += m.bytes;
      }
  size_t total = 0;
  for (const size_t bytes : taken) total += bytes;
  in.resize(total + 1), out.resize(out.size() + 1);
  const int code = exchange(comm, nullptr, [&] { comm->memory->all_to_all_v(comm->group, out.data(), given.data(), in.data(), taken.data()); });
  const char* from = in.data();
  for (size_t k = 0; k < n; ++k)
    for (const Message& m : messages)
      if (m.in && static_cast<size_t>(m.peer) == k) memcpy(m.in, from, m.bytes), from += m.bytes;
  messages.clear(), messages_of = nullptr;
  return code;
}

}  // extern "C"
