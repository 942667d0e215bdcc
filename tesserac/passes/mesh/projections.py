"""Products whose columns are taken apart become several products, so that each can be cut by its own columns.

``q, k, v = split(x W + b)`` cuts nothing evenly: a part of W's columns belongs to one of the three alone. With
``x W[:, :D] + b[:D]`` and so on, heads can be cut as usual. The weight itself then lies whole and its gradient is
reduced over the axis; which form is cheaper depends on the sizes, so a plan is made of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tesserac.ir.builder import Builder
from tesserac.ir.program import Equation, Function, Var
from tesserac.passes.simplify import without_unused


@dataclass(frozen=True, slots=True)
class _Fused:
    """A product with a weight, the sum with a bias behind it if there is one, and the slices that read the result."""

    product: Equation
    bias: Equation | None
    total: Equation | None
    slices: tuple[Equation, ...]


def split_projections(function: Function) -> Function:
    """The function with such products apart; the function itself if it has none."""
    found = _fused(function)
    if not found:
        return function
    b = Builder()
    b.reserve(v.name for v in function.variables())
    made: dict[str, Var] = {}
    of_slice = {piece.result.name: fused for fused in found for piece in fused.slices}
    for item in function.inputs:
        b.inputs.append(item)
    for equation in function.equations:
        operands = tuple(made.get(v.name, v) for v in equation.operands)
        current = replace(equation, operands=operands)
        fused = of_slice.get(equation.results[0].name)
        if fused is None:
            b.append(current)
            continue
        with b.at(equation.span):
            made[equation.result.name] = _part(b, fused, equation)
    outputs = tuple(replace(o, var=made.get(o.var.name, o.var)) for o in function.outputs)
    return without_unused(replace(function, equations=tuple(b.equations), outputs=outputs))


def _fused(function: Function) -> list[_Fused]:
    weights = {item.var.name for item in function.parameters}
    makers = {v.name: e for e in function.equations for v in e.results}
    readers: dict[str, list[Equation]] = {}
    for equation in function.equations:
        for var in equation.operands:
            readers.setdefault(var.name, []).append(equation)
    outputs = {o.var.name for o in function.outputs}
    found = []
    for equation in function.equations:
        if not _is_projection(equation, weights) or equation.result.name in outputs:
            continue
        bias, total = None, None
        users = readers.get(equation.result.name, [])
        if len(users) == 1 and users[0].op == "add":
            total = users[0]
            other = next((v for v in total.operands if v.name != equation.result.name), None)
            bias = makers.get(other.name) if other is not None else None
            if bias is None or not _is_bias(bias, weights) or total.result.name in outputs:
                continue
            users = readers.get(total.result.name, [])
        if len(users) > 1 and all(_takes_columns(user) for user in users):
            found.append(_Fused(equation, bias, total, tuple(users)))
    return found


def _is_projection(equation: Equation, weights: set[str]) -> bool:
    """A product of a value with a parameter [k, n] whose columns are the last axis of the result alone."""
    if equation.op != "contract" or len(equation.operands) != 2:
        return False
    x, w = equation.operands
    left, _, result = str(equation.attr("spec")).partition("->")
    of_x, _, of_w = left.partition(",")
    return (w.name in weights and x.name not in weights and len(of_w) == 2 and result[-1:] == of_w[1]
            and of_w[1] not in of_x)


def _is_bias(equation: Equation, weights: set[str]) -> bool:
    return (equation.op == "broadcast" and equation.operands[0].name in weights
            and equation.operands[0].type.rank == 1 and equation.attr("axes") == (equation.result.type.rank - 1,))


def _takes_columns(equation: Equation) -> bool:
    """A slice that takes a range of the last axis and all of the others."""
    if equation.op != "slice":
        return False
    sizes = equation.operands[0].type.sizes
    starts, limits, strides = (_numbers(equation, name) for name in ("starts", "limits", "strides"))
    return (all(s == 1 for s in strides) and all(s == 0 for s in starts[:-1]) and limits[:-1] == sizes[:-1]
            and limits[-1] - starts[-1] < sizes[-1])


def _numbers(equation: Equation, name: str) -> tuple[int, ...]:
    value = equation.attr(name)
    assert isinstance(value, tuple)
    return tuple(v for v in value if isinstance(v, int))


def _part(b: Builder, fused: _Fused, piece: Equation) -> Var:
    """One of the products, with its part of the bias."""
    first, last = _numbers(piece, "starts")[-1], _numbers(piece, "limits")[-1]
    x, w = fused.product.operands
    name = piece.result.name
    columns = _columns(b, w, first, last, f"{name}.weight")
    total = b.op("contract", x, columns, spec=fused.product.attr("spec"), named=f"{name}.product")
    if fused.bias is None:
        return total
    part = _columns(b, fused.bias.operands[0], first, last, f"{name}.bias")
    shape = (*total.type.sizes[:-1], last - first)
    spread = b.op("broadcast", part, shape=shape, axes=(len(shape) - 1,), named=f"{name}.bias")
    return b.op("add", total, spread, named=f"{name}.sum")


def _columns(b: Builder, var: Var, first: int, last: int, named: str) -> Var:
    sizes: Sequence[int] = var.type.sizes
    starts = (*(0 for _ in sizes[1:]), first)
    return b.op("slice", var, starts=starts, limits=(*sizes[:-1], last), strides=tuple(1 for _ in sizes), named=named)
