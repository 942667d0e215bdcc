// Parts of whole tensors: what a rank has of an array that every rank could make, and a whole tensor from all ranks' parts.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "ranks.h"
#include "shares.h"
#include "tensor.h"

namespace tsr {

// Of a whole dense tensor what this rank has: all of it, where there is one.
inline std::vector<char> part_of(const Tensor& part, const Ranks* ranks, const std::vector<char>& whole) {
  if (!part.cut) return whole;
  std::vector<char> out(dense_bytes(part) + 8);
  cut_out(part, ranks, whole.data(), dtype_size(part.dtype), out.data());
  return out;
}

// The same of a parameter's gradient in double precision, plane after plane.
inline std::vector<double> part_of_planes(const Tensor& part, const Ranks* ranks, const double* whole) {
  const int64_t length = row_length(part), count = row_count(part), size = elements(whole_of(part));
  std::vector<double> out(static_cast<size_t>(elements(part) * planes(part)));
  for (int plane = 0; plane < planes(part); ++plane)
    each_row(part, ranks, [&](int64_t row, int64_t first) {
      memcpy(&out[static_cast<size_t>((plane * count + row) * length)], whole + plane * size + first, static_cast<size_t>(length) * sizeof(double));
    });
  return out;
}

// The same where the rank updates a share of the part: zeros around that.
inline std::vector<double> part_of_gradient(const Tensor& part, Span share, const Ranks* ranks, const double* whole) {
  std::vector<double> out = part_of_planes(part, ranks, whole);
  std::fill(out.begin(), out.begin() + share.first, 0.0);
  std::fill(out.begin() + share.last, out.end(), 0.0);
  return out;
}

// A parameter's gradient in an arena, dense, plane after plane.
inline std::vector<double> gradient_of(const Tensor& param, const char* arena) {
  const int64_t length = row_length(param), rows = row_count(param);
  std::vector<double> out(static_cast<size_t>(elements(param) * planes(param)));
  for (int plane = 0; plane < planes(param); ++plane)
    for (int64_t row = 0; row < rows; ++row)
      load_reals(format_of(scalar_type(param.dtype)), arena + row_offset(param, plane, row), &out[static_cast<size_t>((plane * rows + row) * length)], static_cast<size_t>(length));
  return out;
}

// A parameter whole and dense, from the parts of all ranks. All of them call it.
inline void gather(const Tensor& param, const char* arena, Ranks* ranks, char* out) {
  if (!param.cut) return pack(param, arena, out);
  const size_t bytes = dense_bytes(param), element = dtype_size(param.dtype), row = static_cast<size_t>(row_length(param)) * element;
  std::vector<char> mine(bytes + sizeof(Corner)), all(mine.size() * static_cast<size_t>(ranks->size()));
  Corner corner = corner_of(param, ranks);
  if (!holds(param, ranks)) corner.at[0] = -1;
  pack(param, arena, mine.data());
  memcpy(mine.data() + bytes, &corner, sizeof corner);
  ranks->all_gather(Ranks::kOwn, Ranks::kWorld, mine.data(), all.data(), mine.size());
  for (int r = 0; r < ranks->size(); ++r) {
    const char* const from = all.data() + static_cast<size_t>(r) * mine.size();
    Corner at;
    memcpy(&at, from + bytes, sizeof at);
    if (at.at[0] < 0) continue;
    each_row(param, at, [&](int64_t i, int64_t first) { memcpy(out + static_cast<size_t>(first) * element, from + static_cast<size_t>(i) * row, row); });
  }
}

}  // namespace tsr
