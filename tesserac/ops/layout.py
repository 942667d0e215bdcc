"""Relayout: a transposition that is carried out in memory (a plain ``transpose`` is only a view)."""

from __future__ import annotations

from collections.abc import Sequence

from tesserac.arrays import np
from tesserac.ir.dims import Dims
from tesserac.ir.types import TensorType
from tesserac.ops.base import REQUIRED, Array, Attrs, Factors, OpSpec, as_tuple, register
from tesserac.ops.planes import each_plane


def _perm(attrs: Attrs) -> tuple[int, ...]:
    perm = attrs["perm"]
    assert isinstance(perm, tuple)
    return tuple(int(p) for p in perm if isinstance(p, int))


def _infer(types: Sequence[TensorType], attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    return (types[0].with_shape(tuple(types[0].shape[p] for p in _perm(attrs))),)


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
    return as_tuple(np.array(np.transpose(arrays[0], _perm(attrs)), order="C"))


def _factors(operands: Sequence[TensorType], results: Sequence[TensorType], attrs: Attrs) -> Factors:
    letters = tuple(chr(ord("a") + i) for i in range(operands[0].rank))
    return Factors((letters,), (tuple(letters[p] for p in _perm(attrs)),))


RELAYOUT = register(OpSpec(
    name="relayout", doc="Transposes in memory, for a product that reads its operand the other way round.",
    kind="layout", arity=1, infer=_infer, evaluate=_evaluate, attrs=(("perm", REQUIRED),), factors=_factors,
    planar=each_plane,
    differentiable=False))
