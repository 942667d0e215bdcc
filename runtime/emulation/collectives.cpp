// What threads do together: barriers of a block, collectives of a warp, shared memory.
#include "ptx.h"
#include "scheduler.h"

namespace tsr::emulation {
namespace {

void release(Barrier& b, Thread* last) {
  for (Thread* t : b.waiting) b.numbers.push_back(t->number);
  race::join(b.numbers.data(), b.numbers.size());
  const int votes = b.votes;
  for (Thread* t : b.waiting) {
    t->vote = votes;
    if (t == last) t->state = State::ready;  // goes on at once
    else engine->make_ready(t);
  }
  b.waiting.clear(), b.numbers.clear();
  b.arrived = 0, b.votes = 0;
}

int arrive(Barrier& b, const char* name, unsigned expected, bool whole, bool wait, int vote, const Site& site) {
  if (b.arrived > 0 && b.expected != expected)
    fail("%s: %u threads are expected at %s:%d, but %u at %s:%d", name, expected, site.file, site.line, b.expected, b.site.file, b.site.line);
  if (b.arrived > 0 && whole && b.whole && (b.site.line != site.line || strcmp(b.site.file, site.file) != 0))
    fail("divergence: %s at %s:%d while other threads of the block wait in %s at %s:%d", site.what, site.file, site.line, b.site.what, b.site.file, b.site.line);
  b.expected = expected, b.site = site, b.whole = whole;
  ++b.arrived, b.votes += vote != 0;
  Thread* const me = current;
  if (!wait) {
    b.numbers.push_back(me->number);
    if (b.arrived == expected) release(b, nullptr);
    return 0;
  }
  b.waiting.push_back(me);
  me->state = State::at_barrier;
  if (b.arrived == expected) release(b, me);
  if (me->state == State::at_barrier) suspend(State::at_barrier, site);
  return me->vote;
}

}  // namespace

int barrier(int id, unsigned expected, bool wait, int vote, const Site& site) {
  Block& block = *current->block;
  if (id < 0 || id > 15) fail("there is no barrier %d at %s:%d", id, site.file, site.line);
  if (expected % 32 != 0 || expected > block.size) fail("%s: %u threads at %s:%d; the block has %u, and whole warps arrive", site.what, expected, site.file, site.line, block.size);
  if (expected == 0 && block.left != block.size)
    fail("divergence: %s at %s:%d, but %u threads of the block have returned", site.what, site.file, site.line, block.size - block.left);
  return arrive(block.barriers[id], site.what, expected == 0 ? block.size : expected, expected == 0, wait, vote, site);
}

void group_barrier(const Site& site) {
  const std::vector<Block>& blocks = engine->blocks;
  arrive(engine->group, site.what, unsigned(blocks.size()) * blocks[0].size, true, true, 0, site);
}

void check_exit() {
  const Block& block = *current->block;
  if (!block.warps[current->linear / 32].products.empty()) {
    const Site& site = block.warps[current->linear / 32].products[0].site;
    fail("the thread returns before a product of %s at %s:%d was waited for", site.what, site.file, site.line);
  }
  if (!current->fresh && !pending_copies().stores.empty()) fail("the thread returns before its tensor_store was waited for");
  const Barrier& b = block.barriers[0];
  if (b.arrived > 0 && b.whole)
    fail("divergence: the thread returns while %u threads of its block wait in %s at %s:%d", b.arrived, b.site.what, b.site.file, b.site.line);
  for (const Collective& c : block.warps[current->linear / 32].pending)
    if (c.mask >> current->lane & 1)
      fail("divergence: the thread returns while lanes %08x wait for it in %s (mask %08x) at %s:%d", c.arrived, c.site.what, c.mask, c.site.file, c.site.line);
}

void warp_collective(uint32_t mask, void* operand, void (*run)(void**, uint32_t), const Site& site) {
  Thread* const me = current;
  Warp& warp = me->block->warps[me->linear / 32];
  const uint32_t bit = 1u << me->lane;
  if ((mask & bit) == 0) fail("%s at %s:%d: lane %u is not in its own mask %08x", site.what, site.file, site.line, me->lane, mask);
  Collective* found = nullptr;
  for (Collective& c : warp.pending)  // one with another mask may wait for this lane until it is through here
    if (c.mask == mask) found = &c;
  if (found == nullptr) {
    warp.pending.emplace_back();
    found = &warp.pending.back();
    found->mask = mask, found->run = run, found->site = site;
  } else if (found->run != run || found->site.line != site.line) {
    fail("divergence: lane %u is in %s at %s:%d, others of its warp in %s at %s:%d", me->lane, site.what, site.file, site.line, found->site.what, found->site.file, found->site.line);
  }
  found->arrived |= bit;
  found->operands[me->lane] = operand;
  const uint32_t missing = mask & ~found->arrived;
  if ((missing & ~warp.alive) != 0) fail("divergence: %s at %s:%d names lanes %08x, which are not there or have returned", site.what, site.file, site.line, missing & ~warp.alive);
  if (missing != 0) return suspend(State::in_warp, site);
  Collective complete = *found;
  *found = warp.pending.back();
  warp.pending.pop_back();
  race::pause(1);  // the operands lie on the lanes' stacks; what the operation itself touches it reports
  complete.run(complete.operands, complete.arrived);
  race::pause(-1);
  Thread* const first = me - me->lane;
  for (uint32_t rest = complete.arrived & ~bit; rest != 0; rest &= rest - 1) engine->make_ready(first + __builtin_ctz(rest));
}

char* shared_variable(const void* key, const char* name, size_t bytes, size_t alignment) {
  Engine& e = *engine;
  for (const auto& [known, at] : e.variables)
    if (known == key) return current->block->shared + at;
  constexpr size_t kGap = 32;  // between variables, poisoned
  if (alignment < 16) alignment = 16;
  const size_t at = (e.shared_bytes + kGap + alignment - 1) / alignment * alignment;
  if (at + bytes + kGap > kSharedWindow) fail("shared memory: %zu bytes of `%s` do not fit", bytes, name);
  e.shared_bytes = at + bytes;
  for (const Block& b : e.blocks) TSR_UNPOISON(b.shared + at, bytes);
  e.variables.emplace_back(key, at);
  return current->block->shared + at;
}

char* dynamic_shared() { return current->block->shared + kDynamicStart; }

void need_shared(const void* p, size_t bytes, const Site& site) {
  for (const Block& b : engine->blocks) {
    const size_t at = size_t(static_cast<const char*>(p) - b.shared);
    if (at < kSharedWindow && at + bytes <= engine->shared_bytes) return;
  }
  fail("%s at %s:%d: %p is not in shared memory", site.what, site.file, site.line, p);
}

void load(const void* p, void* to, size_t bytes) { memcpy(to, p, bytes); }

bool compare_exchange(void* p, void* expected, const void* desired, size_t bytes) {
  auto as = [&](auto type) {
    using T = decltype(type);
    T wanted;
    memcpy(&wanted, desired, sizeof wanted);
    return __atomic_compare_exchange_n(static_cast<T*>(p), static_cast<T*>(expected), wanted, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
  };
  return bytes == 8 ? as(uint64_t()) : bytes == 4 ? as(uint32_t()) : bytes == 2 ? as(uint16_t()) : as(uint8_t());
}

}  // namespace tsr::emulation
