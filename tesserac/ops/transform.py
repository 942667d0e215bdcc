"""Equations that ask for derivatives; the differentiate pass replaces them, in the order of the program.

``backward`` is the gradient of a scalar, ``pullback`` the reverse and ``pushforward`` the forward derivative with
explicit seeds, ``derivative`` the partial derivative at every point of a batch by a coordinate that varies from
point to point. Any of them may be asked of a value that another one made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from tesserac.diagnostics import InternalError
from tesserac.ir.dims import Dims, ShapeError
from tesserac.ir.program import Attr
from tesserac.ir.types import TensorType
from tesserac.ops.attributes import integer
from tesserac.ops.base import REQUIRED, Array, Attrs, InferRule, OpSpec, register
from tesserac.ops.rules import need_field, need_float, same_dtype, same_shape


def point_rank(coordinate: TensorType) -> int:
    """How many leading axes of a coordinate number points; the last one of a matrix counts its components."""
    return coordinate.rank if coordinate.rank <= 1 else coordinate.rank - 1


def _backward(types: Sequence[TensorType], attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    if not types or types[0].rank:
        raise ShapeError(f"backward needs a scalar loss, not {types[0] if types else 'nothing'}", (0,),
                         "reduce it first, as in op.mean(loss)")
    need_float("backward", types, (0,), "a loss is a real number: op.mean(op.abs(x) ** 2), or op.real(loss)")
    need_field("backward", types, range(len(types)))
    return tuple(types[1:])


def _derivative(types: Sequence[TensorType], attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    value, coordinate = types
    need_float("derivative", types, (0, 1))
    rank, component = point_rank(coordinate), integer(attrs, "component")
    if value.rank < rank:
        raise ShapeError(f"derivative: {value} has fewer axes than the points of the coordinate {coordinate}", (0, 1))
    for axis in range(rank):
        dims.equal(value.shape[axis], coordinate.shape[axis], f"derivative, axis {axis}", (0, 1))
    columns = coordinate.shape[-1] if coordinate.rank > rank else 1
    if component < 0 or (isinstance(columns, int) and component >= columns):
        raise ShapeError(f"derivative: {coordinate} has no component {component}", (1,))
    return (value,)


def _pushforward(types: Sequence[TensorType], attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    if len(types) % 2 == 0 or len(types) < 3:
        raise ShapeError("pushforward needs a value, then inputs, then as many tangents")
    need_field("pushforward", types, range(len(types)))
    half = len(types) // 2
    for i in range(1, half + 1):
        same_dtype("pushforward", types, (i, i + half))
        same_shape("pushforward", types, (i, i + half), dims)
    return (types[0],)


def _pullback(types: Sequence[TensorType], attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    if len(types) < 2:
        raise ShapeError("pullback needs a value and its cotangent, then inputs")
    need_field("pullback", types, range(len(types)))
    same_dtype("pullback", types, (0, 1))
    same_shape("pullback", types, (0, 1), dims)
    return tuple(types[2:])


def _combination(types: Sequence[TensorType], attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    """Behind the coordinates come factors of one number per point; ``factors`` says by position which index has one."""
    components, indices, weights, factors = (attrs[n] for n in ("components", "indices", "weights", "factors"))
    if not (isinstance(components, tuple) and isinstance(indices, tuple) and isinstance(weights, tuple)
            and isinstance(factors, tuple)):
        raise InternalError("combination: components, indices, weights and factors are tuples")
    coordinates, behind = types[1 : 1 + len(components)], types[1 + len(components) :]
    if len(coordinates) != len(components) or not len(indices) == len(weights) == len(factors):
        raise ShapeError("combination needs a value, its directions, and a weight for every index")
    for coordinate, component in zip(coordinates, components, strict=True):
        _derivative((types[0], coordinate), {"component": component}, dims)
    points = prod(types[1].sizes[: point_rank(types[1])])
    if any(not isinstance(n, int) or n >= len(behind) for n in factors) or any(t.size != points for t in behind):
        raise ShapeError("combination needs factors of one number per point")
    return (types[0],)


def _register(name: str, doc: str, arity: int | None, infer: InferRule, **attrs: Attr) -> None:
    register(OpSpec(name, doc, "transform", arity, infer, _no_value(name), attrs=tuple(attrs.items())))


def _no_value(name: str) -> Callable[[Sequence[Array], Attrs], tuple[Array, ...]]:
    def evaluate(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
        raise InternalError(f"{name} has no value of its own; run the differentiate pass first")

    return evaluate


_register("backward", "gradients of a scalar with respect to the other operands", None, _backward)
_register("derivative", "partial derivative of x at every point, by one component of the coordinate y", 2, _derivative,
          component=0)
_register("pushforward", "directional derivative of the first operand: inputs, then their tangents", None,
          _pushforward)
_register("pullback", "cotangents of inputs, from the first operand and its cotangent, the second", None, _pullback)
_register("combination", "weighted sum of derivatives of the first operand, by counts along each coordinate", None,
          _combination, components=REQUIRED, indices=REQUIRED, weights=REQUIRED, factors=REQUIRED)
