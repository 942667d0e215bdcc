// Choices of the reference program: the largest of a row, and which slots an expert has room for.
//
// Numbers that are nearly equal may be ordered otherwise by rounding, and a token then goes to another expert:
// no error, but nothing after it can be compared. So what the compiled program chose (Chosen) is taken over where
// it is within rounding: if every number is off by at most e, then what was chosen in j-th place and what is j-th
// by exact order differ by at most 2 e. A choice beyond that is counted as wrong and not taken over.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "program.h"
#include "reference_reduce.h"

namespace tsr {
namespace ref {

// What the compiled program chose in a choice of Function::choices; null where nobody asks.
inline Chosen* chosen(const Call& call, int number) { return call.chosen ? call.chosen + number : nullptr; }

inline double largest_magnitude(const Tensor& x) {
  double largest = 0;
  for (int64_t i = 0; i < x.count(); ++i) largest = std::fabs(x.data()[i]) > largest ? std::fabs(x.data()[i]) : largest;
  return largest;
}

// The larger of `gap` and |a - b| in units of the error that a number of this scale may have.
inline double wider(double gap, double a, double b, double scale) {
  const double units = a == b ? 0 : std::fabs(a - b) / scale;
  return units <= gap ? gap : units;  // a NaN counts as wider
}

// Counts a row that was chosen otherwise; whether it may be taken over.
inline bool take_over(Chosen* run, double gap) {
  const bool near = gap <= 2;
  ++(near ? run->turned : run->wrong);
  if (!(gap <= run->gap)) run->gap = gap;
  return near;
}

// Positions of the k largest of a row, largest first; equal ones in order of position.
inline std::vector<int64_t> largest_of_row(const double* row, int64_t width, int64_t k) {
  std::vector<int64_t> order;
  for (int64_t i = 0; i < width; ++i) order.push_back(i);
  std::stable_sort(order.begin(), order.end(), [row](int64_t a, int64_t b) { return before(row[b], row[a]); });
  order.resize(size_t(k));
  return order;
}

// Whether `picked` differs from `order`; `valid`: it holds different positions of a row of this width.
inline bool other_positions(const double* picked, const std::vector<int64_t>& order, int64_t width, bool* valid) {
  std::vector<int64_t> seen;
  bool other = false;
  *valid = true;
  for (size_t i = 0; i < order.size(); ++i) {
    const int64_t position = picked[i] >= 0 && picked[i] < double(width) ? int64_t(picked[i]) : -1;
    *valid = *valid && position >= 0 && std::find(seen.begin(), seen.end(), position) == seen.end();
    other = other || position != order[i];
    seen.push_back(position);
  }
  return other;
}

// The k largest elements of every row along the last axis, largest first, and their indices; equal elements in
// order of index. `run`: see the top of this file.
inline TensorPair topk(Tensor x, int64_t k, Chosen* run = nullptr) {
  const int64_t width = x.shape().back(), rows = width > 0 ? x.count() / width : 0;
  const double scale = run ? run->tolerance * largest_magnitude(x) : 0;
  Sizes shape = x.shape();
  shape.back() = k;
  Tensor values(shape), indices(shape);
  for (int64_t row = 0; row < rows; ++row) {
    const double* const from = x.data() + row * width;
    std::vector<int64_t> order = largest_of_row(from, width, k);
    bool valid = true;
    if (run && other_positions(run->run + row * k, order, width, &valid)) {
      const double* const picked = run->run + row * k;
      double gap = valid ? 0 : double(INFINITY);
      for (int64_t i = 0; i < k && valid; ++i) gap = wider(gap, from[int64_t(picked[i])], from[order[size_t(i)]], scale);
      if (take_over(run, gap)) order.assign(picked, picked + k);
    }
    for (int64_t i = 0; i < k; ++i) {
      values.write()[row * k + i] = from[order[size_t(i)]];
      indices.write()[row * k + i] = double(order[size_t(i)]);
    }
  }
  return {values, indices};
}

// Gates of some slots, largest first.
inline std::vector<double> gates_of(const Tensor& gates, const std::vector<int64_t>& slots) {
  std::vector<double> values;
  for (const int64_t slot : slots) values.push_back(gates.data()[slot]);
  std::sort(values.begin(), values.end(), [](double a, double b) { return a > b; });
  return values;
}

// Every expert keeps its `capacity` slots of largest gate, the first of equal ones; the others get the index
// `experts`. `run`: see the top of this file; its rows are tokens, but experts are counted.
inline Tensor limit(Tensor indices, Tensor gates, int64_t experts, int64_t capacity, Chosen* run = nullptr) {
  const double scale = run ? run->tolerance * largest_magnitude(gates) : 0;
  Tensor result(indices.shape());
  std::fill(result.write(), result.write() + result.count(), double(experts));
  for (int64_t expert = 0; expert < experts; ++expert) {
    std::vector<int64_t> slots, others;
    for (int64_t slot = 0; slot < indices.count(); ++slot) {
      if (indices.data()[slot] != double(expert)) continue;
      slots.push_back(slot);
      if (run && run->run[slot] == double(expert)) others.push_back(slot);
    }
    const double* const gate = gates.data();
    std::stable_sort(slots.begin(), slots.end(), [gate](int64_t a, int64_t b) { return gate[a] > gate[b]; });
    if (int64_t(slots.size()) > capacity) slots.resize(size_t(capacity));
    std::sort(slots.begin(), slots.end());
    if (run && others != slots) {
      const std::vector<double> own = gates_of(gates, slots), theirs = gates_of(gates, others);
      double gap = own.size() == theirs.size() ? 0 : double(INFINITY);
      for (size_t i = 0; i < own.size() && i < theirs.size(); ++i) gap = wider(gap, own[i], theirs[i], scale);
      if (take_over(run, gap)) slots = others;
    }
    for (const int64_t slot : slots) result.write()[slot] = double(expert);
  }
  return result;
}

}  // namespace ref
}  // namespace tsr
