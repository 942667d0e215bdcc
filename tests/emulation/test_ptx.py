"""The wrappers of runtime/cuda/ptx.cuh under the emulation, against tables of NumPy's own.

Where an element of a fragment lies is written down here as the PTX ISA lists it, register by register; the emulation
computes it the other way round. The kernels know no layout: registers go in and come out.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tesserac.resources import runtime_dir
from tests.emulation.building import SELECTED, build, write_emulated

SOURCE = Path(__file__).with_name("ptx.cu")
NVCC = shutil.which("nvcc")
Array = NDArray[np.generic]


@pytest.fixture(scope="module", params=[mode for mode in SELECTED if mode != "asan"] or ["fast"])
def wrappers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ctypes.CDLL]:
    folder = tmp_path_factory.mktemp("ptx")
    write_emulated(folder, {"ptx.cu": SOURCE.read_text(encoding="utf-8")})
    library = ctypes.CDLL(str(build(folder, "ptx.cpp", request.param, program=False)))
    library.round_tf32.restype = ctypes.c_float
    library.round_tf32.argtypes = [ctypes.c_float]
    return request.param, library


def pointer(array: Array) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


# -- products -----------------------------------------------------------------------------------------------------

# (row, column) of element i of a lane's fragments, as the ISA gives them: g = lane / 4, t = lane % 4.
A16 = [(lambda g, t, i=i: (g if i in (0, 1, 4, 5) else g + 8, t * 2 + (i & 1) + (0 if i < 4 else 8))) for i in range(8)]
B16 = [(lambda g, t, i=i: (t * 2 + (i & 1) + (0 if i < 2 else 8), g)) for i in range(4)]
A8 = [(lambda g, t, i=i: (g if i in (0, 2) else g + 8, t if i < 2 else t + 4)) for i in range(4)]
B8 = [(lambda g, t, i=i: (t if i == 0 else t + 4, g)) for i in range(2)]
C = [(lambda g, t, i=i: (g if i < 2 else g + 8, t * 2 + (i & 1))) for i in range(4)]
Layout = list[Callable[[int, int], tuple[int, int]]]


def gather(matrix: Array, layout: Layout) -> Array:
    """Every lane's elements in the order of its fragment: 32 x elements."""
    return np.array([[matrix[at(lane // 4, lane % 4)] for at in layout] for lane in range(32)])


def bf16(x: NDArray[np.float32]) -> NDArray[np.uint16]:
    return (x.view(np.uint32) >> 16).astype(np.uint16)


@pytest.mark.parametrize("kind", [0, 1, 2], ids=["bf16", "f16", "tf32"])
def test_products(kind: int, wrappers: tuple[str, ctypes.CDLL]) -> None:
    rng = np.random.default_rng(kind)
    depth = 8 if kind == 2 else 16
    a, b, c = (rng.normal(size=s).astype(np.float32) for s in ((16, depth), (depth, 8), (16, 8)))
    if kind == 1:
        a, b = a.astype(np.float16), b.astype(np.float16)
        exact = a.astype(np.float64) @ b.astype(np.float64)
        raw_a, raw_b = a.view(np.uint16), b.view(np.uint16)
    else:
        mask = np.uint32(0xFFFF0000 if kind == 0 else 0xFFFFE000)
        a, b = ((x.view(np.uint32) & mask).view(np.float32) for x in (a, b))
        exact = a.astype(np.float64) @ b.astype(np.float64)
        raw_a, raw_b = (bf16(a), bf16(b)) if kind == 0 else (a.view(np.uint32), b.view(np.uint32))
    layouts = (A8, B8) if kind == 2 else (A16, B16)
    words = [
        np.ascontiguousarray(gather(x, layout)).view(np.uint32)
        for x, layout in zip((raw_a, raw_b), layouts, strict=True)
    ]
    d = np.ascontiguousarray(gather(c, C).astype(np.float32))
    assert wrappers[1].run_product(kind, pointer(words[0]), pointer(words[1]), pointer(d)) == 0
    want = gather((exact + c.astype(np.float64)), C)
    np.testing.assert_allclose(d, want, rtol=1e-6, atol=1e-6)
    assert not np.array_equal(d, gather(c, C))


def test_tf32_reads_19_bits_and_rounds_ties_away(wrappers: tuple[str, ctypes.CDLL]) -> None:
    step = 2.0**-10
    for x, want in ((1 + step / 2, 1 + step), (-1 - step / 2, -1 - step), (1 + step * 0.49, 1.0), (1.5, 1.5)):
        assert wrappers[1].round_tf32(x) == want
    assert np.isinf(wrappers[1].round_tf32(float("inf")))


# -- matrices from shared memory ------------------------------------------------------------------------------------


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("count", [2, 4])
def test_matrices(count: int, transposed: bool, wrappers: tuple[str, ctypes.CDLL]) -> None:
    rng = np.random.default_rng(count)
    values = rng.integers(0, 1 << 16, (64, 8)).astype(np.uint16)
    rows = rng.permutation(64)[:32].astype(np.int32)
    out = np.zeros((32, count), np.uint32)
    assert wrappers[1].run_matrices(count, int(transposed), pointer(values), pointer(rows), pointer(out)) == 0
    for j in range(count):
        matrix = values[rows[8 * j : 8 * j + 8]]
        matrix = matrix.T if transposed else matrix
        # Lane i holds elements 2 (i % 4) and the next of row i / 4, the first in the low half.
        pairs = np.ascontiguousarray(matrix).reshape(32, 2).astype(np.uint32)
        np.testing.assert_array_equal(out[:, j], pairs[:, 0] | pairs[:, 1] << 16)


# -- asynchronous copies ----------------------------------------------------------------------------------------------


def pipeline(library: ctypes.CDLL, bug: int) -> tuple[int, bool]:
    n = 128 * 3 + 62  # a rest that ends within a copy of 16 bytes
    x = np.random.default_rng(3).normal(size=n).astype(np.float32)
    out = np.zeros(32, np.float32)
    code = library.run_pipeline(bug, pointer(x), n, pointer(out))
    rounds = np.concatenate([x, np.zeros(-n % 128, np.float32)]).reshape(-1, 128)
    lane = np.arange(32)
    want = sum(r[127 - lane] + r[lane + 32] + r[lane] + r[95 - lane] for r in rounds.astype(np.float64))
    return code, bool(np.allclose(out, want, rtol=1e-5, atol=1e-5))


def test_copies_arrive_whatever_the_order(wrappers: tuple[str, ctypes.CDLL], monkeypatch: pytest.MonkeyPatch) -> None:
    for asynchrony in ("late", "early", "random"):
        monkeypatch.setenv("TSR_EMULATION_ASYNC", asynchrony)
        assert pipeline(wrappers[1], 0) == (0, True)


def in_child(body: Callable[[], bool]) -> bool:
    """Runs ``body`` in a process of its own: a failed launch is an error that stays."""
    import os

    child = os.fork()
    if child == 0:
        os._exit(1 if body() else 0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


@pytest.mark.parametrize("bug", [1, 2, 3])
def test_mistakes_with_copies(bug: int, wrappers: tuple[str, ctypes.CDLL], monkeypatch: pytest.MonkeyPatch) -> None:
    """The race detector finds them in any order; otherwise some order shows them."""
    mode, library = wrappers
    if mode == "race":
        assert in_child(lambda: pipeline(library, bug)[0] != 0)
        return
    found = []
    for order, seed, asynchrony in (("rising", 1, "late"), *(("random", seed, "random") for seed in range(6))):
        monkeypatch.setenv("TSR_EMULATION_ORDER", order)
        monkeypatch.setenv("TSR_EMULATION_SEED", str(seed))
        monkeypatch.setenv("TSR_EMULATION_ASYNC", asynchrony)
        found.append(in_child(lambda: pipeline(library, bug) != (0, True)))
    assert any(found)


# -- barriers ---------------------------------------------------------------------------------------------------------


def test_named_barriers(wrappers: tuple[str, ctypes.CDLL]) -> None:
    out = np.zeros((3, 32), np.float32)
    assert wrappers[1].run_handover(pointer(out)) == 0
    np.testing.assert_array_equal(out, np.arange(3)[:, None] * 100 + 31 - np.arange(32))


def test_clusters_read_each_others_memory(wrappers: tuple[str, ctypes.CDLL]) -> None:
    out = np.zeros((4, 32), np.float32)
    assert wrappers[1].run_neighbours(0, pointer(out)) == 0
    np.testing.assert_array_equal(out, np.array([1, 0, 1, 0])[:, None] * 1000 + np.arange(32))
    assert in_child(lambda: wrappers[1].run_neighbours(1, pointer(out)) != 0 or not np.isfinite(out).all())


def ring(library: ctypes.CDLL, bug: int) -> tuple[int, bool]:
    x = np.random.default_rng(4).normal(size=(5, 64)).astype(np.float32)
    out = np.zeros(64, np.float32)
    code = library.run_ring(bug, pointer(x), 5, pointer(out))
    return code, bool(np.allclose(out, x.astype(np.float64).sum(0)[::-1], rtol=1e-5, atol=1e-5))


def test_bulk_copies_and_memory_barriers(wrappers: tuple[str, ctypes.CDLL], monkeypatch: pytest.MonkeyPatch) -> None:
    for asynchrony, order in (("late", "rising"), ("early", "falling"), ("random", "random")):
        monkeypatch.setenv("TSR_EMULATION_ASYNC", asynchrony)
        monkeypatch.setenv("TSR_EMULATION_ORDER", order)
        assert ring(wrappers[1], 0) == (0, True)


@pytest.mark.parametrize("bug", [1, 2, 3])
def test_mistakes_with_memory_barriers(bug: int, wrappers: tuple[str, ctypes.CDLL]) -> None:
    assert in_child(lambda: ring(wrappers[1], bug) != (0, True))


# -- nvcc -------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(NVCC is None, reason="no nvcc on this machine")
@pytest.mark.parametrize("arch", ["80", "90a"])
def test_nvcc_takes_the_instructions(arch: str, tmp_path: Path) -> None:
    code = f"-gencode=arch=compute_{arch},code=sm_{arch}"
    command = ["nvcc", "-std=c++17", code, "-Xcompiler", "-Wall,-Wextra", "-Werror=all-warnings"]
    command += [f"-I{runtime_dir().parent}", "-c", "-o", str(tmp_path / "ptx.o"), str(SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
