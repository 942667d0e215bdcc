"""Ops addressed by integers: rows of a table, and their sum back into one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tesserac.arrays import np
from tesserac.ir.dims import Dims, ShapeError
from tesserac.ir.program import Attr, Equation, Var
from tesserac.ir.types import Dim, TensorType
from tesserac.ops.attributes import dims_of, integer
from tesserac.ops.base import REQUIRED, Array, Attrs, Cuts, Factors, MeshRule, OpSpec, Sample, as_tuple, register
from tesserac.ops.mesh import start_of
from tesserac.ops.planes import each_plane
from tesserac.ops.rules import LETTERS, fill, linear_in, masked, need_integer, need_rank
from tesserac.ops.view import no_flops

if TYPE_CHECKING:
    from tesserac.ir.builder import Builder

Types = Sequence[TensorType]
Optional = Var | None


def _take_infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    need_rank("take", types, 0, 1)
    need_integer("take", types, 1)
    return (types[0].with_shape((*types[1].shape, *types[0].shape[1:])),)


def _take(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
    table, indices = arrays
    if indices.size and (indices.min() < 0 or indices.max() >= len(table)):
        raise IndexError(f"take: an index lies outside the {len(table)} rows of the table")
    return as_tuple(table[indices])


def _take_jvp(b: Builder, e: Equation, tangents: Sequence[Optional]) -> tuple[Optional, ...]:
    t = tangents[0]
    return (None if t is None else b.op("take", t, e.operands[1]),)


def _take_transpose(b: Builder, e: Equation, cts: Sequence[Optional], linear: Sequence[bool]) -> tuple[Optional, ...]:
    (ct,), (table, indices) = cts, e.operands
    return (None if ct is None else b.op("scatter_add", indices, ct, rows=table.type.shape[0]), None)


def _take_factors(ins: Types, outs: Types, attrs: Attrs) -> Factors:
    rank = ins[1].rank
    where, row = tuple(LETTERS[:rank]), tuple(LETTERS[rank: rank + ins[0].rank])
    return Factors((row, where), ((*where, *row[1:]),), ((row[0], "blocked"),))


def _take_cut(ins: Types, outs: Types, attrs: Attrs, size: int) -> tuple[Factors, ...]:
    """A rank looks up the rows that it has; the others are zeros, so the results are terms of a sum."""
    whole = _take_factors(ins, outs, attrs)
    return (Factors(whole.operands, whole.results, ((whole.kinds[0][0], "sum"),)),)


def _take_local(b: Builder, e: Equation, operands: Sequence[Var], attrs: dict[str, Attr],
                cuts: Cuts) -> tuple[Var, ...]:
    table, indices = operands
    axes = cuts.get(LETTERS[e.operands[1].type.rank])
    if not axes:
        return b.ops("take", operands, attrs)
    rows, kind = table.type.sizes[0], indices.type
    start = start_of(b, axes, rows, kind.dtype)
    mine = b.op("sub", indices, fill(b, start, kind), named="row")
    zero, last = b.constant(0, kind, "zero"), b.constant(rows - 1, kind, "last")
    here = b.op("logical_and", b.op("ge", mine, zero), b.op("le", mine, last), named="here")
    found = b.op("take", table, b.op("select", here, mine, zero))
    spread = b.op("broadcast", here, shape=found.type.shape, axes=tuple(range(kind.rank)))
    return (masked(b, spread, found),)


def _scatter_infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    need_integer("scatter_add", types, 0)
    indices, updates = types
    if updates.rank < indices.rank:
        raise ShapeError(f"scatter_add: updates {updates} have fewer axes than the indices {indices}", (0, 1))
    for axis in range(indices.rank):
        dims.equal(indices.shape[axis], updates.shape[axis], f"scatter_add, axis {axis}", (0, 1))
    # One number as a tuple of dimensions, so that a symbol is allowed too.
    rows: tuple[Dim, ...] = dims_of({"rows": (attrs["rows"],)}, "rows")
    return (updates.with_shape((*rows, *updates.shape[indices.rank:])),)


def _scatter(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
    indices, updates = arrays
    rows = integer(attrs, "rows")
    if indices.size and (indices.min() < 0 or indices.max() >= rows):
        raise IndexError(f"scatter_add: an index lies outside the {rows} rows of the result")
    result = np.zeros((rows, *updates.shape[indices.ndim:]), updates.dtype)
    np.add.at(result, indices.reshape(-1), updates.reshape(indices.size, *updates.shape[indices.ndim:]))
    return as_tuple(result)


def _scatter_jvp(b: Builder, e: Equation, tangents: Sequence[Optional]) -> tuple[Optional, ...]:
    t = tangents[1]
    return (None if t is None else b.op("scatter_add", e.operands[0], t, rows=e.attr("rows")),)


def _scatter_transpose(b: Builder, e: Equation, cts: Sequence[Optional],
                       linear: Sequence[bool]) -> tuple[Optional, ...]:
    (ct,) = cts
    return (None, None if ct is None else b.op("take", ct, e.operands[0]))


def _scatter_factors(ins: Types, outs: Types, attrs: Attrs) -> Factors:
    rank = ins[0].rank
    where, row = tuple(LETTERS[:rank]), tuple(LETTERS[rank: ins[1].rank])
    return Factors((where, (*where, *row)), ((None, *row),), tuple((letter, "sum") for letter in where))


def _scatter_flops(ins: Types, outs: Types, attrs: Attrs) -> float:
    return float(ins[1].size)


def _take_samples() -> tuple[Sample, ...]:
    table = np.linspace(-1.0, 1.0, 24).reshape(6, 4)
    return (Sample((table, np.array([[0, 5, 2, 2], [1, 3, 0, 4]]))), Sample((table[:, 0], np.array([3, 1]))))


def _scatter_samples() -> tuple[Sample, ...]:
    updates = np.linspace(-1.0, 1.0, 16).reshape(4, 2, 2)
    return (Sample((np.array([[0, 2], [2, 4], [1, 0], [4, 4]]), updates), (("rows", 5),)),)


register(OpSpec("take", "rows of a table by index", "gather", 2, _take_infer, _take, jvp=_take_jvp,
                transpose=_take_transpose, mesh=MeshRule(_take_cut, _take_local),
                linear=linear_in((0,)), planar=each_plane, factors=_take_factors, flops=no_flops,
                samples=_take_samples))
register(OpSpec("scatter_add", "sums rows into a table by index", "scatter", 2, _scatter_infer, _scatter,
                attrs=(("rows", REQUIRED),), jvp=_scatter_jvp, transpose=_scatter_transpose,
                linear=linear_in((1,)), planar=each_plane,
                factors=_scatter_factors, flops=_scatter_flops, samples=_scatter_samples))
