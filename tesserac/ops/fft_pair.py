"""Discrete Fourier transforms on pairs of real tensors: what the planar pass makes of the ops in ``fft.py``.

A complex operand is two real ones, (re, im); one operand alone has no imaginary part. Results are (re, im), of
``irfft_pair`` one real tensor. These ops come after differentiation and have no derivatives.
Attributes: ``axis`` >= 0; ``norm`` is "backward", "ortho" or "forward", as in NumPy; ``interior`` of the transforms
between real numbers and half a spectrum is a factor on the bins that stand for two: by that their adjoints differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from tesserac.arrays import np
from tesserac.ir.dims import Dims, ShapeError
from tesserac.ir.types import Dim, TensorType
from tesserac.ops.attributes import integer, number, string
from tesserac.ops.base import REQUIRED, Array, Attrs, Factors, InferRule, OpSpec, Sample, register
from tesserac.ops.rules import LETTERS, check_axis, need_field, same_dtype, same_shape

Types = Sequence[TensorType]

Norm = Literal["backward", "ortho", "forward"]
NORMS: tuple[Norm, ...] = ("backward", "ortho", "forward")
ADJOINT_NORM = {"backward": "forward", "ortho": "ortho", "forward": "backward"}
"""The transpose of a transform is the inverse one with this norm, which has the same factor."""


def scale_of(norm: str, inverse: bool, n: int) -> float:
    """The factor that a norm puts before the sum of a transform of length n."""
    if norm == "ortho":
        return 1.0 / math.sqrt(n)
    return 1.0 / n if (norm == "backward") == inverse else 1.0


def norm_of(attrs: Attrs) -> Norm:
    """The norm among the attributes of a checked equation."""
    return next(norm for norm in NORMS if norm == attrs["norm"])


def check_transform(name: str, types: Types, attrs: Attrs) -> tuple[int, Dim]:
    """The axis and its size; ShapeError for what cannot be transformed."""
    need_field(name, types, range(len(types)))
    if types[0].dtype.complex.real != types[0].dtype.real:
        raise ShapeError(f"{name}: there are no complex numbers of {types[0].dtype}", (0,), "op.cast it to float32")
    axis = integer(attrs, "axis")
    check_axis(name, axis, types[0].rank)
    if string(attrs, "norm") not in NORMS:
        raise ShapeError(f"{name}: there is no norm {attrs['norm']!r}", (0,), f"use one of {', '.join(NORMS)}")
    size = types[0].shape[axis]
    if size == 0:
        raise ShapeError(f"{name}: axis {axis} of {types[0]} has no elements to transform", (0,))
    return axis, size


def half_size(name: str, size: Dim, axis: int) -> int:
    """Number of bins of a transform of ``size`` real numbers, which must be known."""
    if not isinstance(size, int):
        raise ShapeError(f"{name}: the size {size} of axis {axis} is not known, and the number of bins follows from it",
                         (0,), "give the shape of the input with numbers")
    return size // 2 + 1


def with_axis(kind: TensorType, axis: int, size: int) -> TensorType:
    """The type with another size of one axis."""
    return kind.with_shape((*kind.shape[:axis], size, *kind.shape[axis + 1:]))


def check_bins(name: str, bins: Dim, attrs: Attrs) -> int:
    """The length n of the result of a transform from half a spectrum."""
    n = integer(attrs, "n")
    if n < 1 or (isinstance(bins, int) and bins != n // 2 + 1):
        raise ShapeError(f"{name}: n={n} needs {max(n, 0) // 2 + 1} bins, not {bins}", (0,))
    return n


def transform_factors(ins: Types, outs: Types, attrs: Attrs) -> Factors:
    """Every axis but the transformed one passes."""
    axes = tuple(None if i == attrs["axis"] else LETTERS[i] for i in range(ins[0].rank))
    return Factors(tuple(axes for _ in ins), tuple(axes for _ in outs))


def transform_flops(ins: Types, outs: Types, attrs: Attrs) -> float:
    """5 n log2 n for a complex transform, as is the custom; half of that where one side is real."""
    axis = integer(attrs, "axis")
    n = integer(attrs, "n") if "n" in attrs else ins[0].sizes[axis]
    rows = ins[0].size / max(ins[0].sizes[axis], 1)
    per_row = 5.0 * n * math.log2(max(n, 2))
    real = "interior" in attrs or (len(ins) == 1 and not ins[0].dtype.is_complex)
    return rows * (per_row / 2 if real else per_row)


def weights(n: int, interior: float) -> Array:
    """1 for the bins of half a spectrum that stand for themselves, ``interior`` for those that stand for two."""
    factor = np.full(n // 2 + 1, interior)
    factor[0] = 1.0
    if n % 2 == 0:
        factor[-1] = 1.0
    return factor


def along(vector: Array, rank: int, axis: int) -> Array:
    """A vector shaped to meet one axis of a tensor."""
    return vector.reshape([-1 if i == axis else 1 for i in range(rank)])


def real_transform(x: Array, attrs: Attrs) -> Array:
    """Half the spectrum of real numbers, with the weights of ``interior``."""
    axis = integer(attrs, "axis")
    spectrum = np.fft.rfft(x, axis=axis, norm=norm_of(attrs))
    scaled = spectrum * along(weights(x.shape[axis], number(attrs, "interior")), x.ndim, axis)
    return np.asarray(scaled.astype(spectrum.dtype))


def real_inverse(z: Array, attrs: Attrs) -> Array:
    """Real numbers from half their spectrum, with the weights of ``interior``."""
    axis, n = integer(attrs, "axis"), integer(attrs, "n")
    scaled = (z * along(weights(n, number(attrs, "interior")), z.ndim, axis)).astype(z.dtype)
    return np.asarray(np.fft.irfft(scaled, n, axis=axis, norm=norm_of(attrs)))


def _joined(arrays: Sequence[Array]) -> Array:
    return arrays[0] if len(arrays) == 1 else np.asarray(arrays[0] + 1j * arrays[1]).astype(
        np.result_type(arrays[0].dtype, np.complex64))


def _parts(z: Array, like: Array) -> tuple[Array, Array]:
    return z.real.astype(like.dtype), z.imag.astype(like.dtype)


def _infer(name: str) -> InferRule:
    def infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
        check_transform(name, types, attrs)
        same_dtype(name, types, range(len(types)))
        same_shape(name, types, range(len(types)), dims)
        return types[0], types[0]

    return infer


def _rfft_infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    axis, size = check_transform("rfft_pair", types, attrs)
    half = with_axis(types[0], axis, half_size("rfft_pair", size, axis))
    return half, half


def _irfft_infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    axis, bins = check_transform("irfft_pair", types, attrs)
    same_dtype("irfft_pair", types, (0, 1))
    same_shape("irfft_pair", types, (0, 1), dims)
    return (with_axis(types[0], axis, check_bins("irfft_pair", bins, attrs)),)


def _rows() -> Array:
    return np.sin(0.3 + 1.9 * np.arange(15.0)).reshape(3, 5)


def _samples(name: str) -> tuple[Sample, ...]:
    x, y = _rows(), np.cos(_rows() * 3.0)
    if name == "rfft_pair":
        return (Sample((x,), (("axis", 1), ("norm", "ortho"))),
                Sample((x[:, :4],), (("axis", 1), ("norm", "backward"), ("interior", 0.5))))
    if name == "irfft_pair":
        return (Sample((x[:, :3], y[:, :3]), (("axis", 1), ("norm", "ortho"), ("n", 4))),
                Sample((x, y), (("axis", 0), ("norm", "forward"), ("n", 5), ("interior", 2.0))))
    two = (Sample((x, y), (("axis", 1), ("norm", "ortho"))), Sample((x, y), (("axis", 0), ("norm", "backward"))))
    return (*two, Sample((x,), (("axis", 1), ("norm", "forward"))))


def _full(name: str, doc: str, inverse: bool) -> None:
    def evaluate(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
        transform = np.fft.ifft if inverse else np.fft.fft
        return _parts(transform(_joined(arrays), axis=integer(attrs, "axis"), norm=norm_of(attrs)), arrays[0])

    register(OpSpec(name, doc, "spectral", None, _infer(name), evaluate,
                    attrs=(("axis", REQUIRED), ("norm", REQUIRED)), factors=transform_factors, flops=transform_flops,
                    samples=lambda: _samples(name), differentiable=False))


def _register() -> None:
    _full("fft_pair", "discrete Fourier transform of re + i im", False)
    _full("ifft_pair", "inverse discrete Fourier transform of re + i im", True)
    half = (("axis", REQUIRED), ("norm", REQUIRED), ("interior", 1.0))
    register(OpSpec("rfft_pair", "bins 0..n/2 of the discrete Fourier transform of real numbers", "spectral", 1,
                    _rfft_infer, lambda a, at: _parts(real_transform(a[0], at), a[0]), attrs=half,
                    factors=transform_factors, flops=transform_flops, samples=lambda: _samples("rfft_pair"),
                    differentiable=False))
    register(OpSpec("irfft_pair", "n real numbers from bins 0..n/2 of their discrete Fourier transform", "spectral", 2,
                    _irfft_infer, lambda a, at: (real_inverse(_joined(a), at).astype(a[0].dtype),),
                    attrs=(*half, ("n", REQUIRED)), factors=transform_factors, flops=transform_flops,
                    samples=lambda: _samples("irfft_pair"), differentiable=False))


_register()
