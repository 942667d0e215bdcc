"""Discrete Fourier transforms as kernels, with a pointwise prologue to what is read and an epilogue."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from tesserac.codegen.records import FftKernel, Node, Slot, Store, accesses_of
from tesserac.codegen.region import Incompatible, NeedsCopy, Region
from tesserac.codegen.reorder import reordered
from tesserac.codegen.stage_values import StageValues
from tesserac.ir.program import Equation, Var
from tesserac.ops.fft_pair import scale_of

FORMS = {"rfft_pair": "forwards", "irfft_pair": "backwards"}


def prologue(values: StageValues, equation: Equation) -> tuple[Region, tuple[int, ...]]:
    """The region that computes a transform's operands, and their nodes; NeedsCopy for one that has to be in memory."""
    region = Region(values, equation.operands[0].type.sizes, row_values=False)
    parts = []
    for var in equation.operands:
        try:
            parts.append(region.node(var, "full"))
        except Incompatible as error:
            raise NeedsCopy(values.through_views(var, ())[0]) from error
    return region, tuple(parts)


def root_transform(region: Region, equation: Equation) -> None:
    """The results of a transform are the first nodes of its epilogue."""
    for var, part in zip(equation.results, ("re", "im"), strict=False):
        region.nodes.append(Node("transformed", "full", var.type.dtype, op=part, name=var.name))
        region.members[var] = ("full", len(region.nodes) - 1)
    region.roots.append(equation)


def lower_transform(
    equation: Equation,
    before: Region,
    parts: tuple[int, ...],
    nodes: Sequence[Node],
    stores: Sequence[Store],
    after: Region,
) -> tuple[FftKernel, tuple[tuple[Var, int], ...]]:
    """The kernel of a transform, and the buffers bound to its slots."""
    axis = equation.attr("axis")
    assert isinstance(axis, int)
    n = equation.attr("n") if equation.op == "irfft_pair" else equation.operands[0].type.sizes[axis]
    assert isinstance(n, int)
    inverse = equation.op.startswith("i")
    slots: list[Slot] = [*before.slots, *after.slots]
    shift = len(before.slots)
    nodes = [replace(node, slot=node.slot + shift) if node.slot >= 0 else node for node in nodes]
    stores = [replace(store, slot=store.slot + shift) for store in stores]
    sizes = equation.operands[0].type.sizes
    every = [item.strides for item in (*accesses_of(before.nodes, ()), *accesses_of(nodes, stores)) if item.strides]
    outer, inner, columns = _loops(sizes, axis, every)

    def reorder(strides: tuple[int, ...]) -> tuple[int, ...]:
        step = strides[inner[-1]] if inner else 0
        last = (strides[axis], step) if columns else (step, strides[axis])
        return (*(strides[group[-1]] for group in outer), *last)

    interior = equation.attributes.get("interior", 1.0)
    assert isinstance(interior, (int, float))
    kernel = FftKernel(
        tuple(slots),
        FORMS.get(equation.op, "complex" if len(parts) == 2 else "real"),
        inverse,
        n,
        scale_of(str(equation.attr("norm")), inverse, n),
        float(interior),
        tuple(math.prod(sizes[a] for a in group) for group in outer),
        math.prod(sizes[a] for a in inner),
        columns,
        reordered(before.nodes, reorder),
        parts,
        reordered(nodes, reorder),
        tuple(replace(store, strides=reorder(store.strides)) for store in stores),
    )
    return kernel, (*before.bound, *after.bound)


def _loops(
    sizes: Sequence[int], axis: int, accesses: Sequence[tuple[int, ...]]
) -> tuple[list[list[int]], list[int], bool]:
    """Outer loops, the loop next to the transformed axis, and whether that one runs along the columns.

    Neighbouring axes that every access walks as one are one loop.
    """
    others = [i for i, size in enumerate(sizes) if i != axis and size > 1]
    groups: list[list[int]] = []
    for i in others:
        if groups and (groups[-1][-1] < axis) == (i < axis):
            last = groups[-1][-1]
            if all(s[last] == s[i] * sizes[i] for s in accesses):
                groups[-1].append(i)
                continue
        groups.append([i])
    inner = groups.pop() if groups else []
    return groups, inner, bool(inner) and inner[-1] > axis
