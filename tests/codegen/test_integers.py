"""Integers and masks through emitted kernels: exact, in every layout a program can ask for."""

from __future__ import annotations

from tesserac.driver import CompileOptions
from tesserac.ir.builder import Builder
from tesserac.ir.program import Function, Input, Output, Var
from tesserac.ir.types import DType, TensorType
from tests.codegen.test_programs import check

SHAPE = (16, 5, 24)
AXES = ((2,), (1,), (1, 2), (0,), (0, 1, 2))


def numbers(b: Builder, name: str, shape: tuple[int, ...] = SHAPE) -> Var:
    """An integer input below 100."""
    return b.add_input(Input(Var(name, TensorType(DType.I32, shape)), name, index_bound=100))


def mask(b: Builder, shape: tuple[int, ...] = SHAPE) -> Var:
    """Where an input lies below 0.1."""
    x = b.add_input(Input(Var("x", TensorType(DType.F32, shape)), "x"))
    return b.op("lt", x, b.constant(0.1, x.type))


def reductions() -> Function:
    """Sums and extremes along a row, over rows, and over the batch, which tiles cut."""
    b = Builder()
    n = numbers(b, "n")
    made = [b.op(op, n, axes=axes) for op in ("reduce_sum", "reduce_max", "reduce_min") for axes in AXES]
    return b.finish("reductions", [Output(f"y{i}", var) for i, var in enumerate(made)])


def lines() -> Function:
    """Functions along one axis."""
    b = Builder()
    n = numbers(b, "n")
    made = [
        b.op("sort", n),
        *b.ops("topk", (n,), {"k": 2}),
        b.op("cumsum", n, axis=1, reverse=True),
        b.op("argmax", n, axis=0),
        b.op("neg", n),
        b.op("maximum", n, b.constant(50, n.type)),
    ]
    return b.finish("lines", [Output(f"y{i}", var) for i, var in enumerate(made)])


def masks() -> Function:
    """Masks as outputs, negated, counted, and spread over new axes."""
    b = Builder()
    m = mask(b)
    row = b.op("reduce_sum", b.op("cast", m, dtype=DType.I32), axes=(2,))
    made = [
        m,
        b.op("logical_not", m),
        b.op("cast", m, dtype=DType.I32),
        row,
        b.op("broadcast", row, shape=(16, 5, 7), axes=(0, 1)),
        b.op("broadcast", m, shape=(*SHAPE, 3), axes=(0, 1, 2)),
    ]
    return b.finish("masks", [Output(f"y{i}", var) for i, var in enumerate(made)])


def test_integers_and_masks_are_exact() -> None:
    check([reductions(), lines(), masks()], CompileOptions())


def test_integers_and_masks_are_exact_in_programs_that_are_not_cut() -> None:
    check([reductions(), lines(), masks()], CompileOptions(tile_rows=0), workers=1)
