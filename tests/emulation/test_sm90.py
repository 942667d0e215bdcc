"""The wrappers of runtime/cuda/ptx_sm90.cuh under the emulation, against tables of NumPy's own.

Where elements lie in shared memory and in registers is written down here as the PTX ISA draws it; the kernels know no
layout: bytes and registers go in and come out.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.emulation.building import SELECTED, build, compiled, write_emulated
from tests.emulation.test_attention_mma import rounded
from tests.emulation.test_ptx import pointer

SOURCE = Path(__file__).with_name("sm90.cu")
NVCC = shutil.which("nvcc")
Array = NDArray[np.float64]
FOUND = {
    # what is found (fast, race); "wrong": the result alone shows it
    1: ("", "no fence_proxy_async between two accesses of shared memory"),
    2: ("more arrivals than", "more arrivals than"),
    3: ("", "data race of shared memory: write by block 0 thread 128"),
    4: ("wrong", "wrong"),
    5: ("no wgmma_fence since the warp last waited", "no wgmma_fence since the warp last waited"),
    6: ("changed a sum before the product was waited for", "changed a sum before the product was waited for"),
    7: ("more arrivals than", "more arrivals than"),
    8: ("", "no fence_proxy_async between two accesses of shared memory"),
    9: ("wrong", "use of what an asynchronous copy has not been waited for"),
    10: ("returns before its tensor_store was waited for", "returns before its tensor_store was waited for"),
}


@pytest.fixture(scope="module", params=[mode for mode in SELECTED if mode != "asan"] or ["fast"])
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("sm90")
    write_emulated(folder, {"sm90.cu": SOURCE.read_text(encoding="utf-8")})
    return request.param, build(folder, "sm90.cpp", request.param, program=False)


# -- products of a warpgroup ----------------------------------------------------------------------------------------


def rows_along(x: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """A tile whose rows of 64 elements are swizzled over 128 bytes: piece p of row r lies at place p ^ (r % 8)."""
    pieces = np.ascontiguousarray(x).view(np.uint8).reshape(len(x), 8, 16)
    out = np.empty_like(pieces)
    for r in range(len(x)):
        for p in range(8):
            out[r, p ^ (r % 8)] = pieces[r, p]
    return out.reshape(-1)


def fragment(lane: int, i: int) -> tuple[int, int]:
    """Row (within a warp's 16) and column (within 8) of element i of a lane's sums."""
    return (lane // 4 if i < 2 else lane // 4 + 8), 2 * (lane % 4) + (i & 1)


@pytest.mark.parametrize("registers", [False, True])
@pytest.mark.parametrize("along", [True, False])
@pytest.mark.parametrize(("columns", "kind"), [(32, "f16"), (64, "bf16"), (128, "bf16"), (128, "f16")])
def test_products(columns: int, kind: str, along: bool, registers: bool, library: tuple[str, Path]) -> None:
    rng = np.random.default_rng(columns)
    raw_a, a = rounded(rng.normal(size=(64, 64)), kind)
    raw_b, b = rounded(rng.normal(size=(columns, 64)), kind)  # columns of the right operand by terms
    start = 32  # terms 32 .. 47
    if along:
        right, place, group, panel = rows_along(raw_b), 2 * start, 1024, 16
    else:
        # Panels of 64 columns, one behind the other; a row of 128 bytes per term.
        panels = [np.zeros((64, 64), np.uint16) for _ in range(-(-columns // 64))]
        for j, item in enumerate(panels):
            part = raw_b[64 * j : 64 * j + 64].T
            item[:, : part.shape[1]] = part
        right, place, group, panel = np.concatenate([rows_along(p) for p in panels]), 128 * start, 1024, 8192
    memory = np.concatenate([rows_along(raw_a), right]).view(np.uint32)
    words = np.zeros((128, 4), np.uint32)
    for thread in range(128):
        lane, first = thread % 32, 16 * (thread // 32)
        for i in range(4):
            row, term = first + lane // 4 + 8 * (i % 2), start + 2 * (lane % 4) + 8 * (i // 2)
            words[thread, i] = int(raw_a[row, term]) | int(raw_a[row, term + 1]) << 16
    sums = rng.normal(size=(128, columns // 8, 4)).astype(np.float32)
    want = np.zeros((128, columns // 8, 4))
    exact = a[:, start : start + 16] @ b[:, start : start + 16].T
    for thread in range(128):
        for n in range(columns // 8):
            for i in range(4):
                row, column = fragment(thread % 32, i)
                want[thread, n, i] = exact[16 * (thread // 32) + row, 8 * n + column] + float(sums[thread, n, i])
    numbers = np.array([kind == "f16", registers, along, 1, 2 * start, 1024, 8192 + place, group, panel], np.int32)
    call = ctypes.CDLL(str(library[1])).run_wgmma
    assert call(columns, pointer(numbers), pointer(memory), memory.size, pointer(words), pointer(sums)) == 0
    np.testing.assert_allclose(sums, want, rtol=1e-6, atol=1e-6)


# -- tiles --------------------------------------------------------------------------------------------------------


TILES = {
    # sizes, strides, box (innermost axis first), where it is read, where it is written
    1: ((70,), (1,), (64,), (40,), (-8,)),
    2: ((40, 9), (1, 56), (64, 8), (8, 4), (-16, 2)),
    3: ((24, 5, 7), (1, 24, 128), (32, 2, 4), (0, 4, 5), (8, -1, 0)),
    4: ((32, 3, 6, 2), (1, 32, 96, 576), (64, 1, 4, 1), (0, 2, 3, 1), (0, 0, -2, 0)),
}


@pytest.mark.parametrize("asynchrony", ["late", "early", "random"])
@pytest.mark.parametrize("rank", TILES)
def test_tiles(rank: int, asynchrony: str, library: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSR_EMULATION_ASYNC", asynchrony)
    sizes, strides, box, source, target = TILES[rank]
    elements = 1 + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True))
    x = np.random.default_rng(rank).integers(1, 1 << 16, elements).astype(np.uint16)
    y = np.zeros(elements, np.uint16)
    tile = np.zeros(box[::-1], np.uint16)
    want = np.zeros(elements, np.uint16)
    for index in np.ndindex(*box):
        at = [c + i for c, i in zip(source, index, strict=True)]
        if all(0 <= c < n for c, n in zip(at, sizes, strict=True)):
            tile[index[::-1]] = x[sum(c * s for c, s in zip(at, strides, strict=True))]
    for index in np.ndindex(*box):
        at = [c + i for c, i in zip(target, index, strict=True)]
        if all(0 <= c < n for c, n in zip(at, sizes, strict=True)):
            want[sum(c * s for c, s in zip(at, strides, strict=True))] = tile[index[::-1]]
    dense = tile.reshape(-1).view(np.uint8).reshape(-1, 16)
    shared = np.empty_like(dense)
    for piece in range(len(dense)):  # by the bits of the address: 4 to 6 are changed by 7 to 9
        shared[piece ^ (piece // 8 % 8)] = dense[piece]
    seen = np.zeros(dense.size // 4, np.uint32)
    numbers = [np.array(v, kind) for v, kind in ((sizes, np.int64), (strides, np.int64), ((*box, 1, 1, 1), np.uint32))]
    at_ = np.array([*source, *target], np.int32)
    call = ctypes.CDLL(str(library[1])).run_tiles
    code = call(rank, *map(pointer, numbers), pointer(at_), pointer(x), pointer(y), elements, pointer(seen))
    assert code == 0
    np.testing.assert_array_equal(seen.view(np.uint8).reshape(-1, 16), shared)
    np.testing.assert_array_equal(y, want)


# -- a ring of tiles ----------------------------------------------------------------------------------------------


def ring(library: str, bug: int) -> bool:
    """Whether the result is right; what CUDA reports goes to the standard error."""
    rng = np.random.default_rng(5)
    (raw_a, a), (raw_b, b) = (rounded(rng.normal(size=(5, 64, 64)), "bf16") for _ in range(2))
    raw_c = np.zeros((64, 64), np.uint16)
    code = ctypes.CDLL(library).run_ring(bug, pointer(raw_a), pointer(raw_b), 5, pointer(raw_c))
    found = (raw_c.astype(np.uint32) << 16).view(np.float32)
    want = np.einsum("rik,rjk->ij", a, b)
    return code == 0 and bool(np.allclose(found, want, rtol=2.0**-8, atol=1e-4))


def run_ring(library: Path, bug: int, **settings: str) -> tuple[bool, str]:
    """In a process of its own: a failed launch is an error that stays."""
    code = "import sys; from tests.emulation.test_sm90 import ring; sys.exit(not ring(sys.argv[1], int(sys.argv[2])))"
    environment = {**os.environ, "PYTHONPATH": "."}
    environment.update({f"TSR_EMULATION_{key.upper()}": value for key, value in settings.items()})
    command = [sys.executable, "-c", code, str(library), str(bug)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.returncode == 0, done.stderr


def test_a_ring_of_tiles(library: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for asynchrony, order in (("late", "rising"), ("early", "falling"), ("random", "random")):
        monkeypatch.setenv("TSR_EMULATION_ASYNC", asynchrony)
        monkeypatch.setenv("TSR_EMULATION_ORDER", order)
        assert ring(str(library[1]), 0)


@pytest.mark.parametrize("bug", FOUND)
def test_mistakes(bug: int, library: tuple[str, Path]) -> None:
    wanted = FOUND[bug][library[0] == "race"]
    good, message = run_ring(library[1], bug)
    if not wanted:
        assert good, message  # the mode does not see it
    elif wanted == "wrong":
        assert not good
    else:
        assert wanted in message
        assert not good


@pytest.mark.skipif(NVCC is None, reason="no nvcc on this machine")
@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_nvcc_takes_the_instructions(arch: str, tmp_path: Path) -> None:
    found = compiled(SOURCE.read_text(encoding="utf-8"), tmp_path, [arch], tuned=False)
    assert not [k.entry for k in found if k.spills]
