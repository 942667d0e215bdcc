"""attention.h against NumPy in double precision: outputs and gradients, with probabilities kept and recomputed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.runtime import harness


@dataclass(frozen=True)
class Case:
    """Sizes of one attention; `pad` columns of padding in every row; `first`: where queries begin among keys."""

    queries: int
    keys: int
    head_size: int
    heads: int
    kv_heads: int
    causal: bool
    pad: int
    double: bool
    first: int | None = None

    @property
    def offset(self) -> int:
        return self.keys - self.queries if self.first is None else self.first

    @property
    def ldq(self) -> int:
        return self.heads * self.head_size + self.pad

    @property
    def ldk(self) -> int:
        return self.kv_heads * self.head_size + self.pad


CASES = [
    Case(1, 1, 3, 1, 1, True, 0, False),
    Case(7, 7, 5, 2, 1, True, 1, True),
    Case(40, 40, 16, 2, 2, True, 0, False),
    Case(77, 90, 9, 4, 2, True, 5, False),
    Case(130, 37, 20, 3, 1, False, 2, False),
    Case(37, 300, 8, 1, 1, False, 0, True),
    Case(280, 280, 12, 1, 1, False, 0, False),
    Case(40, 160, 16, 2, 2, True, 0, False, 0),
    Case(40, 160, 16, 2, 2, True, 0, False, 80),
    Case(77, 308, 9, 4, 2, True, 5, False, 77),
    Case(3, 12, 5, 2, 1, True, 1, True, 9),
]


def program() -> str:
    calls = [
        f"  check<{'double' if c.double else 'float'}, Attention<{c.queries}, {c.keys}, {c.head_size}, {c.heads}, "
        f"{c.kv_heads}, {'kCausal' if c.causal else 'kFull'}, {c.ldq}, {c.ldk}, {c.ldk}, {c.ldq}>>(files, {c.offset});"
        for c in CASES
    ]
    return (
        """#include "attention.h"
#include "harness.h"
using namespace tsr;

template <class T, class A>
static void check(Files& files, int first) {
  const long size_q = (A::queries - 1) * A::ldq + A::heads * A::head_size;
  const long size_k = (A::keys - 1) * A::ldk + A::kv_heads * A::head_size;
  auto q = files.read<T>(size_q), k = files.read<T>(size_k), v = files.read<T>(size_k), d_o = files.read<T>(size_q);
  auto scratch = files.read<T>(attention_scratch<T, A>()), kept = files.read<T>(attention_kept<T, A>());
  for (T* p : {static_cast<T*>(nullptr), kept.get()}) {
    auto o = files.read<T>(size_q), lse = files.read<T>(A::heads * A::queries);
    auto dq = files.read<T>(size_q), dk = files.read<T>(size_k), dv = files.read<T>(size_k);
    const T scale = T(0.25);
    attention_forward<A>(q.get(), k.get(), v.get(), o.get(), lse.get(), scale, scratch.get(), p, first);
    attention_backward<A>(q.get(), k.get(), v.get(), o.get(), lse.get(), d_o.get(), dq.get(), dk.get(), dv.get(), scale,
                          scratch.get(), p, first);
    files.write(o), files.write(lse), files.write(dq), files.write(dk), files.write(dv);
  }
}

template <class T, class A>
static void sizes() {
  std::printf("%zu %zu\\n", attention_scratch<T, A>(), attention_kept<T, A>());
}

int main(int argc, char** argv) {
  if (argc == 1) {
SIZES
    return 0;
  }
  Files files(argv);
""".replace("SIZES", "\n".join(c.replace("check", "  sizes").partition("(")[0] + "();" for c in calls))
        + "\n".join(calls)
        + "\n}\n"
    )


def rows(flat: np.ndarray, count: int, width: int, stride: int) -> np.ndarray:
    """The count x width matrix of a flat array whose last row is not padded, in double precision."""
    view = np.lib.stride_tricks.as_strided(flat, (count, width), (stride * flat.itemsize, flat.itemsize))
    return view.astype(np.float64)


def reference(c: Case, q: np.ndarray, k: np.ndarray, v: np.ndarray, d_o: np.ndarray, scale: float) -> list[np.ndarray]:
    """o, lse, dq, dk, dv of matrices with one row per position."""

    def heads(x: np.ndarray, n: int) -> np.ndarray:
        return x.reshape(len(x), n, c.head_size).transpose(1, 0, 2)

    def merge(x: np.ndarray) -> np.ndarray:
        return x.transpose(1, 0, 2).reshape(x.shape[1], -1)

    def fold(x: np.ndarray) -> np.ndarray:
        return merge(x.reshape(c.kv_heads, group, c.keys, c.head_size).sum(1))

    qh, doh = heads(q, c.heads), heads(d_o, c.heads)
    group = c.heads // c.kv_heads
    kh, vh = (np.repeat(heads(x, c.kv_heads), group, axis=0) for x in (k, v))
    scores = scale * qh @ kh.transpose(0, 2, 1)
    if c.causal:
        scores = np.where(np.tri(c.queries, c.keys, c.offset, dtype=bool), scores, -np.inf)
    lse = np.log(np.exp(scores).sum(-1))
    p = np.exp(scores - lse[..., None])
    dp = doh @ vh.transpose(0, 2, 1)
    ds = scale * p * (dp - (p * dp).sum(-1, keepdims=True))
    dk, dv = fold(ds.transpose(0, 2, 1) @ qh), fold(p.transpose(0, 2, 1) @ doh)
    return [merge(p @ vh), lse.reshape(1, -1), merge(ds @ kh), dk, dv]


@pytest.mark.parametrize("variant", harness.VARIANTS)
def test_attention_matches_numpy(variant: str, tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    binary = harness.build(program(), variant, tmp_path)
    sizes = [[int(word) for word in line.split()] for line in harness.output(binary).splitlines()]
    inputs: list[np.ndarray] = []
    outputs: list[np.ndarray] = []
    firsts = []
    for c, (scratch, kept) in zip(CASES, sizes, strict=True):
        dtype = np.float64 if c.double else np.float32
        size_q = (c.queries - 1) * c.ldq + c.heads * c.head_size
        size_k = (c.keys - 1) * c.ldk + c.kv_heads * c.head_size
        results = [size_q, c.heads * c.queries, size_q, size_k, size_k] * 2
        firsts.append(len(inputs))
        inputs += [random.standard_normal(n).astype(dtype) for n in (size_q, size_k, size_k, size_q)]
        # NaN: nothing may be read before it is written
        inputs += [np.full(n, np.nan, dtype) for n in (scratch, kept, *results)]
        outputs += [np.zeros(n, dtype) for n in results]
    got = harness.run(binary, inputs, outputs)
    for i, c in enumerate(CASES):
        q, k, v, d_o = inputs[firsts[i] : firsts[i] + 4]
        width, kv_width = c.heads * c.head_size, c.kv_heads * c.head_size
        of_q = (c.queries, width, c.ldq)
        of_k = (c.keys, kv_width, c.ldk)
        want = reference(c, rows(q, *of_q), rows(k, *of_k), rows(v, *of_k), rows(d_o, *of_q), 0.25)
        shapes = [of_q, (1, c.heads * c.queries, 0), of_q, of_k, of_k]
        for j, name in enumerate(["o", "lse", "dq", "dk", "dv"] * 2):
            result = rows(got[10 * i + j], *shapes[j % 5])
            tolerance = (1e-14 if c.double else 4e-6) * max(1.0, float(np.abs(want[j % 5]).max()))
            assert np.abs(result - want[j % 5]).max() <= tolerance, f"{c} {name}, kept={j >= 5}"
