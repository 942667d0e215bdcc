"""fft.h and fft_real*.h against NumPy: lengths of every kind, along rows and down columns, both precisions.

The bound that the tests hold is the one fft.h states: a relative L2 error of 1.5 u log2 N (u: unit roundoff), three
times that where a prime factor over 31 leads through a convolution. The oracle transforms the same rounded input in the
next wider precision.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.runtime import harness

LARGE = {"float": (97, 360, 512, 1000, 1009, 4096, 6000), "double": (16, 97, 128, 1000, 2018, 4096)}
ROWS = 19
ROUNDOFF = {np.dtype(np.float32): 2.0**-24, np.dtype(np.float64): 2.0**-53}


def in_full(n: int) -> bool:
    """Lengths that are tested down the columns and on real numbers, too: all would cost the compiler minutes."""
    return n <= 12 or n % 8 == 0 or n in (15, 25, 37) or n > 64


def program(cases: list[tuple[int, str]]) -> str:
    """A program that transforms ROWS rows, and the same numbers as columns, both ways, complex and real."""
    calls = "\n".join(f"  check<{kind}, {n}, {str(in_full(n)).lower()}>(files);" for n, kind in cases)
    return f"""#include "fft_real_columns.h"
#include "harness.h"
using namespace tsr;
constexpr long R = {ROWS};

template <class T>
static T* aligned(Array<T>& a, long n) {{
  a = Array<T>{{std::unique_ptr<T[]>(new T[n + 64]), n}};
  return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(a.get()) + 63) / 64 * 64);
}}

template <class T, int N, bool Whole>
static void check(Files& files) {{
  constexpr long H = N / 2 + 1;
  using P = Planes<Vec<T>>;
  auto re = files.read<T>(R * N), im = files.read<T>(R * N);
  T *a = re.get(), *b = im.get();
  Array<T> memory;
  T* work = aligned(memory, fft_rows_work<T, N>());
  // In place: all of a row is read before it is written. Rows from 3 on, then the first three.
  auto rows = [&](long begin, long end) {{
    fft_rows<T, N>(begin, end, [&](long r, auto c) {{ return P{{c.load(a + r * N), c.load(b + r * N)}}; }},
                   [&](long r, auto c, P v) {{ c.store(a + r * N, v.re), c.store(b + r * N, v.im); }}, work);
  }};
  rows(3, R), rows(0, 3);
  files.write(re), files.write(im);
  auto down_re = files.read<T>(R * N), down_im = files.read<T>(R * N);
  if constexpr (Whole) {{
    a = down_re.get(), b = down_im.get();
    work = aligned(memory, fft_columns_work<T, N>());
    fft_columns<T, N>(0, R, [&](int j, auto c) {{ return P{{c.load(a + j * R), c.load(b + j * R)}}; }},
                      [&](int k, auto c, P v) {{ c.store(a + k * R, v.re), c.store(b + k * R, v.im); }}, work);
  }}
  files.write(down_re), files.write(down_im);

  auto real = files.read<T>(R * N);
  Array<T> bins{{std::unique_ptr<T[]>(new T[2 * R * H]), 2 * R * H}}, back{{std::unique_ptr<T[]>(new T[R * N]), R * N}};
  T *const p = bins.get(), *const q = p + R * H;
  if constexpr (Whole) {{
    work = aligned(memory, rfft_rows_work<T, N>());
    rfft_rows<T, N>(0, R, T(1), [&](long r, auto c) {{ return c.load(real.get() + r * N); }},
                    [&](long r, auto c, P v) {{ c.store(p + r * H, v.re), c.store(q + r * H, v.im); }}, work);
  }}
  files.write(bins);
  if constexpr (Whole)
    irfft_rows<T, N>(0, R, T(2), [&](long r, auto c) {{ return P{{c.load(p + r * H), c.load(q + r * H)}}; }},
                     [&](long r, auto c, Vec<T> v) {{ c.store(back.get() + r * N, v); }}, work);
  files.write(back);
  auto upright = files.read<T>(R * N);
  if constexpr (Whole) {{
    work = aligned(memory, rfft_columns_work<T, N>());
    rfft_columns<T, N>(0, R, T(0.5), [&](int j, auto c) {{ return c.load(upright.get() + j * R); }},
                       [&](int k, auto c, P v) {{ c.store(p + k * R, v.re), c.store(q + k * R, v.im); }}, work);
  }}
  files.write(bins);
  if constexpr (Whole)
    irfft_columns<T, N>(0, R, T(2), [&](int k, auto c) {{ return P{{c.load(p + k * R), c.load(q + k * R)}}; }},
                        [&](int j, auto c, Vec<T> v) {{ c.store(back.get() + j * R, v); }}, work);
  files.write(back);
  Array<T> full{{std::unique_ptr<T[]>(new T[2 * R * N]), 2 * R * N}};
  T *const s = full.get(), *const t = s + R * N;
  if constexpr (Whole) {{
    work = aligned(memory, rfft_rows_work<T, N>());
    fft_real_rows<T, N>(0, R, [&](long r, auto c) {{ return c.load(real.get() + r * N); }},
                        [&](long r, auto c, P v) {{ c.store(s + r * N, v.re), c.store(t + r * N, v.im); }}, work);
  }}
  files.write(full);
  if constexpr (Whole) {{
    work = aligned(memory, rfft_columns_work<T, N>());
    fft_real_columns<T, N>(0, R, [&](int j, auto c) {{ return c.load(upright.get() + j * R); }},
                           [&](int k, auto c, P v) {{ c.store(s + k * R, v.re), c.store(t + k * R, v.im); }}, work);
  }}
  files.write(full);
}}

int main(int, char** argv) {{
  Files files(argv);
{calls}
}}
"""


def transform(x: np.ndarray) -> np.ndarray:
    """The transform of the rows by NumPy, in the next wider precision than the one under test."""
    return np.fft.fft(x.astype(np.complex128 if x.real.dtype == np.float32 else np.clongdouble))


def bound(n: int, dtype: np.dtype) -> float:
    primes = (p for p in range(2, n + 1) if n % p == 0 and all(p % q for q in range(2, int(p**0.5) + 1)))
    largest = max(primes, default=1)
    return (4.5 if largest > 31 else 1.5) * ROUNDOFF[np.dtype(dtype)] * max(np.log2(n), 1.0)


def error(got: np.ndarray, want: np.ndarray) -> float:
    size = float(np.sqrt(np.sum(np.abs(want) ** 2)))
    return float(np.sqrt(np.sum(np.abs(got - want) ** 2))) / size if size else float(np.max(np.abs(got), initial=0.0))


def check(cases: list[tuple[int, str]], variant: str, folder: Path) -> None:
    random = np.random.default_rng(3)
    inputs: list[np.ndarray] = []
    outputs: list[np.ndarray] = []
    for n, kind in cases:
        dtype = np.dtype(np.float64 if kind == "double" else np.float32)
        a, b, x = (random.standard_normal((ROWS, n)).astype(dtype) for _ in range(3))
        inputs += [a, b, a.T.copy(), b.T.copy(), x, x.T.copy()]
        whole, half = np.zeros((ROWS, n), dtype), np.zeros((2, ROWS, n // 2 + 1), dtype)
        tall = half.transpose(0, 2, 1).copy()
        outputs += [whole, whole, whole.T.copy(), whole.T.copy(), half, whole, tall, whole.T.copy()]
        outputs += [np.zeros((2, ROWS, n), dtype), np.zeros((2, n, ROWS), dtype)]
    got = harness.run(harness.build(program(cases), variant, folder), inputs, outputs)
    for i, (n, kind) in enumerate(cases):
        a, b, _, _, x, _ = inputs[6 * i : 6 * i + 6]
        re, im, down_re, down_im, half, back, tall, stood, full, tall_full = got[10 * i : 10 * i + 10]
        limit, want = bound(n, a.dtype), transform(a + 1j * b)
        assert error(re + 1j * im, want) <= limit, (n, kind, "rows")
        if not in_full(n):
            continue
        bins = transform(x + 0j)[:, : n // 2 + 1]
        alone = np.array([k in (0, n / 2) for k in range(n // 2 + 1)])
        assert error(half[0] + 1j * half[1], bins) <= limit, (n, kind, "real rows")
        twice = 2.0 * n * x - bins[:, :1].real - (bins[:, -1:].real * (-1.0) ** np.arange(n) if n % 2 == 0 else 0)
        assert error(back, twice) <= 3 * limit, (n, kind, "real rows back")
        assert error((down_re + 1j * down_im).T, want) <= limit, (n, kind, "columns")
        assert error((tall[0] + 1j * tall[1]).T, np.where(alone, 1, 0.5) * bins) <= limit, (n, kind, "real columns")
        assert error(full[0] + 1j * full[1], transform(x + 0j)) <= limit, (n, kind, "real rows, all bins")
        tall_full = tall_full[0] + 1j * tall_full[1]
        assert error(tall_full.T, transform(x + 0j)) <= limit, (n, kind, "real columns, all bins")
        assert error(stood.T, n * x.astype(np.float64)) <= 3 * limit, (n, kind, "real columns back")


def test_every_short_length(tmp_path: Path) -> None:
    check([(n, "double" if n % 4 == 1 else "float") for n in range(1, 65)], "quick", tmp_path)


@pytest.mark.parametrize("variant", ["avx2", "sse2"])
def test_other_instruction_sets(variant: str, tmp_path: Path) -> None:
    check([(n, "double" if n % 3 == 0 else "float") for n in (5, 24, 37, 64)], variant, tmp_path)


@pytest.mark.parametrize("kind", ["float", "double"])
def test_lengths_of_every_kind(kind: str, tmp_path: Path) -> None:
    check([(n, kind) for n in LARGE[kind]], "native" if kind == "float" else "quick", tmp_path)


def test_no_access_outside_the_operands(tmp_path: Path) -> None:
    check([(n, "float") for n in (1, 7, 24, 37)], "sanitized", tmp_path)
