"""Rows of experts back to their tokens, in primitives: ``combine`` and ``gate_dot`` become reads of rows by number.

So they fuse with what surrounds them, the residual or the loss. A few choices of a token are added term by term, in
one expression; many are a reduction over an axis of choices.
"""

from __future__ import annotations

from tesserac.ir.builder import Builder
from tesserac.ir.program import Equation, Function, Var
from tesserac.ir.types import TensorType

WRITTEN_OUT = 8
"""Choices per token up to which their terms are written out."""


def combine_rows(function: Function) -> Function:
    """The function without ``combine`` and ``gate_dot``."""
    if not any(equation.op in _RULES for equation in function.equations):
        return function
    builder = Builder()
    builder.reserve(v.name for v in function.variables())
    for equation in function.equations:
        rule = _RULES.get(equation.op)
        if rule is None:
            builder.append(equation)
            continue
        with builder.at(equation.span):
            value = rule(builder, equation)
        # The last equation gets the result's own name.
        last = builder.equations.pop()
        assert last.result == value
        builder.append(Equation(last.op, last.operands, equation.results, last.attrs, last.span))
    return Function(function.name, function.inputs, tuple(builder.equations), function.outputs)


def _combine(b: Builder, e: Equation) -> Var:
    ys, _, inverse, *gates = e.operands
    name = e.result.name
    choices = inverse.type.sizes[1]
    if choices > WRITTEN_OUT:
        rows = b.op("take", ys, inverse, named=f"{name}_rows")
        shape = rows.type.sizes
        weighted = b.op("mul", b.op("broadcast", gates[0], shape=shape, axes=(0, 1)), rows) if gates else rows
        return b.op("reduce_sum", weighted, axes=(1,), named=name)
    total: Var | None = None
    for j in range(choices):
        rows = b.op("take", ys, _choice(b, inverse, j), named=f"{name}_rows")
        if gates:
            gate = b.op("broadcast", _choice(b, gates[0], j), shape=e.result.type.shape, axes=(0,))
            rows = b.op("mul", gate, rows, named=name)
        total = rows if total is None else b.op("add", total, rows, named=name)
    assert total is not None
    return total


def _choice(b: Builder, x: Var, number: int) -> Var:
    """Column ``number`` of a value per token and choice."""
    tokens, choices = x.type.sizes
    if choices == 1:
        return b.op("reshape", x, shape=(tokens,))
    part = b.op("slice", x, starts=(0, number), limits=(tokens, number + 1), strides=(1, 1))
    return b.op("reshape", part, shape=(tokens,), named=f"{x.name}_choice{number}")


def _gate_dot(b: Builder, e: Equation) -> Var:
    x, ys, _, inverse = e.operands
    rows = b.op("take", ys, inverse, named=f"{e.result.name}_rows")
    kind: TensorType = rows.type
    tokens = b.op("broadcast", x, shape=kind.shape, axes=(0, 2))
    return b.op("reduce_sum", b.op("mul", tokens, rows), axes=(2,), named=e.result.name)


_RULES = {"combine": _combine, "gate_dot": _gate_dot}
