"""gemm.h against NumPy in double precision: every tail, both layouts of A, three kinds of epilogue, thread teams."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.runtime import harness


@dataclass(frozen=True)
class Case:
    """Sizes of one product; `extra` columns of padding in every row of A, B and C."""

    m: int
    n: int
    k: int
    transpose_a: bool
    extra: tuple[int, int, int]
    double: bool

    @property
    def lda(self) -> int:
        return (self.m if self.transpose_a else self.k) + self.extra[0]

    @property
    def rows_a(self) -> int:
        return self.k if self.transpose_a else self.m

    @property
    def ldb(self) -> int:
        return self.n + self.extra[1]

    @property
    def ldc(self) -> int:
        return self.n + self.extra[2]


FIXED = [
    Case(1, 1, 1, False, (0, 0, 0), False),
    Case(1, 300, 40, False, (0, 4, 0), False),
    Case(65, 1, 64, False, (3, 0, 0), False),
    Case(12, 32, 5, False, (0, 0, 0), False),
    Case(24, 64, 2500, False, (1, 0, 0), False),
    Case(13, 33, 1025, True, (0, 0, 0), False),
    Case(300, 17, 600, False, (0, 0, 0), False),
    Case(1, 1, 1, True, (0, 0, 0), True),
    # Right operands larger than a cache: sums in pieces, several blocks of rows and groups of panels.
    Case(301, 1000, 600, False, (0, 8, 0), False),
    Case(61, 517, 1100, True, (3, 0, 5), False),
    Case(50, 700, 400, False, (1, 0, 0), True),
]


def cases() -> list[Case]:
    """The fixed cases, and random ones of 1 to 70 rows, columns and terms."""
    random = np.random.default_rng(5)
    drawn = []
    for i in range(12):
        m, n, k = (int(x) for x in random.integers(1, 71, 3))
        extra = tuple(int(x) for x in random.integers(0, 20, 3))
        drawn.append(Case(m, n, k, bool(i % 2), (extra[0], extra[1], extra[2]), i % 4 >= 2))
    return FIXED + drawn


def program(all_cases: list[Case]) -> str:
    calls = []
    for c in all_cases:
        kind = "kTransposed" if c.transpose_a else "kRows"
        shape = f"Shape<{c.m}, {c.n}, {c.k}, {c.lda}, {c.ldb}, {kind}>"
        calls.append(f"  check<{'double' if c.double else 'float'}, {c.ldc}, {shape}>(files);")
    return (
        """#include "gemm.h"
#include "harness.h"
using namespace tsr;

template <class T, int Ldc, class S>
static void check(Files& files) {
  const long rows_a = S::transpose_a ? S::k : S::m, columns_a = S::transpose_a ? S::m : S::k;
  auto A = files.read<T>((rows_a - 1) * S::lda + columns_a), B = files.read<T>((S::k - 1) * long(S::ldb) + S::n);
  auto bias = files.read<T>(S::n);
  const long size_c = (S::m - 1) * long(Ldc) + S::n;
  auto plain = files.read<T>(size_c), sum = files.read<T>(size_c);
  auto before = files.read<T>(size_c), after = files.read<T>(size_c);
  gemm<S>(A.get(), B.get(), Store<T>{plain.get(), Ldc});
  gemm<S>(A.get(), B.get(), Accumulate<T>{sum.get(), Ldc});
  auto epilogue = [&](auto c, int row, Vec<T> v) {
    v += c.load(bias.get());
    c.store(before.get() + row * long(Ldc), v);
    c.store(after.get() + row * long(Ldc), v * v);
  };
  for (int part = 0; part < 3; ++part) gemm<S>(A.get(), B.get(), epilogue, row_share<T, S>(part, 3));
  files.write(plain), files.write(sum), files.write(before), files.write(after);
}

int main(int, char** argv) {
  Files files(argv);
"""
        + "\n".join(calls)
        + "\n}\n"
    )


def rows(flat: np.ndarray, count: int, width: int, stride: int) -> np.ndarray:
    """The count x width matrix of a flat array whose last row is not padded."""
    return np.lib.stride_tricks.as_strided(flat, (count, width), (stride * flat.itemsize, flat.itemsize))


@pytest.mark.parametrize("variant", harness.VARIANTS)
def test_products_match_numpy(variant: str, tmp_path: Path) -> None:
    random = np.random.default_rng(11)
    inputs: list[np.ndarray] = []
    outputs: list[np.ndarray] = []
    for c in cases():
        dtype = np.float64 if c.double else np.float32
        sizes = [(c.rows_a - 1) * c.lda + (c.m if c.transpose_a else c.k), (c.k - 1) * c.ldb + c.n, c.n]
        c_size = (c.m - 1) * c.ldc + c.n
        inputs += [random.standard_normal(size).astype(dtype) for size in [*sizes, c_size, c_size, c_size, c_size]]
        outputs += [np.zeros(c_size, dtype)] * 4
    got = harness.run(harness.build(program(cases()), variant, tmp_path), inputs, outputs)
    for i, c in enumerate(cases()):
        flat_a, flat_b, bias, *start = inputs[7 * i : 7 * i + 7]
        a = rows(flat_a, c.rows_a, c.m if c.transpose_a else c.k, c.lda).astype(np.float64)
        b = rows(flat_b, c.k, c.n, c.ldb).astype(np.float64)
        a = a.T if c.transpose_a else a
        product, magnitude = a @ b, np.abs(a) @ np.abs(b)
        unit = 1.2e-16 if c.double else 6.0e-8
        # |error| <= depth * unit * sum |a b| holds for any order of summation; depth is that of one partial sum.
        bound = unit * (min(c.k, 1024) + 4 + c.k // 1024) * magnitude
        old = rows(start[1], c.m, c.n, c.ldc).astype(np.float64)
        before = product + bias.astype(np.float64)
        wanted = [product, product + old, before, before**2]
        slack = [0 * bound, unit * np.abs(wanted[1]), unit * np.abs(before), 0 * bound]
        bounds = [bound, bound, bound, 2.1 * np.abs(before) * (bound + unit * np.abs(before)) + bound**2]
        results = got[4 * i : 4 * i + 4]
        names = ("C", "C +=", "bias", "square")
        for name, flat, want, allowed, more in zip(names, results, wanted, bounds, slack, strict=True):
            error = np.abs(rows(flat, c.m, c.n, c.ldc) - want)
            assert np.all(error <= allowed + 2 * more + 1e-300), f"{c} {name}: {error.max()}"
        for flat, original in zip(results, start, strict=True):  # the padding between the rows is left alone
            outside = np.arange(flat.size) % c.ldc >= c.n
            assert np.array_equal(flat[outside], original[outside]), f"{c} wrote into the padding"


def test_error_of_long_sums_stays_that_of_short_ones(tmp_path: Path) -> None:
    """2^17 equal terms: one running float sum would lose over 1e-4, sums of 1024-term sums do not."""
    source = """#include "gemm.h"
#include "harness.h"
int main(int, char** argv) {
  Files files(argv);
  auto a = files.read<float>(131072), b = files.read<float>(131072), c = files.read<float>(1);
  tsr::gemm<tsr::Shape<1, 1, 131072, 131072, 1>>(a.get(), b.get(), tsr::Store<float>{c.get(), 1});
  files.write(c);
}
"""
    a = np.full(131072, 0.1, np.float32)
    b = np.full(131072, 0.7, np.float32)
    zero = np.zeros(1, np.float32)
    (got,) = harness.run(harness.build(source, "native", tmp_path), [a, b, zero], [zero])
    want = float(a.astype(np.float64) @ b.astype(np.float64))
    assert abs(float(got[0]) - want) < 2e-5 * want
