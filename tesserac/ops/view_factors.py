"""Sharding rules of the view ops."""

from __future__ import annotations

from collections.abc import Sequence

from tesserac.ir.types import Dim, TensorType
from tesserac.ops.attributes import dims_of, integer, integers
from tesserac.ops.base import Attrs, Factors
from tesserac.ops.rules import LETTERS

Types = Sequence[TensorType]
Letters = list[str | None]


def broadcast_factors(ins: Types, outs: Types, attrs: Attrs) -> Factors:
    """Kept axes pass; a stretched axis of size 1 cannot be cut, a new one can, with the operand whole."""
    result: Letters = list(LETTERS[: outs[0].rank])
    operand: Letters = []
    for i, axis in enumerate(integers(attrs, "axes")):
        operand.append(result[axis] if ins[0].shape[i] == outs[0].shape[axis] else None)
    return Factors((tuple(operand),), (tuple(result),))


def reshape_factors(ins: Types, outs: Types, attrs: Attrs) -> Factors:
    """In each group of axes that is split or merged only the leading axes correspond."""
    source, target = ins[0].shape, outs[0].shape
    operand: Letters = [None] * len(source)
    result: Letters = [None] * len(target)
    letters = iter(LETTERS)
    for i, j in _group_starts(source, target):
        operand[i] = result[j] = next(letters)
    return Factors((tuple(operand),), (tuple(result),))


def _group_starts(source: tuple[Dim, ...], target: tuple[Dim, ...]) -> list[tuple[int, int]]:
    """Pairs of axes at which equally many elements per step lie before both, sizes of 1 left out."""
    if not all(isinstance(d, int) for d in (*source, *target)):
        return []
    a, b = _leading(source), _leading(target)
    return [(a[count], b[count]) for count in a if count in b]


def _leading(shape: tuple[Dim, ...]) -> dict[int, int]:
    """Number of elements in the axes before it -> axis, for axes larger than 1."""
    starts: dict[int, int] = {}
    count = 1
    for axis, size in enumerate(shape):
        if isinstance(size, int) and size != 1:
            starts[count] = axis
            count *= size
    return starts


def transpose_factors(ins: Types, outs: Types, attrs: Attrs) -> Factors:
    """Axes move with their letters."""
    axes = tuple(LETTERS[: ins[0].rank])
    return Factors((axes,), (tuple(axes[p] for p in integers(attrs, "perm")),))


def slice_factors(ins: Types, outs: Types, attrs: Attrs) -> Factors:
    """An axis taken whole passes."""
    bounds = zip(integers(attrs, "starts"), dims_of(attrs, "limits"), integers(attrs, "strides"), strict=True)
    axes = tuple(LETTERS[i] if bound == (0, ins[0].shape[i], 1) else None for i, bound in enumerate(bounds))
    return Factors((axes,), (axes,))


def concat_factors(ins: Types, outs: Types, attrs: Attrs) -> Factors:
    """Every axis but the joined one passes."""
    joined = integer(attrs, "axis")
    axes = tuple(None if i == joined else LETTERS[i] for i in range(outs[0].rank))
    return Factors(tuple(axes for _ in ins), (axes,))


def pad_factors(ins: Types, outs: Types, attrs: Attrs) -> Factors:
    """An axis without padding passes."""
    widths = zip(integers(attrs, "low"), integers(attrs, "high"), strict=True)
    axes = tuple(LETTERS[i] if width == (0, 0) else None for i, width in enumerate(widths))
    return Factors((axes,), (axes,))
