"""bf16 in memory: rounding of scalars and vectors, transposition, and products against NumPy in double precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tesserac.ops.numerics import to_bfloat16
from tests.runtime import harness
from tests.runtime.test_gemm import Case, rows

CASES = [
    Case(1, 1, 1, False, (0, 0, 0), False),
    Case(1, 1, 1, True, (0, 0, 0), False),
    Case(1, 300, 41, False, (0, 4, 0), False),
    Case(65, 1, 64, False, (3, 0, 0), False),
    Case(12, 32, 5, False, (0, 0, 0), False),
    Case(12, 32, 6, True, (1, 1, 1), False),
    Case(24, 64, 2501, False, (1, 0, 0), False),
    Case(13, 33, 1025, True, (0, 0, 0), False),
    Case(5, 70, 129, True, (0, 0, 0), False),
    Case(30, 80, 64, False, (0, 0, 0), False),
    Case(300, 17, 600, False, (0, 0, 0), False),
    # Right operands larger than a cache: sums in pieces; an odd number of terms in the last.
    Case(61, 1000, 1101, False, (0, 8, 0), False),
    Case(70, 1100, 1031, True, (2, 0, 0), False),
]


def drawn() -> list[Case]:
    """Random cases of 1 to 70 rows, columns and terms."""
    random = np.random.default_rng(6)
    found = []
    for i in range(10):
        m, n, k = (int(x) for x in random.integers(1, 71, 3))
        extra = [int(x) for x in random.integers(0, 20, 3)]
        found.append(Case(m, n, k, bool(i % 2), (extra[0], extra[1], extra[2]), False))
    return found


def stored(x: NDArray[np.floating]) -> NDArray[np.uint16]:
    """The bits of float32 numbers that bf16 holds exactly."""
    return (np.ascontiguousarray(x, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def program(cases: list[Case]) -> str:
    calls = []
    for c in cases:
        shape = f"Shape<{c.m}, {c.n}, {c.k}, {c.lda}, {c.ldb}, {'kTransposed' if c.transpose_a else 'kRows'}>"
        calls.append(f"  check<{c.ldc}, {shape}>(files);")
    return (
        """#include "gemm_bf16.h"
#include "harness.h"
using namespace tsr;

template <int Ldc, class S>
static void check(Files& files) {
  const long rows_a = S::transpose_a ? S::k : S::m, columns_a = S::transpose_a ? S::m : S::k;
  auto A = files.read<bf16>((rows_a - 1) * S::lda + columns_a), B = files.read<bf16>((S::k - 1) * long(S::ldb) + S::n);
  const long size_c = (S::m - 1) * long(Ldc) + S::n;
  auto plain = files.read<float>(size_c), sum = files.read<float>(size_c);
  auto rounded = files.read<bf16>(size_c);
  gemm<S>(A.get(), B.get(), Store<float>{plain.get(), Ldc});
  gemm<S>(A.get(), B.get(), Accumulate<float>{sum.get(), Ldc});
  auto epilogue = [&](auto c, int row, Vec<float> v) { c.store(rounded.get() + row * long(Ldc), v); };
  for (int part = 0; part < 3; ++part) gemm<S>(A.get(), B.get(), epilogue, row_share<bf16, S>(part, 3));
  files.write(plain), files.write(sum), files.write(rounded);
}

int main(int, char** argv) {
  Files files(argv);
"""
        + "\n".join(calls)
        + "\n}\n"
    )


@pytest.mark.parametrize("variant", harness.VARIANTS)
def test_products_match_numpy(variant: str, tmp_path: Path) -> None:
    random = np.random.default_rng(12)
    cases = CASES + drawn()
    inputs: list[NDArray[np.generic]] = []
    outputs: list[NDArray[np.generic]] = []
    for c in cases:
        sizes = [(c.rows_a - 1) * c.lda + (c.m if c.transpose_a else c.k), (c.k - 1) * c.ldb + c.n]
        c_size = (c.m - 1) * c.ldc + c.n
        inputs += [stored(to_bfloat16(random.standard_normal(size))) for size in sizes]
        inputs += [random.standard_normal(c_size).astype(np.float32) for _ in range(2)]
        inputs.append(np.full(c_size, 0x4242, np.uint16))
        outputs += [np.zeros(c_size, np.float32)] * 2 + [np.zeros(c_size, np.uint16)]
    got = harness.run(harness.build(program(cases), variant, tmp_path), inputs, outputs)
    for i, c in enumerate(cases):
        bits_a, bits_b, _, old, _ = inputs[5 * i : 5 * i + 5]
        a = rows(widened(bits_a), c.rows_a, c.m if c.transpose_a else c.k, c.lda).astype(np.float64)
        b = rows(widened(bits_b), c.k, c.n, c.ldb).astype(np.float64)
        a = a.T if c.transpose_a else a
        product, magnitude = a @ b, np.abs(a) @ np.abs(b)
        bound = 6.0e-8 * (min(c.k, 1024) + 4 + c.k // 1024) * magnitude + 1e-30
        plain, total, rounded = got[3 * i : 3 * i + 3]
        assert np.all(np.abs(rows(plain, c.m, c.n, c.ldc) - product) <= bound), c
        want = product + rows(np.asarray(old), c.m, c.n, c.ldc)
        assert np.all(np.abs(rows(total, c.m, c.n, c.ldc) - want) <= bound + 1.2e-7 * np.abs(want)), c
        outside = np.arange(rounded.size) % c.ldc >= c.n
        assert np.all(rounded[outside] == 0x4242), f"{c} wrote into the padding"
        assert np.array_equal(rounded[~outside], stored(to_bfloat16(plain[~outside]))), c


def widened(bits: NDArray[np.generic]) -> NDArray[np.float32]:
    """The float32 numbers whose upper halves are given."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


ROUNDING = """#include "simd.h"
#include "transpose.h"
#include "harness.h"
using namespace tsr;
int main(int, char** argv) {
  Files files(argv);
  auto x = files.read<float>(COUNT);
  Array<bf16> scalar{std::unique_ptr<bf16[]>(new bf16[COUNT]), COUNT};
  Array<bf16> vector{std::unique_ptr<bf16[]>(new bf16[COUNT]), COUNT};
  auto back = files.read<float>(COUNT);
  for (long i = 0; i < COUNT; ++i) scalar.get()[i] = x.get()[i];
  columns<float, COUNT>([&](auto c) { c.store(vector.get(), c.load(x.get())); });
  columns<float, COUNT>([&](auto c) { c.store(back.get(), round_bf16(c.load(x.get()))); });
  files.write(scalar), files.write(vector), files.write(back);
  auto matrix = files.read<bf16>(37 * 70), turned = files.read<bf16>(66 * 40);
  transpose(matrix.get(), 37, 66, 70, turned.get(), 40);
  files.write(turned);
}
"""


@pytest.mark.parametrize("variant", harness.VARIANTS)
def test_rounding_is_to_nearest_even_and_keeps_nan(variant: str, tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 3.4e38, -3.4e38, 1e-40, 1.00390625, 1.01171875, 1.0039062, 1.0039064]
    x = np.concatenate([np.array(special, np.float32), random.integers(0, 2**32, 1013, np.uint32).view(np.float32)])
    # A NaN whose upper half alone is infinite.
    quiet_low = np.array([0x7F800001, 0xFF80FFFF], np.uint32).view(np.float32)
    x = np.concatenate([x, quiet_low])
    matrix = random.integers(0, 0x7F80, 37 * 70).astype(np.uint16)
    source = ROUNDING.replace("COUNT", str(x.size))
    halves = np.zeros(x.size, np.uint16)
    likes: list[NDArray[np.generic]] = [halves, halves, x, np.zeros(66 * 40, np.uint16)]
    inputs = [x, x, matrix, np.zeros(66 * 40, np.uint16)]
    scalar, vector, back, turned = harness.run(harness.build(source, variant, tmp_path), inputs, likes)
    assert np.array_equal(scalar, vector)
    nan = np.isnan(x)
    want = to_bfloat16(x)
    assert np.array_equal(scalar[~nan], stored(want)[~nan])
    assert np.all(np.isnan(widened(scalar)[nan]))
    assert np.array_equal(np.isnan(back), nan)
    assert np.array_equal(back[~nan], want[~nan])
    # Ties: 1 + 2^-8 lies between 1 and 1 + 2^-7 and goes to the even 1; 1 + 3 * 2^-8 goes up.
    assert list(back[8:10]) == [1.0, 1.015625]
    assert np.array_equal(turned.reshape(66, 40)[:, :37], matrix.reshape(37, 70)[:, :66].T)
