"""philox.h: the published test vectors, equality of vector and scalar forms, and the distributions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.runtime import harness

SOURCE = """#include "harness.h"
#include "philox.h"
using namespace tsr;

template <class T>
static void draw(Files& files, uint64_t first, long n) {
  auto uniform = files.read<T>(n), normal = files.read<T>(n), one = files.read<T>(2 * n);
  for (long i = 0; i < n; i += lanes<T>) {
    store(uniform.get() + i, random_uniform_vec<T>(42, stream_id("layer.W"), first + i));
    store(normal.get() + i, random_normal_vec<T>(42, stream_id("layer.W"), first + i));
  }
  for (long i = 0; i < lanes<T>; ++i) {  // read across rows of three numbers
    const auto apart = random_uniform_vec<T>(42, stream_id("layer.W"), first + 1, 3);
    if (apart[i] != random_uniform<T>(42, stream_id("layer.W"), first + 1 + 3 * i)) uniform.get()[0] = -1;
  }
  for (long i = 0; i < n; ++i) {
    one.get()[i] = random_uniform<T>(42, stream_id("layer.W"), first + i);
    one.get()[n + i] = random_normal<T>(42, stream_id("layer.W"), first + i);
  }
  files.write(uniform), files.write(normal), files.write(one);
}

int main(int, char** argv) {
  Files files(argv);
  const Words counters[] = {{{0, 0, 0, 0}},
                            {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}},
                            {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}};
  const uint64_t keys[] = {0, ~0ull, 0x299f31d0a4093822ull};
  for (int i = 0; i < 3; ++i) files.write(philox(counters[i], keys[i]).w, 4);
  static_assert(stream_id("") == 0xcbf29ce484222325u && stream_id("a") == 0xaf63dc4c8601ec8cu, "FNV-1a");
  draw<float>(files, 0, 65536);
  draw<float>(files, 0xfffffff1, 1024);  // across the carry into the second counter word
  draw<double>(files, 1, 65536);
}
"""


@pytest.mark.parametrize("variant", harness.VARIANTS)
def test_random_numbers(variant: str, tmp_path: Path) -> None:
    shapes = [(np.float32, 65536), (np.float32, 1024), (np.float64, 65536)]
    inputs = [np.zeros(size, dtype) for dtype, n in shapes for size in (n, n, 2 * n)]
    words, *got = harness.run(harness.build(SOURCE, variant, tmp_path), inputs, [np.zeros(12, np.uint32), *inputs])
    # The known answers published with the generator (Random123, philox4x32 with 10 rounds).
    assert " ".join(f"{w:08x}" for w in words) == (
        "6627e8d5 e169c58d bc57ac4c 9b00dbd8 408f276d 41c83b0e a20bc7c6 6d5451fd "
        "d16cfe09 94fdcceb 5001e420 24126ea1"
    )
    for i, (dtype, n) in enumerate(shapes):
        uniform, normal, one = (np.asarray(values, dtype) for values in got[3 * i : 3 * i + 3])
        assert np.array_equal(uniform, one[:n])
        assert np.array_equal(normal, one[n:])
        assert uniform.min() >= 0
        assert uniform.max() < 1
        scaled = uniform.astype(np.float64) * (2.0**24 if dtype is np.float32 else 2.0**53)
        assert np.array_equal(scaled, np.floor(scaled))
        assert len(np.unique(uniform)) > 0.99 * n
        if n < 65536:
            continue
        error = 5 / np.sqrt(n)  # five standard deviations of the sample means
        assert abs(uniform.mean() - 0.5) < error * np.sqrt(1 / 12)
        assert np.abs(np.histogram(uniform, 16, (0, 1))[0] / n - 1 / 16).max() < error * 0.25
        assert abs(normal.mean()) < error
        assert abs((normal.astype(np.float64) ** 2).mean() - 1) < error * np.sqrt(2)
        assert abs((normal.astype(np.float64) ** 4).mean() - 3) < error * np.sqrt(96)
        assert abs(np.corrcoef(normal[:-1], normal[1:])[0, 1]) < error
        assert abs(np.corrcoef(uniform[:-1], uniform[1:])[0, 1]) < error
