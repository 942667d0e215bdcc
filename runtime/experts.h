// Routing of tokens to experts: a stable counting sort of slots (token, choice) by expert, capacity limits, and the tiles of
// rows of one expert. Results do not depend on the number of threads.
#pragma once
#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include "program.h"

namespace tsr {

/// The expert that a slot chose; `experts`, which means none, for every number that is not one's.
template <class I>
inline int expert_of(I chosen, int experts) {
  return chosen >= 0 && chosen < experts ? int(chosen) : experts;
}

/// Sorts the slots 0..slots-1 by chosen[slot], the expert (0..experts-1, or `experts`: none) of each; equal ones keep their
/// order. order[p] is the slot at position p, inverse[slot] its position; expert e has positions offsets[e]..offsets[e + 1].
/// Slots without an expert come last, as do those with a number that none has. Each thread looks for the slots of its own experts, so no memory besides is needed.
template <class I>
inline void route(const I* chosen, long slots, int experts, int32_t* order, int32_t* offsets, int32_t* inverse) {
#pragma omp parallel if (slots > 4096)
  {
    const int part = omp_get_thread_num(), parts = omp_get_num_threads();
    // The last share also has the slots that have no expert.
    const int begin = int(long(experts + 1) * part / parts), end = int(long(experts + 1) * (part + 1) / parts);
    for (int e = begin; e < end && e < experts; ++e) offsets[e + 1] = 0;
    for (long s = 0; s < slots; ++s) {
      const int e = expert_of(chosen[s], experts);
      if (begin <= e && e < end && e < experts) ++offsets[e + 1];
    }
#pragma omp barrier
#pragma omp single
    {
      int32_t start = 0;  // offsets[e + 1] becomes the start of e, and while its slots are put in place, its end
      for (int e = 0; e < experts; ++e) {
        const int32_t count = offsets[e + 1];
        offsets[e + 1] = start;
        start += count;
      }
      offsets[0] = start;  // for the moment: where the slots without an expert begin
    }
    int32_t last = offsets[0];
    for (long s = 0; s < slots; ++s) {
      const int e = expert_of(chosen[s], experts);
      if (e < begin || end <= e) continue;
      const int32_t p = e < experts ? offsets[e + 1]++ : last++;
      order[p] = int32_t(s);
      inverse[s] = p;
    }
#pragma omp barrier
#pragma omp single
    offsets[0] = 0;
  }
}

/// kept[slot] = chosen[slot] for the `capacity` slots of largest gate of every expert (ties: the lowest slot), else
/// `experts`, which means none. `work` holds 2 * slots + experts + 1 elements.
template <class I, class T>
inline void limit(const I* chosen, const T* gates, int32_t* work, long slots, int experts, long capacity, int32_t* kept) {
  int32_t *const order = work, *const inverse = work + slots, *const offsets = work + 2 * slots;
  route(chosen, slots, experts, order, offsets, inverse);
  auto better = [&](int32_t a, int32_t b) {  // a total order: NaN is below every number
    const T x = gates[a], y = gates[b];
    const bool no_x = x != x, no_y = y != y;
    if (no_x != no_y) return no_y;
    return no_x || x == y ? a < b : x > y;
  };
#pragma omp parallel for schedule(dynamic)
  for (int e = 0; e < experts; ++e) {
    int32_t *const begin = order + offsets[e], *const end = order + offsets[e + 1];
    int32_t* const cut = end - begin > capacity ? begin + capacity : end;
    if (cut != end) std::nth_element(begin, cut, end, better);
    for (int32_t* s = begin; s < cut; ++s) kept[*s] = e;
    for (int32_t* s = cut; s < end; ++s) kept[*s] = experts;
  }
  for (long p = offsets[experts]; p < slots; ++p) kept[order[p]] = experts;
}

/// Rows of one expert that are computed together: `rows` of them from row `row` of the sorted rows on. `first` where the
/// expert's sums start; an expert without rows has one tile of no rows.
struct ExpertTile {
  int expert;  // its number in the stage
  long row, rows;
  bool first;
};

/// The expert's own among the pointers of all experts of a stage.
template <class T>
inline T* of_expert(const ExpertTile& tile, std::initializer_list<T*> each) {
  return each.begin()[tile.expert];
}

/// Where the tile's expert has its gradient: in its own place, or, if call.update takes it over behind the expert's last tile,
/// in that of the first expert, which stays in the caches and is the only one that takes memory.
template <class T>
inline T* gradient_of(const Call& call, const ExpertTile& tile, std::initializer_list<T*> each) {
  return each.begin()[call.update ? 0 : tile.expert];
}

/// Calls f(tile) for the tiles of an expert that owns the sorted rows [begin, end): as few as hold at most `most` rows each,
/// of about equal size.
template <class F>
inline void expert_tiles(int expert, long begin, long end, long most, F&& f) {
  const long tiles = std::max((end - begin + most - 1) / most, 1L);
  for (long t = 0; t < tiles; ++t) {
    const long row = begin + (end - begin) * t / tiles, next = begin + (end - begin) * (t + 1) / tiles;
    f(ExpertTile{expert, row, next - row, t == 0});
  }
}

}  // namespace tsr
