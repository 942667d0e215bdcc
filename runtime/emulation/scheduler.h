// What the parts of the engine share: the resident blocks of one host thread, the threads that can run, the choices.
#pragma once
#include <cstdlib>
#include <string>

#include "engine.h"
#include "fiber.h"

namespace tsr::emulation {

enum class Order { rising, falling, random };  // in which threads that can run are taken
enum class Asynchrony { late, early, random };  // when asynchronous work happens, of all times that CUDA allows

/// Choices of a run, from the environment: TSR_EMULATION_ORDER, _ASYNC, _SEED, _THREADS.
struct Settings {
  Order order = Order::rising;
  Asynchrony asynchrony = Asynchrony::late;
  uint64_t seed = 1;
  unsigned host_threads = 1;
};
Settings settings_from_environment();

constexpr size_t kDynamicStart = 1024;  // of dynamic shared memory in a block's; the variables follow it

struct Engine {
  Settings settings;
  std::vector<Thread> threads;
  std::vector<Block> blocks;
  std::vector<char*> windows;  // shared memory by rank
  std::vector<std::pair<const void*, size_t>> variables;  // __shared__ ones by their key, and where every block has them
  size_t shared_bytes = 0;     // of the windows that are in use
  size_t stale = 0;            // of the windows that earlier blocks used
  std::vector<Thread*> queue;
  size_t head = 0;             // of the queue, where it is first in, first out
  std::vector<std::function<void()>> jobs;  // asynchronous work that has not happened yet
  Barrier group;
  const std::function<void()>* body = nullptr;
  std::string error;
  uint64_t random = 1;
  unsigned left = 0;  // threads that have not returned
  void* scheduler = nullptr;
  void* scheduler_shadow = nullptr;
  const void* scheduler_stack = nullptr;
  size_t scheduler_size = 0;

  uint32_t draw() {  // xorshift64 (Marsaglia, 2003)
    random ^= random << 13, random ^= random >> 7, random ^= random << 17;
    return uint32_t(random >> 32);
  }
  void make_ready(Thread* thread) {
    thread->state = State::ready;
    queue.push_back(thread);
  }
};

extern __thread Engine* engine;  // of this host thread while it runs blocks

/// Leaves the current thread for the scheduler, in `state`.
void suspend(State state, const Site& site);
/// Who waits where, grouped, one line per group.
std::string waiting_threads();
/// Fails if others wait for the current thread, which returns from the kernel.
void check_exit();

}  // namespace tsr::emulation
