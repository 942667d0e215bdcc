"""Attention on tensor cores under the emulation, against softmax written out in double precision.

Bounds are element by element. With u the unit roundoff of the operands' type, weights (and, backward, their gradients)
are rounded once before the second product, each relatively by u at most; results are rounded once when they are stored;
the rest is float32, for which a small multiple of its roundoff stands.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.emulation.building import ARCHITECTURES, SELECTED, build, compiled, write_emulated

SOURCE = Path(__file__).with_name("attention_mma.cu")
NVCC = shutil.which("nvcc")
FLOAT32 = 3e-6
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """A line of `run` in attention_mma.cu."""

    batch: int
    queries: int
    keys: int
    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    causal: bool
    element: str
    out: str
    first: int | None = None

    @property
    def offset(self) -> int:
        """The last key that the first query sees."""
        return self.keys - self.queries if self.first is None else self.first


CASES = (
    Case(2, 150, 150, 2, 1, 64, 64, True, "bf16", "f32"),
    Case(1, 37, 100, 2, 2, 40, 24, False, "f16", "f16"),
    Case(1, 70, 133, 2, 1, 128, 128, True, "f16", "f32"),
    Case(1, 66, 72, 1, 1, 256, 208, True, "bf16", "bf16"),
    Case(1, 33, 65, 4, 2, 32, 32, False, "bf16", "bf16"),
    Case(1, 40, 40, 1, 1, 80, 96, True, "bf16", "f32"),
    Case(1, 140, 400, 2, 1, 64, 64, True, "bf16", "f32", first=150),
)
WIDE = (*CASES, Case(1, 140, 530, 1, 1, 64, 64, True, "f16", "f16"))
"""What the kernels for sm_90a compute."""
LONG = (
    Case(1, 300, 333, 4, 2, 128, 128, True, "bf16", "bf16"),
    Case(1, 410, 330, 2, 1, 64, 128, False, "f16", "f32"),
    Case(1, 520, 520, 1, 1, 96, 64, True, "bf16", "f32"),
)
"""And, where a test of the emulation is asked for, stages that are filled many times."""
ASKED_FOR = "TSR_EMULATION_MODE" in os.environ
MODES = SELECTED if ASKED_FOR else ("race",)
ROUNDOFF = {"bf16": 2.0**-8, "f16": 2.0**-11, "f32": 2.0**-24}


def rounded(x: Array, kind: str) -> tuple[NDArray[np.uint16], Array]:
    """The bits of the nearest numbers of a type, and their values."""
    if kind == "f16":
        half = x.astype(np.float16)
        return half.view(np.uint16), half.astype(np.float64)
    bits = x.astype(np.float32).view(np.uint32)
    raw = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return raw, (raw.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


@dataclass
class Problem:
    """Operands of a case: bits for the kernels and their values; rows of q have 16 elements of room behind them."""

    case: Case
    raw: list[NDArray[np.uint16]]
    q: Array
    k: Array
    v: Array
    d_o: Array
    scale: float

    @classmethod
    def of(cls, case: Case) -> Problem:
        rng = np.random.default_rng(case.head_dim)
        c = case
        q = rng.normal(size=(c.batch, c.queries, c.heads * c.head_dim + 16))
        k = rng.normal(size=(c.batch, c.keys, c.kv_heads * c.head_dim))
        v = rng.normal(size=(c.batch, c.keys, c.kv_heads * c.value_dim))
        d_o = rng.normal(size=(c.batch, c.queries, c.heads * c.value_dim))
        pairs = [rounded(x, c.element) for x in (q, k, v, d_o)]
        full = [value for _, value in pairs]
        share = c.heads // c.kv_heads
        split = [
            full[0][..., :-16].reshape(c.batch, c.queries, c.heads, c.head_dim),
            np.repeat(full[1].reshape(c.batch, c.keys, c.kv_heads, c.head_dim), share, axis=2),
            np.repeat(full[2].reshape(c.batch, c.keys, c.kv_heads, c.value_dim), share, axis=2),
            full[3].reshape(c.batch, c.queries, c.heads, c.value_dim),
        ]
        return cls(case, [raw for raw, _ in pairs], *split, scale=1.7 / float(np.sqrt(c.head_dim)))


@dataclass
class Results:
    """What both passes stored, by head: o, dq [b,s,h,d]; lse [b,h,s]; dk, dv [b,t,g,d]."""

    o: NDArray[np.float32]
    lse: NDArray[np.float32]
    dq: NDArray[np.float32]
    dk: NDArray[np.float32]
    dv: NDArray[np.float32]


def run_case(
    program: Path, number: int, problem: Problem, order: str, asynchrony: str
) -> subprocess.CompletedProcess[bytes]:
    """Runs the case's kernels, with threads and copies in these orders."""
    order_of = {"TSR_EMULATION_ORDER": order, "TSR_EMULATION_ASYNC": asynchrony, "ASAN_OPTIONS": "detect_leaks=0"}
    text = np.float32(problem.scale).tobytes() + b"".join(x.tobytes() for x in problem.raw)
    return subprocess.run([str(program), str(number)], input=text, capture_output=True, env={**os.environ, **order_of})


def attend(program: Path, number: int, problem: Problem, order: str, asynchrony: str) -> Results:
    """Runs forward and backward pass."""
    c, done = problem.case, run_case(program, number, problem, order, asynchrony)
    assert (done.returncode, done.stderr) == (0, b"")
    shapes = (
        (c.batch, c.queries, c.heads, c.value_dim),
        (c.batch, c.heads, c.queries),
        (c.batch, c.queries, c.heads * c.head_dim + 16),
        (c.batch, c.keys, c.kv_heads, c.head_dim),
        (c.batch, c.keys, c.kv_heads, c.value_dim),
    )
    parts = np.split(np.frombuffer(done.stdout, np.float32), np.cumsum([np.prod(s) for s in shapes])[:-1])
    o, lse, dq, dk, dv = (part.reshape(shape) for part, shape in zip(parts, shapes, strict=True))
    assert np.isnan(dq[..., -16:]).all()  # what lies between rows is not touched
    return Results(o, lse, dq[..., :-16].reshape(*dq.shape[:2], c.heads, c.head_dim), dk, dv)


@pytest.fixture(scope="module", params=MODES)
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("attention")
    write_emulated(folder, {"attention_mma.cu": SOURCE.read_text(encoding="utf-8")})
    return build(folder, "attention_mma.cpp", request.param, program=True)


def close(found: NDArray[np.float32], want: Array, bound: Array, case: Case) -> None:
    """Within the bound and the rounding of what is stored; and, errors being independent, as a whole within one."""
    allowed = bound + ROUNDOFF[case.out] * np.abs(want) + FLOAT32 * (1 + np.abs(want))
    assert np.all(np.abs(found - want) <= allowed), float(np.max(np.abs(found - want) / allowed))
    assert np.linalg.norm(found - want) <= ROUNDOFF[case.element] * np.linalg.norm(want)


def check_forward(results: Results, problem: Problem) -> tuple[Array, Array, Array]:
    """o and lse against softmax written out; the weights, o, and what may be wrong with it."""
    c, u = problem.case, ROUNDOFF[problem.case.element] * 1.01
    q, k, v = problem.q, problem.k, problem.v
    scores = np.einsum("bshd,bthd->bhst", q, k) * problem.scale
    if c.causal:
        i, t = np.indices(scores.shape[2:])
        scores = np.where(t <= i + c.offset, scores, -np.inf)
    lse = np.logaddexp.reduce(scores, axis=-1)
    np.testing.assert_allclose(results.lse, lse, rtol=FLOAT32, atol=4 * FLOAT32)
    p = np.exp(scores - lse[..., None])
    o = np.einsum("bhst,bthd->bshd", p, v)
    o_error = u * np.einsum("bhst,bthd->bshd", p, np.abs(v))
    close(results.o, o, o_error, c)
    return p, o, o_error


def check(results: Results, problem: Problem) -> None:
    """All results against softmax, and its gradient, written out."""
    c, u = problem.case, ROUNDOFF[problem.case.element] * 1.01
    q, k, v, d_o = problem.q, problem.k, problem.v, problem.d_o
    p, o, o_error = check_forward(results, problem)
    pull = np.einsum("bshd,bthd->bhst", d_o, v)
    delta = np.einsum("bshd,bshd->bhs", o, d_o)
    ds = p * (pull - delta[..., None]) * problem.scale
    # delta comes from the stored o, which has an error of its own.
    delta_error = np.einsum("bshd,bshd->bhs", o_error + ROUNDOFF[c.out] * np.abs(o), np.abs(d_o))
    ds_error = u * np.abs(ds) + p * (1 + u) * delta_error[..., None] * problem.scale + FLOAT32 * p
    close(results.dq, np.einsum("bhst,bthd->bshd", ds, k), np.einsum("bhst,bthd->bshd", ds_error, np.abs(k)), c)

    def of_groups(x: Array) -> Array:
        return x.reshape(*x.shape[:2], c.kv_heads, -1, x.shape[-1]).sum(3)

    for found, weights, error, y in ((results.dk, ds, ds_error, q), (results.dv, p, u * p, d_o)):
        want = of_groups(np.einsum("bhst,bshd->bthd", weights, y))
        close(found, want, of_groups(np.einsum("bhst,bshd->bthd", error, np.abs(y))), c)


def attend_twice(program: Path, number: int, problem: Problem) -> None:
    """In two orders of threads and of copies, with the same bits."""
    found = attend(program, number, problem, "rising", "late")
    check(found, problem)
    again = attend(program, number, problem, "random", "random")
    for name in ("o", "lse", "dq", "dk", "dv"):
        np.testing.assert_array_equal(getattr(found, name), getattr(again, name))


@pytest.mark.parametrize("number", range(len(CASES)))
def test_attention(number: int, program: Path) -> None:
    attend_twice(program, number, Problem.of(CASES[number]))


@pytest.fixture(scope="module", params=MODES)
def wide_program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wide")
    write_emulated(folder, {"attention_mma.cu": SOURCE.read_text(encoding="utf-8")})
    return build(
        folder, "attention_mma.cpp", request.param, program=True, flags=["-DTSR_SM_90A", *["-DTSR_LONG"] * ASKED_FOR]
    )


@pytest.mark.parametrize("number", range(len(WIDE) + len(LONG) * ASKED_FOR))
def test_attention_of_sm_90a(number: int, wide_program: Path) -> None:
    """The warp-specialised kernels: forward, and backward for heads of at most 128 columns."""
    attend_twice(wide_program, number, Problem.of((*WIDE, *LONG)[number]))


@pytest.mark.skipif(NVCC is None, reason="no nvcc on this machine")
def test_no_registers_are_spilled(tmp_path: Path) -> None:
    """All head sizes in lengths that are real: what takes a single turn is another program."""
    lines = ['#include "runtime/cuda/attention_wgmma_backward.cuh"']
    usual = ("forward", "backward_queries", "backward_keys", "row_products", "forward_wide")
    narrow = (*usual, "backward_queries_wide", "backward_keys_wide")
    kernels_of = {64: narrow, 128: narrow, 192: usual, 256: usual}
    late = tuple(name for name in narrow if name != "row_products")  # of queries that begin where a number says
    for width, of_width in kernels_of.items():
        sizes = (
            f"batch = 8, queries = 2000, keys = 2000, heads = 16, kv_heads = 4, warps = 4, "
            f"head_dim = {width}, value_dim = {width}"
        )
        names = ("q", "k", "v", "o", "d_o", "dq", "dk", "dv")
        distances = ", ".join(f"{n}_row = {width * 16}, {n}_batch = {width * 16 * 2000}" for n in names)
        lines.append(f"struct A{width} {{ static constexpr int {sizes}; static constexpr bool causal = true;")
        lines.append(f"static constexpr int64_t {distances}; }};")
        uses = [f"{name}<A{width}, __nv_bfloat16, float>" for name in of_width]
        uses += [f"{name}<A{width}, __nv_bfloat16, float, const int*>" for name in late if width == 128]
        lines.append(f"void* kernels{width}[] = {{{', '.join(f'(void*)&tsr::flash::{use}' for use in uses)}}};")
    found = compiled("\n".join(lines), tmp_path)
    assert len(found) == (sum(map(len, kernels_of.values())) + len(late)) * len(ARCHITECTURES)
    assert not [(r.entry, r.spills) for r in found if r.spills]
