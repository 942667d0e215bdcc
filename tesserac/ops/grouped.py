"""Ops on rows sorted by expert: every expert's own matrix or vector meets the rows that chose it.

Expert e owns the rows offsets[e] to offsets[e+1]. The attribute ``experts`` lists the experts whose tensors are the
operands (or results); rows of all others count as zero, so that experts of unequal structure run as separate groups
over the same rows. Each expert's tensor is an operand of its own, because a stack of all of them would be a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING

from tesserac.arrays import np
from tesserac.ir.dims import Dims, ShapeError
from tesserac.ir.program import Attr, Equation, Var
from tesserac.ir.types import Dim, TensorType
from tesserac.ops.attributes import dims_of, integer, integers
from tesserac.ops.base import REQUIRED, Array, Attrs, Factors, OpSpec, Sample, register
from tesserac.ops.base import as_tuple as one
from tesserac.ops.experts import waves
from tesserac.ops.planes import Pair, bilinear_planes, each_plane
from tesserac.ops.rules import (
    LETTERS,
    add_optional,
    conjugated,
    linear_in,
    linear_jvp,
    need_field,
    need_integer,
    same_dtype,
    same_shape,
)
from tesserac.ops.view import no_flops

if TYPE_CHECKING:
    from tesserac.ir.builder import Builder

Types = Sequence[TensorType]
Optional = Var | None


def group_ids(name: str, attrs: Attrs, count: int | None = None) -> tuple[int, ...]:
    """The experts of a group, distinct and ascending; ``count`` of them."""
    ids = integers(attrs, "experts")
    if not ids or list(ids) != sorted(set(ids)) or ids[0] < 0:
        raise ShapeError(f"{name}: experts {ids} are not distinct and ascending")
    if count is not None and len(ids) != count:
        raise ShapeError(f"{name}: {count} tensors for {len(ids)} experts")
    return ids


def _check_offsets(name: str, types: Types, at: int, ids: Sequence[int]) -> None:
    need_integer(name, types, at)
    if types[at].rank != 1:
        raise ShapeError(f"{name} needs a vector of offsets, not {types[at]}", (at,))
    size = types[at].shape[0]
    if isinstance(size, int) and ids[-1] >= size - 1:
        raise ShapeError(f"{name}: there is no expert {ids[-1]} among {size - 1}", (at,))


def _ranges(offsets: Array, attrs: Attrs) -> Iterator[tuple[int, slice]]:
    """Number within the group and rows of each of its experts."""
    for i, expert in enumerate(integers(attrs, "experts")):
        yield i, slice(int(offsets[expert]), int(offsets[expert + 1]))


def pick(attrs: Attrs, present: Sequence[bool]) -> tuple[int, ...]:
    """The experts for which something is present."""
    return tuple(e for e, keep in zip(integers(attrs, "experts"), present, strict=True) if keep)


def _rows_of(name: str, types: Types, at: int) -> Dim:
    if types[at].rank < 1:
        raise ShapeError(f"{name} needs rows, not {types[at]}", (at,))
    return types[at].shape[0]


# ------------------------------------------------------------------------------------------------ products


def _contract_infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    if len(types) < 3:
        raise ShapeError("grouped_contract takes rows, offsets and a matrix per expert")
    ids = group_ids("grouped_contract", attrs, len(types) - 2)
    floating = (0, *range(2, len(types)))
    need_field("grouped_contract", types, floating)
    dtype = same_dtype("grouped_contract", types, floating)
    _check_offsets("grouped_contract", types, 1, ids)
    shape = same_shape("grouped_contract, matrices of the experts", types, floating[1:], dims)
    if types[0].rank != 2 or len(shape) != 2:
        raise ShapeError(f"grouped_contract multiplies matrices, not {types[0]} and {types[2]}", (0, 2))
    inner, width = reversed(shape) if attrs["transposed"] else shape
    dims.equal(types[0].shape[1], inner, "grouped_contract, width of the rows", (0, 2))
    return (TensorType(dtype, (types[0].shape[0], width)),)


def _contract(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
    x, offsets, *weights = arrays
    matrices = [w.T if attrs["transposed"] else w for w in weights]
    result = np.zeros((len(x), matrices[0].shape[1]), np.result_type(x, *weights))
    for i, rows in _ranges(offsets, attrs):
        result[rows] = x[rows] @ matrices[i]
    return one(result)


def _contract_jvp(b: Builder, e: Equation, tangents: Sequence[Optional]) -> tuple[Optional, ...]:
    x, offsets, *weights = e.operands
    ids, turned = e.attr("experts"), e.attr("transposed")
    first = None
    if tangents[0] is not None:
        first = b.op(e.op, tangents[0], offsets, *weights, experts=ids, transposed=turned)
    moving = [t for t in tangents[2:] if t is not None]
    if not moving:
        return (first,)
    some = pick(e.attributes, [t is not None for t in tangents[2:]])
    return (add_optional(b, first, b.op(e.op, x, offsets, *moving, experts=some, transposed=turned)),)


def _contract_transpose(b: Builder, e: Equation, cts: Sequence[Optional],
                        linear: Sequence[bool]) -> tuple[Optional, ...]:
    (ct,), (x, offsets, *weights) = cts, e.operands
    if ct is None:
        return (None,) * len(e.operands)
    turned = bool(e.attr("transposed"))
    if linear[0]:
        own = [conjugated(b, w) for w in weights]
        back = b.op(e.op, ct, offsets, *own, experts=e.attr("experts"), transposed=not turned)
        return (back, None, *(None for _ in weights))
    pair = (ct, conjugated(b, x)) if turned else (conjugated(b, x), ct)
    grads = iter(b.ops("grouped_outer", (*pair, offsets), {"experts": pick(e.attributes, linear[2:])}))
    return (None, None, *(next(grads) if flag else None for flag in linear[2:]))


def _contract_factors(ins: Types, outs: Types, attrs: Attrs) -> Factors:
    # Rows stay together: which expert a row belongs to depends on where it stands among all of them.
    weight = ("h", "d") if attrs["transposed"] else ("d", "h")
    return Factors(((None, "d"), (None,), *(weight for _ in ins[2:])), ((None, "h"),), (("d", "sum"),))


def _contract_flops(ins: Types, outs: Types, attrs: Attrs) -> float:
    """Of all rows, or of the share that falls to the group when tokens choose evenly."""
    share = len(integers(attrs, "experts")) / (ins[1].sizes[0] - 1)
    return 2.0 * ins[0].size * outs[0].sizes[1] * share


def _outer_infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    ids = group_ids("grouped_outer", attrs)
    need_field("grouped_outer", types, (0, 1))
    dtype = same_dtype("grouped_outer", types, (0, 1))
    if types[0].rank != 2 or types[1].rank != 2:
        raise ShapeError(f"grouped_outer multiplies matrices, not {types[0]} and {types[1]}", (0, 1))
    dims.equal(types[0].shape[0], types[1].shape[0], "grouped_outer, rows", (0, 1))
    _check_offsets("grouped_outer", types, 2, ids)
    return tuple(TensorType(dtype, (types[0].shape[1], types[1].shape[1])) for _ in ids)


def _outer(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
    x, y, offsets = arrays
    return tuple(x[rows].T @ y[rows] for _, rows in _ranges(offsets, attrs))


def _outer_jvp(b: Builder, e: Equation, tangents: Sequence[Optional]) -> tuple[Optional, ...]:
    (x, y, offsets), (s, t) = e.operands, tangents[:2]
    none: tuple[Optional, ...] = (None,) * len(e.results)
    first = none if s is None else b.ops(e.op, (s, y, offsets), e.attributes)
    second = none if t is None else b.ops(e.op, (x, t, offsets), e.attributes)
    return tuple(add_optional(b, p, q) for p, q in zip(first, second, strict=True))


def _outer_transpose(b: Builder, e: Equation, cts: Sequence[Optional], linear: Sequence[bool]) -> tuple[Optional, ...]:
    x, y, offsets = e.operands
    given = [ct for ct in cts if ct is not None]
    ids = pick(e.attributes, [ct is not None for ct in cts])
    if linear[0]:
        return (b.op("grouped_contract", conjugated(b, y), offsets, *given, experts=ids, transposed=True), None, None)
    return (None, b.op("grouped_contract", conjugated(b, x), offsets, *given, experts=ids), None)


def _contract_planar(b: Builder, e: Equation, operands: Sequence[Pair]) -> tuple[Pair, ...]:
    return bilinear_planes(b, e, operands, (0,), range(2, len(operands)))


def _outer_planar(b: Builder, e: Equation, operands: Sequence[Pair]) -> tuple[Pair, ...]:
    return bilinear_planes(b, e, operands, (0,), (1,))


def _outer_factors(ins: Types, outs: Types, attrs: Attrs) -> Factors:
    return Factors(((None, "d"), (None, "h"), (None,)), tuple(("d", "h") for _ in outs))


def _outer_flops(ins: Types, outs: Types, attrs: Attrs) -> float:
    share = len(outs) / (ins[2].sizes[0] - 1)
    return 2.0 * ins[0].size * ins[1].sizes[1] * share


# ------------------------------------------------------------------------------------------------ rows


def _rows_infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    if len(types) < 2:
        raise ShapeError("grouped_rows takes offsets and a tensor per expert")
    ids = group_ids("grouped_rows", attrs, len(types) - 1)
    _check_offsets("grouped_rows", types, 0, ids)
    need_field("grouped_rows", types, range(1, len(types)))
    dtype = same_dtype("grouped_rows", types, range(1, len(types)))
    shape = same_shape("grouped_rows, tensors of the experts", types, range(1, len(types)), dims)
    rows: tuple[Dim, ...] = dims_of({"rows": (attrs["rows"],)}, "rows")
    return (TensorType(dtype, (*rows, *shape)),)


def _rows(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
    offsets, *tensors = arrays
    result = np.zeros((integer(attrs, "rows"), *tensors[0].shape), np.result_type(*tensors))
    for i, rows in _ranges(offsets, attrs):
        result[rows] = tensors[i]
    return one(result)


def _rows_jvp(b: Builder, e: Equation, tangents: Sequence[Optional]) -> tuple[Optional, ...]:
    moving = [t for t in tangents[1:] if t is not None]
    if not moving:
        return (None,)
    ids = pick(e.attributes, [t is not None for t in tangents[1:]])
    return (b.op(e.op, e.operands[0], *moving, experts=ids, rows=e.attr("rows")),)


def _rows_transpose(b: Builder, e: Equation, cts: Sequence[Optional], linear: Sequence[bool]) -> tuple[Optional, ...]:
    (ct,) = cts
    if ct is None:
        return (None,) * len(e.operands)
    sums = iter(b.ops("grouped_sum", (ct, e.operands[0]), {"experts": pick(e.attributes, linear[1:])}))
    return (None, *(next(sums) if flag else None for flag in linear[1:]))


def _sum_infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    ids = group_ids("grouped_sum", attrs)
    need_field("grouped_sum", types, (0,))
    _rows_of("grouped_sum", types, 0)
    _check_offsets("grouped_sum", types, 1, ids)
    return tuple(types[0].with_shape(types[0].shape[1:]) for _ in ids)


def _sum(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
    return tuple(np.asarray(arrays[0][rows].sum(0)) for _, rows in _ranges(arrays[1], attrs))


def _sum_transpose(b: Builder, e: Equation, cts: Sequence[Optional], linear: Sequence[bool]) -> tuple[Optional, ...]:
    given = [ct for ct in cts if ct is not None]
    ids = pick(e.attributes, [ct is not None for ct in cts])
    return (b.op("grouped_rows", e.operands[1], *given, experts=ids, rows=e.operands[0].type.shape[0]), None)


def _keep_infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    ids = group_ids("grouped_keep", attrs)
    need_field("grouped_keep", types, (0,))
    _rows_of("grouped_keep", types, 0)
    _check_offsets("grouped_keep", types, 1, ids)
    return (types[0],)


def _keep(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
    x, offsets = arrays
    result = np.zeros_like(x)
    for _, rows in _ranges(offsets, attrs):
        result[rows] = x[rows]
    return one(result)


def _keep_transpose(b: Builder, e: Equation, cts: Sequence[Optional], linear: Sequence[bool]) -> tuple[Optional, ...]:
    (ct,) = cts
    return (None if ct is None else b.op(e.op, ct, e.operands[1], experts=e.attr("experts")), None)


def _letters(t: TensorType, rows: bool) -> tuple[str | None, ...]:
    """A letter for every axis but the rows."""
    return (None, *LETTERS[: t.rank - 1]) if rows else tuple(LETTERS[: t.rank])


def _rows_factors(ins: Types, outs: Types, attrs: Attrs) -> Factors:
    return Factors(((None,), *(_letters(t, False) for t in ins[1:])), (_letters(outs[0], True),))


def _sum_factors(ins: Types, outs: Types, attrs: Attrs) -> Factors:
    return Factors((_letters(ins[0], True), (None,)), tuple(_letters(t, False) for t in outs))


def _keep_factors(ins: Types, outs: Types, attrs: Attrs) -> Factors:
    return Factors((_letters(ins[0], True), (None,)), (_letters(outs[0], True),))


def _sum_flops(ins: Types, outs: Types, attrs: Attrs) -> float:
    return float(ins[0].size)


# ------------------------------------------------------------------------------------------------ samples

# Eight rows: expert 0 has three, 1 none, 2 four; the last row belongs to nobody.
@cache
def offsets() -> Array:
    """First rows of three experts, and where the last one ends."""
    return np.array([0, 3, 3, 7], dtype=np.int32)


_GROUPS: tuple[tuple[int, ...], ...] = ((0, 1, 2), (0, 2))


def group_samples(arrays: Callable[[tuple[int, ...]], tuple[Array, ...]], **attrs: Attr) -> tuple[Sample, ...]:
    """A sample for all experts and one for some."""
    return tuple(Sample(arrays(ids), (("experts", ids), *attrs.items())) for ids in _GROUPS)


def _with_phases(sample: Sample) -> Sample:
    """The sample with complex numbers."""
    turned = tuple(a if a is offsets() else a * np.exp(1j * np.cos(3 * a)) for a in sample.arrays)
    return Sample(turned, sample.attrs)


def _contract_samples() -> tuple[Sample, ...]:
    def arrays(*shape: int) -> Callable[[tuple[int, ...]], tuple[Array, ...]]:
        return lambda ids: (waves(8, 4), offsets(), *(waves(*shape, start=1.0 + i) for i in ids))

    real = group_samples(arrays(4, 6), transposed=False)[:1] + group_samples(arrays(6, 4), transposed=True)
    return (*real, *map(_with_phases, real[:2]))


def _outer_samples() -> tuple[Sample, ...]:
    real = group_samples(lambda ids: (waves(8, 4), waves(8, 6, start=2.0), offsets()))
    return (*real, _with_phases(real[1]))


def _rows_samples() -> tuple[Sample, ...]:
    vectors = group_samples(lambda ids: (offsets(), *(waves(4, start=1.0 + i) for i in ids)), rows=8)
    matrices = group_samples(lambda ids: (offsets(), *(waves(2, 4, start=1.0 + i) for i in ids)), rows=8)[:1]
    return (*vectors, *matrices, _with_phases(vectors[1]))


def _row_samples() -> tuple[Sample, ...]:
    matrices = group_samples(lambda ids: (waves(8, 4), offsets()))
    return (*matrices, Sample((waves(8), offsets()), (("experts", (2,)),)), _with_phases(matrices[1]))


register(OpSpec("grouped_contract", "rows times the matrix of their expert (its transpose if transposed)", "grouped",
                None, _contract_infer, _contract, attrs=(("experts", REQUIRED), ("transposed", False)),
                jvp=_contract_jvp, transpose=_contract_transpose,
                linear=linear_in((0,)), planar=_contract_planar, factors=_contract_factors,
                flops=_contract_flops, samples=_contract_samples))
register(OpSpec("grouped_outer", "x^T y over the rows of every expert: the gradients of the experts' matrices",
                "grouped", 3, _outer_infer, _outer, attrs=(("experts", REQUIRED),), jvp=_outer_jvp,
                transpose=_outer_transpose,
                linear=linear_in((0,), (1,)), planar=_outer_planar, factors=_outer_factors, flops=_outer_flops,
                samples=_outer_samples))
register(OpSpec("grouped_rows", "the tensor of its expert in every row", "grouped", None, _rows_infer, _rows,
                attrs=(("experts", REQUIRED), ("rows", REQUIRED)), jvp=_rows_jvp, transpose=_rows_transpose,
                planar=each_plane, factors=_rows_factors, flops=no_flops, samples=_rows_samples))
register(OpSpec("grouped_sum", "sum of the rows of every expert", "grouped", 2, _sum_infer, _sum,
                attrs=(("experts", REQUIRED),), jvp=linear_jvp, transpose=_sum_transpose,
                linear=linear_in((0,)), planar=each_plane,
                factors=_sum_factors, flops=_sum_flops, samples=_row_samples))
register(OpSpec("grouped_keep", "rows of some experts, zeros elsewhere", "grouped", 2, _keep_infer, _keep,
                attrs=(("experts", REQUIRED),), jvp=linear_jvp, transpose=_keep_transpose,
                linear=linear_in((0,)), planar=each_plane,
                factors=_keep_factors, flops=no_flops, samples=_row_samples))
