// Asynchronous copies and the barriers that wait for them.
#include "ptx.h"
#include "scheduler.h"

namespace tsr::emulation {

PendingCopies& pending_copies() {
  static thread_local std::vector<PendingCopies> all;  // by the thread's number; emptied when its block begins
  if (all.size() <= current->number) all.resize(current->number + 1);
  if (current->fresh) all[current->number] = PendingCopies(), current->fresh = false;
  return all[current->number];
}

bool lands_now() {
#ifdef TSR_EMULATION_RACE
  return false;  // the detector tells the time between issue and landing
#else
  return engine->settings.asynchrony == Asynchrony::early || (engine->settings.asynchrony == Asynchrony::random && engine->draw() % 2 == 0);
#endif
}

void land(const PendingCopy& copy) {
  race::access(copy.to, size_t(copy.bytes), true, race::Kind::copy_landed, copy.site);
  memcpy(copy.to, copy.from, size_t(copy.valid));
  memset(static_cast<char*>(copy.to) + copy.valid, 0, size_t(copy.bytes - copy.valid));
}

void land_groups(size_t keep) {
  PendingCopies& pending = pending_copies();
  if (pending.groups.size() <= keep) return;
  const size_t last = pending.groups.size() - keep, count = pending.groups[last - 1];
  for (size_t i = 0; i < count; ++i) land(pending.copies[i]);
  pending.copies.erase(pending.copies.begin(), pending.copies.begin() + long(count));
  pending.groups.erase(pending.groups.begin(), pending.groups.begin() + long(last));
  for (size_t& end : pending.groups) end -= count;
}

char* shared_of(unsigned rank, const void* p, const Site& site) {
  need_shared(p, 1, site);
  if (rank >= engine->blocks.size()) fail("%s at %s:%d: block %u of a cluster of %zu", site.what, site.file, site.line, rank, engine->blocks.size());
  return engine->blocks[rank].shared + (static_cast<const char*>(p) - current->block->shared);
}

namespace {
/// What lies in the 64 bits of a barrier in shared memory.
struct MemoryBarrier {
  uint64_t phase : 1;      // of the one that is under way
  uint64_t arrivals : 20;  // that end a phase
  uint64_t missing : 20;
  int64_t bytes : 23;      // announced and not here yet
};
static_assert(sizeof(MemoryBarrier) == sizeof(uint64_t), "as large as the hardware's");

MemoryBarrier read(const uint64_t* b) { return bits<MemoryBarrier>(*b); }

/// Ends the phase if nothing is missing.
void settle(uint64_t* b, MemoryBarrier m) {
  const bool over = m.missing == 0 && m.bytes == 0;
  if (over) m.phase ^= 1u, m.missing = m.arrivals;
  *b = bits<uint64_t>(m);
  if (over) wake(b);
}
}  // namespace

void mbarrier_init(uint64_t* b, uint32_t arrivals, const Site& site) {
  need_shared(b, sizeof *b, site);
  MemoryBarrier m{};
  m.arrivals = m.missing = arrivals;
  *b = bits<uint64_t>(m);
}

void mbarrier_arrive(uint64_t* b, uint32_t expected_bytes, const Site& site) {
  need_shared(b, sizeof *b, site);
  race::release(b);
  MemoryBarrier m = read(b);
  if (m.missing == 0) fail("%s at %s:%d: more arrivals than the barrier was made for", site.what, site.file, site.line);
  m.missing = m.missing - 1, m.bytes = m.bytes + int64_t(expected_bytes);
  settle(b, m);
}

void mbarrier_wait(uint64_t* b, uint32_t parity, const Site& site) {
  need_shared(b, sizeof *b, site);
  while (read(b).phase == (parity & 1)) wait_for(b, site);
  race::acquire(b);
}

void enqueue_work(uint32_t bytes, uint64_t* barrier, const Site& site, std::function<void()> copy) {
  need_shared(barrier, sizeof *barrier, site);
  // The engine reads and writes in the name of the thread that asked: what that thread saw happened before.
  Thread* const asking = current;
  auto work = [=] {
    Thread* const before = current;
    current = asking;
    copy();
    race::release(barrier);
    MemoryBarrier m = read(barrier);
    m.bytes = m.bytes - int64_t(bytes);
    settle(barrier, m);
    current = before;
  };
  if (engine->settings.asynchrony == Asynchrony::early) work();
  else engine->jobs.push_back(work);
}

void enqueue_bulk(void* to, const void* from, uint32_t bytes, uint64_t* barrier, const Site& site) {
  need_shared(to, bytes, site);
  if ((uintptr_t(to) | uintptr_t(from) | bytes) % 16 != 0) fail("%s at %s:%d: an address or the size is no multiple of 16", site.what, site.file, site.line);
  race::access(from, bytes, false, race::Kind::async_proxy, site);
  race::access(to, bytes, true, race::Kind::bulk_issued, site);
  enqueue_work(bytes, barrier, site, [=] {
    race::access(to, bytes, true, race::Kind::bulk_landed, site);
    memcpy(to, from, bytes);
  });
}

}  // namespace tsr::emulation
