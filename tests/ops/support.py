"""What the tests derived from OpSpecs share: functions of one op, and scalar losses over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tesserac.ir.builder import Builder
from tesserac.ir.dims import STATIC
from tesserac.ir.program import Attr, Function, Input, Output, Var
from tesserac.ir.types import DType, TensorType
from tesserac.ops.base import Array, OpSpec, Sample, all_specs

_OF_NUMPY = {np.dtype(d.numpy): d for d in DType if d is not DType.BF16}


@dataclass(frozen=True)
class Case:
    """An op with one of its samples."""

    spec: OpSpec
    sample: Sample
    number: int

    @property
    def id(self) -> str:
        return f"{self.spec.name}-{self.number}"

    @property
    def attrs(self) -> dict[str, Attr]:
        return {**dict(self.spec.attrs), **dict(self.sample.attrs)}

    @property
    def types(self) -> tuple[TensorType, ...]:
        return tuple(type_of(a) for a in self.sample.arrays)

    @property
    def is_complex(self) -> bool:
        """Whether complex steps have no meaning, because operands or results are complex themselves."""
        results = self.spec.infer(self.types, self.attrs, STATIC)
        return any(t.dtype.is_complex for t in (*self.types, *results))

    @property
    def floating(self) -> tuple[int, ...]:
        """Positions of the operands that carry tangents."""
        return tuple(i for i, t in enumerate(self.types) if t.dtype.is_differentiable)


def type_of(array: Array) -> TensorType:
    """The IR type of an array."""
    return TensorType(_OF_NUMPY[np.asarray(array).dtype], np.shape(array))


def cases() -> list[Case]:
    """Every op with every sample."""
    return [Case(spec, sample, i) for spec in all_specs() if spec.samples for i, sample in enumerate(spec.samples())]


def operands(b: Builder, arrays: Sequence[Array], name: str = "x") -> list[Var]:
    """Inputs x0, x1, ... for arrays."""
    return [b.add_input(Input(Var(f"{name}{i}", type_of(a)), f"{name}{i}")) for i, a in enumerate(arrays)]


def fed(arrays: Sequence[Array], name: str = "x") -> dict[str, Array]:
    """Values for `operands`."""
    return {f"{name}{i}": a for i, a in enumerate(arrays)}


def weights_like(t: TensorType, seed: float) -> Array:
    """Irregular numbers of a type's shape."""
    angles = seed + 1.3 * np.arange(t.size).reshape(t.sizes)
    return np.cos(angles) + 1j * np.sin(1.7 * angles) if t.dtype.is_complex else np.cos(angles)


def dot(a: Array, b: Array) -> float:
    """The inner product that gradients refer to: complex numbers are pairs of real ones."""
    return float(np.sum(np.conj(a) * b).real)


def weighted_sum(b: Builder, values: Sequence[Var], seed: float = 0.3) -> Var:
    """A scalar that depends on every element of the floating values (both parts) with a weight of its own."""
    total = b.scalar(0.0, DType.F64)
    parts = [
        [b.op("real", v), b.op("imag", v)] if v.type.dtype.is_complex else [v]
        for v in values
        if v.type.dtype.is_differentiable
    ]
    for k, value in enumerate(v for pair in parts for v in pair):
        flat = b.op("reshape", value, shape=(value.type.size,))
        position = b.op("iota", shape=flat.type.shape, axis=0, dtype=DType.F64)
        angle = b.op("add", position, b.constant(seed + 0.7 * k, position.type))
        total = b.op("add", total, b.op("contract", flat, b.op("cos", angle), spec="i,i->"))
    return total


def scalar_function(case: Case, order: int = 0) -> Function:
    """loss = weighted sum of the op's results; for each further order the weighted sum of the gradients so far.

    Outputs: `loss` and, at order >= 1, `d0`, `d1`...: gradients of the last loss by each floating operand.
    """
    b = Builder()
    xs = operands(b, case.sample.arrays)
    results = b.ops(case.spec.name, xs, dict(case.sample.attrs))
    loss = weighted_sum(b, results)
    wrt = [xs[i] for i in case.floating]
    outputs = []
    for level in range(order):
        grads = b.ops("backward", (loss, *wrt))
        outputs = [Output(f"d{i}", g) for i, g in zip(case.floating, grads, strict=True)]
        if level < order - 1:
            loss = weighted_sum(b, grads, 0.9 + level)
    return b.finish("f", [Output("loss", loss), *outputs])
