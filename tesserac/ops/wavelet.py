"""Orthonormal wavelet transforms along an axis: periodic, ``level`` times, packed.

Of n numbers the result is [approximation, coarsest details, ..., finest details], n numbers again; 2^level divides n.
The filters are those of Haar and of Daubechies with 4 and 8 taps (Daubechies 1992), placed as in PyWavelets' mode
"periodization". The transform is orthogonal, so that its transpose is its inverse.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tesserac.arrays import np
from tesserac.ir.dims import Dims, ShapeError
from tesserac.ir.program import Equation, Var
from tesserac.ir.types import TensorType
from tesserac.ops.attributes import integer, string
from tesserac.ops.base import REQUIRED, Array, Attrs, EvaluateRule, InferRule, OpSpec, Sample, TransposeRule, register
from tesserac.ops.planes import each_plane
from tesserac.ops.rules import axis_blocked_factors, check_axis, linear_in, linear_jvp, need_field

if TYPE_CHECKING:
    from tesserac.ir.builder import Builder

Types = Sequence[TensorType]
Optional = Var | None

TAPS: dict[str, tuple[float, ...]] = {
    "haar": (0.7071067811865475244, 0.7071067811865475244),
    "db2": (0.48296291314453414337, 0.83651630373780790558, 0.22414386804201338103, -0.12940952255126038117),
    "db4": (0.23037781330889650086, 0.71484657055291564709, 0.63088076792985890788, -0.027983769416859854211,
            -0.18703481171909308408, 0.030841381835560763627, 0.032883011666885199735, -0.010597401785069032105),
}
"""Low-pass filters by the name of the wavelet."""


def _infer(name: str) -> InferRule:
    def infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
        need_field(name, types, (0,))
        axis, level = integer(attrs, "axis"), integer(attrs, "level")
        check_axis(name, axis, types[0].rank)
        size = types[0].shape[axis]
        if isinstance(size, int) and (size == 0 or size % 2**level):
            times = "once" if level == 1 else f"{level} times"
            raise ShapeError(f"{name}: axis {axis} of {types[0]} cannot be halved {times}: "
                             f"{size} is not a multiple of {2**level}", (0,), "pad the axis, or use fewer levels")
        return (types[0],)

    return infer


def filters(kind: str) -> tuple[Array, Array]:
    """Low-pass and high-pass filter of the wavelet."""
    low = np.array(TAPS[kind])
    return low, low[::-1] * (-1.0) ** np.arange(low.size)


def _positions(size: int, taps: int) -> Array:
    """Where tap j of pair k reads, as [k, j]."""
    pairs = 2 * np.arange(size // 2)[:, None] + np.arange(taps)[None, :]
    return np.asarray((pairs - (taps // 2 - 1)) % size)


def _wavelet(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
    axis, (low, high) = integer(attrs, "axis"), filters(string(attrs, "type"))
    line = np.moveaxis(arrays[0], axis, -1).copy()
    size = line.shape[-1]
    for _ in range(integer(attrs, "level")):
        taken = line[..., _positions(size, low.size)]
        line[..., : size // 2], line[..., size // 2 : size] = taken @ low, taken @ high
        size //= 2
    return (np.ascontiguousarray(np.moveaxis(line, -1, axis)),)


def _iwavelet(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
    axis, (low, high) = integer(attrs, "axis"), filters(string(attrs, "type"))
    line = np.moveaxis(arrays[0], axis, -1).copy()
    for level in reversed(range(integer(attrs, "level"))):
        size = line.shape[-1] >> level
        approximation, details = line[..., : size // 2].copy(), line[..., size // 2 : size].copy()
        line[..., :size] = 0
        for j, at in enumerate(_positions(size, low.size).T):
            line[..., at] += low[j] * approximation + high[j] * details
    return (np.ascontiguousarray(np.moveaxis(line, -1, axis)),)


def _transpose(inverse: str) -> TransposeRule:
    def rule(b: Builder, e: Equation, cts: Sequence[Optional], linear: Sequence[bool]) -> tuple[Optional, ...]:
        (ct,) = cts
        return (None if ct is None else b.op(inverse, ct, **e.attributes),)  # type: ignore[arg-type]

    return rule


def _flops(ins: Types, outs: Types, attrs: Attrs) -> float:
    """Per pair as many products and sums as a filter has taps, and a scale each; every level halves what is left."""
    taps, level = len(TAPS[string(attrs, "type")]), integer(attrs, "level")
    return ins[0].size * (1 - 0.5**level) * (2.0 * taps + 2)


def _samples() -> tuple[Sample, ...]:
    x = np.sin(0.3 + 1.9 * np.arange(16.0)).reshape(2, 8)
    return (Sample((x,), (("axis", 1), ("level", 1), ("type", "haar"))),
            Sample((x,), (("axis", 1), ("level", 3), ("type", "db2"))),
            Sample((x.T.copy(),), (("axis", 0), ("level", 2), ("type", "db4"))))


def _declare(name: str, doc: str, evaluate: EvaluateRule, inverse: str) -> None:
    register(OpSpec(name, doc, "line", 1, _infer(name), evaluate,
                    attrs=(("axis", REQUIRED), ("level", REQUIRED), ("type", REQUIRED)), jvp=linear_jvp,
                    transpose=_transpose(inverse),
                    linear=linear_in((0,)), planar=each_plane, flops=_flops, samples=_samples,
                    factors=lambda i, o, at: axis_blocked_factors(integer(at, "axis"), i, o)))


_declare("wavelet", "orthonormal periodic wavelet transform, packed [approximation, details]", _wavelet, "iwavelet")
_declare("iwavelet", "inverse of wavelet", _iwavelet, "wavelet")
