"""Values that rules ask for: views that vanish where they would do nothing, and values on fewer axes."""

from __future__ import annotations

from collections.abc import Sequence

from tesserac.ir.program import Equation, Var
from tesserac.ops.attributes import integers, sizes_of
from tesserac.passes.rules.rewriter import Rewriter


def reshaped(graph: Rewriter, var: Var, shape: Sequence[int]) -> Var:
    """``var`` under another shape of the same number of elements."""
    return var if var.type.shape == tuple(shape) else graph.op("reshape", var, shape=tuple(shape))


def transposed(graph: Rewriter, var: Var, perm: Sequence[int]) -> Var:
    """``var`` with its axes in the order ``perm``."""
    return var if tuple(perm) == tuple(range(len(perm))) else graph.op("transpose", var, perm=tuple(perm))


def spread(graph: Rewriter, var: Var, shape: Sequence[int], axes: Sequence[int]) -> Var:
    """``var`` broadcast into ``shape``, its axes at ``axes``."""
    if var.type.shape == tuple(shape):
        return var
    return graph.op("broadcast", var, shape=tuple(shape), axes=tuple(axes))


def reduced(graph: Rewriter, op: str, var: Var, axes: Sequence[int]) -> Var:
    """``var`` reduced over ``axes`` (none: as it is)."""
    return graph.op(op, var, axes=tuple(sorted(axes))) if axes else var


def scaled(graph: Rewriter, var: Var, factor: float) -> Var:
    """``var`` times a number."""
    return var if factor == 1 else graph.op("mul", var, graph.constant(factor, var.type))


def axes_of(equation: Equation, name: str = "axes") -> tuple[int, ...]:
    """A tuple-of-integers attribute."""
    return integers(equation.attributes, name)


def shape_of(equation: Equation) -> tuple[int, ...]:
    """The shape attribute."""
    return sizes_of(equation.attributes, "shape")


def without(shape: Sequence[int], axes: Sequence[int]) -> tuple[int, ...]:
    """A shape with some axes left out."""
    dropped = set(axes)
    return tuple(size for axis, size in enumerate(shape) if axis not in dropped)


def varying_axes(graph: Rewriter, var: Var) -> frozenset[int]:
    """The axes along which the elements of a value may differ."""
    shape = var.type.sizes
    equation = graph.definition(var)
    if equation is not None and equation.op == "full":
        return frozenset()
    if equation is not None and equation.op == "broadcast":
        source = equation.operands[0].type.sizes
        return frozenset(axis for size, axis in zip(source, axes_of(equation), strict=True)
                         if size == shape[axis] and size != 1)
    return frozenset(axis for axis, size in enumerate(shape) if size != 1)


def on_axes(graph: Rewriter, var: Var, kept: Sequence[int]) -> Var:
    """A value without the axes outside ``kept`` (increasing), along none of which it varies."""
    shape = var.type.sizes
    if len(kept) == len(shape):
        return var
    smaller = tuple(shape[axis] for axis in kept)
    equation = graph.definition(var)
    if equation is not None and equation.op == "full":
        value = graph.constant_of(var)
        if value is not None:
            return graph.constant(value, var.type.with_shape(smaller))
    if equation is not None and equation.op == "broadcast":
        source, axes = equation.operands[0], axes_of(equation)
        position = {axis: i for i, axis in enumerate(kept)}
        inside = [i for i, axis in enumerate(axes) if axis in position]
        source = reshaped(graph, source, tuple(source.type.sizes[i] for i in inside))
        return spread(graph, source, smaller, [position[axes[i]] for i in inside])
    return reshaped(graph, var, smaller)


def unit_axes_added(before: Sequence[int], after: Sequence[int]) -> tuple[int, ...] | None:
    """Where each axis of ``before`` stands in ``after`` if that only has more axes of size 1; None otherwise."""
    places, axis = [], 0
    for size in before:
        while axis < len(after) and after[axis] != size and after[axis] == 1:
            axis += 1
        if axis == len(after) or after[axis] != size:
            return None
        places.append(axis)
        axis += 1
    return tuple(places) if all(size == 1 for size in after[axis:]) else None
