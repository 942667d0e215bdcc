"""An all-reduce in two halves, between which a program goes on: it begins with a bucket of tensors and ends in them.

The bucket holds the tensors one after another, dense. Between its two ends it belongs to the exchange: nothing else may
read it, and what is planned in its place has to wait for the end. Both are made after reverse mode (``passes.mesh.
overlap``), so neither is ever differentiated. With ``shares`` they are ``reduce_shares`` in two halves, and the bucket
has room for the shares of all ranks, and for this one's once more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tesserac.arrays import np
from tesserac.ir.dims import Dims, ShapeError
from tesserac.ir.program import Attr
from tesserac.ir.types import TensorType
from tesserac.ops.attributes import integer
from tesserac.ops.base import REQUIRED, Array, Attrs, OpSpec, register
from tesserac.ops.mesh import WHERE, elsewhere, reducible, share_of
from tesserac.ops.view import no_flops

Types = Sequence[TensorType]


def sizes_of(attrs: Attrs) -> list[tuple[int, ...]]:
    """The shapes of the tensors in a bucket, in order."""
    sizes = attrs["sizes"]
    assert isinstance(sizes, tuple)
    return [tuple(int(str(n)) for n in shape) for shape in sizes if isinstance(shape, tuple)]


def _begin_infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    reducible("all_reduce_begin", types, attrs)
    size = (integer(attrs, "size") + 1) * share_of(types, integer(attrs, "size"))
    return (TensorType(types[0].dtype, (size if attrs["shares"] else sum(t.size for t in types),)),)


def _end_infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    found = tuple(TensorType(types[0].dtype, shape) for shape in sizes_of(attrs))
    if sum(t.size for t in found) != types[0].size and not attrs["shares"]:
        raise ShapeError(f"all_reduce_end: tensors of {sum(t.size for t in found)} elements in a bucket of "
                         f"{types[0].size}", (0,))
    return found


def _end(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
    shapes = sizes_of(attrs)
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    parts = np.split(arrays[0][: ends[-1]], ends[:-1])
    return tuple(part.reshape(shape) for part, shape in zip(parts, shapes, strict=True))


_SHARES: tuple[str, Attr] = ("shares", 0)
register(OpSpec("all_reduce_begin", "tensors in a bucket whose sum over the ranks of an axis is on its way",
                "collective", None, _begin_infer, elsewhere("all_reduce_begin"),
                attrs=(*WHERE, ("kind", "sum"), _SHARES), flops=no_flops, differentiable=False))
register(OpSpec("all_reduce_end", "the tensors of a bucket when the sum over the ranks is there", "rank", 1, _end_infer,
                _end, attrs=(*WHERE, ("sizes", REQUIRED), _SHARES), flops=no_flops, differentiable=False))
