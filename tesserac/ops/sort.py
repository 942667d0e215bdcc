"""Order along the last axis: topk and sort."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tesserac.arrays import np
from tesserac.ir.dims import Dims, ShapeError
from tesserac.ir.program import Equation, Var
from tesserac.ir.types import DType, TensorType
from tesserac.ops.attributes import integer
from tesserac.ops.base import REQUIRED, Array, Attrs, Factors, OpSpec, Sample, as_tuple, register
from tesserac.ops.numerics import re
from tesserac.ops.rules import LETTERS, axis_blocked_factors, need_rank, need_real

if TYPE_CHECKING:
    from tesserac.ir.builder import Builder

Types = Sequence[TensorType]
Optional = Var | None


def _topk_infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    need_rank("topk", types, 0, 1)
    need_real("topk", types, (0,))
    k, size = integer(attrs, "k"), types[0].shape[-1]
    if k < 1 or (isinstance(size, int) and k > size):
        raise ShapeError(f"topk: k={k} is not between 1 and the last axis of {types[0]}", (0,))
    shape = (*types[0].shape[:-1], k)
    return types[0].with_shape(shape), TensorType(DType.I64, shape)


def _topk(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
    x = arrays[0]
    # A stable ascending sort of the reversed row, read backwards, puts equal elements in order of position.
    last = x.shape[-1] - 1
    order = last - np.argsort(re(x)[..., ::-1], axis=-1, kind="stable")[..., ::-1]
    chosen = order[..., : integer(attrs, "k")]
    return np.take_along_axis(x, chosen, -1), chosen.astype(np.int64)


def _along_last(b: Builder, x: Var, indices: Var) -> Var:
    """x[..., indices[..., j]], as rows of the flattened tensor."""
    size = x.type.sizes[-1]
    flat = b.op("reshape", x, shape=(x.type.size,))
    row = b.op("iota", shape=(x.type.size // size,), axis=0, dtype=DType.I64)
    start = b.op("mul", row, b.constant(size, row.type))
    shape = indices.type.shape
    spread = b.op("broadcast", b.op("reshape", start, shape=shape[:-1]), shape=shape, axes=tuple(range(len(shape) - 1)))
    return b.op("take", flat, b.op("add", indices, spread))


def _chosen(b: Builder, t: Var, indices: Var) -> Var:
    """The same as a sum over the row with zeros but at the index: its transpose stays within the row, too."""
    axes = tuple(range(t.type.rank))
    shape = (*indices.type.sizes, t.type.sizes[-1])
    place = b.op("iota", shape=shape, axis=len(axes), dtype=indices.type.dtype)
    hit = b.op("eq", b.op("broadcast", indices, shape=shape, axes=axes), place)
    spread = b.op("broadcast", t, shape=shape, axes=(*axes[:-1], len(axes)))
    picked = b.op("select", hit, spread, b.constant(0.0, spread.type))
    return b.op("reduce_sum", picked, axes=(len(axes),))


SHORT_ROW = 256
"""Elements of a row up to which a chosen one is found by comparing all of them."""


def _topk_jvp(b: Builder, e: Equation, tangents: Sequence[Optional]) -> tuple[Optional, ...]:
    (t,) = tangents
    if t is None:
        return (None, None)
    along = _chosen if t.type.sizes[-1] <= SHORT_ROW else _along_last
    return (along(b, t, e.results[1]), None)


def _sort_infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    need_rank("sort", types, 0, 1)
    need_real("sort", types, (0,))
    return (types[0],)


def _sort(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
    x = arrays[0]
    return as_tuple(np.take_along_axis(x, np.argsort(re(x), axis=-1, kind="stable"), -1))


def _sort_jvp(b: Builder, e: Equation, tangents: Sequence[Optional]) -> tuple[Optional, ...]:
    (t,), (x,) = tangents, e.operands
    if t is None:
        return (None,)
    _, order = b.ops("topk", (b.op("neg", x),), {"k": x.type.sizes[-1]})
    return (_along_last(b, t, order),)


def _topk_factors(ins: Types, outs: Types, attrs: Attrs) -> Factors:
    axes = tuple(LETTERS[: ins[0].rank])
    chosen = (*axes[:-1], None)
    return Factors((axes,), (chosen, chosen), ((axes[-1], "blocked"),))


def _flops(ins: Types, outs: Types, attrs: Attrs) -> float:
    return float(ins[0].size) * max(math.log2(max(ins[0].sizes[-1], 2)), 1.0)


def _values() -> Array:
    return np.array([[0.4, 1.7, -0.3, 0.9], [2.2, -1.1, 0.6, 1.3]])


register(OpSpec("topk", "the k largest of the last axis in descending order, and their positions; ties to the lowest "
                "position", "sort", 1, _topk_infer, _topk, attrs=(("k", REQUIRED),), jvp=_topk_jvp,
                factors=_topk_factors, flops=_flops,
                samples=lambda: (Sample((_values(),), (("k", 2),)), Sample((_values()[0],), (("k", 4),)))))
register(OpSpec("sort", "the last axis in ascending order", "sort", 1, _sort_infer, _sort, jvp=_sort_jvp,
                factors=lambda i, o, at: axis_blocked_factors(i[0].rank - 1, i, o), flops=_flops,
                samples=lambda: (Sample((_values(),)), Sample((_values()[1],)))))
