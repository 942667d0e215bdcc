"""Ops of the program that one rank of a mesh runs: collectives along an axis, and what depends on the coordinate there.

``axis`` and ``size`` name a mesh axis and say how many ranks it has. All are linear. What the transpose is depends on
how the cotangents lie (see ``tesserac.passes.mesh.placements``): an operand or result that all ranks have alike has
either its whole cotangent on each of them (R) or a term of it (R*); ``to`` and ``of`` say which where it matters.
``evaluate`` sees one rank only, so the meaning of what talks to others stands in ``tesserac.passes.mesh.simulate``; ops
that only need to know where they are find this rank's ``coordinate`` among the attributes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tesserac.arrays import np
from tesserac.diagnostics import InternalError
from tesserac.ir.dims import Dims, ShapeError
from tesserac.ir.program import Attr, Equation, Var
from tesserac.ir.types import DType, TensorType
from tesserac.ops.attributes import integer, string
from tesserac.ops.base import REQUIRED, Array, Attrs, EvaluateRule, OpSpec, TransposeRule, as_tuple, register
from tesserac.ops.mesh_planes import reduced_planes, stacked_planes
from tesserac.ops.planes import each_plane
from tesserac.ops.rules import check_axis, linear_jvp
from tesserac.ops.view import no_flops

if TYPE_CHECKING:
    from tesserac.ir.builder import Builder

Types = Sequence[TensorType]
Optional = Var | None
WHERE: tuple[tuple[str, Attr], ...] = (("axis", REQUIRED), ("size", REQUIRED))
"""Attributes that every op of this module has."""
COLLECTIVES = ("all_reduce", "all_reduce_begin", "all_gather", "reduce_scatter", "all_to_all", "exchange_rows",
               "reduce_shares")
"""Ops that talk to other ranks."""


def collective_kind(equation: Equation) -> str:
    """What an op that talks to others is to them, in two halves or at once, in shares of tensors or of a bucket."""
    if in_shares(equation):
        return "reduce_scatter"
    return "all_reduce" if equation.op == "all_reduce_begin" else equation.op


def in_shares(equation: Equation) -> bool:
    """Whether an exchange, or half of one, gives every rank the sums of a share of several tensors."""
    halves = ("all_reduce_begin", "all_reduce_end")
    return equation.op == "reduce_shares" or (equation.op in halves and bool(equation.attr("shares")))


def _resized(types: Types, name: str, attrs: Attrs, dims: Dims, factor: dict[str, int]) -> tuple[TensorType, ...]:
    """The operand's type with the axes named by attributes made larger (factor 1) or smaller (-1) ``size`` times."""
    shape, size = list(types[0].shape), integer(attrs, "size")
    for attribute, direction in factor.items():
        dim = integer(attrs, attribute)
        check_axis(name, dim, len(shape))
        shape[dim] = (dims.product((size, shape[dim])) if direction > 0
                      else dims.quotient(shape[dim], size, f"{name}, axis {dim} by {size} ranks", (0,)))
    return (types[0].with_shape(tuple(shape)),)


def _same_infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    if not types:
        raise ShapeError("a collective needs an operand")
    return tuple(types)


def reducible(name: str, types: Types, attrs: Attrs) -> None:
    """ShapeError unless these tensors can be reduced together."""
    if string(attrs, "kind") not in ("sum", "max", "min"):
        raise ShapeError(f"{name}: {attrs['kind']!r} is not sum, max or min")
    if not types or any(t.dtype != types[0].dtype or t.dtype is DType.BOOL for t in types):
        raise ShapeError(f"{name} needs numbers of one element type", tuple(range(len(types))))


def _reduce_infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    reducible("all_reduce", types, attrs)
    return _same_infer(types, attrs, dims)


def _gather_infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    return _resized(types, "all_gather", attrs, dims, {"dim": 1})


def _scatter_infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    return _resized(types, "reduce_scatter", attrs, dims, {"dim": -1})


def _exchange_infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    return _resized(types, "all_to_all", attrs, dims, {"split": -1, "concat": 1})


def parts_of(attrs: Attrs) -> int:
    """Into how many parts ``shard_slice`` and ``shard_embed`` divide the axis: one per rank unless stated."""
    return integer(attrs, "parts") or integer(attrs, "size")


def _slice_infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    return _resized(types, "shard_slice", {**attrs, "size": parts_of(attrs)}, dims, {"dim": -1})


def _embed_infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    return _resized(types, "shard_embed", {**attrs, "size": parts_of(attrs)}, dims, {"dim": 1})


def _index_infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    return (TensorType(DType.I32),)


def share_of(types: Types, size: int) -> int:
    """Elements of each rank's share of several tensors; the last rank's may reach beyond their end."""
    return -(-sum(t.size for t in types) // size)


# ------------------------------------------------------------------------------------------------ meaning


def elsewhere(name: str) -> EvaluateRule:
    """The meaning of an op that needs other ranks: none where one rank is evaluated."""
    def evaluate(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
        raise InternalError(f"{name} has no meaning on one rank; run it with passes.mesh.simulate")

    return evaluate


def _coordinate(attrs: Attrs) -> int:
    if "coordinate" not in attrs:
        raise InternalError("an op of a mesh was evaluated without the rank's coordinate")
    return integer(attrs, "coordinate")


def _bounds(attrs: Attrs, extent: int) -> tuple[int, int]:
    """Where the part of this rank begins and ends on an axis of this extent."""
    parts = parts_of(attrs)
    part, length = _coordinate(attrs) * parts // integer(attrs, "size"), extent // parts
    return part * length, (part + 1) * length


def _slice(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
    dim = integer(attrs, "dim")
    begin, end = _bounds(attrs, arrays[0].shape[dim])
    return as_tuple(np.take(arrays[0], np.arange(begin, end), axis=dim))


def _embed(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
    dim, x = integer(attrs, "dim"), arrays[0]
    extent = x.shape[dim] * parts_of(attrs)
    begin, end = _bounds(attrs, extent)
    width = [(begin, extent - end) if axis == dim else (0, 0) for axis in range(x.ndim)]
    return as_tuple(np.pad(x, width))


def _keep(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
    return as_tuple(arrays[0] if _coordinate(attrs) == 0 else np.zeros_like(arrays[0]))


# ------------------------------------------------------------------------------------------------ transposes


def _along(b: Builder, e: Equation, name: str, x: Var, **attrs: Attr) -> Var:
    """An op along the same mesh axis."""
    (result,) = b.ops(name, (x,), {"axis": e.attr("axis"), "size": e.attr("size"), **attrs})
    return result


def _back(rule: Callable[[Builder, Equation, Var], Var]) -> TransposeRule:
    """A transpose of one operand from what it makes of one cotangent."""

    def transpose(b: Builder, e: Equation, cts: Sequence[Optional], linear: Sequence[bool]) -> tuple[Optional, ...]:
        return tuple(None if ct is None else rule(b, e, ct) for ct in cts)

    return transpose


def _reduce_back(b: Builder, e: Equation, ct: Var) -> Var:
    """The cotangent of a term is that of the sum; of an R* result only a term of it is here."""
    if e.attr("kind") != "sum":
        raise InternalError(f"all_reduce of kind {e.attr('kind')} is not linear")
    return ct if e.attr("to") == "R" else _along(b, e, "all_reduce", ct)


def _gather_back(b: Builder, e: Equation, ct: Var) -> Var:
    if e.attr("to") == "R":
        return _along(b, e, "shard_slice", ct, dim=e.attr("dim"))
    return _along(b, e, "reduce_scatter", ct, dim=e.attr("dim"))


def _scatter_back(b: Builder, e: Equation, ct: Var) -> Var:
    return _along(b, e, "all_gather", ct, dim=e.attr("dim"))


def _exchange_back(b: Builder, e: Equation, ct: Var) -> Var:
    return _along(b, e, "all_to_all", ct, split=e.attr("concat"), concat=e.attr("split"))


def _slice_back(b: Builder, e: Equation, ct: Var) -> Var:
    if e.attr("of") == "R":
        return _along(b, e, "all_gather", ct, dim=e.attr("dim"))
    return _along(b, e, "shard_embed", ct, dim=e.attr("dim"), parts=e.attr("parts"))


def _embed_back(b: Builder, e: Equation, ct: Var) -> Var:
    of = "R" if parts_of(e.attributes) == e.attr("size") else "R*"
    return _along(b, e, "shard_slice", ct, dim=e.attr("dim"), of=of, parts=e.attr("parts"))


def _keep_back(b: Builder, e: Equation, ct: Var) -> Var:
    return ct if e.attr("of") == "R" else _along(b, e, "keep_first", ct)


def _vary_back(b: Builder, e: Equation, ct: Var) -> Var:
    return _along(b, e, "all_reduce", ct)


def _unvary_back(b: Builder, e: Equation, ct: Var) -> Var:
    return _along(b, e, "keep_first", ct)


def _reduce_jvp(b: Builder, e: Equation, tangents: Sequence[Optional]) -> tuple[Optional, ...]:
    if e.attr("kind") != "sum":
        raise InternalError(f"all_reduce of kind {e.attr('kind')} is not differentiated: what uses it stops gradients")
    return tuple(None if t is None else b.ops("all_reduce", (t,), e.attributes)[0] for t in tangents)


# ------------------------------------------------------------------------------------------------ coordinates


def linear_coordinate(b: Builder, axes: Sequence[tuple[str, int]]) -> Var:
    """Which part of an axis that these mesh axes cut, the first one first, this rank has (i32 scalar)."""
    found: Var | None = None
    for axis, size in axes:
        place = b.op("axis_index", axis=axis, size=size, named=f"{axis}.index")
        if found is not None:
            place = b.op("add", b.op("mul", found, b.scalar(size, DType.I32)), place, named="part")
        found = place
    if found is None:
        raise InternalError("an axis that no mesh axis cuts has no parts")
    return found


def start_of(b: Builder, axes: Sequence[tuple[str, int]], extent: int, dtype: DType = DType.I32) -> Var:
    """Global index of this rank's first element on a cut axis of which it has ``extent`` elements (a scalar)."""
    start = b.op("mul", linear_coordinate(b, axes), b.scalar(extent, DType.I32), named="first")
    return start if dtype is DType.I32 else b.op("cast", start, dtype=dtype, named="first")


def whole_extreme(b: Builder, x: Var, part: Var, kind: str, reduced: Sequence[int],
                  axes: Sequence[tuple[str, int]], back: bool = True) -> Var:
    """``reduce_max`` or ``reduce_min`` (``kind`` max or min) over tensor axes that mesh axes cut, on all ranks (R).

    ``part``: this rank's extreme. All elements of all ranks that attain the extreme share the derivative, so where that
    may be asked for (``back``), their mean distance from it, which is zero, is added.
    """
    extreme = part
    for axis, size in axes:
        extreme = b.op("all_reduce", extreme, axis=axis, size=size, kind=kind, named=kind)
    if not back:
        return extreme
    extreme = b.op("stop_gradient", extreme)
    kept = tuple(axis for axis in range(x.type.rank) if axis not in reduced)
    spread = b.op("broadcast", extreme, shape=x.type.shape, axes=kept)
    hit = b.op("eq", x, spread)
    zero = b.constant(0.0, x.type, named="zero")
    above = b.op("reduce_sum", b.op("select", hit, b.op("sub", x, spread), zero), axes=tuple(reduced))
    count = b.op("reduce_sum", b.op("cast", hit, dtype=x.type.dtype), axes=tuple(reduced), named="ties")
    for axis, size in axes:
        above = b.op("all_reduce", above, axis=axis, size=size)
        count = b.op("all_reduce", count, axis=axis, size=size, named="ties")
    return b.op("add", extreme, b.op("div", above, b.op("stop_gradient", count)))


# ------------------------------------------------------------------------------------------------ the ops


def _declare(name: str, doc: str, infer: Callable[[Types, Attrs, Dims], tuple[TensorType, ...]],
             back: Callable[[Builder, Equation, Var], Var], evaluate: EvaluateRule | None = None,
             **attrs: Attr) -> None:
    kind = "collective" if name in COLLECTIVES else "rank"
    reduces = name == "all_reduce"
    planes = reduced_planes if reduces else stacked_planes if kind == "collective" else each_plane
    register(OpSpec(name, doc, kind, None if reduces else 1, infer, evaluate or elsewhere(name),
                    attrs=(*WHERE, *attrs.items()), jvp=_reduce_jvp if reduces else linear_jvp, transpose=_back(back),
                    planar=planes, flops=no_flops))


_declare("all_reduce", "sum, largest or smallest over the ranks of an axis, on all of them", _reduce_infer,
         _reduce_back, kind="sum", to="R")
_declare("all_gather", "the parts of all ranks one after another, on all of them", _gather_infer, _gather_back,
         dim=REQUIRED, to="R")
_declare("reduce_scatter", "this rank's part of the sum over the ranks", _scatter_infer, _scatter_back, dim=REQUIRED)
_declare("all_to_all", "cut along one axis of the tensor instead of another", _exchange_infer, _exchange_back,
         split=REQUIRED, concat=REQUIRED)
_declare("shard_slice", "this rank's part of what all ranks have", _slice_infer, _slice_back, _slice, dim=REQUIRED,
         of="R", parts=0)
_declare("shard_embed", "zeros around this rank's part: a term of a sum over the ranks", _embed_infer, _embed_back,
         _embed, dim=REQUIRED, parts=0)
_declare("keep_first", "the value on the first rank of an axis and zeros on the others", _same_infer, _keep_back, _keep,
         of="R")
_declare("vary", "the value itself, from which ranks go on separately", _same_infer, _vary_back,
         lambda arrays, attrs: as_tuple(arrays[0]))
_declare("unvary", "the value itself, from which ranks go on alike", _same_infer, _unvary_back,
         lambda arrays, attrs: as_tuple(arrays[0]))
register(OpSpec("reduce_shares", "of the sums over the ranks of several tensors, one behind the other in memory, this "
                "rank's share, zeros elsewhere", "collective", None, _reduce_infer, elsewhere("reduce_shares"),
                attrs=(*WHERE, ("kind", "sum")), flops=no_flops, differentiable=False))
register(OpSpec("axis_index", "this rank's coordinate on an axis", "rank", 0, _index_infer,
                lambda arrays, attrs: as_tuple(np.array(_coordinate(attrs), np.int32)), attrs=WHERE, flops=no_flops,
                differentiable=False))
