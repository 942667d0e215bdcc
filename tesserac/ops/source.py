"""Ops without operands: constants and counters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tesserac.arrays import np
from tesserac.ir.dims import Dims
from tesserac.ir.program import Attr, Equation, Var
from tesserac.ir.types import TensorType
from tesserac.ops.attributes import dims_of, element_type, integer, number, sizes_of
from tesserac.ops.base import (
    REQUIRED,
    Array,
    Attrs,
    Cuts,
    Factors,
    MeshRule,
    OpSpec,
    Sample,
    Scalar,
    as_tuple,
    register,
)
from tesserac.ops.mesh import start_of
from tesserac.ops.planes import Pair, Plane, real_type
from tesserac.ops.rules import LETTERS, check_axis, fill

if TYPE_CHECKING:
    from tesserac.ir.builder import Builder


def _infer(types: Sequence[TensorType], attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    return (TensorType(element_type(attrs), dims_of(attrs, "shape")),)


def _full(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
    value = integer(attrs, "value") if isinstance(attrs["value"], int) else number(attrs, "value")
    return as_tuple(np.full(sizes_of(attrs, "shape"), value, element_type(attrs).numpy))


def _full_planar(b: Builder, e: Equation, operands: Sequence[Pair]) -> tuple[Pair, ...]:
    value = number(e.attributes, "value")
    return (Pair(Plane(b.constant(value, real_type(e.result.type))) if value else None),)


def _full_factors(ins: Sequence[TensorType], outs: Sequence[TensorType], attrs: Attrs) -> Factors:
    return Factors((), (tuple(LETTERS[: outs[0].rank]),))


def _iota_infer(types: Sequence[TensorType], attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    (result,) = _infer(types, attrs, dims)
    check_axis("iota", integer(attrs, "axis"), result.rank)
    return (result,)


def _iota(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
    shape, axis = sizes_of(attrs, "shape"), integer(attrs, "axis")
    column = np.arange(shape[axis]).reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return as_tuple(np.broadcast_to(column, shape).astype(element_type(attrs).numpy))


def _iota_factors(ins: Sequence[TensorType], outs: Sequence[TensorType], attrs: Attrs) -> Factors:
    # The counted axis would need the offset of the slice, so it stays whole.
    axes = tuple(LETTERS[: outs[0].rank])
    return Factors((), (axes,), ((axes[integer(attrs, "axis")], "blocked"),))


def _iota_cut(ins: Sequence[TensorType], outs: Sequence[TensorType], attrs: Attrs, size: int) -> tuple[Factors, ...]:
    return (_full_factors(ins, outs, attrs),)


def _iota_local(b: Builder, e: Equation, operands: Sequence[Var], attrs: dict[str, Attr],
                cuts: Cuts) -> tuple[Var, ...]:
    """Counting goes on where the rank before stops."""
    (result,) = b.ops("iota", (), attrs)
    axes = cuts.get(LETTERS[integer(attrs, "axis")])
    if not axes:
        return (result,)
    start = start_of(b, axes, result.type.sizes[integer(attrs, "axis")], result.type.dtype)
    return (b.op("add", result, fill(b, start, result.type)),)


def _no_flops(ins: Sequence[TensorType], outs: Sequence[TensorType], attrs: Attrs) -> float:
    return 0.0


def _sample_attrs(**attrs: object) -> Sample:
    from tesserac.ir.types import DType

    values = {"shape": (2, 4), "dtype": DType.F64, **attrs}
    return Sample((), tuple(values.items()))  # type: ignore[arg-type]


register(OpSpec("full", "a tensor filled with one number", "source", 0, _infer, _full,
                attrs=(("value", REQUIRED), ("shape", REQUIRED), ("dtype", REQUIRED)), factors=_full_factors,
                planar=_full_planar, flops=_no_flops, scalar=Scalar("{value}", "{value}", "{value}", 0),
                samples=lambda: (_sample_attrs(value=1.5),)))
register(OpSpec("iota", "position along one axis", "source", 0, _iota_infer, _iota,
                attrs=(("shape", REQUIRED), ("axis", REQUIRED), ("dtype", REQUIRED)), factors=_iota_factors,
                mesh=MeshRule(_iota_cut, _iota_local),
                flops=_no_flops, samples=lambda: (_sample_attrs(axis=1), _sample_attrs(axis=0))))
