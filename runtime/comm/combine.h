// Sums, largest and smallest values of arrays, one rank's after another's: the order of the ranks is the order of the sum.
#pragma once
#include <cstdint>
#include <string>

#include "../dtype.h"
#include "../error.h"
#include "../ranks.h"

namespace tsr {
namespace comm {

template <class T>
inline void combine(Reduce kind, T* __restrict sum, const T* __restrict term, int64_t n) {
  switch (kind) {
    case Reduce::sum:
      for (int64_t i = 0; i < n; ++i) sum[i] += term[i];
      return;
    case Reduce::max:
      for (int64_t i = 0; i < n; ++i) sum[i] = term[i] > sum[i] || term[i] != term[i] ? term[i] : sum[i];
      return;
    case Reduce::min:
      for (int64_t i = 0; i < n; ++i) sum[i] = term[i] < sum[i] || term[i] != term[i] ? term[i] : sum[i];
      return;
  }
}

inline void combine(DType type, Reduce kind, char* sum, const char* term, int64_t n) {
  switch (type) {
    case DType::f32: return combine(kind, reinterpret_cast<float*>(sum), reinterpret_cast<const float*>(term), n);
    case DType::f64: return combine(kind, reinterpret_cast<double*>(sum), reinterpret_cast<const double*>(term), n);
    case DType::i32: return combine(kind, reinterpret_cast<int32_t*>(sum), reinterpret_cast<const int32_t*>(term), n);
    case DType::i64: return combine(kind, reinterpret_cast<int64_t*>(sum), reinterpret_cast<const int64_t*>(term), n);
    default: throw Error("T0924", std::string("ranks cannot add values of type ") + dtype_name(type), "", kExitInternal);
  }
}

}  // namespace comm
}  // namespace tsr
