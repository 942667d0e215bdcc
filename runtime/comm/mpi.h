// The back end over MPI, for ranks on several hosts. Compiled with -DTSR_MPI by an MPI's own mpicxx (`make MPI=1`):
// libraries of different MPIs have different binary interfaces, so none can be loaded at run time. MPI moves bytes and
// never adds: its sums have no order that one could rely on, ours have that of the ranks, as in local.h.
#pragma once
#include <mpi.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "combine.h"
#include "wires.h"

namespace tsr {
namespace comm {

// Makes MPI ready unless the process has done so before. Calls come one at a time.
class MpiLibrary {
 public:
  explicit MpiLibrary(int world) {
    int ready = 0, size = 0;
    MPI_Initialized(&ready);
    if (!ready) MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &level_), own_ = true;
    else MPI_Query_thread(&level_);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    if (size != world) {
      if (own_) MPI_Finalize();
      throw Error("T0946", format("MPI knows of %d %s, not of the %d that were started", size, size == 1 ? "rank" : "ranks", world),
                  "start the program with the mpirun (or srun) of the MPI that `make MPI=1` compiled it with", kExitUsage);
    }
  }
  // Waits for all ranks: nothing to call when some are lost.
  void finish() {
    if (own_) MPI_Finalize();
    own_ = false;
  }
  bool any_thread() const { return level_ >= MPI_THREAD_SERIALIZED; }
  MpiLibrary(const MpiLibrary&) = delete;
  MpiLibrary& operator=(const MpiLibrary&) = delete;

 private:
  bool own_ = false;
  int level_ = MPI_THREAD_SINGLE;
};

class Mpi : public Backend {
 public:
  // `groups`: this rank's, by axis; the last has all ranks. `board` is kept for World.
  Mpi(const std::vector<Group>& groups, std::unique_ptr<Board> board) : library_(groups.back().size()), board_(std::move(board)) {
    MPI_Comm all = MPI_COMM_NULL;
    MPI_Comm_split(MPI_COMM_WORLD, 0, groups.back().me, &all);  // MPI may number the ranks in another way
    for (const Group& group : groups) {
      MPI_Comm members = MPI_COMM_NULL;
      MPI_Comm_split(all, group.index, group.me, &members);
      MPI_Comm_set_errhandler(members, MPI_ERRORS_RETURN);
      members_.push_back(members);
    }
    MPI_Comm_free(&all);
  }

  void finish() override {
    for (MPI_Comm& members : members_) MPI_Comm_free(&members);
    library_.finish();
  }

  const char* name() const override { return "mpi"; }
  bool any_thread() const override { return library_.any_thread(); }

  // Few elements: everybody adds everything. Many: every rank adds its share, in pieces that stay in the caches.
  void all_reduce(const Group& group, Reduce kind, DType type, void* data, int64_t count) override {
    const size_t n = static_cast<size_t>(group.size()), size = dtype_size(type), bytes = static_cast<size_t>(count) * size;
    if (n * bytes <= kFew) {
      char* const all = work(n * bytes);
      need(MPI_Allgather(data, static_cast<int>(bytes), MPI_BYTE, all, static_cast<int>(bytes), MPI_BYTE, of(group)));
      memcpy(data, all, bytes);
      for (size_t k = 1; k < n; ++k) combine(type, kind, static_cast<char*>(data), all + k * bytes, count);
      return;
    }
    const int64_t most = static_cast<int64_t>(kPiece / size);
    for (int64_t first = 0; first < count; first += most) {
      const int64_t here = std::min(most, count - first);
      char* const at = static_cast<char*>(data) + static_cast<size_t>(first) * size;
      std::vector<int> sizes(n), starts(n);
      for (size_t k = 0; k < n; ++k) {
        const int64_t begin = here * static_cast<int64_t>(k) / group.size(), end = here * (static_cast<int64_t>(k) + 1) / group.size();
        starts[k] = static_cast<int>(begin * static_cast<int64_t>(size)), sizes[k] = static_cast<int>((end - begin) * static_cast<int64_t>(size));
      }
      char* const sum = at + starts[static_cast<size_t>(group.me)];
      add_blocks(group, kind, type, at, sizes, starts, sum);
      need(MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_BYTE, at, sizes.data(), starts.data(), MPI_BYTE, of(group)));
    }
  }

  void all_gather(const Group& group, const void* in, void* out, size_t bytes) override {
    const size_t n = static_cast<size_t>(group.size());
    if (bytes <= kMost / n) {
      const bool placed = in == static_cast<char*>(out) + static_cast<size_t>(group.me) * bytes;
      need(MPI_Allgather(placed ? MPI_IN_PLACE : in, static_cast<int>(bytes), MPI_BYTE, out, static_cast<int>(bytes), MPI_BYTE, of(group)));
      return;
    }
    const size_t me = static_cast<size_t>(group.me);
    memmove(static_cast<char*>(out) + me * bytes, in, bytes);
    Messages messages(*this, group);
    for (size_t k = 0; k < n; ++k)
      if (k != me) messages.receive(k, static_cast<char*>(out) + k * bytes, bytes);
    for (size_t k = 0; k < n; ++k)
      if (k != me) messages.send(k, static_cast<const char*>(in), bytes);
    messages.wait();
  }

  void reduce_scatter(const Group& group, Reduce kind, DType type, const void* in, void* out, int64_t count) override {
    const size_t n = static_cast<size_t>(group.size()), size = dtype_size(type);
    const int64_t most = std::max<int64_t>(1, static_cast<int64_t>(kPiece / size / n));
    std::vector<int> sizes(n), starts(n);
    std::vector<char> piece;
    for (int64_t first = 0; first < count; first += most) {
      const size_t bytes = static_cast<size_t>(std::min(most, count - first)) * size;
      piece.resize(n * bytes);
      for (size_t k = 0; k < n; ++k) {
        memcpy(piece.data() + k * bytes, static_cast<const char*>(in) + (k * static_cast<size_t>(count) + static_cast<size_t>(first)) * size, bytes);
        sizes[k] = static_cast<int>(bytes), starts[k] = static_cast<int>(k * bytes);
      }
      add_blocks(group, kind, type, piece.data(), sizes, starts, static_cast<char*>(out) + static_cast<size_t>(first) * size);
    }
  }

  void all_to_all_v(const Group& group, const void* in, const size_t* in_bytes, void* out, const size_t* out_bytes) override {
    const size_t n = static_cast<size_t>(group.size());
    Messages messages(*this, group);
    char* to = static_cast<char*>(out);
    for (size_t k = 0; k < n; to += out_bytes[k++]) messages.receive(k, to, out_bytes[k]);
    const char* from = static_cast<const char*>(in);
    for (size_t k = 0; k < n; from += in_bytes[k++]) messages.send(k, from, in_bytes[k]);
    messages.wait();
  }

  void broadcast(const Group& group, void* data, size_t bytes, int root) override {
    for (size_t first = 0; first < bytes; first += kMost)
      need(MPI_Bcast(static_cast<char*>(data) + first, static_cast<int>(std::min(kMost, bytes - first)), MPI_BYTE, root, of(group)));
  }

  void barrier(const Group& group) override { need(MPI_Barrier(of(group))); }

 private:
  static constexpr size_t kFew = 1 << 15, kPiece = 1 << 22, kMost = 1 << 30;  // bytes; MPI counts in int

  // Arrays of any length between pairs of ranks: messages between two ranks arrive in the order in which they were sent.
  class Messages {
   public:
    Messages(Mpi& mpi, const Group& group) : mpi_(mpi), members_(mpi.of(group)) {}
    void receive(size_t from, char* data, size_t bytes) {
      for (size_t first = 0; first < bytes; first += kMost)
        mpi_.need(MPI_Irecv(data + first, static_cast<int>(std::min(kMost, bytes - first)), MPI_BYTE, static_cast<int>(from), 0, members_, next()));
    }
    void send(size_t to, const char* data, size_t bytes) {
      for (size_t first = 0; first < bytes; first += kMost)
        mpi_.need(MPI_Isend(data + first, static_cast<int>(std::min(kMost, bytes - first)), MPI_BYTE, static_cast<int>(to), 0, members_, next()));
    }
    void wait() { mpi_.need(MPI_Waitall(static_cast<int>(requests_.size()), requests_.data(), MPI_STATUSES_IGNORE)); }

   private:
    MPI_Request* next() {
      requests_.push_back(MPI_REQUEST_NULL);
      return &requests_.back();
    }
    Mpi& mpi_;
    MPI_Comm members_;
    std::vector<MPI_Request> requests_;
  };

  MPI_Comm of(const Group& group) const { return members_[static_cast<size_t>(group.axis)]; }

  // sum = the blocks that all ranks have for this one, added in their order; block k of `in` is sizes[k] bytes from starts[k] on.
  void add_blocks(const Group& group, Reduce kind, DType type, const char* in, const std::vector<int>& sizes, const std::vector<int>& starts, char* sum) {
    const size_t n = static_cast<size_t>(group.size()), mine = static_cast<size_t>(sizes[static_cast<size_t>(group.me)]);
    std::vector<int> received(n, static_cast<int>(mine)), places(n);
    for (size_t k = 0; k < n; ++k) places[k] = static_cast<int>(k * mine);
    char* const blocks = work(n * mine);
    need(MPI_Alltoallv(in, sizes.data(), starts.data(), MPI_BYTE, blocks, received.data(), places.data(), MPI_BYTE, of(group)));
    memcpy(sum, blocks, mine);
    for (size_t k = 1; k < n; ++k) combine(type, kind, sum, blocks + k * mine, static_cast<int64_t>(mine / dtype_size(type)));
  }

  // MPI's calls fail when a rank is gone; the watchdog knows which one, says so, and ends the process.
  void need(int code) const {
    if (code == MPI_SUCCESS) return;
    for (int tenths = 0; tenths < 100; ++tenths) usleep(100000);
    char text[MPI_MAX_ERROR_STRING] = "";
    int length = 0;
    MPI_Error_string(code, text, &length);
    throw Error("T0944", std::string("an exchange over MPI has failed: ") + text, "start the same command again with --resume: it goes on from the last checkpoint", kExitLost);
  }

  char* work(size_t bytes) {
    if (work_.size() < bytes) work_.resize(bytes);
    return work_.data();
  }

  MpiLibrary library_;
  std::unique_ptr<Board> board_;
  std::vector<MPI_Comm> members_;
  std::vector<char> work_;
};

}  // namespace comm
}  // namespace tsr
