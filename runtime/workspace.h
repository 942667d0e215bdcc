// Working memory whose size is known at compile time.
#pragma once
#include <memory>

#include "simd.h"

namespace tsr {

/// Working memory of one thread: on its stack, or where that might be too small kept from the first call on.
template <class T, long Size>
class Workspace {
 public:
  static constexpr bool small = Size * long(sizeof(T)) <= 512 * 1024;
  T* get() {
    if constexpr (small) {
      return memory_;
    } else {
      thread_local std::unique_ptr<Line[]> kept(new Line[Size * sizeof(T) / sizeof(Line) + 1]);
      return reinterpret_cast<T*>(kept.get());
    }
  }

 private:
  struct alignas(kVectorBytes) Line {
    char bytes[kVectorBytes];
  };
  alignas(kVectorBytes) T memory_[small && Size > 0 ? Size : 1];
};

}  // namespace tsr
