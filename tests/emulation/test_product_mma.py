"""Matrix products on tensor cores under the emulation, against NumPy in double precision.

Operands are what the tensor cores read, rounded beforehand (16-bit floats) or by the kernel (tf32), so what is left is
the rounding of float sums, of what a prologue stores, and of a result in 16 bits.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.emulation.building import ARCHITECTURES, SELECTED, build, compiled, write_emulated
from tests.emulation.test_attention_mma import ROUNDOFF, rounded

SOURCE = Path(__file__).with_name("product_mma.cu")
NVCC = shutil.which("nvcc")
Array = NDArray[np.float64]
RELU, BIAS, GELU = 2, 1, 5  # relu, bias, bias and gelu_tanh


@dataclass(frozen=True)
class Request:
    """Numbers as `product_mma.cu` reads them."""

    kind: int
    move: int
    m: int
    n: int
    k: int
    lda: int
    ldb: int
    ldc: int
    batch: int
    next_a: int
    next_b: int
    next_c: int
    bias: int = 0
    residual: int = 0
    epilogue: int = 0


@dataclass(frozen=True)
class Kind:
    """A case of `main`: element and result types, layouts, whether silu is applied to the left operand."""

    element: str
    out: str
    transposed: bool = False
    right_along: bool = False
    mapped: bool = False


KINDS = (
    Kind("bf16", "f32"),
    Kind("bf16", "bf16", transposed=True),
    Kind("bf16", "f32", right_along=True),
    Kind("f16", "f16", mapped=True),
    Kind("tf32", "f32"),
    Kind("tf32", "f32", transposed=True, right_along=True),
    Kind("bf16", "f32"),
)


def request(kind: int, m: int, n: int, k: int, batch: int = 1, move: int = 0, room: int = 8, **more: int) -> Request:
    """Matrices behind each other, rows with ``room`` at least behind them in units of 8 elements (one, if ``move``)."""

    def distance(size: int) -> int:
        return size + room if room % 8 else -(-size // 8) * 8 + room

    lda, ldb = distance(m if KINDS[kind].transposed else k), distance(k if KINDS[kind].right_along else n)
    rows_a, rows_b = (k if KINDS[kind].transposed else m), (n if KINDS[kind].right_along else k)
    ldc = distance(n)
    return Request(kind, move, m, n, k, lda, ldb, ldc, batch, rows_a * lda, rows_b * ldb, m * ldc, **more)


CASES = {
    "small": request(0, 70, 45, 100, bias=1, epilogue=BIAS),
    "odd": request(6, 33, 31, 37, move=1, room=3, residual=1),
    "large": request(2, 130, 140, 40, batch=4, bias=1, epilogue=GELU),
    "large-odd": request(6, 129, 9, 21, batch=7, move=1, room=5),
    "transposed": request(1, 65, 130, 70, epilogue=RELU),
    "along": request(2, 40, 150, 200, batch=2, residual=1),
    "mapped": request(3, 50, 66, 45, bias=1, epilogue=BIAS),
    "tf32": request(4, 60, 129, 50, batch=2),
    "tf32-transposed": request(5, 66, 70, 33, bias=1, epilogue=BIAS),
    "short": request(0, 1, 1, 1, room=0),
}


@pytest.fixture(scope="module", params=SELECTED)
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("product")
    write_emulated(folder, {"product_mma.cu": SOURCE.read_text(encoding="utf-8")})
    return build(folder, "product_mma.cpp", request.param, program=True)


def stored(x: Array, element: str) -> tuple[bytes, Array]:
    """What lies in memory, and what tensor cores read of it."""
    if element != "tf32":
        raw, value = rounded(x, element)
        return raw.tobytes(), value
    bits = x.astype(np.float32).view(np.uint32)
    value = ((bits + 0x1000) & 0xFFFFE000).astype(np.uint32).view(np.float32).astype(np.float64)
    return x.astype(np.float32).tobytes(), value


def matrices(x: Array, rows: int, columns: int, ld: int, transposed: bool) -> Array:
    """The batch's matrices in memory, the other way round where they are stored so."""
    found = x.reshape(-1, columns if transposed else rows, ld)[..., : rows if transposed else columns]
    return found.swapaxes(1, 2) if transposed else found


def finished(r: Request, x: Array, bias: Array, residual: Array) -> Array:
    """The epilogue of product_mma.cu."""
    x = x + bias if r.bias else x
    if r.epilogue == RELU:
        x = np.maximum(x, 0)
    if r.epilogue == GELU:
        x = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return x + residual if r.residual else x


@pytest.mark.parametrize("name", CASES)
def test_product(name: str, program: Path) -> None:
    r, kind = CASES[name], KINDS[CASES[name].kind]
    rng = np.random.default_rng(len(name))
    memory = [rng.normal(size=r.batch * size) for size in (r.next_a, r.next_b)]
    operands = [stored(x, kind.element) for x in memory]
    bias = rng.normal(size=r.n).astype(np.float32)
    residual = rng.normal(size=(r.batch, r.m, r.ldc)).astype(np.float32)
    text = np.array(astuple(r), np.int32).tobytes() + b"".join(raw for raw, _ in operands)
    text += bias.tobytes() + residual.tobytes()
    environment = {**os.environ, "TSR_EMULATION_ORDER": "random", "TSR_EMULATION_ASYNC": "random"}
    environment["ASAN_OPTIONS"] = "detect_leaks=0"
    done = subprocess.run([str(program)], input=text, capture_output=True, env=environment, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    found = np.frombuffer(done.stdout, np.float32).reshape(r.batch, r.m, r.ldc)
    assert np.isnan(found[..., r.n :]).all()  # what lies between rows is not touched

    a = matrices(operands[0][1], r.m, r.k, r.lda, kind.transposed)
    b = matrices(operands[1][1], r.k, r.n, r.ldb, kind.right_along)
    u = 0.0
    if kind.mapped:
        a, u = a / (1 + np.exp(-a)), ROUNDOFF[kind.element]
    want = finished(r, a @ b, bias.astype(np.float64), residual[..., : r.n].astype(np.float64))
    size = np.abs(a) @ np.abs(b)
    # Float sums of k terms, each step rounded; derivatives of the epilogues are at most 1.2.
    allowed = 1.2 * size * (u + (r.k + 4) * 2.0**-24) + (ROUNDOFF[kind.out] + 4e-6) * np.abs(want) + 1e-6
    error = np.abs(found[..., : r.n] - want)
    assert np.all(error <= allowed), float((error / allowed).max())


@pytest.mark.skipif(NVCC is None, reason="no nvcc on this machine")
def test_no_registers_are_spilled(tmp_path: Path) -> None:
    found = compiled(SOURCE.read_text(encoding="utf-8"), tmp_path)
    assert len(found) == 7 * len(ARCHITECTURES)
    assert not [(x.entry, x.spills) for x in found if x.spills]
