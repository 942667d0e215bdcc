// First values of the parameters. Element i (row-major) of parameter `name` depends on the seed, the
// name and i alone: memory layout, thread count and mesh do not change it. A complex element is the
// scalars 2i and 2i + 1; both are drawn from the same distribution, constants are real.
#pragma once
#include <cstdint>

#include "dtype.h"
#include "program.h"
#include "random.h"
#include "ranks.h"
#include "tensor.h"

namespace tsr {

// Scalars 4*block .. 4*block+3 of a parameter, as double; those of a complex one in turns.
inline void initial_block(const Tensor& param, uint64_t seed, uint64_t stream, uint64_t block, double* out) {
  switch (param.init) {
    case Init::uniform:
      uniform_block(seed, stream, block, out);
      for (int i = 0; i < kRandomBlock; ++i) out[i] = param.init_a + (param.init_b - param.init_a) * out[i];
      return;
    case Init::normal:
      normal_block(seed, stream, block, out);
      for (int i = 0; i < kRandomBlock; ++i) out[i] = param.init_a + param.init_b * out[i];
      return;
    case Init::zeros: case Init::ones: case Init::constant: break;
  }
  const double value = param.init == Init::zeros ? 0 : param.init == Init::ones ? 1 : param.init_a;
  for (int i = 0; i < kRandomBlock; ++i) out[i] = i % planes(param) == 0 ? value : 0;
}

// A rank's part of a larger parameter: every element by its number in the whole.
inline void initialise_part(const Tensor& param, uint64_t seed, char* arena, const Ranks* ranks) {
  const uint64_t stream = stream_of(param.name);
  const int64_t parts = planes(param), length = row_length(param);
  const size_t scalar = dtype_size(scalar_type(param.dtype));
  each_row(param, ranks, [&](int64_t row, int64_t first) {
    double values[kRandomBlock];
    int64_t have = -1;
    for (int64_t i = first * parts; i < (first + length) * parts; ++i) {
      const int64_t block = i / kRandomBlock, column = i / parts - first;
      if (block != have) initial_block(param, seed, stream, static_cast<uint64_t>(block), values), have = block;
      store_reals(param.dtype, values + i % kRandomBlock, arena + row_offset(param, static_cast<int>(i % parts), row) + static_cast<size_t>(column) * scalar, 1);
    }
  });
}

inline void initialise(const Tensor& param, uint64_t seed, char* arena) {
  const uint64_t stream = stream_of(param.name);
  const int64_t parts = planes(param), length = row_length(param), total = row_count(param) * length * parts;
  const size_t scalar = dtype_size(scalar_type(param.dtype));
  const int64_t blocks = (total + kRandomBlock - 1) / kRandomBlock;
#pragma omp parallel for schedule(static) if (blocks > 4096)
  for (int64_t block = 0; block < blocks; ++block) {
    double values[kRandomBlock];
    initial_block(param, seed, stream, static_cast<uint64_t>(block), values);
    const int64_t first = block * kRandomBlock, last = first + kRandomBlock < total ? first + kRandomBlock : total;
    if (parts == 1 && first % length + (last - first) <= length) {  // within a row, as nearly always: one division, not eight
      char* const at = arena + row_offset(param, 0, first / length) + static_cast<size_t>(first % length) * scalar;
      store_reals(param.dtype, values, at, static_cast<size_t>(last - first));
      continue;
    }
    for (int64_t i = first; i < last; ++i) {
      const int64_t element = i / parts;
      char* const at = arena + row_offset(param, static_cast<int>(i % parts), element / length) + static_cast<size_t>(element % length) * scalar;
      store_reals(param.dtype, values + i % kRandomBlock, at, 1);
    }
  }
}

inline void initialise(const Program& program, uint64_t seed, char* arena, const Ranks* ranks = nullptr) {
  for (int i = 0; i < program.param_count; ++i) {
    if (!holds(program.params[i], ranks)) continue;
    if (program.params[i].cut) initialise_part(program.params[i], seed, arena, ranks);
    else initialise(program.params[i], seed, arena);
  }
}

}  // namespace tsr
