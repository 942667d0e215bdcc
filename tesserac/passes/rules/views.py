"""Rules for views: fewer of them, and closer to the values that they show."""

from __future__ import annotations

from collections.abc import Sequence

from tesserac.ir.program import Equation, Var
from tesserac.passes.rules.build import (
    axes_of,
    on_axes,
    reshaped,
    shape_of,
    spread,
    transposed,
    unit_axes_added,
    varying_axes,
)
from tesserac.passes.rules.rewriter import Rewriter
from tesserac.passes.rules.rule import Rule


def _identity(graph: Rewriter, equation: Equation) -> Var | None:
    operand = equation.operands[0]
    if equation.op == "transpose" and axes_of(equation, "perm") != tuple(range(operand.type.rank)):
        return None
    return operand if operand.type == equation.result.type else None


def _reshape_of_reshape(graph: Rewriter, equation: Equation) -> Var | None:
    inner = graph.defined_by(equation.operands[0], "reshape")
    return None if inner is None else reshaped(graph, inner.operands[0], shape_of(equation))


def _transpose_of_transpose(graph: Rewriter, equation: Equation) -> Var | None:
    inner = graph.defined_by(equation.operands[0], "transpose")
    if inner is None:
        return None
    first = axes_of(inner, "perm")
    return transposed(graph, inner.operands[0], [first[axis] for axis in axes_of(equation, "perm")])


def _transpose_of_units(graph: Rewriter, equation: Equation) -> Var | None:
    sizes = equation.operands[0].type.sizes
    moved = [axis for axis in axes_of(equation, "perm") if sizes[axis] != 1]
    return reshaped(graph, equation.operands[0], equation.result.type.sizes) if moved == sorted(moved) else None


def _transpose_of_broadcast(graph: Rewriter, equation: Equation) -> Var | None:
    inner = graph.defined_by(equation.operands[0], "broadcast")
    if inner is None:
        return None
    axes, perm = axes_of(inner), axes_of(equation, "perm")
    source = transposed(graph, inner.operands[0], [axes.index(axis) for axis in perm if axis in axes])
    places = [place for place, axis in enumerate(perm) if axis in axes]
    return spread(graph, source, equation.result.type.sizes, places)


def _broadcast_of_broadcast(graph: Rewriter, equation: Equation) -> Var | None:
    inner = graph.defined_by(equation.operands[0], "broadcast")
    if inner is None:
        return None
    outer = axes_of(equation)
    return spread(graph, inner.operands[0], shape_of(equation), [outer[axis] for axis in axes_of(inner)])


def _broadcast_of_units(graph: Rewriter, equation: Equation) -> Var | None:
    inner = graph.defined_by(equation.operands[0], "reshape")
    if inner is None:
        return None
    source, outer = inner.operands[0], axes_of(equation)
    places = unit_axes_added(source.type.sizes, inner.result.type.sizes)
    return None if places is None else spread(graph, source, shape_of(equation), [outer[axis] for axis in places])


def _broadcast_to_units(graph: Rewriter, equation: Equation) -> Var | None:
    """A broadcast that only adds axes of size 1 is a reshape."""
    return reshaped(graph, equation.operands[0], shape_of(equation)) \
        if equation.operands[0].type.size == equation.result.type.size else None


def _reshape_of_broadcast(graph: Rewriter, equation: Equation) -> Var | None:
    """Where the reshape keeps repeated axes apart from the others, reshape the source and broadcast after."""
    operand = equation.operands[0]
    if graph.defined_by(operand, "broadcast") is None:
        return None
    before, after = operand.type.sizes, equation.result.type.sizes
    if 0 in before:
        return None
    varying = varying_axes(graph, operand)
    kept, shape, places = [], [], []
    for old, new in axis_groups(before, after):
        inside = [axis for axis in old if axis in varying]
        if not inside:
            continue
        if any(axis not in varying and before[axis] != 1 for axis in old):
            return None
        kept += inside
        shape += [after[axis] for axis in new]
        places += new
    return spread(graph, reshaped(graph, on_axes(graph, operand, kept), shape), after, places)


def axis_groups(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The finest split of two shapes of equal size into runs of axes with equal products."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        old: list[int] = []
        new: list[int] = []
        left = right = 1
        while not (old or new) or left != right:
            if left <= right and i < len(before) and not (left == right and j < len(after) and after[j] == 1):
                left *= before[i]
                old.append(i)
                i += 1
            else:
                right *= after[j]
                new.append(j)
                j += 1
        groups.append((old, new))
    return groups


RULES = (
    Rule("identity-view", ("reshape", "transpose", "broadcast", "slice", "pad"), "it shows the whole value as it is",
         _identity),
    Rule("reshape-reshape", ("reshape",), "only the last shape counts", _reshape_of_reshape),
    Rule("transpose-transpose", ("transpose",), "permutations compose", _transpose_of_transpose),
    Rule("transpose-units", ("transpose",), "moving axes of size 1 moves no element", _transpose_of_units),
    Rule("transpose-broadcast", ("transpose",), "permute the smaller value", _transpose_of_broadcast),
    Rule("broadcast-broadcast", ("broadcast",), "one repetition does both", _broadcast_of_broadcast),
    Rule("broadcast-units", ("broadcast",), "axes of size 1 need not exist to be repeated", _broadcast_of_units),
    Rule("broadcast-to-units", ("broadcast",), "new axes of size 1 repeat nothing", _broadcast_to_units),
    Rule("reshape-broadcast", ("reshape",), "reshape the smaller value", _reshape_of_broadcast),
)
