"""Mixtures of experts on CUDA: every routing against the evaluator, whatever the order of the threads."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tesserac.ir.evaluate import evaluate
from tesserac.passes.differentiate import differentiate
from tests.codegen.cuda_support import call, check_in_mode, compile_on_host
from tests.codegen.test_experts import CASES as ALL
from tests.codegen.test_experts import values_for
from tests.emulation.building import SELECTED
from tests.mixtures import mixture

MANY = replace(ALL["given routing"], tokens=700, width=70, hidden=65, experts=5, choices=1, gradients=True)
CASES = {**ALL, "many tiles": MANY}
FUNCTIONS = {name: mixture(case, f"moe{i}") for i, (name, case) in enumerate(CASES.items())}
NAMES = list(CASES)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return compile_on_host(list(FUNCTIONS.values()), tmp_path_factory.mktemp("mixtures"))


def compare(library: ctypes.CDLL, name: str, values: dict[str, NDArray[np.generic]]) -> None:
    function, number = FUNCTIONS[name], NAMES.index(name)
    wide = {k: v.astype(np.float64) if v.dtype.kind == "f" else v for k, v in values.items()}
    want = evaluate(differentiate(function), wide)
    first, second = (call(library, number, differentiate(function), values) for _ in range(2))
    tolerance = 1e-12 if values["x"].dtype == np.float64 else 3e-5
    assert set(first) == set(want)
    for key, expected in want.items():
        scale = np.abs(expected).max() + 1e-3
        np.testing.assert_allclose(first[key], expected, rtol=0, atol=tolerance * scale, err_msg=key)
        assert np.array_equal(first[key], second[key]), f"{key} differs between two calls"


@pytest.mark.parametrize("name", NAMES)
def test_outputs_and_gradients_equal_the_evaluator(library: ctypes.CDLL, name: str) -> None:
    compare(library, name, values_for(FUNCTIONS[name], CASES[name]))


@pytest.mark.parametrize("kind", ["all to one", "expert without rows"])
def test_uneven_routing(library: ctypes.CDLL, kind: str) -> None:
    """All rows in one expert; gradients of experts without rows are zero."""
    name = "many tiles"
    values = values_for(FUNCTIONS[name], CASES[name])
    values["indices"] = np.full_like(values["indices"], 1 if kind == "all to one" else 3)
    if kind != "all to one":
        values["indices"][::2] = 0
    compare(library, name, values)


def test_a_nan_stays_with_its_token(library: ctypes.CDLL) -> None:
    """Tokens share products with others of their expert, and no token's row is changed by what another holds."""
    name = "forward"
    function = FUNCTIONS[name]
    values = values_for(function, CASES[name])
    clean = call(library, NAMES.index(name), function, values)["y"]
    values["x"] = values["x"].copy()
    values["x"][3] = np.nan
    spoiled = call(library, NAMES.index(name), function, values)["y"]
    rest = np.arange(len(clean)) != 3
    assert np.array_equal(clean[rest], spoiled[rest])


@pytest.mark.parametrize("mode", ["race", "asan"])
def test_the_other_modes_find_nothing(mode: str, tmp_path: Path) -> None:
    if mode not in SELECTED or (mode == "asan" and len(SELECTED) > 1):
        pytest.skip("make test-emulation MODE=race or asan")
    chosen = ["unequal experts", "capacity", "given routing", "one token"]
    check_in_mode([FUNCTIONS[n] for n in chosen], [values_for(FUNCTIONS[n], CASES[n]) for n in chosen], mode, tmp_path)
