// The memory that ranks of one host share: their positions, barriers, and room for what they exchange.
#pragma once
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>

#include "../error.h"
#include "backend.h"

namespace tsr {
namespace comm {

// Arrivals of a group. `generation` counts how often all have arrived.
struct alignas(64) Barrier {
  std::atomic<uint32_t> arrived, generation;
};

struct alignas(64) SharedPosition {
  std::atomic<int64_t> entered[kMaxAxes + 1], left[kMaxAxes + 1], step;
  std::atomic<int32_t> collective, axis;
  std::atomic<int64_t> beats;  // of the rank's watchdog: they go on as long as the process runs
};

// One file below /dev/shm, without a name as soon as all ranks have mapped it.
class Segment {
 public:
  // Rank 0 makes it (path empty), others open what rank 0 made.
  Segment(const std::string& path, size_t bytes) : path_(path), bytes_(bytes) {
    const bool make = path.empty();
    if (make) path_ = format("/dev/shm/tesserac.%ld.%llx", static_cast<long>(getpid()), static_cast<unsigned long long>(clock()));
    const int fd = ::open(path_.c_str(), O_RDWR | O_CLOEXEC | (make ? O_CREAT | O_EXCL : 0), 0600);
    if (fd < 0) throw refused(errno);
    const int reason = make ? posix_fallocate(fd, 0, static_cast<off_t>(bytes)) : 0;
    void* const at = reason == 0 ? mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
    ::close(fd);
    if (at == MAP_FAILED) {
      const int why = reason ? reason : errno;
      if (make) ::unlink(path_.c_str());
      throw refused(why);
    }
    data_ = static_cast<char*>(at);
    named_ = make;
  }
  ~Segment() {
    forget();
    munmap(data_, bytes_);
  }
  Segment(const Segment&) = delete;
  Segment& operator=(const Segment&) = delete;

  const std::string& path() const { return path_; }
  char* data() const { return data_; }
  // All have it mapped: it goes away with the last process, however that ends.
  void forget() {
    if (named_) ::unlink(path_.c_str());
    named_ = false;
  }

 private:
  Error refused(int reason) const {
    return Error("T0945", "cannot share " + bytes_text(static_cast<double>(bytes_)) + " of memory between the ranks: " + quoted(path_) + ": " + strerror(reason),
                 "see `df /dev/shm`; in a container, give it more with --shm-size");
  }
  std::string path_;
  size_t bytes_;
  char* data_ = nullptr;
  bool named_ = false;
};

inline void sleep_while(std::atomic<uint32_t>* word, uint32_t value, int milliseconds) {
  const timespec limit = {milliseconds / 1000, milliseconds % 1000 * 1000000L};
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(word), FUTEX_WAIT, value, &limit, nullptr, 0);
}

inline void wake_all(std::atomic<uint32_t>* word) { syscall(SYS_futex, reinterpret_cast<uint32_t*>(word), FUTEX_WAKE, INT32_MAX, nullptr, nullptr, 0); }

// Waits until the word has another value: first awake, as long as every rank has a processor of its own, then asleep.
// `stopped` is asked now and then; what it does when the ranks have been told to stop is its own matter.
template <class Stopped>
inline void wait_for_change(std::atomic<uint32_t>* word, uint32_t value, int spins, const Stopped& stopped) {
  for (int i = 0; i < spins; ++i) {
    if (word->load(std::memory_order_acquire) != value) return;
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }
  while (word->load(std::memory_order_acquire) == value) {
    stopped();
    sleep_while(word, value, 100);
  }
}

}  // namespace comm
}  // namespace tsr
