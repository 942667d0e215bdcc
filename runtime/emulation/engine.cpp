// The scheduler: makes the blocks of a launch, runs their threads until all have returned, and reports when they cannot.
#include "cuda.h"
#include "scheduler.h"

#include <algorithm>
#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <map>
#include <thread>

__thread uint3 threadIdx, blockIdx;
__thread dim3 blockDim, gridDim;

namespace tsr::emulation {

__thread Thread* current = nullptr;
__thread Engine* engine = nullptr;

namespace {

const char* environment(const char* name, const char* otherwise) {
  const char* const value = getenv(name);
  return value != nullptr && value[0] != 0 ? value : otherwise;
}

/// Of the process: they keep their stacks and windows from launch to launch.
std::vector<Engine*>& engines() {
  static std::vector<Engine*> all;
  return all;
}

void to_scheduler() {
  Thread* const me = current;
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(me->state == State::done ? nullptr : &me->shadow, engine->scheduler_stack, engine->scheduler_size);
#endif
  tsr_emulation_switch(&me->context, engine->scheduler);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(me->shadow, &engine->scheduler_stack, &engine->scheduler_size);
#endif
}

/// Where every thread begins.
void entry() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, &engine->scheduler_stack, &engine->scheduler_size);
#endif
  (*engine->body)();
  check_exit();
  Thread* const me = current;
  me->state = State::done;
  --me->block->left, --engine->left;
  me->block->warps[me->linear / 32].alive &= ~(1u << me->lane);
  to_scheduler();
  abort();  // nobody resumes a thread that is done
}

void resume(Thread* thread) {
  current = thread;
  threadIdx = thread->index, blockIdx = thread->block->index;
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&engine->scheduler_shadow, thread->stack, kStack);
#endif
  tsr_emulation_switch(&engine->scheduler, thread->context);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(engine->scheduler_shadow, nullptr, nullptr);
#endif
  current = nullptr;
}

char* new_window() {
  const size_t size = 2 * kSharedWindow;
  void* const at = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) throw std::bad_alloc();
  char* const window = reinterpret_cast<char*>((uintptr_t(at) + kSharedWindow - 1) & ~uintptr_t(kSharedWindow - 1));
  memset(window, 0xff, kSharedWindow);
  race::add_region(window, kSharedWindow, true);
  return window;
}

void prepare_block(const Launch& launch, unsigned number, unsigned rank, unsigned size) {
  Engine& e = *engine;
  Block& b = e.blocks[rank];
  b.index = {number % launch.grid.x, number / launch.grid.x % launch.grid.y, number / launch.grid.x / launch.grid.y};
  b.rank = rank, b.size = b.left = size;
  b.threads = &e.threads[size_t(rank) * size];
  b.warps.assign((size + 31) / 32, Warp());
  if (e.windows.size() <= rank) e.windows.push_back(new_window());
  b.shared = e.windows[rank];
  TSR_UNPOISON(b.shared, kSharedWindow);
  memset(b.shared, 0xff, e.stale);  // NaNs: what is read before it is written shows
  TSR_POISON(b.shared, kSharedWindow);
  TSR_UNPOISON(b.shared + kDynamicStart, launch.shared_bytes);
  for (unsigned i = 0; i < size; ++i) {
    Thread& t = b.threads[i];
    if (t.stack == nullptr) t.stack = new_stack();
    t.context = new_context(t.stack, entry);
    t.shadow = nullptr;
    t.block = &b;
    t.index = {i % launch.block.x, i / launch.block.x % launch.block.y, i / launch.block.x / launch.block.y};
    t.linear = i, t.lane = i % 32, t.number = rank * size + i;
    t.site = {}, t.vote = 0, t.awaits = nullptr, t.fresh = true;
    b.warps[i / 32].alive |= 1u << t.lane;
    e.make_ready(&t);
  }
}

Thread* next_thread() {
  Engine& e = *engine;
  if (e.settings.order == Order::rising) return e.queue[e.head++];
  if (e.settings.order == Order::random) std::swap(e.queue[e.draw() % e.queue.size()], e.queue.back());
  Thread* const chosen = e.queue.back();
  e.queue.pop_back();
  return chosen;
}

/// Lets one piece of asynchronous work happen; whether there was any.
bool run_job() {
  Engine& e = *engine;
  if (e.jobs.empty()) return false;
  const size_t i = e.settings.asynchrony == Asynchrony::random ? e.draw() % e.jobs.size() : 0;
  const std::function<void()> job = std::move(e.jobs[i]);
  e.jobs.erase(e.jobs.begin() + long(i));
  job();
  return true;
}

/// Runs `count` blocks together, from block `first` of the grid on.
void run_blocks(const Launch& launch, unsigned first, unsigned count, unsigned size) {
  Engine& e = *engine;
  if (e.threads.size() < size_t(count) * size) e.threads.resize(size_t(count) * size);
  e.blocks.assign(count, Block());
  e.queue.clear(), e.head = 0, e.jobs.clear(), e.group = Barrier();
  e.left = count * size;
  e.variables.clear();
  e.shared_bytes = kDynamicStart + (launch.shared_bytes + 255) / 256 * 256;
  e.stale = std::max(e.stale, e.shared_bytes);
  race::begin(size, count, first == 0);
  for (unsigned rank = 0; rank < count; ++rank) prepare_block(launch, first + rank, rank, size);
  while (e.left > 0 && e.error.empty()) {
    if (e.settings.asynchrony == Asynchrony::random && !e.jobs.empty() && e.draw() % 64 == 0) run_job();
    if (e.head == e.queue.size()) {
      e.queue.clear(), e.head = 0;
      if (!run_job()) e.error = "deadlock: no thread can go on" + waiting_threads();
      continue;
    }
    resume(next_thread());
    if (e.head > 4096) e.queue.erase(e.queue.begin(), e.queue.begin() + long(e.head)), e.head = 0;
  }
  while (e.error.empty() && run_job()) {}
  for (Block& b : e.blocks) TSR_UNPOISON(b.shared, kSharedWindow);
  e.stale = std::max(e.stale, e.shared_bytes);
  race::end(&e.error);
}

std::string invalid(const Launch& launch) {
  const uint64_t blocks = uint64_t(launch.grid.x) * launch.grid.y * launch.grid.z, size = uint64_t(launch.block.x) * launch.block.y * launch.block.z;
  if (blocks == 0 || size == 0) return "a grid or a block without threads";
  if (size > 1024 || launch.block.z > 64) return "a block of " + std::to_string(size) + " threads; 1024 are the most";
  if (blocks > 0x7fffffffu || launch.grid.y > 65535 || launch.grid.z > 65535) return "a grid that is too large";
  if (launch.shared_bytes > kSharedBytes) return std::to_string(launch.shared_bytes) + " bytes of dynamic shared memory; " + std::to_string(kSharedBytes) + " are the most";
  if (blocks % launch.cluster != 0) return "a grid that is no multiple of its cluster";
  return "";
}

}  // namespace

Settings settings_from_environment() {
  Settings s;
  const std::string order = environment("TSR_EMULATION_ORDER", "rising"), async = environment("TSR_EMULATION_ASYNC", "late");
  s.order = order == "random" ? Order::random : order == "falling" ? Order::falling : Order::rising;
  s.asynchrony = async == "random" ? Asynchrony::random : async == "early" ? Asynchrony::early : Asynchrony::late;
  s.seed = strtoull(environment("TSR_EMULATION_SEED", "1"), nullptr, 0);
#ifndef TSR_EMULATION_RACE
  s.host_threads = unsigned(std::max(1, atoi(environment("TSR_EMULATION_THREADS", "1"))));
#endif
  return s;
}

void suspend(State state, const Site& site) {
  current->state = state;
  current->site = site;
  to_scheduler();
}

void yield() {
  engine->make_ready(current);
  to_scheduler();
}

void wait_for(const void* object, const Site& site) {
  current->awaits = object;
  suspend(State::waiting, site);
}

void wake(const void* object) {
  for (Block& b : engine->blocks)
    for (unsigned i = 0; i < b.size; ++i)
      if (b.threads[i].state == State::waiting && b.threads[i].awaits == object) engine->make_ready(&b.threads[i]);
}

std::vector<Block>& resident() { return engine->blocks; }
uint32_t random_number() { return engine->draw(); }

void fail(const char* format, ...) {
  char text[1024];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  if (engine == nullptr || current == nullptr) fprintf(stderr, "emulation: %s\n", text), abort();
  const uint3 b = current->block->index, t = current->index;
  char place[160];
  snprintf(place, sizeof place, "block (%u, %u, %u) thread (%u, %u, %u): ", b.x, b.y, b.z, t.x, t.y, t.z);
  if (engine->error.empty()) engine->error = std::string(place) + text;
  to_scheduler();  // which abandons all threads
  abort();
}

std::string waiting_threads() {
  std::map<std::string, std::pair<int, const Thread*>> groups;
  for (const Block& b : engine->blocks)
    for (unsigned i = 0; i < b.size; ++i) {
      const Thread& t = b.threads[i];
      std::string where = t.state == State::done ? "returned" : std::string("in ") + t.site.what + " at " + t.site.file + ":" + std::to_string(t.site.line);
      auto& group = groups[where];
      if (group.first++ == 0) group.second = &t;
    }
  std::string text;
  for (const auto& [where, group] : groups) {
    const uint3 b = group.second->block->index;
    text += "\n  " + std::to_string(group.first) + (group.first == 1 ? " thread" : " threads") + " (first: block (" + std::to_string(b.x) + ", " + std::to_string(b.y) + ", " +
            std::to_string(b.z) + ") thread " + std::to_string(group.second->linear) + ") " + where;
  }
  return text;
}

std::string execute(const Launch& launch, const std::function<void()>& body) {
  std::string error = invalid(launch);
  const unsigned blocks = launch.grid.x * launch.grid.y * launch.grid.z, size = launch.block.x * launch.block.y * launch.block.z;
  if (error.empty()) {
    const Settings settings = settings_from_environment();
    const unsigned together = launch.cooperative ? blocks : launch.cluster, groups = blocks / together;
    const unsigned hosts = std::min(settings.host_threads, groups);
    while (engines().size() < hosts) engines().push_back(new Engine);
    std::atomic<unsigned> next{0};
    std::atomic<bool> failed{false};
    auto work = [&](unsigned host) {
      engine = engines()[host];
      blockDim = launch.block, gridDim = launch.grid;
      engine->settings = settings, engine->body = &body, engine->error.clear();
      engine->random = 0x9E3779B97F4A7C15u * (settings.seed + 1);
      for (unsigned group; !failed && (group = next++) < groups;) {
        run_blocks(launch, group * together, together, size);
        if (!engine->error.empty()) failed = true;
      }
      engine = nullptr;
    };
    std::vector<std::thread> others;
    for (unsigned host = 1; host < hosts; ++host) others.emplace_back(work, host);
    work(0);
    for (std::thread& other : others) other.join();
    for (unsigned host = 0; host < hosts && error.empty(); ++host) error = engines()[host]->error;
  }
  return error.empty() ? "" : std::string("kernel ") + launch.kernel + ", launched at " + launch.file + ":" + std::to_string(launch.line) + ": " + error;
}

}  // namespace tsr::emulation

#include "async.cpp"
#include "blas.cpp"
#include "collectives.cpp"
#include "fft.cpp"
#include "host_api.cpp"
#include "tensor.cpp"
#include "wgmma.cpp"
#ifdef TSR_EMULATION_RACE
#include "race.cpp"
#endif
