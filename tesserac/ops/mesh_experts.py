"""Experts spread over an axis of a mesh: rows travel to the rank of their expert and back, as many as there are.

Rank c of n has the experts c E/n .. (c+1) E/n - 1. Every rank sorts its own rows by expert (``route``); ``offsets``
of all ranks, [n, E+1], say how many rows go where. A rank receives its experts' rows from all ranks, those of one
expert in the order of the ranks they come from, which is the order of the tokens, and at most all rows there are:
nothing is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tesserac.arrays import np
from tesserac.diagnostics import InternalError
from tesserac.ir.dims import Dims, ShapeError
from tesserac.ir.program import Equation, Var
from tesserac.ir.types import DType, TensorType
from tesserac.ops.attributes import integer
from tesserac.ops.base import REQUIRED, Array, Attrs, OpSpec, register
from tesserac.ops.mesh import WHERE, elsewhere
from tesserac.ops.planes import each_plane
from tesserac.ops.rules import linear_jvp, need_integer, zeros
from tesserac.ops.view import no_flops

if TYPE_CHECKING:
    from tesserac.ir.builder import Builder

Types = Sequence[TensorType]
Optional = Var | None


def _of_rank(name: str, experts: int, attrs: Attrs) -> int:
    """Experts of one rank."""
    size = integer(attrs, "size")
    if experts % size:
        raise ShapeError(f"{name}: {experts} experts on {size} ranks")
    return experts // size


def _check_offsets(name: str, types: Types, at: int, attrs: Attrs) -> int:
    """The number of experts, from the offsets of all ranks."""
    need_integer(name, types, at)
    rows, columns = types[at].sizes
    if rows != integer(attrs, "size"):
        raise ShapeError(f"{name} needs the offsets of {attrs['size']} ranks, not {types[at]}", (at,))
    return columns - 1


def _offsets_infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    experts = _check_offsets("expert_offsets", types, 0, attrs)
    return (TensorType(DType.I32, (_of_rank("expert_offsets", experts, attrs) + 1,)),)


def _coordinate(attrs: Attrs) -> int:
    if "coordinate" not in attrs:
        raise InternalError("an op of a mesh was evaluated without the rank's coordinate")
    return integer(attrs, "coordinate")


def counts_of(offsets: Array, size: int, rank: int) -> Array:
    """Rows that every rank (first axis) sends to every expert of ``rank`` (second axis)."""
    counts = np.diff(offsets, axis=1)
    each = counts.shape[1] // size
    return counts[:, rank * each : (rank + 1) * each]


def _offsets(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
    counts = counts_of(arrays[0], integer(attrs, "size"), _coordinate(attrs)).sum(0)
    return (np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),)


def _rows_infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    if len(types) != 2 or types[0].rank < 1:
        raise ShapeError("exchange_rows takes rows and the offsets of all ranks")
    _of_rank("exchange_rows", _check_offsets("exchange_rows", types, 1, attrs), attrs)
    return (types[0].with_shape((integer(attrs, "rows"), *types[0].shape[1:])),)


def _rows_transpose(b: Builder, e: Equation, cts: Sequence[Optional], linear: Sequence[bool]) -> tuple[Optional, ...]:
    """The way back."""
    (ct,), (x, offsets) = cts, e.operands
    if ct is None:
        return (None, None)
    attrs = {**e.attributes, "back": not e.attr("back"), "rows": x.type.shape[0]}
    return (b.ops("exchange_rows", (ct, offsets), attrs)[0], None)


def _own_infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    if any(t != types[0] for t in types):
        raise ShapeError("own_experts needs tensors of one type", tuple(range(len(types))))
    return tuple(types[: _of_rank("own_experts", len(types), attrs)])


def _own(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
    each = len(arrays) // integer(attrs, "size")
    first = _coordinate(attrs) * each
    return tuple(arrays[first : first + each])


def _spread_infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    return tuple(types[0] for _ in range(len(types) * integer(attrs, "size")))


def _spread(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
    found = [np.zeros_like(arrays[0])] * (len(arrays) * integer(attrs, "size"))
    first = _coordinate(attrs) * len(arrays)
    found[first : first + len(arrays)] = arrays
    return tuple(found)


def _moved_jvp(b: Builder, e: Equation, tangents: Sequence[Optional]) -> tuple[Optional, ...]:
    if all(t is None for t in tangents):
        return tuple(None for _ in e.results)
    return b.ops(e.op, [zeros(b, v.type) if t is None else t for v, t in zip(e.operands, tangents, strict=True)],
                 e.attributes)


def _moved_transpose(b: Builder, e: Equation, cts: Sequence[Optional], linear: Sequence[bool]) -> tuple[Optional, ...]:
    """own_experts and spread_experts are each other's transpose."""
    if all(ct is None for ct in cts):
        return tuple(None for _ in e.operands)
    given = [zeros(b, v.type) if ct is None else ct for v, ct in zip(e.results, cts, strict=True)]
    found = b.ops("spread_experts" if e.op == "own_experts" else "own_experts", given, e.attributes)
    return tuple(x if flag else None for x, flag in zip(found, linear, strict=True))


register(OpSpec("expert_offsets", "where the rows of each of this rank's experts begin among those it receives", "rank",
                1, _offsets_infer, _offsets, attrs=WHERE, flops=no_flops, differentiable=False))
register(OpSpec("exchange_rows", "rows sorted by expert to the ranks of their experts, or back; what remains of `rows` "
                "is zero", "collective", 2, _rows_infer, elsewhere("exchange_rows"),
                attrs=(*WHERE, ("rows", REQUIRED), ("back", False)), jvp=linear_jvp, transpose=_rows_transpose,
                planar=each_plane, flops=no_flops))
register(OpSpec("own_experts", "those of all experts' tensors that are this rank's", "rank", None, _own_infer, _own,
                attrs=WHERE, jvp=_moved_jvp, transpose=_moved_transpose, flops=no_flops))
register(OpSpec("spread_experts", "this rank's tensors in the places of its experts among all, zeros elsewhere", "rank",
                None, _spread_infer, _spread, attrs=WHERE, jvp=_moved_jvp, transpose=_moved_transpose, flops=no_flops))
