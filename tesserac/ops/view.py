"""Ops that move elements without computing: broadcast, reshape, transpose, slice, concat, pad."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tesserac.arrays import np
from tesserac.ir.dims import Dims, ShapeError
from tesserac.ir.program import Equation, Var
from tesserac.ir.types import Dim, TensorType
from tesserac.ops.attributes import dims_of, integer, integers, number, sizes_of
from tesserac.ops.base import REQUIRED, Array, Attrs, OpSpec, Sample, as_tuple, register
from tesserac.ops.planes import Pair, Plane, each_plane, real_type
from tesserac.ops.rules import check_axis, linear_in, linear_in_all, linear_jvp, same_dtype, zeros
from tesserac.ops.view_factors import (
    broadcast_factors,
    concat_factors,
    pad_factors,
    reshape_factors,
    slice_factors,
    transpose_factors,
)

if TYPE_CHECKING:
    from tesserac.ir.builder import Builder

Types = Sequence[TensorType]
Optional = Var | None


def no_flops(ins: Types, outs: Types, attrs: Attrs) -> float:
    """Moving is not computing."""
    return 0.0


def _broadcast_infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    shape, axes = dims_of(attrs, "shape"), integers(attrs, "axes")
    if len(axes) != types[0].rank or list(axes) != sorted(set(axes)) or any(not 0 <= a < len(shape) for a in axes):
        raise ShapeError(f"broadcast: axes {axes} do not place the {types[0].rank} axes of {types[0]} in a result "
                         f"with {len(shape)} axes", (0,))
    for i, axis in enumerate(axes):
        if not dims.is_one(types[0].shape[i]):
            dims.equal(types[0].shape[i], shape[axis], f"broadcast, axis {i}", (0,))
    return (types[0].with_shape(shape),)


def _broadcast(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
    shape, axes = sizes_of(attrs, "shape"), integers(attrs, "axes")
    spread = [1] * len(shape)
    for size, axis in zip(arrays[0].shape, axes, strict=True):
        spread[axis] = size
    return as_tuple(np.broadcast_to(arrays[0].reshape(spread), shape))


def _broadcast_transpose(b: Builder, e: Equation, cts: Sequence[Optional],
                         linear: Sequence[bool]) -> tuple[Optional, ...]:
    (ct,), (x,) = cts, e.operands
    if ct is None:
        return (None,)
    axes = integers(e.attributes, "axes")
    kept = {axis for i, axis in enumerate(axes) if x.type.shape[i] == ct.type.shape[axis]}
    summed = tuple(axis for axis in range(ct.type.rank) if axis not in kept)
    total = b.op("reduce_sum", ct, axes=summed) if summed else ct
    return (total if total.type == x.type else b.op("reshape", total, shape=x.type.shape),)


def _reshape_infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    shape = dims_of(attrs, "shape")
    dims.equal(dims.product(types[0].shape), dims.product(shape), "reshape, number of elements", (0,))
    return (types[0].with_shape(shape),)


def _reshape_transpose(b: Builder, e: Equation, cts: Sequence[Optional],
                       linear: Sequence[bool]) -> tuple[Optional, ...]:
    (ct,) = cts
    return (None if ct is None else b.op("reshape", ct, shape=e.operands[0].type.shape),)


def _transpose_infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    perm = integers(attrs, "perm")
    if sorted(perm) != list(range(types[0].rank)):
        raise ShapeError(f"transpose: {perm} is not a permutation of the {types[0].rank} axes of {types[0]}", (0,))
    return (types[0].with_shape(tuple(types[0].shape[p] for p in perm)),)


def _transpose_transpose(b: Builder, e: Equation, cts: Sequence[Optional],
                         linear: Sequence[bool]) -> tuple[Optional, ...]:
    (ct,), perm = cts, integers(e.attributes, "perm")
    inverse = tuple(perm.index(axis) for axis in range(len(perm)))
    return (None if ct is None else b.op("transpose", ct, perm=inverse),)


def _slice_infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    starts, limits, strides = integers(attrs, "starts"), dims_of(attrs, "limits"), integers(attrs, "strides")
    if not len(starts) == len(limits) == len(strides) == types[0].rank:
        raise ShapeError(f"slice: bounds are given for {len(starts)} axes of {types[0]}", (0,))
    shape: list[Dim] = []
    for axis, (size, start, limit, stride) in enumerate(zip(types[0].shape, starts, limits, strides, strict=True)):
        known = isinstance(limit, int)
        outside = known and (limit < start or (isinstance(size, int) and limit > size))  # type: ignore[operator]
        if start < 0 or stride < 1 or outside:
            raise ShapeError(f"slice: {start}:{limit}:{stride} is outside axis {axis} of {types[0]}", (0,))
        if isinstance(limit, int):
            shape.append(-(-(limit - start) // stride))
        elif stride == 1:
            shape.append(dims.sum((limit, -start)) if start else limit)
        else:
            raise ShapeError(f"slice: axis {axis} has the unknown size {limit} and cannot take a stride", (0,))
    return (types[0].with_shape(tuple(shape)),)


def _slice(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
    bounds = zip(integers(attrs, "starts"), integers(attrs, "limits"), integers(attrs, "strides"), strict=True)
    return as_tuple(arrays[0][tuple(slice(*bound) for bound in bounds)])


def _slice_transpose(b: Builder, e: Equation, cts: Sequence[Optional],
                     linear: Sequence[bool]) -> tuple[Optional, ...]:
    (ct,), sizes = cts, e.operands[0].type.sizes
    if ct is None:
        return (None,)
    starts, strides = integers(e.attributes, "starts"), integers(e.attributes, "strides")
    for axis, stride in enumerate(strides):
        if stride > 1:
            ct = _interleave(b, ct, axis, stride)
    # Spreading by the stride leaves up to stride - 1 positions too many behind the last element.
    lengths = [min(n, size - start) for n, size, start in zip(ct.type.sizes, sizes, starts, strict=True)]
    if lengths != list(ct.type.sizes):
        ct = b.op("slice", ct, starts=(0,) * len(sizes), limits=tuple(lengths), strides=(1,) * len(sizes))
    high = tuple(size - start - n for size, start, n in zip(sizes, starts, lengths, strict=True))
    return (b.op("pad", ct, low=starts, high=high) if any(starts) or any(high) else ct,)


def _interleave(b: Builder, x: Var, axis: int, stride: int) -> Var:
    """Puts stride - 1 zeros behind every element along an axis."""
    shape = x.type.sizes
    split = (*shape[: axis + 1], 1, *shape[axis + 1:])
    high = tuple(stride - 1 if i == axis + 1 else 0 for i in range(len(split)))
    spread = b.op("pad", b.op("reshape", x, shape=split), low=(0,) * len(split), high=high)
    return b.op("reshape", spread, shape=(*shape[:axis], shape[axis] * stride, *shape[axis + 1:]))


def _concat_infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    if not types:
        raise ShapeError("concat needs at least one operand")
    axis = integer(attrs, "axis")
    check_axis("concat", axis, types[0].rank)
    dtype = same_dtype("concat", types, range(len(types)))
    shape = list(types[0].shape)
    for position, other in enumerate(types[1:], 1):
        if other.rank != types[0].rank:
            raise ShapeError(f"concat: {types[0]} and {other} differ in rank", (0, position))
        for i in range(len(shape)):
            if i != axis:
                shape[i] = dims.equal(shape[i], other.shape[i], f"concat, axis {i}", (0, position))
    shape[axis] = dims.sum(tuple(t.shape[axis] for t in types))
    return (TensorType(dtype, tuple(shape)),)


def _concat_jvp(b: Builder, e: Equation, tangents: Sequence[Optional]) -> tuple[Optional, ...]:
    if all(t is None for t in tangents):
        return (None,)
    parts = [zeros(b, v.type) if t is None else t for v, t in zip(e.operands, tangents, strict=True)]
    return (b.op("concat", *parts, axis=e.attr("axis")),)


def _concat_transpose(b: Builder, e: Equation, cts: Sequence[Optional],
                      linear: Sequence[bool]) -> tuple[Optional, ...]:
    (ct,), axis = cts, integer(e.attributes, "axis")
    if ct is None:
        return tuple(None for _ in e.operands)
    parts: list[Optional] = []
    start = 0
    for operand, flag in zip(e.operands, linear, strict=True):
        limit = start + operand.type.sizes[axis]
        starts = tuple(start if i == axis else 0 for i in range(ct.type.rank))
        limits = tuple(limit if i == axis else n for i, n in enumerate(ct.type.sizes))
        parts.append(b.op("slice", ct, starts=starts, limits=limits, strides=(1,) * ct.type.rank) if flag else None)
        start = limit
    return tuple(parts)


def _pad_infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    low, high = integers(attrs, "low"), integers(attrs, "high")
    if not len(low) == len(high) == types[0].rank or min((*low, *high), default=0) < 0:
        raise ShapeError(f"pad: paddings {low} and {high} do not fit {types[0]}", (0,))
    sums = [dims.sum((lo, n, hi)) if lo or hi else n for lo, n, hi in zip(low, types[0].shape, high, strict=True)]
    return (types[0].with_shape(tuple(sums)),)


def _pad(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
    width = list(zip(integers(attrs, "low"), integers(attrs, "high"), strict=True))
    return as_tuple(np.pad(arrays[0], width, constant_values=number(attrs, "value")) if width else arrays[0])


def _pad_jvp(b: Builder, e: Equation, tangents: Sequence[Optional]) -> tuple[Optional, ...]:
    (t,) = tangents
    return (None if t is None else b.op("pad", t, low=e.attr("low"), high=e.attr("high")),)


def _pad_transpose(b: Builder, e: Equation, cts: Sequence[Optional], linear: Sequence[bool]) -> tuple[Optional, ...]:
    (ct,), low = cts, integers(e.attributes, "low")
    if ct is None:
        return (None,)
    limits = tuple(lo + n for lo, n in zip(low, e.operands[0].type.sizes, strict=True))
    return (b.op("slice", ct, starts=low, limits=limits, strides=(1,) * len(low)),)


def _pad_planar(b: Builder, e: Equation, operands: Sequence[Pair]) -> tuple[Pair, ...]:
    """The number around the operand belongs to the real part."""
    (x,), low, high, value = operands, e.attr("low"), e.attr("high"), number(e.attributes, "value")
    re, im = x.re, x.im
    if re is None and value:
        re = Plane(b.constant(0.0, real_type(e.operands[0].type), named="zero"))
    if re is not None:
        re = Plane(b.op("pad", re.var, low=low, high=high, value=-value if re.negative else value), re.negative)
    return (Pair(re, None if im is None else Plane(b.op("pad", im.var, low=low, high=high), im.negative)),)


def _pad_linear(e: Equation) -> tuple[tuple[int, ...], ...]:
    return () if e.attr("value") else ((0,),)


def _matrix() -> Array:
    return np.arange(24.0).reshape(4, 6) * 0.1 - 1.0


def _register() -> None:
    register(OpSpec("broadcast", "repeats along new axes, and along axes of size 1", "view", 1, _broadcast_infer,
                    _broadcast, attrs=(("shape", REQUIRED), ("axes", REQUIRED)), jvp=linear_jvp,
                    transpose=_broadcast_transpose,
                    linear=linear_in((0,)), planar=each_plane, factors=broadcast_factors, flops=no_flops,
                    samples=lambda: (Sample((_matrix(),), (("shape", (4, 2, 6)), ("axes", (0, 2)))),
                                     Sample((_matrix()[:, :1],), (("shape", (2, 4, 3)), ("axes", (1, 2)))),
                                     Sample((np.array(2.0),), (("shape", (2, 3)), ("axes", ()))))))
    register(OpSpec("reshape", "the same elements in row-major order under another shape", "view", 1, _reshape_infer,
                    lambda a, at: as_tuple(a[0].reshape(sizes_of(at, "shape"))), attrs=(("shape", REQUIRED),),
                    jvp=linear_jvp, transpose=_reshape_transpose, linear=linear_in((0,)), planar=each_plane,
                    factors=reshape_factors, flops=no_flops,
                    samples=lambda: (Sample((_matrix(),), (("shape", (4, 2, 3)),)),
                                     Sample((_matrix(),), (("shape", (24,)),)),
                                     Sample((_matrix().reshape(2, 2, 6),), (("shape", (4, 1, 6)),)))))
    register(OpSpec("transpose", "axes in another order", "view", 1, _transpose_infer,
                    lambda a, at: as_tuple(a[0].transpose(integers(at, "perm"))), attrs=(("perm", REQUIRED),),
                    jvp=linear_jvp, transpose=_transpose_transpose, linear=linear_in((0,)), planar=each_plane,
                    factors=transpose_factors, flops=no_flops,
                    samples=lambda: (Sample((_matrix().reshape(2, 2, 6),), (("perm", (2, 0, 1)),)),)))
    register(OpSpec("slice", "elements start, start+stride, ... below limit of every axis", "view", 1, _slice_infer,
                    _slice, attrs=(("starts", REQUIRED), ("limits", REQUIRED), ("strides", REQUIRED)),
                    jvp=linear_jvp, transpose=_slice_transpose, linear=linear_in((0,)), planar=each_plane,
                    factors=slice_factors, flops=no_flops,
                    samples=lambda: (
                        Sample((_matrix(),), (("starts", (0, 1)), ("limits", (4, 6)), ("strides", (1, 2)))),
                        Sample((_matrix(),), (("starts", (1, 0)), ("limits", (3, 6)), ("strides", (1, 1)))),
                        Sample((_matrix(),), (("starts", (1, 0)), ("limits", (4, 5)), ("strides", (3, 4)))))))
    register(OpSpec("concat", "operands one after another along an axis", "view", None, _concat_infer,
                    lambda a, at: as_tuple(np.concatenate(list(a), axis=integer(at, "axis"))),
                    attrs=(("axis", REQUIRED),), jvp=_concat_jvp, transpose=_concat_transpose,
                    linear=linear_in_all, planar=each_plane,
                    factors=concat_factors, flops=no_flops,
                    samples=lambda: (Sample((_matrix(), _matrix()[:, :2]), (("axis", 1),)),
                                     Sample((_matrix(), _matrix()[:3], _matrix()[1:]), (("axis", 0),)))))
    register(OpSpec("pad", "a constant around the operand", "view", 1, _pad_infer, _pad,
                    attrs=(("low", REQUIRED), ("high", REQUIRED), ("value", 0.0)), jvp=_pad_jvp,
                    transpose=_pad_transpose,
                    linear=_pad_linear, planar=_pad_planar, factors=pad_factors, flops=no_flops,
                    samples=lambda: (Sample((_matrix(),), (("low", (0, 1)), ("high", (0, 2)), ("value", 0.0))),
                                     Sample((_matrix(),), (("low", (1, 0)), ("high", (0, 0)), ("value", 3.0))))))


_register()
