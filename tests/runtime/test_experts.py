"""experts.h and gemm_ragged.h against NumPy: routing, capacity, and products over the rows of every expert."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.runtime import harness

Indices = NDArray[np.int64]


def choices() -> list[tuple[Indices, int, int]]:
    """Slots' experts, number of experts, capacity: uneven, empty, one that has all, slots of no expert."""
    random = np.random.default_rng(3)
    return [
        (np.array([2, 0, 0, 4, 2, 4, 2, 1]), 4, 2),
        (np.zeros(37, np.int64), 1, 36),
        (np.full(50, 6), 8, 0),
        (np.full(9, 3), 3, 5),
        (random.zipf(1.4, 9000) % 17, 16, 100),
        (random.integers(0, 65, 5000), 64, 70),
        (np.array([0]), 5, 1),
        (np.array([-3, 1, 2**40, 7, 0, -1, 2]), 3, 2),
    ]


def test_routing_and_capacity(tmp_path: Path) -> None:
    """Sorted by expert and then by slot; the largest gates stay, ties and NaN as documented; any number of threads."""
    source = """#include "experts.h"
#include "harness.h"
int main(int, char** argv) {
  Files files(argv);
  CASES
}
"""
    random = np.random.default_rng(4)
    calls, inputs, outputs, wanted = [], [], [], []
    for chosen, experts, capacity in choices():
        n = len(chosen)
        gates = random.integers(0, 40, n).astype(np.float32)  # many ties
        gates[::11] = np.nan
        inputs += [chosen.astype(np.int64), gates]
        calls.append(f"""{{
    auto chosen = files.read<int64_t>({n});
    auto gates = files.read<float>({n});
    for (int threads = 1; threads <= 3; threads += 2) {{
      omp_set_num_threads(threads);
      Array<int32_t> order{{std::unique_ptr<int32_t[]>(new int32_t[{n}]), {n}}}, work{{
          std::unique_ptr<int32_t[]>(new int32_t[{2 * n + experts + 1}]), {2 * n + experts + 1}}};
      Array<int32_t> offsets{{std::unique_ptr<int32_t[]>(new int32_t[{experts + 1}]), {experts + 1}}};
      Array<int32_t> inverse{{std::unique_ptr<int32_t[]>(new int32_t[{n}]), {n}}};
      Array<int32_t> kept{{std::unique_ptr<int32_t[]>(new int32_t[{n}]), {n}}};
      tsr::route(chosen.get(), {n}, {experts}, order.get(), offsets.get(), inverse.get());
      tsr::limit(chosen.get(), gates.get(), work.get(), {n}, {experts}, {capacity}, kept.get());
      files.write(order), files.write(offsets), files.write(inverse), files.write(kept);
    }}
  }}""")
        chosen = np.where((chosen < 0) | (chosen > experts), experts, chosen)
        order = np.argsort(chosen, kind="stable")
        inverse = np.empty_like(order)
        inverse[order] = np.arange(n)
        offsets = np.concatenate([[0], np.cumsum(np.bincount(chosen, minlength=experts + 1)[:experts])])
        kept = np.full(n, experts)
        for expert in range(experts):
            slots = np.flatnonzero(chosen == expert)
            kept[slots[np.argsort(-gates[slots], kind="stable")[:capacity]]] = expert
        for _ in range(2):
            wanted += [order, offsets, inverse, kept]
    outputs = [np.zeros(w.shape, np.int32) for w in wanted]
    source = source.replace("CASES", "\n  ".join(calls))
    for variant in ("native", "sanitized"):
        got = harness.run(harness.build(source, variant, tmp_path), inputs, outputs)
        for number, (a, b) in enumerate(zip(got, wanted, strict=True)):
            assert np.array_equal(a, b), number


@dataclass(frozen=True)
class Case:
    """Rows of every expert; x [sum of rows, k], weights [k, n] each, with ``extra`` columns behind every row."""

    counts: tuple[int, ...]
    n: int
    k: int
    most: int
    extra: int = 0
    double: bool = False

    @property
    def rows(self) -> int:
        return sum(self.counts)


CASES = [
    Case((5, 0, 1, 30), 33, 17, 16, 3),
    Case((0, 64, 0), 64, 40, 24),
    Case((1,), 1, 1, 4),
    Case((13, 7), 130, 1100, 12, 1),
    Case((3, 25, 12), 16, 24, 64, 0, True),
    Case((0, 0), 20, 20, 8),
]


def program() -> str:
    calls = []
    for c in CASES:
        kind = "double" if c.double else "float"
        calls.append(f"  check<{kind}, {c.most}, {c.n}, {c.k}, {c.extra}, {len(c.counts)}>(files);")
    return (
        """#include "experts.h"
#include "gemm_ragged.h"
#include "harness.h"
using namespace tsr;

// Forward y = x_e W_e + 1, and dW_e = x_e^T y, tile by tile; three threads that share each product.
template <class T, int Most, int N, int K, int Extra, int E>
static void check(Files& files) {
  constexpr int lda = K + Extra, ldb = N + Extra;
  auto offsets = files.read<int>(E + 1);
  const long rows = offsets.get()[E];
  auto x = files.read<T>(rows * lda), weights = files.read<T>(E * K * ldb);
  auto y = files.read<T>(rows * ldb), dw = files.read<T>(E * K * ldb);
  using Forward = Shape<Most, N, K, lda, ldb>;
  using Outer = Shape<K, N, Most, lda, ldb, kTransposed>;
  long tiles = 0;
  for (int e = 0; e < E; ++e)
    expert_tiles(e, offsets.get()[e], offsets.get()[e + 1], Most, [&](const ExpertTile& tile) {
      ++tiles;
      if (tile.rows > Most || tile.expert != e) std::abort();
      const T* xs = x.get() + tile.row * lda;
      T *ys = y.get() + tile.row * ldb, *dws = dw.get() + e * long(K) * ldb;
      for (int part = 0; part < 3; ++part)
        gemm<Forward>(xs, weights.get() + e * long(K) * ldb,
                      [&](auto c, int i, Vec<T> v) { c.store(ys + i * long(ldb), v + T(1)); },
                      share_of_rows<T, Forward>(tile.rows, part, 3));
      for (int part = 0; part < 3; ++part) {
        const Part mine = share_of_terms<T, Outer>(tile.rows, part, 3);
        if (tile.first) gemm<Outer>(xs, ys, Store<T>{dws, ldb}, mine);
        else gemm<Outer>(xs, ys, Accumulate<T>{dws, ldb}, mine);
      }
    });
  if (tiles < E) std::abort();
  files.write(y), files.write(dw);
}

int main(int, char** argv) {
  Files files(argv);
"""
        + "\n".join(calls)
        + "\n}\n"
    )


@pytest.mark.parametrize("variant", ["native", "avx2", "sanitized"])
def test_ragged_products_match_numpy(variant: str, tmp_path: Path) -> None:
    """Any number of rows per expert, none among them; the padding of rows stays as it was."""
    random = np.random.default_rng(8)
    inputs: list[np.ndarray] = []
    outputs: list[np.ndarray] = []
    for c in CASES:
        dtype = np.float64 if c.double else np.float32
        experts = len(c.counts)
        inputs.append(np.concatenate([[0], np.cumsum(c.counts)]).astype(np.int32))
        shapes = [(c.rows, c.k + c.extra), (experts, c.k, c.n + c.extra), (c.rows, c.n + c.extra)]
        inputs += [random.standard_normal(s).astype(dtype) for s in (*shapes, shapes[1])]
        outputs += [np.zeros(s, dtype) for s in (shapes[2], shapes[1])]
    got = harness.run(harness.build(program(), variant, tmp_path), inputs, outputs)
    for i, c in enumerate(CASES):
        offsets, x, weights, y_before, dw_before = inputs[5 * i : 5 * i + 5]
        y, dw = got[2 * i : 2 * i + 2]
        unit = 1.2e-16 if c.double else 6.0e-8
        for e in range(len(c.counts)):
            rows = slice(offsets[e], offsets[e + 1])
            xe, we = x[rows, : c.k].astype(np.float64), weights[e, :, : c.n].astype(np.float64)
            bound = unit * (c.k + 8) * (np.abs(xe) @ np.abs(we) + 1)
            assert np.all(np.abs(y[rows, : c.n] - (xe @ we + 1)) <= bound), c
            ye = y[rows, : c.n].astype(np.float64)
            bound = unit * (c.rows + 8) * (np.abs(xe).T @ np.abs(ye)) + 1e-300
            assert np.all(np.abs(dw[e, :, : c.n] - xe.T @ ye) <= bound), c
        assert np.array_equal(y[:, c.n :], y_before[:, c.n :])
        assert np.array_equal(dw[:, :, c.n :], dw_before[:, :, c.n :])
