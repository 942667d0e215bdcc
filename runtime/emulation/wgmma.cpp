// Products of a warpgroup. A warp carries out its quarter of them, 16 rows, when it waits.
#include "ptx_sm90.h"
#include "scheduler.h"

namespace tsr::emulation {
namespace {

constexpr int kTerms = 16;

Warp& own_warp() { return current->block->warps[current->linear / 32]; }

/// An operand in shared memory, as its descriptor says it.
struct Operand {
  uint32_t start, panel, group;
  bool along;

  static Operand of(uint64_t word, bool along, int lines, const Site& site) {
    const Operand o{uint32_t(word & 0x3fff) << 4, uint32_t(word >> 16 & 0x3fff) << 4, uint32_t(word >> 32 & 0x3fff) << 4, along};
    if (word >> 62 != 1) fail("%s at %s:%d: the operand is not described as swizzled over 128 bytes", site.what, site.file, site.line);
    if ((o.start & 0x380) != 0) fail("%s at %s:%d: the tile begins at %#x, within a group of 8 rows", site.what, site.file, site.line, o.start);
    const uint32_t bytes = along ? 2 * kTerms : 2 * uint32_t(lines < 64 ? lines : 64);
    if (o.start % 128 + bytes > 128) fail("%s at %s:%d: the operand goes beyond its row of 128 bytes", site.what, site.file, site.line);
    return o;
  }
  /// The address in the block's window of the 16 bytes that hold an element, and which of the eight it is.
  uint32_t piece(int line, int term, int& which) const {
    const uint32_t at = along ? start + uint32_t(line / 8) * group + uint32_t(line % 8) * 128 + uint32_t(term) * 2
                              : start + uint32_t(line / 64) * panel + uint32_t(term / 8) * group + uint32_t(term % 8) * 128 + uint32_t(line % 64) * 2;
    which = int(at % 16 / 2);
    return (at ^ (at >> 3 & 0x70)) & ~15u;
  }
};

float value(Element kind, uint16_t raw) { return kind == Element::bf16 ? element<Element::bf16>(raw, 0) : element<Element::f16>(raw, 0); }

/// Lines [first, first + count) of an operand: x[line][term] where it is asked for; tells the race detector in any case.
void read(const Operand& o, Element kind, int first, int count, float (*x)[kTerms], const Site& site) {
  char* const window = current->block->shared;
  for (int line = 0; line < count; ++line)
    for (int term = 0; term < kTerms; ++term) {
      int which = 0;
      const char* const piece = window + o.piece(first + line, term, which);
      if (o.along ? term % 8 == 0 : line % 8 == 0) {
        need_shared(piece, 16, site);
        race::access(piece, 16, false, race::Kind::async_proxy, site);
      }
      uint16_t raw;
      memcpy(&raw, piece + 2 * which, sizeof raw);
      if (x != nullptr) x[line][term] = value(kind, raw);
    }
}

/// The warp's operands in shared memory are read: in the name of its first lane.
void read_operands(const WarpProduct& p, float (*a)[kTerms], float (*b)[kTerms]) {
  Thread* const before = current;
  const int quarter = int(current->linear / 32 % 4);
  current -= current->lane;
  if (p.a[0] == nullptr) read(Operand::of(p.left, true, 64, p.site), Element(p.element), 16 * quarter, 16, a, p.site);
  read(Operand::of(p.right, p.along, p.columns, p.site), Element(p.element), 0, p.columns, b, p.site);
  current = before;
}

void run(WarpProduct& p) {
  float a[16][kTerms], b[128][kTerms];
  read_operands(p, a, b);
  if (p.a[0] != nullptr)
    for (int lane = 0; lane < 32; ++lane)
      for (int i = 0; i < 8; ++i) {
        const uint32_t word = p.a[lane][i / 2];
        if (word != p.words[size_t(lane * 4 + i / 2)]) fail("%s at %s:%d: lane %d changed its operand before the product was waited for", p.site.what, p.site.file, p.site.line, lane);
        a[lane / 4 + i / 2 % 2 * 8][lane % 4 * 2 + i / 4 * 8 + i % 2] = value(Element(p.element), uint16_t(i % 2 != 0 ? word >> 16 : word));
      }
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < p.columns / 2; ++i) {
      float& d = p.d[lane][i];
      if (p.first && memcmp(&d, &p.sums[size_t(lane * p.columns / 2 + i)], sizeof d) != 0)
        fail("%s at %s:%d: lane %d changed a sum before the product was waited for", p.site.what, p.site.file, p.site.line, lane);
      const int row = lane / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
      double sum = p.add ? double(d) : 0.0;
      for (int k = 0; k < kTerms; ++k) sum += double(a[row][k]) * double(b[column][k]);
      d = float(sum);
    }
  p.done = true;
}

void ask(void** operands, uint32_t lanes) {
  const LaneProduct& one = *static_cast<LaneProduct*>(operands[0]);
  if (lanes != ~0u) fail("wgmma: lanes %08x take part, all 32 have to", lanes);
  if (current->block->size % 128 != 0) fail("%s at %s:%d: a block of %u threads has no whole warpgroups", one.site.what, one.site.file, one.site.line, current->block->size);
  Warp& warp = own_warp();
  if (!warp.fenced) fail("%s at %s:%d: no wgmma_fence since the warp last waited, or at all", one.site.what, one.site.file, one.site.line);
  WarpProduct p{{}, {}, {}, {}, one.left, one.right, one.columns, int(one.element), one.along, one.add, true, false, one.site};
  for (int lane = 0; lane < 32; ++lane) {
    const LaneProduct& x = *static_cast<LaneProduct*>(operands[lane]);
    if (x.left != one.left || x.right != one.right || x.add != one.add) fail("divergence: lanes 0 and %d disagree about a product in %s at %s:%d", lane, one.site.what, one.site.file, one.site.line);
    p.d[lane] = x.d, p.a[lane] = x.a;
    if (x.a != nullptr) p.words.insert(p.words.end(), x.a, x.a + 4);
    p.sums.insert(p.sums.end(), x.d, x.d + one.columns / 2);
  }
  for (const WarpProduct& before : warp.products) p.first = p.first && (before.done || before.d[0] != p.d[0]);
  read_operands(p, nullptr, nullptr);
  warp.products.push_back(std::move(p));
  if (lands_now())
    for (WarpProduct& each : warp.products)
      if (!each.done) run(each);
}

}  // namespace

void wgmma(LaneProduct product) { warp_collective(~0u, &product, ask, product.site); }

void wgmma_fence(const Site& site) {
  warp_collective(~0u, nullptr, [](void**, uint32_t) { own_warp().fenced = true; }, site);
}

void wgmma_commit(const Site& site) {
  warp_collective(~0u, nullptr, [](void**, uint32_t) { own_warp().groups.push_back(own_warp().products.size()); }, site);
}

void wgmma_wait(size_t pending, const Site& site) {
  warp_collective(
      ~0u, &pending,
      [](void** operands, uint32_t) {
        Warp& warp = own_warp();
        const size_t keep = *static_cast<size_t*>(operands[0]);
        warp.fenced = false;
        if (warp.groups.size() <= keep) return;
        const size_t last = warp.groups.size() - keep, count = warp.groups[last - 1];
        for (size_t i = 0; i < count; ++i)
          if (!warp.products[i].done) run(warp.products[i]);
        warp.products.erase(warp.products.begin(), warp.products.begin() + long(count));
        warp.groups.erase(warp.groups.begin(), warp.groups.begin() + long(last));
        for (size_t& end : warp.groups) end -= count;
        unsigned numbers[32];
        for (unsigned lane = 0; lane < 32; ++lane) numbers[lane] = current->number - current->lane + lane;
        race::join(numbers, 32);  // what a lane does next comes after the reads
      },
      site);
}

}  // namespace tsr::emulation
