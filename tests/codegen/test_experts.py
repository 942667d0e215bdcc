"""Mixtures of experts, emitted and run, against the evaluator in double precision."""

from __future__ import annotations

import ctypes
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from tesserac.driver import CompileOptions
from tesserac.ir.evaluate import evaluate
from tesserac.ir.program import Function
from tesserac.ir.types import DType
from tesserac.passes.differentiate import differentiate
from tests.codegen.compiled import call, compile_functions
from tests.mixtures import Mixture, mixture
from tests.strategies import inputs_for

SMALL = Mixture(tokens=24, width=7, hidden=19)
CASES = {
    "top2": SMALL,
    "switch": replace(SMALL, choices=1, experts=3),
    "all": replace(SMALL, choices=4),
    "one token": replace(SMALL, tokens=1),
    "one expert": replace(SMALL, experts=1, choices=1),
    "inside a model": replace(SMALL, deep=True, tokens=32),
    "unequal experts": replace(SMALL, linear=(1, 3)),
    "capacity": replace(SMALL, capacity=5, deep=True),
    "given routing": replace(SMALL, indices=True, tokens=40),
    "many choices": replace(SMALL, experts=12, choices=9),
    "forward": replace(SMALL, gradients=False),
    "forward, unequal, capacity": replace(SMALL, gradients=False, linear=(0,), capacity=3),
    "wide": replace(SMALL, tokens=300, width=48, hidden=272),
    "double": replace(SMALL, dtype=DType.F64),
}
FUNCTIONS = {name: mixture(case, f"moe{i}") for i, (name, case) in enumerate(CASES.items())}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("mixtures")
    return compile_functions(list(FUNCTIONS.values()), folder, CompileOptions(tile_rows=4))


def values_for(function: Function, case: Mixture, seed: int = 0) -> dict[str, NDArray[np.generic]]:
    """Values of all inputs; given indices are uneven and leave experts out."""
    values = inputs_for(function, seed)
    if case.indices:
        chosen = np.random.default_rng(seed).zipf(1.7, (case.tokens, case.choices)) % case.experts
        values["indices"] = np.where(chosen == 2, 0, chosen).astype(np.int32)
    return values


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_equal_the_evaluator(library: ctypes.CDLL, name: str) -> None:
    function, case = FUNCTIONS[name], CASES[name]
    number = list(CASES).index(name)
    values = values_for(function, case)
    wide = {k: v.astype(np.float64) if v.dtype.kind == "f" else v for k, v in values.items()}
    want = evaluate(differentiate(function), wide)
    runs = [call(library, number, function, values, workers=workers) for workers in (1, 2, 2)]
    tolerance = 1e-12 if case.dtype is DType.F64 else 3e-5
    for key, expected in want.items():
        scale = np.abs(expected).max() + 1e-3
        for got in runs:
            np.testing.assert_allclose(got[key], expected, rtol=0, atol=tolerance * scale, err_msg=key)
        assert np.array_equal(runs[1][key], runs[2][key]), f"{key} differs between two calls"


@pytest.mark.parametrize("kind", ["all to one", "expert without rows"])
def test_uneven_routing(library: ctypes.CDLL, kind: str) -> None:
    """All rows in one expert, in more than one tile or not; gradients of experts without rows are zero."""
    name = "given routing"
    function, case = FUNCTIONS[name], CASES[name]
    values = values_for(function, case)
    values["indices"] = np.full_like(values["indices"], 1 if kind == "all to one" else 3)
    if kind != "all to one":
        values["indices"][::2] = 0
    wide = {k: v.astype(np.float64) if v.dtype.kind == "f" else v for k, v in values.items()}
    want = evaluate(differentiate(function), wide)
    got = call(library, list(CASES).index(name), function, values)
    for key, expected in want.items():
        np.testing.assert_allclose(got[key], expected, rtol=0, atol=1e-5, err_msg=key)
    assert not got["grad:experts.2.w1"].any()


def test_part_of_a_batch(library: ctypes.CDLL) -> None:
    """The rows of all tokens are sorted, so all tiles are computed whatever part of the batch is wanted."""
    name = "forward"
    function, case = FUNCTIONS[name], CASES[name]
    values = values_for(function, case)
    whole = call(library, list(CASES).index(name), function, values)
    part = call(library, list(CASES).index(name), function, values, elements=3)
    assert np.array_equal(part["y"][:3], whole["y"][:3])
