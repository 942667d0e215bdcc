// Contraction of two tensors by an einsum specification, e.g. contract("bsd,dn->bsn", x, W).
//
// Letters fall into four groups: in both operands and the result (batch), in one operand and the
// result (rows, columns), in both operands only (summed); a letter of one operand alone is summed
// first. Both operands are brought to [batch, rows, sum] and [batch, sum, columns], multiplied by
// plain blocked loops, and the product is brought to the order of the result.
#pragma once
#include <string>

#include "reference_reduce.h"
#include "reference_view.h"

namespace tsr {
namespace ref {

constexpr int64_t kRowBlock = 64, kSumBlock = 32, kColumnBlock = 64;  // a block of b (16 KiB) stays in the first-level cache

// c[0..columns) += a[0..sum) . b[0..sum)[0..columns), four rows of b at a time.
inline void accumulate_row(const double* a, const double* b, int64_t row_stride, int64_t sum, int64_t columns, double* c) {
  int64_t k = 0;
  for (; k + 4 <= sum; k += 4) {
    const double a0 = a[k], a1 = a[k + 1], a2 = a[k + 2], a3 = a[k + 3];
    const double* const b0 = b + k * row_stride;
    const double* const b1 = b0 + row_stride;
    const double* const b2 = b1 + row_stride;
    const double* const b3 = b2 + row_stride;
#pragma omp simd
    for (int64_t j = 0; j < columns; ++j) c[j] += a0 * b0[j] + a1 * b1[j] + a2 * b2[j] + a3 * b3[j];
  }
  for (; k < sum; ++k) {
    const double a0 = a[k];
    const double* const b0 = b + k * row_stride;
#pragma omp simd
    for (int64_t j = 0; j < columns; ++j) c[j] += a0 * b0[j];
  }
}

// c[batch, rows, columns] = sum over `sum` of a[batch, rows, sum] * b[batch, sum, columns].
inline void multiply(const double* a, const double* b, double* c, int64_t batch, int64_t rows, int64_t columns, int64_t sum) {
  const int64_t row_blocks = (rows + kRowBlock - 1) / kRowBlock;
  const bool worthwhile = batch * rows * columns * sum > kParallel;
#pragma omp parallel for schedule(static) if (worthwhile)
  for (int64_t task = 0; task < batch * row_blocks; ++task) {
    const int64_t element = task / row_blocks, first = task % row_blocks * kRowBlock;
    const int64_t end = first + kRowBlock < rows ? first + kRowBlock : rows;
    const double* const a_part = a + element * rows * sum;
    const double* const b_part = b + element * sum * columns;
    double* const c_part = c + element * rows * columns;
    for (int64_t i = first * columns; i < end * columns; ++i) c_part[i] = 0;
    for (int64_t j = 0; j < columns; j += kColumnBlock) {
      const int64_t width = j + kColumnBlock < columns ? kColumnBlock : columns - j;
      for (int64_t k = 0; k < sum; k += kSumBlock) {
        const int64_t depth = k + kSumBlock < sum ? kSumBlock : sum - k;
        for (int64_t i = first; i < end; ++i) {
          accumulate_row(a_part + i * sum + k, b_part + k * columns + j, columns, depth, width, c_part + i * columns + j);
        }
      }
    }
  }
}

// Sums over the letters that neither the other operand nor the result has; drops them from `letters`.
inline Tensor sum_own_letters(Tensor x, std::string& letters, const std::string& others) {
  Sizes axes;
  std::string kept;
  for (size_t i = 0; i < letters.size(); ++i) {
    if (others.find(letters[i]) == std::string::npos) axes.push_back(int64_t(i));
    else kept += letters[i];
  }
  letters = kept;
  return axes.empty() ? x : reduce_sum(last(x), axes);
}

inline Tensor to_order(Tensor x, const std::string& letters, const std::string& wanted) {
  if (letters == wanted) return x;
  Sizes perm;
  for (const char letter : wanted) perm.push_back(int64_t(letters.find(letter)));
  return transpose(last(x), perm);
}

inline int64_t extent(const Tensor& x, const std::string& letters, const std::string& group) {
  int64_t count = 1;
  for (const char letter : group) count *= x.size(int(letters.find(letter)));
  return count;
}

inline Tensor contract(const char* spec, Tensor a, Tensor b) {
  const std::string text = spec;
  const size_t comma = text.find(','), arrow = text.find("->");
  std::string a_letters = text.substr(0, comma), b_letters = text.substr(comma + 1, arrow - comma - 1);
  const std::string wanted = text.substr(arrow + 2);
  a = sum_own_letters(last(a), a_letters, b_letters + wanted);
  b = sum_own_letters(last(b), b_letters, a_letters + wanted);
  require(a.rank() == int(a_letters.size()) && b.rank() == int(b_letters.size()), "contract: operands do not fit the letters");

  std::string batch, rows, columns, sum;
  for (const char letter : a_letters) {
    const bool in_b = b_letters.find(letter) != std::string::npos, in_result = wanted.find(letter) != std::string::npos;
    (in_b ? (in_result ? batch : sum) : rows) += letter;
  }
  for (const char letter : b_letters) {
    if (a_letters.find(letter) == std::string::npos) columns += letter;
  }
  require(extent(a, a_letters, batch + sum) == extent(b, b_letters, batch + sum), "contract: sizes differ");
  if (extent(b, b_letters, columns) < 16 && extent(a, a_letters, rows) > extent(b, b_letters, columns)) {
    std::swap(a, b);  // the innermost loop runs over columns: let it be the longer of the two
    std::swap(a_letters, b_letters);
    std::swap(rows, columns);
  }

  const int64_t batch_count = extent(a, a_letters, batch), row_count = extent(a, a_letters, rows);
  const int64_t column_count = extent(b, b_letters, columns), sum_count = extent(a, a_letters, sum);
  const std::string order = batch + rows + columns;
  Sizes shape;
  for (const char letter : order) {
    const size_t at = a_letters.find(letter);
    shape.push_back(at != std::string::npos ? a.size(int(at)) : b.size(int(b_letters.find(letter))));
  }
  a = to_order(last(a), a_letters, batch + rows + sum);
  b = to_order(last(b), b_letters, batch + sum + columns);
  Tensor result(shape);
  multiply(a.data(), b.data(), result.write(), batch_count, row_count, column_count, sum_count);
  return to_order(last(result), order, wanted);
}

}  // namespace ref
}  // namespace tsr
