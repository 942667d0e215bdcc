"""Equations that ask for derivatives; the differentiate pass replaces them."""

from __future__ import annotations

from collections.abc import Sequence

from tesserac.diagnostics import InternalError
from tesserac.ir.dims import Dims, ShapeError
from tesserac.ir.types import TensorType
from tesserac.ops.base import Array, Attrs, OpSpec, register
from tesserac.ops.rules import need_float


def _infer(types: Sequence[TensorType], attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    if not types or types[0].rank:
        raise ShapeError(f"backward needs a scalar loss, not {types[0] if types else 'nothing'}", (0,),
                         "reduce it first, as in op.mean(loss)")
    need_float("backward", types, range(len(types)))
    return tuple(types[1:])


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
    raise InternalError("backward has no value of its own; run the differentiate pass first")


register(OpSpec("backward", "gradients of a scalar with respect to the other operands", "transform", None, _infer,
                _evaluate))
