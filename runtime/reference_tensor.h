// Dense double-precision tensors of the reference program, and what every operation on them needs.
//
// A Tensor is a shape and shared memory. Operations take tensors by value: an argument passed as
// last(x) gives up its memory, which is then reused for the result or freed. Integers and booleans
// are held as doubles, which is exact up to 2^53.
#pragma once
#if defined(__linux__)
#include <sys/mman.h>
#endif
#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <memory>
#include <new>
#include <stdexcept>
#include <vector>

namespace tsr {
namespace ref {

using Sizes = std::vector<int64_t>;
using List = std::initializer_list<int64_t>;  // what generated code writes; costs nothing at the call

constexpr int64_t kParallel = 1 << 14;  // loops over fewer elements stay on one thread
constexpr int64_t kRowsTogether = 8;
constexpr size_t kHugePage = size_t{2} << 20;

// A broken promise of the generated code: shapes that do not fit, a row number out of range.
inline void require(bool holds, const char* what) {
  if (!holds) throw std::logic_error(what);
}

inline int64_t product(const Sizes& sizes) {
  int64_t count = 1;
  for (const int64_t size : sizes) count *= size;
  return count;
}

// Memory for std::free. Large blocks lie on huge pages where there are any: a tensor is often written
// only once, so page faults would cost more than the arithmetic.
inline void* allocate(size_t bytes) {
  void* memory = nullptr;
  if (bytes < 2 * kHugePage) {
    memory = std::malloc(bytes);
  } else {
    bytes = (bytes + kHugePage - 1) / kHugePage * kHugePage;
    memory = std::aligned_alloc(kHugePage, bytes);
#if defined(__linux__)
    if (memory != nullptr) madvise(memory, bytes, MADV_HUGEPAGE);
#endif
  }
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

class Tensor {
 public:
  Tensor() = default;

  // Elements are not initialised.
  explicit Tensor(Sizes shape) : shape_(static_cast<Sizes&&>(shape)), count_(product(shape_)) {
    memory_.reset(static_cast<double*>(allocate(sizeof(double) * size_t(count_ > 0 ? count_ : 1))), std::free);
  }

  // A number: a tensor without axes. Elementwise operations repeat it over the other operand.
  Tensor(double value) : Tensor(Sizes{}) { *memory_ = value; }

  const Sizes& shape() const { return shape_; }
  int rank() const { return int(shape_.size()); }
  int64_t size(int axis) const { return shape_[size_t(axis)]; }
  int64_t count() const { return count_; }
  const double* data() const { return memory_.get(); }
  double* write() { return memory_.get(); }  // of a tensor that was just made, or that owned() returned
  bool unique() const { return memory_.use_count() == 1; }

  // The same elements under another shape.
  Tensor shaped(Sizes shape) const {
    require(product(shape) == count_, "reshape: the number of elements changes");
    Tensor result = *this;
    result.shape_ = static_cast<Sizes&&>(shape);
    return result;
  }

 private:
  Sizes shape_;
  int64_t count_ = 0;
  std::shared_ptr<double> memory_;
};

struct TensorPair {
  Tensor first, second;
};

// Marks the last use of a value: its memory may be reused from here on.
inline Tensor&& last(Tensor& x) { return static_cast<Tensor&&>(x); }

// Frees a value that its last use named twice.
inline void release(Tensor& x) { x = Tensor(); }

// A tensor to write a result of x's shape to: x's own memory where nobody else needs it.
inline Tensor result_like(const Tensor& x) { return x.unique() ? x : Tensor(x.shape()); }

// Elements from one index of an axis to the next.
inline Sizes strides_of(const Sizes& shape) {
  Sizes strides(shape.size(), 1);
  for (size_t axis = shape.size(); axis-- > 1;) strides[axis - 1] = strides[axis] * shape[axis];
  return strides;
}

// Position of row-major element `index` of `shape` under other strides.
inline int64_t position(int64_t index, const Sizes& shape, const Sizes& strides) {
  int64_t at = 0;
  for (size_t axis = shape.size(); axis-- > 0;) {
    at += index % shape[axis] * strides[axis];
    index /= shape[axis];
  }
  return at;
}

inline Sizes without_last(const Sizes& sizes) { return sizes.empty() ? Sizes() : Sizes(sizes.begin(), sizes.end() - 1); }

// Copies between row-major elements of `shape` and elements at first + sum(index * stride): the one
// loop behind transpose, broadcast and slice (reading) and concat and pad (writing). A few rows advance
// together, because rows that are neighbours on one side often share cache lines on the other.
inline void copy_strided(const Sizes& shape, double* dense, double* spread, int64_t first, const Sizes& strides,
                         bool reading) {
  const int64_t count = product(shape);
  if (count == 0) return;
  const int64_t columns = shape.empty() ? 1 : shape.back();
  const int64_t step = shape.empty() ? 1 : strides.back();
  const Sizes outer = without_last(shape), outer_strides = without_last(strides);
  const int64_t rows = count / columns;
#pragma omp parallel for schedule(static) if (count > kParallel)
  for (int64_t block = 0; block < (rows + kRowsTogether - 1) / kRowsTogether; ++block) {
    const int64_t base = block * kRowsTogether, here = rows - base < kRowsTogether ? rows - base : kRowsTogether;
    int64_t starts[kRowsTogether];
    for (int64_t r = 0; r < here; ++r) starts[r] = first + position(base + r, outer, outer_strides);
    for (int64_t j = 0; j < columns; ++j) {
      for (int64_t r = 0; r < here; ++r) {
        double& row_element = dense[(base + r) * columns + j];
        double& spread_element = spread[starts[r] + j * step];
        if (reading) row_element = spread_element;
        else spread_element = row_element;
      }
    }
  }
}

inline Tensor gather_strided(const Tensor& x, Sizes shape, int64_t first, const Sizes& strides) {
  Tensor result(static_cast<Sizes&&>(shape));
  copy_strided(result.shape(), result.write(), const_cast<double*>(x.data()), first, strides, true);
  return result;
}

}  // namespace ref
}  // namespace tsr
