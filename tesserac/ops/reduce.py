"""Reductions over axes, argmax and cumulative sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tesserac.arrays import np
from tesserac.ir.dims import Dims, ShapeError
from tesserac.ir.program import Attr, Equation, Var
from tesserac.ir.types import DType, TensorType
from tesserac.ops.attributes import integer, integers
from tesserac.ops.base import (
    REQUIRED,
    Array,
    Attrs,
    Cuts,
    FactorRule,
    Factors,
    InferRule,
    JvpRule,
    LinearRule,
    MeshRule,
    OpSpec,
    Sample,
    TransposeRule,
    as_tuple,
    by_numpy,
    register,
)
from tesserac.ops.elementwise import zero_jvp
from tesserac.ops.mesh import whole_extreme
from tesserac.ops.numerics import re
from tesserac.ops.planes import PlanarRule, each_plane
from tesserac.ops.rules import (
    LETTERS,
    axis_blocked_factors,
    check_axis,
    linear_in,
    linear_jvp,
    masked,
    need_rank,
    need_real,
)

if TYPE_CHECKING:
    from tesserac.ir.builder import Builder

Types = Sequence[TensorType]
Optional = Var | None


def kept_axes(rank: int, axes: Sequence[int]) -> tuple[int, ...]:
    """The axes that a reduction over ``axes`` leaves."""
    return tuple(axis for axis in range(rank) if axis not in axes)


def widen(x: Array) -> Array:
    """Half precision in float32, because sums accumulate in at least that."""
    return x.astype(np.float32) if x.dtype == np.float16 else x


_ORDER = "complex numbers have no order: reduce op.real(x), op.imag(x) or op.abs(x)"


def _infer(name: str, refuse: str = "") -> InferRule:
    def infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
        axes = integers(attrs, "axes")
        if refuse:
            need_real(name, types, (0,), refuse)
        if types[0].dtype is DType.BOOL:
            raise ShapeError(f"{name} needs numbers, not bool", (0,), "convert first: op.cast(x, dtype=\"float32\")")
        for axis in axes:
            check_axis(name, axis, types[0].rank)
        if list(axes) != sorted(set(axes)):
            raise ShapeError(f"{name}: axes {axes} are not distinct and ascending", (0,))
        return (types[0].with_shape(tuple(types[0].shape[i] for i in kept_axes(types[0].rank, axes))),)

    return infer


def _factors(kind: str) -> FactorRule:
    def factors(ins: Types, outs: Types, attrs: Attrs) -> Factors:
        letters, axes = tuple(LETTERS[: ins[0].rank]), integers(attrs, "axes")
        kept = tuple(letters[i] for i in kept_axes(ins[0].rank, axes))
        return Factors((letters,), (kept,), tuple((letters[axis], kind) for axis in axes))

    return factors


def _extreme_cut(ins: Types, outs: Types, attrs: Attrs, size: int) -> tuple[Factors, ...]:
    """The ranks' extremes are joined at once: nothing but the same extreme can be made of them."""
    letters, axes = tuple(LETTERS[: ins[0].rank]), integers(attrs, "axes")
    kept = tuple(letters[i] for i in kept_axes(ins[0].rank, axes))
    return (Factors((letters,), (kept,), tuple((letters[axis], "joined") for axis in axes)),)


def _extreme_local(b: Builder, e: Equation, operands: Sequence[Var], attrs: dict[str, Attr],
                   cuts: Cuts) -> tuple[Var, ...]:
    (part,) = b.ops(e.op, operands, attrs)
    reduced = integers(attrs, "axes")
    axes = [axis for dim in reduced for axis in cuts.get(LETTERS[dim], ())]
    if not axes:
        return (part,)
    stopped = any(made.op == "stop_gradient" and operands[0] in made.results for made in b.equations)
    return (whole_extreme(b, operands[0], part, e.op.removeprefix("reduce_"), reduced, axes, back=not stopped),)


def _flops(ins: Types, outs: Types, attrs: Attrs) -> float:
    return float(ins[0].size)


def _spread(b: Builder, e: Equation, reduced: Var) -> Var:
    """Repeats a reduced value over the reduced axes."""
    x = e.operands[0]
    return b.op("broadcast", reduced, shape=x.type.shape,
                axes=kept_axes(x.type.rank, integers(e.attributes, "axes")))


def _sum_transpose(b: Builder, e: Equation, cts: Sequence[Optional], linear: Sequence[bool]) -> tuple[Optional, ...]:
    (ct,) = cts
    return (None if ct is None else _spread(b, e, ct),)


def _extreme_jvp(b: Builder, e: Equation, tangents: Sequence[Optional]) -> tuple[Optional, ...]:
    """Mean of the tangents of all elements that attain the extreme."""
    (t,), x = tangents, e.operands[0]
    if t is None:
        return (None,)
    mask = b.op("eq", x, _spread(b, e, e.result))
    count = b.op("reduce_sum", b.op("cast", mask, dtype=x.type.dtype), axes=e.attr("axes"))
    return (b.op("div", b.op("reduce_sum", masked(b, mask, t), axes=e.attr("axes")), count),)


def _product_jvp(b: Builder, e: Equation, tangents: Sequence[Optional]) -> tuple[Optional, ...]:
    """Sum over i of t_i times the product of all other elements, exact where elements are zero.

    The other elements are laid out as an n x n matrix with ones on the diagonal; dividing the whole
    product by x_i instead would fail at zeros and lose higher derivatives there.
    """
    (t,), x = tangents, e.operands[0]
    if t is None:
        return (None,)
    axes = integers(e.attributes, "axes")
    kept = kept_axes(x.type.rank, axes)
    flat, flat_t = (_reduced_last(b, v, kept, axes) for v in (x, t))
    rank, n = flat.type.rank, flat.type.sizes[-1]
    square = (*flat.type.sizes, n)
    row = b.op("iota", shape=square, axis=rank - 1, dtype=DType.I32)
    column = b.op("iota", shape=square, axis=rank, dtype=DType.I32)
    values = b.op("broadcast", flat, shape=square, axes=(*range(rank - 1), rank))
    others = b.op("select", b.op("eq", row, column), b.constant(1.0, values.type), values)
    weights = b.op("reduce_prod", others, axes=(rank,))
    return (b.op("reduce_sum", b.op("mul", flat_t, weights), axes=(rank - 1,)),)


def _reduced_last(b: Builder, x: Var, kept: Sequence[int], axes: Sequence[int]) -> Var:
    """The kept axes first, all others merged into a last one."""
    moved = b.op("transpose", x, perm=(*kept, *axes))
    count = math.prod(x.type.sizes[a] for a in axes)
    return b.op("reshape", moved, shape=(*(x.type.sizes[a] for a in kept), count))


def _one_axis_infer(name: str, dtype: DType | None) -> InferRule:
    def infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
        if dtype is not None:
            need_real(name, types, (0,), _ORDER)
        need_rank(name, types, 0, 1)
        axis = integer(attrs, "axis")
        check_axis(name, axis, types[0].rank)
        if dtype is None:
            return (types[0],)
        return (TensorType(dtype, types[0].shape[:axis] + types[0].shape[axis + 1:]),)

    return infer


def _argmax_factors(ins: Types, outs: Types, attrs: Attrs) -> Factors:
    letters, axis = tuple(LETTERS[: ins[0].rank]), integer(attrs, "axis")
    return Factors((letters,), (letters[:axis] + letters[axis + 1:],), ((letters[axis], "blocked"),))


def _cumsum(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
    axis = integer(attrs, "axis")
    x = np.flip(arrays[0], axis) if attrs["reverse"] else arrays[0]
    total = np.cumsum(widen(x), axis=axis).astype(arrays[0].dtype)
    return as_tuple(np.flip(total, axis) if attrs["reverse"] else total)


def _cumsum_transpose(b: Builder, e: Equation, cts: Sequence[Optional],
                      linear: Sequence[bool]) -> tuple[Optional, ...]:
    (ct,) = cts
    return (None if ct is None else b.op("cumsum", ct, axis=e.attr("axis"), reverse=not e.attr("reverse")),)


def _numbers() -> Array:
    return np.array([[0.7, -1.2, 0.4, 1.1], [1.6, 0.3, -0.8, 0.9], [-0.5, 1.3, 0.6, -1.4], [0.2, -0.1, 1.8, 0.5]])


def _axes_samples() -> tuple[Sample, ...]:
    cube = _numbers().reshape(2, 2, 4) + np.array([0.01, -0.02]).reshape(1, 2, 1)
    return (Sample((_numbers(),), (("axes", (1,)),)), Sample((_numbers(),), (("axes", (0, 1)),)),
            Sample((cube,), (("axes", (0, 2)),)))


def _reduction(name: str, doc: str, function: Callable[..., Array], kind: str, jvp: JvpRule,
               transpose: TransposeRule | None = None, planar: PlanarRule | None = None, refuse: str = "",
               linear: LinearRule | None = None, mesh: MeshRule | None = None) -> None:
    def evaluate(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
        x = arrays[0]
        return as_tuple(np.asarray(function(widen(x), axis=integers(attrs, "axes"))).astype(x.dtype))

    def samples() -> tuple[Sample, ...]:
        extra = (Sample((_numbers() - 1j * _numbers().T,), (("axes", (0,)),)),) if planar is not None else ()
        return (*_axes_samples(), *extra)

    register(OpSpec(name, doc, "reduce", 1, _infer(name, refuse), evaluate, attrs=(("axes", REQUIRED),), jvp=jvp,
                    transpose=transpose, planar=planar, factors=_factors(kind), linear=linear, mesh=mesh, flops=_flops,
                    samples=samples))


def _by_real_part(pick: Callable[..., Array]) -> Callable[..., Array]:
    """An extreme of complex steps: by real part, with the imaginary part of the element that wins."""

    def extreme(x: Array, axis: tuple[int, ...]) -> Array:
        if not np.iscomplexobj(x):
            return np.asarray(pick(x, axis=axis))
        best = np.asarray(pick(re(x), axis=axis, keepdims=True))
        wins = re(x) == best
        return np.asarray(np.sum(np.where(wins, x, 0), axis=axis) / np.sum(wins, axis=axis))

    return extreme


def _register() -> None:
    _reduction("reduce_sum", "sum over axes", by_numpy("sum"), "sum", linear_jvp, _sum_transpose, each_plane,
               linear=linear_in((0,)))
    _reduction("reduce_max", "largest element over axes; ties share the derivative", _by_real_part(by_numpy("max")),
               "max", _extreme_jvp, refuse=_ORDER, mesh=MeshRule(_extreme_cut, _extreme_local))
    _reduction("reduce_min", "smallest element over axes; ties share the derivative", _by_real_part(by_numpy("min")),
               "min", _extreme_jvp, refuse=_ORDER, mesh=MeshRule(_extreme_cut, _extreme_local))
    _reduction("reduce_prod", "product over axes", by_numpy("prod"), "blocked", _product_jvp,
               refuse="multiply the slices of a complex tensor one by one")
    register(OpSpec("argmax", "position of the largest element along an axis, the lowest at a tie", "reduce", 1,
                    _one_axis_infer("argmax", DType.I64),
                    lambda a, at: as_tuple(np.argmax(re(a[0]), axis=integer(at, "axis"))),
                    attrs=(("axis", REQUIRED),), jvp=zero_jvp, factors=_argmax_factors, flops=_flops,
                    samples=lambda: (Sample((_numbers(),), (("axis", 1),)), Sample((_numbers(),), (("axis", 0),)))))
    register(OpSpec("cumsum", "running sum along an axis, from the end if reverse", "reduce", 1,
                    _one_axis_infer("cumsum", None), _cumsum, attrs=(("axis", REQUIRED), ("reverse", False)),
                    jvp=linear_jvp, transpose=_cumsum_transpose, linear=linear_in((0,)), planar=each_plane,
                    factors=lambda i, o, at: axis_blocked_factors(integer(at, "axis"), i, o), flops=_flops,
                    samples=lambda: (Sample((_numbers(),), (("axis", 1), ("reverse", False))),
                                     Sample((_numbers(),), (("axis", 0), ("reverse", True))))))


_register()
