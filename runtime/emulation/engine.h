// The execution model of CUDA on a host: every thread of a block is a fiber, blocks run one after another (or together, as
// a cluster or a cooperative grid), and what threads of a block do to each other goes through the functions below.
// This header is what kernels see; engine.cpp holds the rest.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "types.h"

namespace tsr::emulation {

/// A place in the source, for reports. `what` is the operation.
struct Site {
  const char* what = "";
  const char* file = "";
  int line = 0;
};
#define TSR_HERE const char *file_ = __builtin_FILE(), int line_ = __builtin_LINE()

enum class State : uint8_t { ready, at_barrier, in_warp, waiting, done };

struct Block;

/// One thread of a kernel.
struct Thread {
  void* context = nullptr;  // where its execution was left
  char* stack = nullptr;
  void* shadow = nullptr;   // of the address sanitizer
  Block* block = nullptr;
  uint3 index{};
  unsigned linear = 0;      // in its block
  unsigned lane = 0;        // in its warp
  unsigned number = 0;      // among all resident threads
  State state = State::done;
  Site site;                // what it waits in
  int vote = 0;             // its operand in a barrier that counts, then the result
  const void* awaits = nullptr;  // object of State::waiting
  bool fresh = true;             // nothing asynchronous asked for yet
};

/// Operands of one warp collective, while its lanes arrive.
struct Collective {
  uint32_t mask = 0, arrived = 0;
  void (*run)(void** operands, uint32_t lanes) = nullptr;
  Site site;
  void* operands[32];
};

/// A product of a warpgroup, as far as one of its warps carries it out (ptx_sm90.h).
struct WarpProduct {
  float* d[32];                 // of every lane
  const uint32_t* a[32];        // null: the left operand is in shared memory
  std::vector<uint32_t> words;  // what they were when the product was asked for
  std::vector<float> sums;
  uint64_t left, right;
  int columns, element;
  bool along, add;
  bool first;                   // nothing that is under way adds to the same sums
  bool done;
  Site site;
};

struct Warp {
  uint32_t alive = 0;
  std::vector<Collective> pending;
  std::vector<WarpProduct> products;  // not waited for
  std::vector<size_t> groups;         // with how many of them each ends
  bool fenced = false;                // since the warp last waited
};

/// A barrier with an id: 0 is __syncthreads', 1 to 15 belong to bar.sync.
struct Barrier {
  unsigned arrived = 0, expected = 0;
  int votes = 0;
  bool whole = false;  // all threads of the block, from one place in the source
  Site site;
  std::vector<Thread*> waiting;
  std::vector<unsigned> numbers;  // of everyone who arrived
};

struct Block {
  uint3 index{};
  unsigned rank = 0;  // among the resident blocks
  unsigned size = 0;  // threads
  unsigned left = 0;  // threads that have not returned
  Thread* threads = nullptr;
  char* shared = nullptr;
  std::vector<Warp> warps;
  Barrier barriers[16];
};

/// What stands between <<< and >>>, and where.
struct Launch {
  const char* kernel;
  const char* file;
  int line;
  dim3 grid, block;
  size_t shared_bytes = 0;
  struct Stream* stream = nullptr;
  unsigned cluster = 1;      // blocks that run together
  bool cooperative = false;  // all blocks run together
};

constexpr size_t kSharedBytes = 227 * 1024;   // of a block at most, as on sm_90
constexpr size_t kSharedWindow = 256 * 1024;  // alignment of a block's shared memory: low bits are the .shared address

extern __thread Thread* current;  // the thread that runs; null in host code

/// Ends the launch with an error: cudaErrorLaunchFailure with this text.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

/// Runs a kernel now: `body` once per thread. What went wrong, or nothing.
std::string execute(const Launch& launch, const std::function<void()>& body);
/// Puts a kernel on its stream (host_api.cpp).
void enqueue(const Launch& launch, std::function<void()> body);

/// kernel<<<...>>>(args...): the arguments are evaluated now, the kernel runs when its stream gets there.
template <class Kernel, class... Arguments>
void launch(const Launch& where, Kernel kernel, Arguments... arguments) {
  enqueue(where, [=] { kernel(arguments...); });
}

/// Waits in a barrier of the block; returns the number of threads whose `vote` was not 0. `expected` 0: the whole block.
int barrier(int id, unsigned expected, bool wait, int vote, const Site& site);
/// Waits for every thread of all resident blocks (cluster or cooperative grid).
void group_barrier(const Site& site);
/// Waits until all lanes of `mask` are here; the last one calls `run` with everybody's operand.
void warp_collective(uint32_t mask, void* operand, void (*run)(void**, uint32_t), const Site& site);
/// Lets other threads run.
void yield();
/// Waits until someone calls `wake` with the same object.
void wait_for(const void* object, const Site& site);
void wake(const void* object);
/// Resident blocks of this launch.
std::vector<Block>& resident();
/// A pseudo-random number of the launch's seed, for adversarial choices.
uint32_t random_number();

/// Memory of a __shared__ variable in the block of the current thread: the same for all its threads.
char* shared_variable(const void* key, const char* name, size_t bytes, size_t alignment);
char* dynamic_shared();
/// Fails unless all of [p, p + bytes) is shared memory of a resident block.
void need_shared(const void* p, size_t bytes, const Site& site);

/// A __shared__ declaration: converts to a reference of the declared type.
struct Shared {
  const void* key;
  const char* name;
  size_t alignment;
  template <class T>
  operator T&() const {
    return *reinterpret_cast<T*>(shared_variable(key, name, sizeof(T), alignment > alignof(T) ? alignment : alignof(T)));
  }
};

/// Copies *p; not an access of the race detector's.
void load(const void* p, void* to, size_t bytes);
/// *p = *desired if *p equals *expected; whether it did (else *expected is what was found). Sequentially consistent, of 1, 2, 4 or 8 bytes.
bool compare_exchange(void* p, void* expected, const void* desired, size_t bytes);

// ---- the race detector's hooks; nothing unless the program was built for it ----
namespace race {
enum class Kind : uint8_t { plain, atomic, async_proxy, copy_issued, copy_landed, bulk_issued, bulk_landed };
#ifdef TSR_EMULATION_RACE
void begin(unsigned threads, unsigned blocks, bool new_launch);
void end(std::string* report);
void join(const unsigned* numbers, size_t count);
void release(const void* object);
void acquire(const void* object);
void access(const void* p, size_t bytes, bool write, Kind kind, const Site& site);
void add_region(const void* p, size_t bytes, bool shared);
void remove_region(const void* p);
void pause(int by);
/// What the current thread knows of becomes visible to bulk copies and products of a warpgroup.
void fence_proxy();
#else
inline void begin(unsigned, unsigned, bool) {}
inline void end(std::string*) {}
inline void join(const unsigned*, size_t) {}
inline void release(const void*) {}
inline void acquire(const void*) {}
inline void access(const void*, size_t, bool, Kind, const Site&) {}
inline void add_region(const void*, size_t, bool) {}
inline void remove_region(const void*) {}
inline void pause(int) {}
inline void fence_proxy() {}
#endif
}  // namespace race
}  // namespace tsr::emulation
