"""Programs on complex numbers as emitted C++, against complex arithmetic of the evaluator in double precision."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tesserac.driver import CompileOptions
from tesserac.ir.evaluate import evaluate
from tesserac.ir.program import Function
from tesserac.ir.text import print_function
from tesserac.ir.types import DType
from tesserac.ops.contract import complex_form
from tesserac.passes.differentiate import differentiate
from tests.codegen.compiled import DEFAULT, call, compile_functions
from tests.passes.complex_programs import complex_net, complex_programs, values_for


def check(functions: Sequence[Function], options: CompileOptions = DEFAULT, workers: int = 2) -> None:
    """Compiles the functions into one library and compares every output."""
    with tempfile.TemporaryDirectory() as folder:
        library = compile_functions(functions, Path(folder), options)
        for number, function in enumerate(functions):
            values = values_for(function)
            wanted = evaluate(differentiate(function), values, dtype=np.float64)
            found = call(library, number, function, values, workers=workers)
            for name, want in wanted.items():
                scale = max(1.0, float(np.abs(want).max(initial=0.0)))
                close = np.allclose(found[name], want, rtol=1e-3, atol=2e-4 * scale)
                assert close, f"{name}:\n{print_function(function)}"


@pytest.mark.property
@settings(max_examples=1, phases=[Phase.generate], deadline=None)
@given(st.lists(complex_programs(), min_size=8, max_size=8))
def test_emitted_programs_equal_the_evaluator(functions: list[Function]) -> None:
    check(functions)


def test_forms_of_products_and_sizes() -> None:
    """Three products (large), four (small), padded rows of both planes, odd sizes, one sample, double precision."""
    functions = [complex_net(256, 384, 320), complex_net(5, 256, 7), complex_net(7, 3, 131), complex_net(1, 9, 4)]
    forms = [complex_form("ab,bc->ac", [f.inputs[0].var.type, f.inputs[1].var.type]).products for f in functions]
    assert forms == [3, 4, 4, 4]
    check(functions)
    check([complex_net(48, 40, 36, DType.C128)], workers=1)


def test_not_cut_into_tiles() -> None:
    check([complex_net(6, 256, 5)], CompileOptions(tile_rows=0), workers=1)
