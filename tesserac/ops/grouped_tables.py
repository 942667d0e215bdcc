"""What stays of ops on rows of experts where rows are not cut into tiles: whose a row is, and all experts' vectors.

``take`` of the table by the numbers is ``grouped_rows``; see passes/whole_experts.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tesserac.arrays import np
from tesserac.ir.dims import Dims, ShapeError
from tesserac.ir.program import Equation, Var
from tesserac.ir.types import Dim, TensorType
from tesserac.ops.attributes import dims_of, integer, integers
from tesserac.ops.base import REQUIRED, Array, Attrs, Factors, OpSpec, Sample, register
from tesserac.ops.base import as_tuple as one
from tesserac.ops.elementwise import zero_jvp
from tesserac.ops.experts import waves
from tesserac.ops.grouped import group_ids, group_samples, offsets, pick
from tesserac.ops.planes import each_plane
from tesserac.ops.rules import need_field, need_integer, same_dtype, same_shape
from tesserac.ops.view import no_flops

if TYPE_CHECKING:
    from tesserac.ir.builder import Builder

Types = Sequence[TensorType]
Optional = Var | None


def _number_infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    need_integer("grouped_number", types, 0)
    if types[0].rank != 1:
        raise ShapeError(f"grouped_number needs a vector of offsets, not {types[0]}", (0,))
    return (types[0].with_shape(dims_of({"rows": (attrs["rows"],)}, "rows")),)


def _number(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
    (offsets,) = arrays
    rows = np.arange(integer(attrs, "rows"))
    return one(np.searchsorted(offsets[1:], rows, side="right").astype(offsets.dtype))


def _table_infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    group_ids("grouped_table", attrs, len(types))
    need_field("grouped_table", types, range(len(types)))
    dtype = same_dtype("grouped_table", types, range(len(types)))
    shape = same_shape("grouped_table, tensors of the experts", types, range(len(types)), dims)
    rows: tuple[Dim, ...] = dims_of({"rows": (attrs["rows"],)}, "rows")
    return (TensorType(dtype, (*rows, TensorType(dtype, shape).size)),)


def _table(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
    result = np.zeros((integer(attrs, "rows"), arrays[0].size), np.result_type(*arrays))
    for expert, tensor in zip(integers(attrs, "experts"), arrays, strict=True):
        result[expert] = tensor.reshape(-1)
    return one(result)


def _table_jvp(b: Builder, e: Equation, tangents: Sequence[Optional]) -> tuple[Optional, ...]:
    moving = [t for t in tangents if t is not None]
    if not moving:
        return (None,)
    ids = pick(e.attributes, [t is not None for t in tangents])
    return (b.op(e.op, *moving, experts=ids, rows=e.attr("rows")),)


def _table_transpose(b: Builder, e: Equation, cts: Sequence[Optional], linear: Sequence[bool]) -> tuple[Optional, ...]:
    (ct,), found = cts, list[Optional]()
    for expert, tensor, flag in zip(integers(e.attributes, "experts"), e.operands, linear, strict=True):
        if ct is None or not flag:
            found.append(None)
            continue
        limits = (expert + 1, ct.type.shape[1])
        row = b.op("slice", ct, starts=(expert, 0), limits=limits, strides=(1, 1))
        found.append(b.op("reshape", row, shape=tensor.type.shape))
    return tuple(found)


def _table_factors(ins: Types, outs: Types, attrs: Attrs) -> Factors:
    return Factors(tuple((None,) * t.rank for t in ins), ((None, None),))


def _number_factors(ins: Types, outs: Types, attrs: Attrs) -> Factors:
    return Factors(((None,),), ((None,),))


def _group_table_samples() -> tuple[Sample, ...]:
    return group_samples(lambda ids: tuple(waves(2, 4, start=1.0 + i) for i in ids), rows=4)


register(OpSpec("grouped_number", "the expert of every row; the number of experts where a row has none", "grouped", 1,
                _number_infer, _number, attrs=(("rows", REQUIRED),), jvp=zero_jvp, factors=_number_factors,
                flops=no_flops, samples=lambda: (Sample((offsets(),), (("rows", 8),)),)))
register(OpSpec("grouped_table", "a row for each of some experts' tensors, zeros for the others", "grouped", None,
                _table_infer, _table, attrs=(("experts", REQUIRED), ("rows", REQUIRED)), jvp=_table_jvp,
                transpose=_table_transpose, planar=each_plane, factors=_table_factors, flops=no_flops,
                samples=_group_table_samples))
