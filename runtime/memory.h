// Memory: one anonymous mapping per run, sized before the first step and never grown. Zero-filled,
// huge pages advised, so that a step neither allocates nor faults.
#pragma once
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "error.h"

namespace tsr {

// Plans offsets first, then maps everything at once:
//   Arena arena; size_t params = arena.reserve(bytes); ...; arena.map(); char* p = arena.at(params);
class Arena {
 public:
  Arena() = default;
  ~Arena() { if (base_) munmap(base_, mapped_); }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // Offset of a new block. Blocks start on their own page: threads never share a cache line of two
  // blocks. Three cache lines between blocks keep equal offsets in two of them out of the same set.
  // `sparse`: perhaps only parts of it are ever used, so its pages come on first touch.
  size_t reserve(size_t bytes, bool sparse = false) {
    const size_t offset = size_;
    if (bytes > kLargest - size_) throw too_large(bytes);
    size_ = round_up(size_ + bytes, kPage) + (bytes >= kPage ? 3 * kLine : kLine);
    size_ = round_up(size_, kLine);
    if (sparse) sparse_.emplace_back(offset, offset + bytes);
    return offset;
  }

  // Maps what was reserved. `populate` takes the page faults now instead of in the first step.
  void map(bool populate) {
    mapped_ = round_up(size_ + kPage, kHuge) + kHuge;
    void* const at = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) throw too_large(size_);
    base_ = at;
    data_ = reinterpret_cast<char*>(round_up(reinterpret_cast<uintptr_t>(at), kHuge));
#ifdef MADV_HUGEPAGE
    if (size_ >= kHuge) madvise(data_, round_up(size_, kPage), MADV_HUGEPAGE);
#endif
#ifdef MADV_POPULATE_WRITE
    if (!populate) return;
    size_t from = 0;  // older kernels: pages come on first touch
    for (const auto& block : sparse_) {
      populate_pages(from, block.first);
      from = block.second / kPage * kPage;
    }
    populate_pages(from, size_);
#else
    (void)populate;
#endif
  }

  char* at(size_t offset) const { return data_ + offset; }
  size_t bytes() const { return size_; }

 private:
  static constexpr size_t kLine = 64, kPage = 4096, kHuge = size_t{2} << 20, kLargest = size_t{1} << 46;
  static size_t round_up(size_t value, size_t to) { return (value + to - 1) / to * to; }
#ifdef MADV_POPULATE_WRITE
  void populate_pages(size_t from, size_t to) {
    if (to > from) madvise(data_ + from, round_up(to, kPage) - from, MADV_POPULATE_WRITE);
  }
#endif
  static Error too_large(size_t bytes) {
    return Error("T0926", "cannot map " + bytes_text(static_cast<double>(bytes)) + " of memory: " + strerror(ENOMEM),
                 "use a smaller batch, fewer --threads (each has its own gradient and scratch arena) or a machine with more memory");
  }
  void* base_ = nullptr;
  char* data_ = nullptr;
  size_t size_ = 0, mapped_ = 0;
  std::vector<std::pair<size_t, size_t>> sparse_;  // blocks, from and to
};

}  // namespace tsr
