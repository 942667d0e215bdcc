"""Rules for values that are known at compile time."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable

from tesserac.arrays import np
from tesserac.ir.program import Equation, Var
from tesserac.ir.types import DType
from tesserac.ops.attributes import integer, number
from tesserac.ops.base import spec_of
from tesserac.passes.rules.build import axes_of
from tesserac.passes.rules.rewriter import Rewriter
from tesserac.passes.rules.rule import Rule

_LIMITS = {DType.F16: (6.2e-5, 65504.0), DType.BF16: (1.2e-38, 3.3e38), DType.F32: (1.2e-38, 3.4e38),
           DType.F64: (2.3e-308, 1.7e308)}


def holds(value: float, dtype: DType) -> bool:
    """Whether a number is zero or a normal number of ``dtype``, so that folding it loses no more than rounding."""
    if dtype.is_float:
        low, high = _LIMITS[dtype]
        return value == 0 or low <= abs(value) <= high
    if dtype.is_integer:
        bits = 8 * dtype.itemsize
        least = 0 if dtype is DType.U8 else -1 << (bits - 1)
        return least <= value < least + (1 << bits)
    return dtype is DType.BOOL


_EXACT: dict[str, Callable[..., float]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "neg": operator.neg, "div": operator.truediv,
}
"""Ops that IEEE 754 rounds correctly: on doubles, Python's are the same as NumPy's, whose import takes a while."""


def fold(graph: Rewriter, equation: Equation) -> Var | None:
    """The constant that an elementwise equation on constants computes; None where it must stay an equation."""
    values: list[int | float | bool] = []
    for var in equation.operands:
        value = graph.constant_of(var)
        if value is None:
            return None
        values.append(value)
    if not values or any(var.type.dtype.is_complex for var in (*equation.operands, equation.result)):
        return None
    found, dtype = _evaluated(equation, values), equation.result.type.dtype
    if math.isnan(found) or (all(map(math.isfinite, values)) and not holds(found, dtype)):
        return None
    return graph.constant(found, equation.result.type)


def _evaluated(equation: Equation, values: list[int | float | bool]) -> float:
    """What an equation gives on numbers: in double precision where it computes with floats."""
    types = [var.type.dtype for var in equation.operands]
    exact = _EXACT.get(equation.op)
    if exact is not None and all(dtype.is_float for dtype in types) and (equation.op != "div" or values[1] != 0):
        return exact(*map(float, values))
    arrays = [np.asarray(value, dtype=np.float64 if dtype.is_float else dtype.numpy)
              for value, dtype in zip(values, types, strict=True)]
    with np.errstate(all="ignore"):
        (folded,) = spec_of(equation.op).evaluate(arrays, equation.attributes)
    value: float = folded.item()
    return value


def _view(graph: Rewriter, equation: Equation) -> Var | None:
    value = graph.constant_of(equation.operands[0])
    if value is None or equation.operands[0].type.dtype.is_complex:
        return None
    if equation.op == "pad" and number(equation.attributes, "value") != value:
        return None
    return graph.constant(value, equation.result.type)


def _concat(graph: Rewriter, equation: Equation) -> Var | None:
    values = {repr(graph.constant_of(var)) for var in equation.operands}
    value = graph.constant_of(equation.operands[0])
    return None if len(values) > 1 or value is None else graph.constant(value, equation.result.type)


def _reduce(graph: Rewriter, equation: Equation) -> Var | None:
    value, dtype = graph.constant_of(equation.operands[0]), equation.result.type.dtype
    if value is None or dtype.is_complex or equation.operands[0].type.dtype is not dtype:
        return None
    count = 1
    for axis in axes_of(equation):
        count *= equation.operands[0].type.sizes[axis]
    if equation.op == "reduce_sum":
        value = value * count
    elif equation.op == "reduce_prod":
        try:
            value = value ** count
        except OverflowError:
            return None
    if count == 0 or not (holds(value, dtype) or not math.isfinite(value)):
        return None
    return graph.constant(value, equation.result.type)


def _take(graph: Rewriter, equation: Equation) -> Var | None:
    value = graph.constant_of(equation.operands[0])
    if value is None or equation.operands[0].type.dtype.is_complex:
        return None
    return graph.constant(value, equation.result.type)


def _scatter_zeros(graph: Rewriter, equation: Equation) -> Var | None:
    return graph.constant(0, equation.result.type) if graph.constant_of(equation.operands[1]) == 0 else None


def _cumsum_unit(graph: Rewriter, equation: Equation) -> Var | None:
    operand = equation.operands[0]
    return operand if operand.type.sizes[integer(equation.attributes, "axis")] == 1 else None


RULES = (
    Rule("fold", ("kind:elementwise",), "an op on constants is a constant (folded in double precision, left alone "
         "where the element type would overflow or lose the number to underflow)", fold),
    Rule("fold-view", ("broadcast", "reshape", "transpose", "slice", "pad"), "a view of a constant is a constant",
         _view),
    Rule("fold-concat", ("concat",), "pieces of one number are one constant", _concat),
    Rule("fold-reduce", ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod"), "a reduction of a constant is one",
         _reduce),
    Rule("fold-take", ("take",), "rows of a constant table are constant", _take),
    Rule("scatter-zeros", ("scatter_add",), "adding zeros to zeros leaves zeros", _scatter_zeros),
    Rule("cumsum-unit", ("cumsum",), "a running sum of one term is the term", _cumsum_unit),
)
