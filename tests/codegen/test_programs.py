"""Random programs through the whole compiler: what the emitted C++ computes equals the evaluator."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tesserac.codegen.cpu.project import render_entry
from tesserac.driver import CompileOptions, plan_entry
from tesserac.ir.builder import Builder
from tesserac.ir.evaluate import evaluate
from tesserac.ir.program import Entry, Function, Input, Output, Var
from tesserac.ir.text import parse_function, print_function
from tesserac.ir.types import DType, TensorType
from tesserac.passes.differentiate import differentiate
from tests.codegen.compiled import call, compile_functions
from tests.codegen.cuda_cases import Case, late_queries, parts
from tests.strategies import inputs_for, programs

BATCH = 10
EXAMPLES = 250 if os.environ.get("HYPOTHESIS_PROFILE") == "fuzz" else 8
CASES = sorted((Path(__file__).parent / "failed").glob("*.ir"))


def agrees(got: NDArray[np.generic], want: NDArray[np.generic]) -> bool:
    """Equal up to single precision; integers and booleans exactly."""
    if got.dtype.kind != "f":
        return bool(np.array_equal(got, want.astype(got.dtype)))
    want = want.astype(np.float64)
    scale = max(1.0, np.abs(want).max(initial=0.0))
    return bool(np.allclose(got.astype(np.float64), want, rtol=1e-3, atol=2e-4 * scale))


def check(functions: Sequence[Function], options: CompileOptions, workers: int = 2, elements: int = -1) -> None:
    """Compiles the functions into one library and compares every output with the evaluator in double precision."""
    with tempfile.TemporaryDirectory() as folder:
        library = compile_functions(functions, Path(folder), options)
        for number, function in enumerate(functions):
            values = inputs_for(function)
            wanted = evaluate(differentiate(function), values, dtype=np.float64)
            found = call(library, number, function, values, workers=workers, elements=elements)
            for name, want in wanted.items():
                assert agrees(found[name], np.asarray(want)), f"{name}:\n{print_function(function)}"


@pytest.mark.property
@settings(max_examples=EXAMPLES, phases=[Phase.generate], deadline=None)
@given(st.lists(programs(), min_size=BATCH, max_size=BATCH))
def test_emitted_programs_equal_the_evaluator(functions: list[Function]) -> None:
    check(functions, CompileOptions())


@pytest.mark.property
@settings(max_examples=max(EXAMPLES // 8, 1), phases=[Phase.generate], deadline=None)
@given(st.lists(programs(steps=12), min_size=BATCH, max_size=BATCH))
def test_programs_that_are_not_cut_equal_the_evaluator(functions: list[Function]) -> None:
    check(functions, CompileOptions(tile_rows=0), workers=1)


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_program_that_failed_once(path: Path) -> None:
    check([parse_function(path.read_text(encoding="utf-8"))], CompileOptions())


def test_threads_share_a_long_kernel_without_rows() -> None:
    """Not cut by a batch, one axis of 40960 elements: rows of 1024 for every operand, index and random number."""
    b = Builder()
    x, w = (b.add_input(Input(Var(n, TensorType(DType.F32, (1, 40960))), n)) for n in ("x", "w"))
    place = b.op("cast", b.op("iota", shape=x.type.shape, axis=1, dtype=DType.I32), dtype=DType.F32)
    noise = b.op("random_uniform", shape=x.type.shape, dtype=DType.F32, stream=3)
    sum_ = b.op("add", b.op("mul", x, noise), b.op("mul", w, place))
    function = b.finish("long", [Output("y", b.op("mul", sum_, b.constant(1e-3, x.type)))])
    plans = plan_entry(Entry("long", None, function), CompileOptions())
    header = render_entry(plans, stem="long", source="long.py", lines={})["long.kernels.h"]
    assert "#pragma omp parallel for" in header
    assert "columns<float, 1024>" in header
    check([function], CompileOptions())


@pytest.mark.parametrize("tiled", [True, False])
@pytest.mark.parametrize("case", [parts, late_queries])
def test_parts_that_begin_somewhere(case: Callable[[], Case], tiled: bool) -> None:
    """Where a part of a random tensor or of attention's queries begins is known at run time."""
    function, values = case()
    function = differentiate(function)
    options = CompileOptions() if tiled else CompileOptions(tile_rows=0)
    with tempfile.TemporaryDirectory() as folder:
        found = call(compile_functions([function], Path(folder), options), 0, function, values, seed=5, step=3)
    for name, want in evaluate(function, values, dtype=np.float64, seed=5, step=3).items():
        assert agrees(found[name], np.asarray(want)), name


def test_threads_do_not_share_a_row_that_a_kernel_keeps() -> None:
    """A softmax keeps the exponentials of its row between two passes; here the threads share the rows."""
    b = Builder()
    x = b.add_input(Input(Var("x", TensorType(DType.F32, (1, 4096, 40))), "x"))
    function = b.finish("softmax", [Output("y", b.op("softmax", x, named="y"))])
    plans = plan_entry(Entry("softmax", None, function), CompileOptions())
    header = render_entry(plans, stem="s", source="s.py", lines={})["s.kernels.h"]
    assert header.index("#pragma omp parallel for") < header.index("float y_exp_row[40]")
    check([function], CompileOptions())
