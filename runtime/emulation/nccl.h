// NCCL for ranks that are processes of one host: what the emulation's programs call in its place. Exchanges are work on an
// emulated stream, carried out through shared memory with sums in the order of the ranks. As NCCL's, communicators that do not
// block are at work for a while before they are ready, and what is asked of them earlier is refused.
#pragma once
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "../comm/local.h"
#include "../comm/nccl_api.h"
#include "../comm/socket.h"
#include "host_api.h"

namespace tsr::emulation::nccl {

using comm::Nccl218;

struct Communicator {
  std::shared_ptr<comm::Local> memory;
  std::shared_ptr<int> splits;
  comm::Group group;
  int busy = 3;  // so often it is found at work
  bool failed = false, open = true;
};

inline Communicator* of(Nccl218::Comm comm) { return reinterpret_cast<Communicator*>(comm); }
inline Nccl218::Comm as_comm(Communicator* comm) { return reinterpret_cast<Nccl218::Comm>(comm); }

inline DType type_of(int type) { return type == Nccl218::kFloat32 ? DType::f32 : type == Nccl218::kFloat64 ? DType::f64 : type == Nccl218::kInt64 ? DType::i64 : DType::i32; }
inline Reduce kind_of(int op) { return op == Nccl218::kSum ? Reduce::sum : op == Nccl218::kMax ? Reduce::max : Reduce::min; }
inline size_t size_of(int type) { return type == Nccl218::kInt8 ? 1 : dtype_size(type_of(type)); }

/// Puts an exchange on a stream.
template <class Work>
int exchange(Communicator* comm, void* stream, const Work& work) {
  if (!comm->open || comm->busy > 0) return Nccl218::kInvalidArgument;
  enqueue(static_cast<cudaStream_t>(stream), [comm, work] {
    if (!comm->failed) work();
  });
  return Nccl218::kSuccess;
}

inline int version(int* out) { return *out = 21800, Nccl218::kSuccess; }
inline const char* error_text(int code) { return code == Nccl218::kRemoteError ? "remote process exited or there was a network error" : "invalid argument"; }

inline int unique_id(Nccl218::UniqueId* id) {
  snprintf(id->bytes, sizeof id->bytes, "/dev/shm/tesserac.nccl.%ld.%llx", static_cast<long>(getpid()), static_cast<unsigned long long>(comm::clock_seconds() * 1e9));
  return Nccl218::kSuccess;
}

/// The ranks meet in a file of the id's name, in which the first one says where their memory is.
inline int init(Nccl218::Comm* out, int ranks, Nccl218::UniqueId id, int rank, Nccl218::Config* config) {
  if (config->size != sizeof(Nccl218::Config) || config->magic != 0xcafebeef || config->blocking != 0) return Nccl218::kInvalidArgument;
  comm::Layout layout;
  layout.world = ranks, layout.axes = kMaxAxes + 2, layout.chunk = 65536 * static_cast<size_t>(ranks);
  auto* const made = new Communicator;
  if (rank == 0) {
    made->memory.reset(new comm::Local("", layout, 0));
    const std::string fresh = std::string(id.bytes) + ".part";
    FILE* const file = fopen(fresh.c_str(), "w");
    if (!file) return Nccl218::kRemoteError;
    fputs(made->memory->segment().path().c_str(), file);
    fclose(file);
    rename(fresh.c_str(), id.bytes);
  } else {
    FILE* file = nullptr;
    while (!(file = fopen(id.bytes, "r"))) usleep(1000);
    char path[200];
    if (!fgets(path, sizeof path, file)) return Nccl218::kRemoteError;
    fclose(file);
    made->memory.reset(new comm::Local(path, layout, rank));
  }
  made->splits = std::make_shared<int>(0);
  made->group.me = rank;
  for (int k = 0; k < ranks; ++k) made->group.ranks.push_back(k);
  made->memory->barrier(made->group);
  if (rank == 0) made->memory->segment().forget(), unlink(id.bytes);
  *out = as_comm(made);
  return Nccl218::kInProgress;
}

inline int split(Nccl218::Comm whole, int color, int key, Nccl218::Comm* out, Nccl218::Config* config) {
  Communicator* const comm = of(whole);
  if (comm->busy > 0 || config->blocking != 0) return Nccl218::kInvalidArgument;
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
  *out = as_comm(part);
  return Nccl218::kInProgress;
}

inline int async_error(Nccl218::Comm comm, int* state) {
  Communicator* const asked = of(comm);
  *state = asked->failed ? Nccl218::kRemoteError : asked->busy > 0 ? Nccl218::kInProgress : Nccl218::kSuccess;
  if (asked->busy > 0) --asked->busy;
  return Nccl218::kSuccess;
}
inline int finalize(Nccl218::Comm comm) { return of(comm)->busy = 2, Nccl218::kInProgress; }
inline int destroy(Nccl218::Comm comm) { return delete of(comm), Nccl218::kSuccess; }
inline int abort(Nccl218::Comm comm) { return of(comm)->open = false, Nccl218::kSuccess; }

inline int all_reduce(const void* in, void* out, size_t count, int type, int op, Nccl218::Comm members, void* stream) {
  Communicator* const comm = of(members);
  return exchange(comm, stream, [=] {
    if (in != out) memcpy(out, in, count * size_of(type));
    comm->memory->all_reduce(comm->group, kind_of(op), type_of(type), out, static_cast<int64_t>(count));
  });
}
inline int all_gather(const void* in, void* out, size_t count, int type, Nccl218::Comm members, void* stream) {
  Communicator* const comm = of(members);
  return exchange(comm, stream, [=] { comm->memory->all_gather(comm->group, in, out, count * size_of(type)); });
}
inline int reduce_scatter(const void* in, void* out, size_t count, int type, int op, Nccl218::Comm members, void* stream) {
  Communicator* const comm = of(members);
  return exchange(comm, stream, [=] { comm->memory->reduce_scatter(comm->group, kind_of(op), type_of(type), in, out, static_cast<int64_t>(count)); });
}
inline int broadcast(const void* in, void* out, size_t count, int type, int root, Nccl218::Comm members, void* stream) {
  Communicator* const comm = of(members);
  return exchange(comm, stream, [=] {
    if (in != out) memcpy(out, in, count * size_of(type));
    comm->memory->broadcast(comm->group, out, count * size_of(type), root);
  });
}

/// Sends and receives between group_start and group_end, which together are one exchange. Every rank has at least one.
struct Messages {
  struct Message { const void* out; void* in; size_t bytes; int peer; };
  std::vector<Message> list;
  Communicator* comm = nullptr;
  void* stream = nullptr;
  int depth = 0;

  int add(const Message& message, Nccl218::Comm members, void* on) {
    if (depth == 0) return Nccl218::kInvalidArgument;
    list.push_back(message), comm = of(members), stream = on;
    return Nccl218::kSuccess;
  }
};
inline Messages& messages() {
  static Messages all;
  return all;
}

inline int send(const void* data, size_t count, int type, int peer, Nccl218::Comm comm, void* stream) { return messages().add({data, nullptr, count * size_of(type), peer}, comm, stream); }
inline int receive(void* data, size_t count, int type, int peer, Nccl218::Comm comm, void* stream) { return messages().add({nullptr, data, count * size_of(type), peer}, comm, stream); }
inline int group_start() { return ++messages().depth, Nccl218::kSuccess; }
inline int group_end() {
  Messages& group = messages();
  if (--group.depth > 0 || !group.comm) return Nccl218::kSuccess;
  Communicator* const comm = group.comm;
  const int code = exchange(comm, group.stream, [comm, list = group.list] {
    const size_t n = comm->group.ranks.size();
    std::vector<size_t> given(n), taken(n);
    std::vector<char> out(1), in(1);  // one byte more than there is
    for (size_t k = 0; k < n; ++k)
      for (const Messages::Message& m : list) {
        if (static_cast<size_t>(m.peer) != k) continue;
        if (m.out) given[k] += m.bytes, out.insert(out.end() - 1, static_cast<const char*>(m.out), static_cast<const char*>(m.out) + m.bytes);
        else taken[k] += m.bytes, in.resize(in.size() + m.bytes);
      }
    comm->memory->all_to_all_v(comm->group, out.data(), given.data(), in.data(), taken.data());
    const char* from = in.data();
    for (size_t k = 0; k < n; ++k)
      for (const Messages::Message& m : list)
        if (m.in && static_cast<size_t>(m.peer) == k) memcpy(m.in, from, m.bytes), from += m.bytes;
  });
  group.list.clear(), group.comm = nullptr;
  return code;
}

inline Nccl218 functions() {
  return {version, unique_id, init, split, async_error, finalize, destroy, abort, all_reduce, all_gather, reduce_scatter, broadcast, send, receive, group_start, group_end, error_text};
}

}  // namespace tsr::emulation::nccl

namespace tsr::comm {

inline Nccl218 nccl_library() { return emulation::nccl::functions(); }

}  // namespace tsr::comm
