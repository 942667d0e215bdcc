// The race detector. Kernels are compiled with -fsanitize=thread, which calls __tsan_read4(p) and the like before every
// access to memory; they are linked with the functions below instead of the sanitizer's own library.
//
// Two accesses of different threads to the same byte race if one of them is a write and none happens before the other.
// "Before" comes from vector clocks (Fidge 1988; DJIT+, Pozniansky and Schuster 2003), joined by barriers, __syncwarp and
// atomics, not by shuffles. Every byte remembers its last write and its last two reads, so the verdict hardly depends
// on the order in which threads ran. Everything runs on one host thread.
#include <dlfcn.h>
#include <link.h>

#include <cstdio>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>

#include "scheduler.h"

namespace tsr::emulation::race {
namespace {

using Clock = std::vector<uint32_t>;
using ClockPointer = std::shared_ptr<const Clock>;
using Groups = std::map<uint32_t, ClockPointer>;

/// One access. `group` numbers the sets of resident blocks from 1 on (0: none); `place` is an index into `places`.
struct Access {
  uint32_t group = 0, clock = 0, place = 0;
  uint16_t thread = 0;
  Kind kind = Kind::plain;
  bool write = false;
};
struct Cell {
  Access write, reads[2];
};
constexpr size_t kPage = 4096;
struct Page {
  Cell cells[kPage];
  bool shared;
};
/// What is known of others: clocks within the resident blocks, and of blocks that ran before in the same launch.
struct Knowledge {
  ClockPointer group;
  std::shared_ptr<const Groups> others;
  ClockPointer fenced;  // of `group`, what a fence has made visible to the async proxy (null: nothing)
};
struct Released {
  uint32_t group = 0;
  Clock clock;
  Groups others;
  ClockPointer fenced;
};
struct Region {
  size_t bytes;
  bool shared;
};

struct Detector {
  std::map<uintptr_t, Region> regions;
  std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages;
  struct { uintptr_t key; Page* page; } cache[1024] = {};
  std::vector<uint32_t> clocks;       // own clock by thread
  std::vector<Knowledge> knowledge;   // by thread
  std::unordered_map<const void*, Released> released;
  uint32_t group = 0, first_group = 1;  // now, and where the launch began
  unsigned size = 1, together = 1;      // threads per block, blocks per group
  int paused = 0;
  std::map<std::string, uint32_t> site_numbers;
  std::unordered_map<uintptr_t, uint32_t> code_numbers;
  std::vector<std::pair<uintptr_t, std::string>> places{{0, "?"}};  // code address, or text
  std::set<std::pair<uint32_t, uint32_t>> reported;
  std::string report;
};
Detector& detector() {
  static Detector* const d = new Detector;
  return *d;
}

void join_into(Clock& to, const Clock& from) {
  for (size_t i = 0; i < from.size(); ++i) to[i] = to[i] > from[i] ? to[i] : from[i];
}

ClockPointer joined(const ClockPointer& a, const ClockPointer& b) {
  if (a == nullptr || b == nullptr || a == b) return a != nullptr ? a : b;
  const auto all = std::make_shared<Clock>(*a);
  join_into(*all, *b);
  return all;
}

std::string source_line(uintptr_t code) {
  Dl_info found;
  link_map* map = nullptr;
  if (dladdr1(reinterpret_cast<void*>(code), &found, reinterpret_cast<void**>(&map), RTLD_DL_LINKMAP) == 0) return "?";
  const std::string file = found.dli_fname[0] != 0 ? found.dli_fname : "/proc/self/exe";
  char command[1024], line[512] = "";
  snprintf(command, sizeof command, "addr2line -s -e '%s' %#lx 2>/dev/null", file.c_str(), (unsigned long)(code - 1 - map->l_addr));
  if (FILE* const pipe = popen(command, "r")) {
    if (fgets(line, sizeof line, pipe) == nullptr) line[0] = 0;
    pclose(pipe);
  }
  std::string text = line;
  return text.substr(0, text.find_first_of(" \n"));
}

std::string where(uint32_t place) {
  auto& [code, text] = detector().places[place];
  if (text.empty()) text = source_line(code);
  return text;
}

std::string who(const Access& a) {
  const Detector& d = detector();
  const unsigned block = (a.group - d.first_group) * d.together + a.thread / d.size;
  return std::string(a.kind == Kind::atomic ? "atomic " : "") + (a.write ? "write" : "read") + " by block " + std::to_string(block) + " thread " + std::to_string(a.thread % d.size) + " at " + where(a.place);
}

void tell(const char* what, bool shared, const Access& now, const Access* before) {
  Detector& d = detector();
  constexpr size_t kReports = 8;
  if (d.reported.size() >= kReports || !d.reported.emplace(now.place, before != nullptr ? before->place : 0).second) return;
  d.report += (d.report.empty() ? "" : "\n  ") + std::string(what) + (shared ? " of shared memory: " : " of global memory: ") + who(now);
  if (before != nullptr) d.report += "; " + who(*before);
}

Page* page_of(uintptr_t address) {
  Detector& d = detector();
  const uintptr_t key = address / kPage;
  auto& slot = d.cache[key % 1024];
  if (slot.key == key) return slot.page;
  slot.key = key, slot.page = nullptr;
  auto region = d.regions.upper_bound(address);
  if (region == d.regions.begin()) return nullptr;
  --region;
  if (address >= (region->first + region->second.bytes + kPage - 1) / kPage * kPage) return nullptr;
  std::unique_ptr<Page>& page = d.pages[key];
  if (page == nullptr) page.reset(new Page()), page->shared = region->second.shared;
  return slot.page = page.get();
}

bool happened_before(const Access& before, const Page& page, uint32_t me) {
  const Detector& d = detector();
  if (before.group < d.first_group) return true;  // an earlier launch
  const Knowledge& known = d.knowledge[me];
  if (before.group == d.group) return before.thread == me || (*known.group)[before.thread] >= before.clock;
  if (page.shared) return true;  // another block's memory lay there
  if (known.others == nullptr) return false;
  const auto seen = known.others->find(before.group);
  return seen != known.others->end() && (*seen->second)[before.thread] >= before.clock;
}

/// Whether bulk copies or products of a warpgroup touch what a thread has written without a fence since.
bool lacks_fence(const Access& before, const Access& now) {
  const bool by_threads = before.kind == Kind::plain || before.kind == Kind::atomic || before.kind == Kind::copy_landed;
  if (!by_threads || before.group != now.group || (now.kind != Kind::async_proxy && now.kind != Kind::bulk_issued)) return false;
  const ClockPointer& fenced = detector().knowledge[now.thread].fenced;
  return fenced == nullptr || (*fenced)[before.thread] < before.clock;
}

void check(Cell& cell, const Page& page, const Access& now) {
  const auto races = [&](const Access& before) {
    return before.group != 0 && !(before.kind == Kind::atomic && now.kind == Kind::atomic) && !happened_before(before, page, now.thread);
  };
  const bool issued = cell.write.kind == Kind::copy_issued || cell.write.kind == Kind::bulk_issued;
  const bool flying = issued && cell.write.group == now.group && now.kind != Kind::copy_landed && now.kind != Kind::bulk_landed;
  if (flying) return tell("use of what an asynchronous copy has not been waited for", page.shared, now, &cell.write);
  if (races(cell.write)) tell("data race", page.shared, now, &cell.write);
  else if (lacks_fence(cell.write, now)) tell("no fence_proxy_async between two accesses", page.shared, now, &cell.write);
  if (!now.write) {
    if (page.shared && cell.write.group != detector().group) tell("uninitialised read", true, now, nullptr);
    Access& slot = cell.reads[0].group != now.group || cell.reads[0].thread == now.thread ? cell.reads[0] : cell.reads[1];
    slot = now;
    return;
  }
  for (const Access& read : cell.reads)
    if (races(read)) tell("data race", page.shared, now, &read);
  cell = Cell();
  cell.write = now;
}

void access_at(uintptr_t address, size_t bytes, bool write, Kind kind, uint32_t place) {
  Detector& d = detector();
  Page* page = page_of(address);
  if (page == nullptr) return;
  const uint32_t me = current->number;
  const Access now{d.group, d.clocks[me], place, uint16_t(me), kind, write};
  for (size_t i = 0; i < bytes; ++i) {
    if (i > 0 && (address + i) % kPage == 0 && (page = page_of(address + i)) == nullptr) return;
    check(page->cells[(address + i) % kPage], *page, now);
  }
}

}  // namespace

void begin(unsigned threads, unsigned blocks, bool new_launch) {
  Detector& d = detector();
  ++d.group;
  if (new_launch) d.first_group = d.group, d.released.clear(), d.reported.clear();
  d.size = threads, d.together = blocks;
  const size_t count = size_t(threads) * blocks;
  d.clocks.assign(count, 1);
  d.knowledge.assign(count, {std::make_shared<Clock>(count, 0), nullptr, nullptr});
}

void end(std::string* report) {
  if (report->empty()) *report = detector().report;
  detector().report.clear();
}

void join(const unsigned* numbers, size_t count) {
  Detector& d = detector();
  const auto all = std::make_shared<Clock>(*d.knowledge[numbers[0]].group);
  std::shared_ptr<Groups> others;
  ClockPointer fenced;
  const void* last = nullptr;
  for (size_t i = 0; i < count; ++i) {
    const Knowledge& known = d.knowledge[numbers[i]];
    if (known.group.get() != last) join_into(*all, *known.group), last = known.group.get();
    fenced = joined(fenced, known.fenced);
    if (known.others == nullptr) continue;
    if (others == nullptr) others = std::make_shared<Groups>();
    for (const auto& [group, clock] : *known.others) (*others)[group] = clock;
  }
  for (size_t i = 0; i < count; ++i) (*all)[numbers[i]] = d.clocks[numbers[i]]++;
  for (size_t i = 0; i < count; ++i) d.knowledge[numbers[i]] = {all, others, fenced};
}

void release(const void* object) {
  Detector& d = detector();
  const uint32_t me = current->number;
  Released& r = d.released[object];
  if (r.group != d.group) {
    if (r.group != 0) r.others[r.group] = std::make_shared<Clock>(r.clock);
    r.group = d.group;
    r.clock.assign(d.clocks.size(), 0);
    r.fenced = nullptr;
  }
  r.fenced = joined(r.fenced, d.knowledge[me].fenced);
  join_into(r.clock, *d.knowledge[me].group);
  r.clock[me] = d.clocks[me]++;
  if (d.knowledge[me].others != nullptr)
    for (const auto& [group, clock] : *d.knowledge[me].others) r.others[group] = clock;
}

void acquire(const void* object) {
  Detector& d = detector();
  const auto found = d.released.find(object);
  if (found == d.released.end()) return;
  Knowledge& known = d.knowledge[current->number];
  const auto others = known.others != nullptr ? std::make_shared<Groups>(*known.others) : std::make_shared<Groups>();
  for (const auto& [group, clock] : found->second.others) (*others)[group] = clock;
  if (found->second.group == d.group) {
    const auto all = std::make_shared<Clock>(*known.group);
    join_into(*all, found->second.clock);
    known.group = all;
    known.fenced = joined(known.fenced, found->second.fenced);
  } else {
    (*others)[found->second.group] = std::make_shared<Clock>(found->second.clock);
  }
  known.others = others;
}

void access(const void* p, size_t bytes, bool write, Kind kind, const Site& site) {
  if (current == nullptr) return;
  Detector& d = detector();
  static struct { const char* file; int line; uint32_t number; } last = {};  // many accesses come from one place
  if (last.file != site.file || last.line != site.line) {
    const std::string text = std::string(site.file) + ":" + std::to_string(site.line);
    auto found = d.site_numbers.find(text);
    if (found == d.site_numbers.end()) {
      found = d.site_numbers.emplace(text, uint32_t(d.places.size())).first;
      d.places.emplace_back(0, text);
    }
    last = {site.file, site.line, found->second};
  }
  access_at(uintptr_t(p), bytes, write, kind, last.number);
}

void add_region(const void* p, size_t bytes, bool shared) {
  Detector& d = detector();
  d.regions[uintptr_t(p)] = {bytes, shared};
  for (auto& slot : d.cache) slot = {};
}

void remove_region(const void* p) {
  Detector& d = detector();
  const auto region = d.regions.find(uintptr_t(p));
  if (region == d.regions.end()) return;
  for (uintptr_t page = region->first / kPage; page <= (region->first + region->second.bytes) / kPage; ++page) d.pages.erase(page);
  d.regions.erase(region);
  for (auto& slot : d.cache) slot = {};
}

void fence_proxy() {
  Detector& d = detector();
  const uint32_t me = current->number;
  const auto all = std::make_shared<Clock>(*d.knowledge[me].group);
  (*all)[me] = d.clocks[me]++;
  d.knowledge[me].fenced = joined(d.knowledge[me].fenced, all);
}

void pause(int by) { detector().paused += by; }

/// What the compiler's calls come to.
static void touched(void* p, size_t bytes, bool write, void* code) {
  if (current == nullptr) return;
  Detector& d = detector();
  if (d.paused > 0 || page_of(uintptr_t(p)) == nullptr) return;
  uint32_t& place = d.code_numbers[uintptr_t(code)];
  if (place == 0) place = uint32_t(d.places.size()), d.places.emplace_back(uintptr_t(code), "");
  access_at(uintptr_t(p), bytes, write, Kind::plain, place);
}

}  // namespace tsr::emulation::race

// ---- the interface that -fsanitize=thread calls ----
extern "C" {
#define TSR_TOUCH(size)                                                                                                                                              \
  void __tsan_read##size(void* p) { tsr::emulation::race::touched(p, size, false, __builtin_return_address(0)); }                                                    \
  void __tsan_write##size(void* p) { tsr::emulation::race::touched(p, size, true, __builtin_return_address(0)); }                                                    \
  void __tsan_unaligned_read##size(void* p) { tsr::emulation::race::touched(p, size, false, __builtin_return_address(0)); }                                          \
  void __tsan_unaligned_write##size(void* p) { tsr::emulation::race::touched(p, size, true, __builtin_return_address(0)); }
TSR_TOUCH(1)
TSR_TOUCH(2)
TSR_TOUCH(4)
TSR_TOUCH(8)
TSR_TOUCH(16)
#undef TSR_TOUCH
void __tsan_read_range(void* p, size_t n) { tsr::emulation::race::touched(p, n, false, __builtin_return_address(0)); }
void __tsan_write_range(void* p, size_t n) { tsr::emulation::race::touched(p, n, true, __builtin_return_address(0)); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
#define TSR_ATOMIC(size, T)                                                                                                                        \
  T __tsan_atomic##size##_load(const volatile T* p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }                                         \
  void __tsan_atomic##size##_store(volatile T* p, T x, int) { __atomic_store_n(p, x, __ATOMIC_SEQ_CST); }                                         \
  T __tsan_atomic##size##_exchange(volatile T* p, T x, int) { return __atomic_exchange_n(p, x, __ATOMIC_SEQ_CST); }                               \
  T __tsan_atomic##size##_fetch_add(volatile T* p, T x, int) { return __atomic_fetch_add(p, x, __ATOMIC_SEQ_CST); }                               \
  T __tsan_atomic##size##_fetch_sub(volatile T* p, T x, int) { return __atomic_fetch_sub(p, x, __ATOMIC_SEQ_CST); }                               \
  int __tsan_atomic##size##_compare_exchange_strong(volatile T* p, T* old, T x, int, int) { return __atomic_compare_exchange_n(p, old, x, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); } \
  int __tsan_atomic##size##_compare_exchange_weak(volatile T* p, T* old, T x, int, int) { return __atomic_compare_exchange_n(p, old, x, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); }
TSR_ATOMIC(8, uint8_t)
TSR_ATOMIC(16, uint16_t)
TSR_ATOMIC(32, uint32_t)
TSR_ATOMIC(64, uint64_t)
#undef TSR_ATOMIC
}
