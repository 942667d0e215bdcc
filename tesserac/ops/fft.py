"""Discrete Fourier transforms of complex tensors, along one axis.

Linear, and with the convention that the cotangent of z is dL/dRe z + i dL/dIm z the transpose of a transform is its
adjoint: the inverse transform with the same factor. Between real numbers and half a spectrum the adjoints weigh the
bins that stand for two, which is the attribute ``interior`` (see ``fft_pair.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tesserac.arrays import np
from tesserac.ir.dims import Dims, ShapeError
from tesserac.ir.program import Equation, Var
from tesserac.ir.types import TensorType
from tesserac.ops.attributes import integer, number
from tesserac.ops.base import REQUIRED, Array, Attrs, InferRule, OpSpec, Sample, TransposeRule, as_tuple, register
from tesserac.ops.fft_pair import (
    ADJOINT_NORM,
    check_bins,
    check_transform,
    half_size,
    norm_of,
    real_inverse,
    real_transform,
    transform_factors,
    transform_flops,
    with_axis,
)
from tesserac.ops.planes import Pair, PlanarRule, Plane, whole
from tesserac.ops.rules import linear_in, linear_jvp

if TYPE_CHECKING:
    from tesserac.ir.builder import Builder

Types = Sequence[TensorType]
Optional = Var | None


def _full_infer(name: str) -> InferRule:
    def infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
        check_transform(name, types, attrs)
        return (types[0].with_dtype(types[0].dtype.complex),)

    return infer


def _rfft_infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    axis, size = check_transform("rfft", types, attrs)
    if types[0].dtype.is_complex:
        raise ShapeError(f"rfft needs real numbers, not {types[0].dtype}", (0,), "use fft for complex ones")
    return (with_axis(types[0].with_dtype(types[0].dtype.complex), axis, half_size("rfft", size, axis)),)


def _irfft_infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    axis, bins = check_transform("irfft", types, attrs)
    return (with_axis(types[0].with_dtype(types[0].dtype.real), axis, check_bins("irfft", bins, attrs)),)


def _full_transpose(adjoint: str) -> TransposeRule:
    def rule(b: Builder, e: Equation, cts: Sequence[Optional], linear: Sequence[bool]) -> tuple[Optional, ...]:
        (ct,), (x,) = cts, e.operands
        if ct is None:
            return (None,)
        back = b.op(adjoint, ct, axis=e.attr("axis"), norm=ADJOINT_NORM[norm_of(e.attributes)])
        return (back if x.type.dtype.is_complex else b.op("real", back),)

    return rule


def _rfft_transpose(b: Builder, e: Equation, cts: Sequence[Optional], linear: Sequence[bool]) -> tuple[Optional, ...]:
    (ct,), axis = cts, integer(e.attributes, "axis")
    if ct is None:
        return (None,)
    return (b.op("irfft", ct, axis=axis, n=e.operands[0].type.sizes[axis], norm=ADJOINT_NORM[norm_of(e.attributes)],
                 interior=number(e.attributes, "interior") / 2),)


def _irfft_transpose(b: Builder, e: Equation, cts: Sequence[Optional], linear: Sequence[bool]) -> tuple[Optional, ...]:
    (ct,), (x,) = cts, e.operands
    if ct is None:
        return (None,)
    back = b.op("rfft", ct, axis=e.attr("axis"), interior=number(e.attributes, "interior") * 2,
                norm=ADJOINT_NORM[norm_of(e.attributes)])
    return (back if x.type.dtype.is_complex else b.op("real", back),)


def _to_planes(name: str) -> PlanarRule:
    """From one plane or two; a number times i is transformed as a real one and turned."""

    def rule(b: Builder, e: Equation, operands: Sequence[Pair]) -> tuple[Pair, ...]:
        (z,), kind = operands, e.operands[0].type
        alone = z.re or z.im
        if alone is None:
            return (Pair(None, None),)
        given = [whole(b, p, kind) for p in (z.re, z.im)] if z.re and z.im else [alone.var]
        re, im = (Plane(v) for v in b.ops(name, given, e.attributes))
        if len(given) == 1:
            re, im = (p.negated() if alone.negative else p for p in (re, im))
        return (Pair(re, im) if z.re else Pair(im.negated(), re),)

    return rule


def _irfft_planar(b: Builder, e: Equation, operands: Sequence[Pair]) -> tuple[Pair, ...]:
    (z,), kind = operands, e.operands[0].type
    (found,) = b.ops("irfft_pair", (whole(b, z.re, kind), whole(b, z.im, kind)), e.attributes)
    return (Pair(Plane(found)),)


def _numbers(rows: int, columns: int) -> Array:
    t = np.arange(float(rows * columns)).reshape(rows, columns)
    return np.asarray(np.sin(0.4 + 1.7 * t) + 1j * np.cos(0.9 + 2.3 * t))


def _full_samples() -> tuple[Sample, ...]:
    return (Sample((_numbers(2, 5),), (("axis", 1), ("norm", "ortho"))),
            Sample((_numbers(4, 3),), (("axis", 0), ("norm", "backward"))),
            Sample((_numbers(3, 4).real,), (("axis", 1), ("norm", "forward"))))


def _full(name: str, doc: str, adjoint: str, inverse: bool) -> None:
    def evaluate(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
        transform = np.fft.ifft if inverse else np.fft.fft
        return as_tuple(transform(arrays[0], axis=integer(attrs, "axis"), norm=norm_of(attrs)))

    register(OpSpec(name, doc, "complex", 1, _full_infer(name), evaluate,
                    attrs=(("axis", REQUIRED), ("norm", REQUIRED)), jvp=linear_jvp, transpose=_full_transpose(adjoint),
                    linear=linear_in((0,)),
                    factors=transform_factors, flops=transform_flops, samples=_full_samples,
                    planar=_to_planes(f"{name}_pair")))


def _register() -> None:
    _full("fft", "discrete Fourier transform", "ifft", False)
    _full("ifft", "inverse discrete Fourier transform", "fft", True)
    half = (("axis", REQUIRED), ("norm", REQUIRED), ("interior", 1.0))
    register(OpSpec("rfft", "bins 0..n/2 of the discrete Fourier transform of real numbers", "complex", 1, _rfft_infer,
                    lambda a, at: as_tuple(real_transform(a[0], at)), attrs=half, jvp=linear_jvp,
                    transpose=_rfft_transpose, linear=linear_in((0,)), factors=transform_factors, flops=transform_flops,
                    samples=lambda: (Sample((_numbers(3, 4).real,), (("axis", 1), ("norm", "ortho"))),
                                     Sample((_numbers(5, 2).real,), (("axis", 0), ("norm", "backward"),
                                                                     ("interior", 0.5)))),
                    planar=_to_planes("rfft_pair")))
    register(OpSpec("irfft", "n real numbers from bins 0..n/2 of their discrete Fourier transform", "complex", 1,
                    _irfft_infer, lambda a, at: as_tuple(real_inverse(a[0], at)), attrs=(*half, ("n", REQUIRED)),
                    jvp=linear_jvp, transpose=_irfft_transpose,
                    linear=linear_in((0,)), factors=transform_factors, flops=transform_flops,
                    samples=lambda: (Sample((_numbers(2, 3),), (("axis", 1), ("norm", "ortho"), ("n", 4))),
                                     Sample((_numbers(3, 2),), (("axis", 0), ("norm", "forward"), ("n", 5),
                                                                ("interior", 2.0)))),
                    planar=_irfft_planar))


_register()
