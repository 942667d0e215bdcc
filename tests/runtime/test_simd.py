"""simd.h and transpose.h: reductions, partial vectors, strides, integer columns, and transposes of every small size."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests.runtime import harness

COLUMNS = """#include "harness.h"
#include "simd.h"
using namespace tsr;

template <class T, int N>
static void check(Files& files) {
  auto x = files.read<T>(N), strided = files.read<T>(3 * N - 2);
  auto narrow = files.read<int32_t>(N);
  auto wide = files.read<int64_t>(N);
  auto y = files.read<T>(N), z = files.read<T>(3 * N - 2), result = files.read<T>(6);
  Vec<T> sum{}, low = broadcast(T(1e30)), high = broadcast(T(-1e30)), integers{}, index{};
  columns<T, N>([&](auto c) {
    const Vec<T> v = c.load(x.get());
    sum += v;  // lanes without a column are zero
    low = vmin(low, c.keep(v, T(1e30)));
    high = vmax(high, c.keep(v, T(-1e30)));
    integers += c.load_int(narrow.get()) + c.load_int(wide.get());
    index += c.keep(c.index(), 0);
    c.store(y.get(), v + c.load(strided.get(), 3));
    c.store(z.get(), 3, select(v < T(0), -v, vabs(v)));
  });
  Vec<T> dynamic{};
  columns<T>(N, [&](auto c) { dynamic += c.keep(c.load(x.get()) + T(1), 0); });
  const T all[] = {hsum(sum), hmin(low), hmax(high), hsum(integers), hsum(index), hsum(dynamic)};
  for (int i = 0; i < 6; ++i) result.get()[i] = all[i];
  files.write(y), files.write(z), files.write(result);
}

int main(int, char** argv) {
  Files files(argv);
CALLS
}
"""
SIZES = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 40, 65]

TRANSPOSE = """#include "harness.h"
#include "transpose.h"

template <class T>
static void check(Files& files, int rows, int columns) {
  auto x = files.read<T>((rows - 1) * (columns + 3) + columns), y = files.read<T>((columns - 1) * (rows + 2) + rows);
  tsr::transpose(x.get(), rows, columns, columns + 3, y.get(), rows + 2);
  files.write(y);
}

int main(int, char** argv) {
  Files files(argv);
  for (int rows = 1; rows < 40; rows += 3)
    for (int columns = 1; columns < 40; columns += 4) {
      check<float>(files, rows, columns);
      check<double>(files, rows, columns);
    }
}
"""


@pytest.mark.parametrize("variant", harness.VARIANTS)
def test_columns(variant: str, tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    inputs: list[np.ndarray] = []
    outputs: list[np.ndarray] = []
    calls = []
    for dtype, name in ((np.float32, "float"), (np.float64, "double")):
        for n in SIZES:
            calls.append(f"  check<{name}, {n}>(files);")
            inputs += [random.integers(-99, 99, n).astype(dtype), random.integers(-99, 99, 3 * n - 2).astype(dtype)]
            inputs += [random.integers(-99, 99, n).astype(np.int32), random.integers(-99, 99, n)]
            inputs += [np.zeros(n, dtype), np.full(3 * n - 2, 7, dtype), np.zeros(6, dtype)]
            outputs += inputs[-3:]
    program = harness.build(COLUMNS.replace("CALLS", "\n".join(calls)), variant, tmp_path)
    got = harness.run(program, inputs, outputs)
    for i, n in enumerate(SIZES * 2):
        x, strided, narrow, wide = inputs[7 * i : 7 * i + 4]
        y, z, result = got[3 * i : 3 * i + 3]
        assert np.array_equal(y, x + strided[::3])
        assert np.array_equal(z[::3], np.abs(x))
        assert np.all(np.delete(z, np.arange(0, 3 * n - 2, 3)) == 7)
        want = [x.sum(), x.min(), x.max(), narrow.sum() + wide.sum(), n * (n - 1) / 2, x.sum() + n]
        assert result.tolist() == want, n


@pytest.mark.parametrize("variant", harness.VARIANTS)
def test_transpose(variant: str, tmp_path: Path) -> None:
    inputs: list[np.ndarray] = []
    outputs: list[np.ndarray] = []
    sizes = [(r, c, d) for r in range(1, 40, 3) for c in range(1, 40, 4) for d in (np.float32, np.float64)]
    for r, c, dtype in sizes:
        inputs += [np.arange((r - 1) * (c + 3) + c).astype(dtype), np.full((c - 1) * (r + 2) + r, -1, dtype)]
        outputs.append(inputs[-1])
    got = harness.run(harness.build(TRANSPOSE, variant, tmp_path), inputs, outputs)
    for (r, c, _), y in zip(sizes, got, strict=True):
        padded = np.append(y, [-1, -1]).reshape(c, r + 2)
        assert np.array_equal(padded[:, :r], (np.arange(r)[:, None] * (c + 3) + np.arange(c)).T)
        assert np.all(padded[:, r:] == -1)


def test_examples_of_the_readme_compile(tmp_path: Path) -> None:
    """Every C++ block of runtime/README.md, with the warnings that emitted code is compiled with."""
    text = (harness.ROOT / "runtime" / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```cpp\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 3
    used = re.findall(r"^static void (\w+)\(", "\n".join(blocks), re.MULTILINE)
    headers = "".join(f'#include "{h}.h"\n' for h in ("attention", "gemm", "philox", "transpose", "vmath"))
    keep = "".join(f"void* const use_{name} = reinterpret_cast<void*>({name});\n" for name in used)
    source = f"{headers}using namespace tsr;\n{''.join(blocks)}\n{keep}int main() {{}}\n"
    harness.build(source, "native", tmp_path)


HEADERS = ["simd", "elementary", "activation", "vmath", "gemm", "transpose", "attention", "philox"]


@pytest.mark.parametrize("header", HEADERS)
def test_each_header_compiles_alone(header: str, tmp_path: Path) -> None:
    harness.build(f'#include "{header}.h"\n#include "{header}.h"\nint main() {{}}\n', "native", tmp_path)
