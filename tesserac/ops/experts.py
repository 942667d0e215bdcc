"""Routing of tokens to experts: the choice is integers, the movement of rows and gates is linear.

T tokens make k choices each. The M = T*k *slots* t*k + j are sorted by expert with a stable counting sort, so that
the rows of one expert are consecutive and no row is padded (dropless, as in MegaBlocks, Gale et al. 2022).
``order[p]`` is the slot at position p and ``inverse[t, j]`` the position of slot t*k + j. The index E stands for
"no expert": such slots come behind all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tesserac.arrays import np
from tesserac.ir.dims import Dims, ShapeError
from tesserac.ir.program import Equation, Var
from tesserac.ir.types import DType, TensorType
from tesserac.ops.attributes import integer
from tesserac.ops.base import REQUIRED, Array, Attrs, Factors, OpSpec, Sample, as_tuple, register
from tesserac.ops.numerics import re
from tesserac.ops.planes import Pair, bilinear_planes, each_plane
from tesserac.ops.rules import (
    add_optional,
    conjugated,
    linear_in,
    need_field,
    need_float,
    need_integer,
    same_dtype,
    same_shape,
)

if TYPE_CHECKING:
    from tesserac.ir.builder import Builder

Types = Sequence[TensorType]
Optional = Var | None


def _matrix(name: str, types: Types, position: int) -> None:
    if types[position].rank != 2:
        raise ShapeError(f"{name} needs a matrix as operand {position + 1}, not {types[position]}", (position,))


def _experts(name: str, attrs: Attrs) -> int:
    count = integer(attrs, "experts")
    if count < 1:
        raise ShapeError(f"{name} needs at least one expert")
    return count


def _chosen(name: str, indices: Array, experts: int) -> Array:
    if indices.size and (indices.min() < 0 or indices.max() > experts):
        raise IndexError(f"{name}: an index lies outside the {experts} experts")
    return indices.reshape(-1).astype(np.int64)


# ------------------------------------------------------------------------------------------------ the choice


def _route_infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    _matrix("route", types, 0)
    need_integer("route", types, 0)
    slots = dims.product(types[0].shape)
    shapes = (slots,), (_experts("route", attrs) + 1,), types[0].shape
    return tuple(TensorType(DType.I32, shape) for shape in shapes)


def _route(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
    experts = integer(attrs, "experts")
    chosen = _chosen("route", arrays[0], experts)
    order = np.argsort(chosen, kind="stable")
    inverse = np.empty_like(order)
    inverse[order] = np.arange(len(order))
    counts = np.bincount(chosen, minlength=experts + 1)[:experts]
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return order.astype(np.int32), offsets.astype(np.int32), inverse.reshape(arrays[0].shape).astype(np.int32)


def _limit_infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    _matrix("limit", types, 0)
    need_integer("limit", types, 0)
    need_float("limit", types, (1,))
    _experts("limit", attrs)
    if integer(attrs, "capacity") < 0:
        raise ShapeError("limit: a capacity is not negative")
    return (TensorType(DType.I32, same_shape("limit", types, (0, 1), dims)),)


def _limit(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
    experts, capacity = integer(attrs, "experts"), integer(attrs, "capacity")
    chosen = _chosen("limit", arrays[0], experts)
    gates = re(arrays[1]).reshape(-1)
    kept = np.full_like(chosen, experts)
    for expert in range(experts):
        slots = np.flatnonzero(chosen == expert)
        best = slots[np.argsort(-gates[slots], kind="stable")[:capacity]]
        kept[best] = expert
    return as_tuple(kept.reshape(arrays[0].shape).astype(np.int32))


def _no_tangent(b: Builder, e: Equation, tangents: Sequence[Optional]) -> tuple[Optional, ...]:
    return tuple(None for _ in e.results)


def _route_factors(ins: Types, outs: Types, attrs: Attrs) -> Factors:
    # Positions count the tokens before a token, so all tokens are needed in one place.
    return Factors((("t", "k"),), ((None,), (None,), ("t", "k")), (("t", "blocked"), ("k", "blocked")))


def _limit_factors(ins: Types, outs: Types, attrs: Attrs) -> Factors:
    return Factors((("t", "k"), ("t", "k")), (("t", "k"),), (("t", "blocked"), ("k", "blocked")))


def _counting(ins: Types, outs: Types, attrs: Attrs) -> float:
    return 3.0 * ins[0].size


# ------------------------------------------------------------------------------------------------ rows of tokens


def _indices(name: str, types: Types, at: int, rows: int | None, tokens: int | None, dims: Dims) -> None:
    """Checks order and inverse at ``at``, ``at + 1`` against the operands that hold rows and tokens."""
    for position in (at, at + 1):
        need_integer(name, types, position)
    if types[at].rank != 1:
        raise ShapeError(f"{name} needs a vector as operand {at + 1}, not {types[at]}", (at,))
    _matrix(name, types, at + 1)
    dims.equal(types[at].shape[0], dims.product(types[at + 1].shape), f"{name}, number of slots", (at, at + 1))
    if rows is not None:
        dims.equal(types[rows].shape[0], types[at].shape[0], f"{name}, rows", (rows, at))
    if tokens is not None:
        dims.equal(types[tokens].shape[0], types[at + 1].shape[0], f"{name}, tokens", (tokens, at + 1))


def _moved_infer(name: str, types: Types, dims: Dims) -> None:
    if len(types) not in (3, 4):
        raise ShapeError(f"{name} takes rows, order, inverse and perhaps gates, not {len(types)} operands")
    _matrix(name, types, 0)
    need_field(name, types, (0,))
    if len(types) == 4:
        same_dtype(name, types, (0, 3))
        same_shape(name, types, (3, 2), dims)


def _dispatch_infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    _moved_infer("dispatch", types, dims)
    _indices("dispatch", types, 1, None, 0, dims)
    return (types[0].with_shape((types[1].shape[0], types[0].shape[1])),)


def _dispatch(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
    x, order, inverse = arrays[:3]
    rows = x[order // inverse.shape[1]]
    return as_tuple(rows * arrays[3].reshape(-1)[order][:, None] if len(arrays) == 4 else rows)


def _combine_infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    _moved_infer("combine", types, dims)
    _indices("combine", types, 1, 0, None, dims)
    return (types[0].with_shape((types[2].shape[0], types[0].shape[1])),)


def _combine(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
    ys, _, inverse = arrays[:3]
    gates = arrays[3] if len(arrays) == 4 else np.ones(inverse.shape, ys.dtype)
    total = gates[:, :1] * ys[inverse[:, 0]]
    for j in range(1, inverse.shape[1]):
        total = total + gates[:, j: j + 1] * ys[inverse[:, j]]
    return as_tuple(total)


def _dot_infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    for position in (0, 1):
        _matrix("gate_dot", types, position)
    need_field("gate_dot", types, (0, 1))
    dtype = same_dtype("gate_dot", types, (0, 1))
    dims.equal(types[0].shape[1], types[1].shape[1], "gate_dot, width", (0, 1))
    _indices("gate_dot", types, 2, 1, 0, dims)
    return (TensorType(dtype, types[3].shape),)


def _dot(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
    x, ys, _, inverse = arrays
    return as_tuple(np.stack([(x * ys[inverse[:, j]]).sum(-1) for j in range(inverse.shape[1])], axis=1))


def _moved_jvp(b: Builder, e: Equation, tangents: Sequence[Optional]) -> tuple[Optional, ...]:
    rows, order, inverse, *gates = e.operands
    first = None if tangents[0] is None else b.op(e.op, tangents[0], order, inverse, *gates)
    slope = tangents[3] if gates else None
    second = None if slope is None else b.op(e.op, rows, order, inverse, slope)
    return (add_optional(b, first, second),)


def _moved_transpose(b: Builder, e: Equation, cts: Sequence[Optional], linear: Sequence[bool]) -> tuple[Optional, ...]:
    """dispatch and combine are each other's transpose; a gate receives the dot product of its token and its row."""
    (ct,), (rows, order, inverse, *gates) = cts, e.operands
    found: list[Optional] = [None] * len(e.operands)
    spreads = e.op == "dispatch"
    if ct is not None and linear[0]:
        found[0] = b.op("combine" if spreads else "dispatch", ct, order, inverse, *(conjugated(b, g) for g in gates))
    elif ct is not None:
        other = conjugated(b, rows)
        found[3] = b.op("gate_dot", *((other, ct) if spreads else (ct, other)), order, inverse)
    return tuple(found)


def _dot_jvp(b: Builder, e: Equation, tangents: Sequence[Optional]) -> tuple[Optional, ...]:
    (x, ys, order, inverse), (s, t) = e.operands, tangents[:2]
    first = None if s is None else b.op("gate_dot", s, ys, order, inverse)
    second = None if t is None else b.op("gate_dot", x, t, order, inverse)
    return (add_optional(b, first, second),)


def _dot_transpose(b: Builder, e: Equation, cts: Sequence[Optional], linear: Sequence[bool]) -> tuple[Optional, ...]:
    (ct,), (x, ys, order, inverse) = cts, e.operands
    if ct is None:
        return (None,) * 4
    if linear[0]:
        return (b.op("combine", conjugated(b, ys), order, inverse, ct), None, None, None)
    return (None, b.op("dispatch", conjugated(b, x), order, inverse, ct), None, None)


def _moved_planar(b: Builder, e: Equation, operands: Sequence[Pair]) -> tuple[Pair, ...]:
    return bilinear_planes(b, e, operands, (0,), (3,)) if len(operands) == 4 else each_plane(b, e, operands)


def _dot_planar(b: Builder, e: Equation, operands: Sequence[Pair]) -> tuple[Pair, ...]:
    return bilinear_planes(b, e, operands, (0,), (1,))


def _moved_linear(e: Equation) -> tuple[tuple[int, ...], ...]:
    return ((0,), (3,)) if len(e.operands) == 4 else ((0,),)


def _moved_factors(ins: Types, outs: Types, attrs: Attrs) -> Factors:
    # Only the features can be cut: which rows meet is known at run time.
    rest = tuple((None,) * t.rank for t in ins[1:])
    return Factors(((None, "d"), *rest), ((None, "d"),))


def _dot_factors(ins: Types, outs: Types, attrs: Attrs) -> Factors:
    return Factors(((None, "d"), (None, "d"), (None,), (None, None)), ((None, None),), (("d", "sum"),))


def _dispatch_flops(ins: Types, outs: Types, attrs: Attrs) -> float:
    return float(outs[0].size) if len(ins) == 4 else 0.0


def _combine_flops(ins: Types, outs: Types, attrs: Attrs) -> float:
    return ins[0].size * (2.0 if len(ins) == 4 else 1.0)


def _dot_flops(ins: Types, outs: Types, attrs: Attrs) -> float:
    return 2.0 * ins[1].size


# ------------------------------------------------------------------------------------------------ samples


def waves(*shape: int, start: float = 0.4) -> Array:
    """Irregular numbers for samples."""
    return np.asarray(np.sin(start + 1.7 * np.arange(int(np.prod(shape, dtype=int)))).reshape(shape))


def _choices() -> Array:
    return np.array([[2, 0], [0, 4], [2, 4], [2, 1]])  # of four experts: expert 3 gets nothing, two slots have none


def _places() -> tuple[Array, Array]:
    order, _, inverse = _route((_choices(),), {"experts": 4})
    return order, inverse


def _route_samples() -> tuple[Sample, ...]:
    return (Sample((_choices(),), (("experts", 4),)), Sample((np.array([[0], [0], [0]]),), (("experts", 1),)))


def _limit_samples() -> tuple[Sample, ...]:
    gates = np.array([[0.6, 0.4], [0.9, 0.1], [0.6, 0.4], [0.7, 0.3]])
    chosen = np.array([[2, 0], [0, 1], [2, 1], [2, 1]])
    return tuple(Sample((chosen, gates), (("experts", 4), ("capacity", c))) for c in (1, 2, 5, 0))


def _dispatch_samples() -> tuple[Sample, ...]:
    order, inverse = _places()
    x, gates = waves(4, 6), waves(4, 2, start=1.1)
    return (Sample((x, order, inverse)), Sample((x, order, inverse, gates)),
            Sample((x + 1j * np.cos(x), order, inverse, gates - 1j * np.cos(2 * gates))))


def _combine_samples() -> tuple[Sample, ...]:
    order, inverse = _places()
    ys, gates = waves(8, 6), waves(4, 2, start=1.1)
    return (Sample((ys, order, inverse)), Sample((ys, order, inverse, gates)),
            Sample((ys + 1j * np.cos(ys), order, inverse, gates - 1j * np.cos(2 * gates))))


def _dot_samples() -> tuple[Sample, ...]:
    x, ys = waves(4, 6, start=0.9), waves(8, 6)
    return Sample((x, ys, *_places())), Sample((x - 1j * np.cos(x), ys + 1j * np.cos(3 * ys), *_places()))


register(OpSpec("route", "stable counting sort of slots by expert: slot at each position, first position of each "
                "expert, position of each slot", "sort", 1, _route_infer, _route, attrs=(("experts", REQUIRED),),
                jvp=_no_tangent, factors=_route_factors, flops=_counting, samples=_route_samples))
register(OpSpec("limit", "the capacity slots of largest gate of every expert keep it (ties: the lowest slot), the "
                "others get none", "sort", 2, _limit_infer, _limit, attrs=(("experts", REQUIRED),
                ("capacity", REQUIRED)), jvp=_no_tangent, factors=_limit_factors, flops=_counting,
                samples=_limit_samples))
register(OpSpec("dispatch", "rows of tokens at the positions of their slots, times gates if given", "routing", None,
                _dispatch_infer, _dispatch, jvp=_moved_jvp, transpose=_moved_transpose, linear=_moved_linear,
                planar=_moved_planar, factors=_moved_factors,
                flops=_dispatch_flops, samples=_dispatch_samples))
register(OpSpec("combine", "sum over a token's slots, first to last, of their rows, times gates if given", "routing",
                None, _combine_infer, _combine, jvp=_moved_jvp, transpose=_moved_transpose, linear=_moved_linear,
                planar=_moved_planar, factors=_moved_factors,
                flops=_combine_flops, samples=_combine_samples))
register(OpSpec("gate_dot", "dot product of a token with the row of each of its slots", "routing", 4, _dot_infer, _dot,
                jvp=_dot_jvp, transpose=_dot_transpose,
                linear=linear_in((0,), (1,)), planar=_dot_planar, factors=_dot_factors, flops=_dot_flops,
                samples=_dot_samples))
