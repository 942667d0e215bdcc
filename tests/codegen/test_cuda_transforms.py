"""Fourier and wavelet transforms on CUDA: lengths of every kind, prologues and epilogues, against the evaluator."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tesserac.codegen.cuda.transforms import radices
from tesserac.ir.evaluate import evaluate
from tesserac.ir.program import Function
from tesserac.ir.types import DType
from tests.codegen import cuda_support
from tests.codegen.cuda_support import call, check_in_mode, compile_on_host
from tests.codegen.test_fft import functions, one_op, rows_and_sums, wavelets
from tests.emulation.building import SELECTED

CASES = [
    *functions(),
    one_op("fft_pair", (20, 128), 1, "backward"),  # several blocks, the last one with fewer lines
    one_op("fft_pair", (3, 37), 1, "ortho"),  # a large prime: a convolution
    one_op("ifft_pair", (2, 3, 94), 2, "backward", DType.F64),
    one_op("rfft_pair", (3, 74), 1, "backward", operands=1),
    one_op("irfft_pair", (38, 3), 0, "backward", n=74),
    one_op("rfft_pair", (2, 41), 1, "backward", operands=1),
    one_op("irfft_pair", (2, 21), 1, "backward", n=41),
    one_op("rfft_pair", (2, 2), 1, "backward", operands=1),
    one_op("irfft_pair", (2, 2), 1, "ortho", n=2),
    one_op("rfft_pair", (3, 1), 1, "ortho", operands=1),
    one_op("fft_pair", (2, 11025), 1, "ortho"),  # longer than shared memory
    one_op("fft_pair", (2, 31 * 26), 1, "forward"),
    one_op("ifft_pair", (3, 12), 1, "backward", operands=1),  # all bins of real numbers
    one_op("ifft_pair", (9, 3), 0, "ortho", operands=1),
    wavelets((2, 8192), 1, 3, "db4"),
    one_op("ifft_pair", (70, 3100), 1, "backward", DType.F64),  # cuFFT takes 64 lines at a time
    one_op("rfft_pair", (2, 12400), 1, "backward", operands=1),
    one_op("irfft_pair", (1, 6201), 1, "ortho", n=12400),
]
SMALL = [1, 8, 12, 14, 15, 16, 21, 23, 24, len(CASES) - 1]
"""What the slower modes run: every form, a few lines each."""


def values_for(function: Function) -> dict[str, NDArray[np.generic]]:
    random = np.random.default_rng(2)
    values = {i.path: random.standard_normal(i.var.type.sizes) for i in function.inputs}
    return {k: v.astype(function.data[0].var.type.dtype.numpy) for k, v in values.items()}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return compile_on_host(CASES, tmp_path_factory.mktemp("transforms"))


@pytest.mark.parametrize("number", range(len(CASES)))
def test_transforms_equal_the_evaluator(number: int, library: ctypes.CDLL) -> None:
    function = CASES[number]
    values = values_for(function)
    wanted = evaluate(function, values, dtype=np.float64)
    found = call(library, number, function, values)
    again = call(library, number, function, values)
    for name, want in wanted.items():
        allowed = (1e-13 if found[name].dtype == np.float64 else 2e-6) * np.abs(want).max()
        assert np.abs(found[name] - want).max() <= allowed, name
        assert np.array_equal(found[name], again[name])


def test_long_lines_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way through device memory is there whether or not cuFFT is."""
    monkeypatch.setattr(cuda_support, "CALL", f"#define TSR_NO_CUFFT\n{cuda_support.CALL}")
    function = CASES[-1]
    values = values_for(function)
    (found,) = call(compile_on_host([function], tmp_path), 0, function, values).values()
    assert "fft_by_library<" in (tmp_path / "f0.program.cu").read_text()
    (want,) = evaluate(function, values, dtype=np.float64).values()
    assert np.abs(found - want).max() <= 2e-6 * np.abs(want).max()


def test_radices_multiply_to_the_length() -> None:
    for n in range(1, 400):
        assert np.prod(radices(n), dtype=int) == n


@pytest.mark.parametrize("mode", ["race", "asan"])
def test_the_other_modes_find_nothing(mode: str, tmp_path: Path) -> None:
    if mode not in SELECTED or (mode == "asan" and len(SELECTED) > 1):
        pytest.skip("make test-emulation MODE=race or asan")
    chosen = [CASES[i] for i in SMALL]
    chosen = [f for f in chosen if f.data[0].var.type.dtype is DType.F32] + [rows_and_sums(3)]
    check_in_mode(chosen, [values_for(f) for f in chosen], mode, tmp_path)
