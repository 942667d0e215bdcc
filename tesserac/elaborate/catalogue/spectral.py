"""Fourier and cosine transforms, filters and convolutions by them.

Two defaults of Tessera, which `check` points out: transforms run along the last axis, and they are orthonormal
(``norm="ortho"``), so that a transform keeps the sum of squares and the inverse is its adjoint.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tesserac.elaborate.calls import Site
from tesserac.elaborate.catalogue.registry import surface
from tesserac.elaborate.catalogue.support import choice, constant_like, integer, number
from tesserac.elaborate.operands import align, cast, floating, is_number, is_tensor, promoted
from tesserac.elaborate.session import Session
from tesserac.elaborate.tensors import one_axis
from tesserac.elaborate.values import Value
from tesserac.ir.program import Var
from tesserac.ir.types import DType
from tesserac.ops.fft_pair import NORMS

_FAMILY = "spectral"
_TAIL = "norm=None, *, axes=None, normalize=None"


def norm_argument(site: Site, name: str, norm: Value, normalize: Value = None) -> str:
    """The norm that a call names, "ortho" where it names none, which a note says once."""
    if norm is not None and normalize is not None:
        raise site.fail("T0504", f"op.{name} gets its norm twice: norm and normalize are two spellings of one argument")
    given = norm if norm is not None else normalize
    if given is not None:
        return choice(site, given, "norm", NORMS)
    if site.session.report.once("fft norm"):
        site.session.report.note(
            "T0510",
            f"op.{name} is orthonormal unless it is told otherwise",
            site.session.span,
            notes=["NumPy, PyTorch and JAX default to \"backward\": no factor forwards and 1/n back"],
            help=["write norm=\"ortho\" to settle it, or norm=\"backward\""],
        )
    return "ortho"


def transform_axes(site: Site, x: Var, axis: Value, axes: Value) -> list[int]:
    """The axes to transform, in the order given."""
    if axes is not None and axis != -1:
        raise site.fail("T0504", "axis names one axis and axes several: give one of the two")
    given: Sequence[Value] = axes if isinstance(axes, list | tuple) else (axis if axes is None else axes,)
    found = [one_axis(site.session, x.type.rank, a) for a in given]
    if not found or len(set(found)) != len(found):
        raise site.fail("T0504", "axes must name at least one axis, and each once")
    return found


def operand_of(site: Site, x: Value, name: str) -> Var:
    """A real or complex tensor."""
    return floating(site.session, x, f"the operand of op.{name}")


def _declare_full(name: str, doc: str) -> None:
    # An inverse takes the axes back, last one first: what stands between it and the transform is worked on where the
    # last axis was transformed, in one kernel with both, and ranks that hold slabs turn them once each way.
    back = -1 if name == "ifft" else 1

    @surface(f"{name}(x, axis=-1, {_TAIL})", doc, family=_FAMILY)
    def build(site: Site, x: Value, axis: Value, norm: Value, axes: Value, normalize: Value) -> Value:
        operand, kind = operand_of(site, x, name), norm_argument(site, name, norm, normalize)
        for one in transform_axes(site, operand, axis, axes)[::back]:
            operand = site.session.emit(name, operand, axis=one, norm=kind)
        return operand

    tail = "axes=None, norm=None, *, normalize=None"

    @surface(f"{name}2(x, {tail})", f"{doc}, along two axes, the last by default", family=_FAMILY)
    def build2(site: Site, x: Value, axes: Value, norm: Value, normalize: Value) -> Value:
        operand, kind = operand_of(site, x, f"{name}2"), norm_argument(site, f"{name}2", norm, normalize)
        found = transform_axes(site, operand, -1, (-2, -1) if axes is None else axes)
        if len(found) != 2:
            raise site.fail("T0504", f"op.{name}2 needs two axes, not {len(found)}")
        for one in found[::-back]:
            operand = site.session.emit(name, operand, axis=one, norm=kind)
        return operand


_declare_full("fft", "Discrete Fourier transform; complex, all n bins, of real input, too")
_declare_full("ifft", "Inverse discrete Fourier transform; complex")


@surface(f"rfft(x, axis=-1, {_TAIL})", "Bins 0..n/2 of the Fourier transform of real numbers", family=_FAMILY)
def rfft(site: Site, x: Value, axis: Value, norm: Value, axes: Value, normalize: Value) -> Value:
    """The transform of real numbers along the last of the axes, and a complex one along the others."""
    operand, kind = operand_of(site, x, "rfft"), norm_argument(site, "rfft", norm, normalize)
    *others, last = transform_axes(site, operand, axis, axes)
    result = site.session.emit("rfft", _known_axis(site, operand, last, "op.rfft"), axis=last, norm=kind)
    for one in reversed(others):
        result = site.session.emit("fft", result, axis=one, norm=kind)
    return result


@surface(
    f"irfft(x, n=None, axis=-1, {_TAIL})",
    "n real numbers from bins 0..n/2 of their Fourier transform; n is even by default",
    family=_FAMILY,
)
def irfft(site: Site, x: Value, n: Value, axis: Value, norm: Value, axes: Value, normalize: Value) -> Value:
    """The inverse of rfft."""
    session = site.session
    operand, kind = operand_of(site, x, "irfft"), norm_argument(site, "irfft", norm, normalize)
    *others, last = transform_axes(site, operand, axis, axes)
    for one in others:
        operand = session.emit("ifft", operand, axis=one, norm=kind)
    size = 2 * (session.known(operand.type.shape[last], "op.irfft") - 1) if n is None else integer(site, n, "n")
    return session.emit("irfft", as_complex(session, operand), axis=last, n=max(size, 1), norm=kind)


def as_complex(session: Session, x: Var) -> Var:
    """x as complex numbers."""
    return cast(session, x, x.type.dtype.complex)


def _known_axis(site: Site, x: Var, axis: int, what: str) -> Var:
    """x, once the size of an axis is known; the sizes of later results follow from it."""
    site.session.known(x.type.shape[axis], what)
    return x


# ------------------------------------------------------------------------------------------------ cosine transforms


def _along(session: Session, vector: Var, like: Var, axis: int) -> Var:
    """A vector repeated along every axis but one."""
    return session.emit("broadcast", vector, shape=like.type.shape, axes=(axis,))


def angles(session: Session, n: int, step: float, dtype: DType) -> Var:
    """0, step, 2 step, ... (n of them)."""
    index = session.emit("iota", shape=(n,), axis=0, dtype=dtype)
    return session.emit("mul", index, constant_like(session, index, step))


def _cosine_turn(session: Session, n: int, like: Var, axis: int) -> tuple[Var, Var]:
    """s cos and s sin of pi k / 2n for k < n, where s makes the cosine transform orthonormal."""
    dtype = like.type.dtype.real
    angle = angles(session, n, math.pi / (2 * n), dtype)
    first = session.emit("eq", angle, constant_like(session, angle, 0.0))
    scales = (constant_like(session, angle, math.sqrt(c / n)) for c in (1.0, 2.0))
    scale = session.emit("select", first, *scales)
    turned = (session.emit("mul", scale, session.emit(f, angle)) for f in ("cos", "sin"))
    cosine, sine = (_along(session, v, like, axis) for v in turned)
    return cosine, sine


def padded(session: Session, x: Var, axis: int, high: int) -> Var:
    """x with ``high`` zeros behind one axis."""
    rank = x.type.rank
    high_ends = tuple(high if i == axis else 0 for i in range(rank))
    return session.emit("pad", x, low=(0,) * rank, high=high_ends, value=0.0)


def part_of(session: Session, x: Var, axis: int, start: int, limit: int, step: int = 1) -> Var:
    """Elements start, start + step, ... below limit of one axis."""
    rank = x.type.rank
    starts = tuple(start if i == axis else 0 for i in range(rank))
    limits = tuple(limit if i == axis else d for i, d in enumerate(x.type.shape))
    strides = tuple(step if i == axis else 1 for i in range(rank))
    return session.emit("slice", x, starts=starts, limits=limits, strides=strides)


def _by_parts(session: Session, x: Var, transform: object) -> Var:
    """A real linear transform of a complex tensor."""
    assert callable(transform)
    if not x.type.dtype.is_complex:
        return transform(x)  # type: ignore[no-any-return]
    return session.emit("complex", *(transform(session.emit(part, x)) for part in ("real", "imag")))


@surface("dct(x, axis=-1)", "Orthonormal cosine transform of type II", family=_FAMILY)
def dct(site: Site, x: Value, axis: Value) -> Value:
    """s_k Re(exp(-i pi k / 2n) X_k), X the transform of the numbers followed by as many zeros."""
    session, operand = site.session, operand_of(site, x, "dct")
    at = one_axis(session, operand.type.rank, axis)
    n = session.known(operand.type.shape[at], "op.dct")

    def transform(value: Var) -> Var:
        whole = session.emit("rfft", padded(session, value, at, n), axis=at, norm="backward")
        bins = part_of(session, whole, at, 0, n)
        cosine, sine = _cosine_turn(session, n, value, at)
        parts = (session.emit("mul", session.emit(p, bins), f) for p, f in (("real", cosine), ("imag", sine)))
        return session.emit("add", *parts)

    return _by_parts(session, operand, transform)


@surface("idct(x, axis=-1)", "Orthonormal cosine transform of type III, the inverse of op.dct", family=_FAMILY)
def idct(site: Site, x: Value, axis: Value) -> Value:
    """The transpose of dct."""
    session, operand = site.session, operand_of(site, x, "idct")
    at = one_axis(session, operand.type.rank, axis)
    n = session.known(operand.type.shape[at], "op.idct")

    def transform(value: Var) -> Var:
        parts = (session.emit("mul", value, f) for f in _cosine_turn(session, n, value, at))
        bins = session.emit("complex", *(padded(session, p, at, 1) for p in parts))
        whole = session.emit("irfft", bins, axis=at, n=2 * n, norm="forward", interior=0.5)
        return part_of(session, whole, at, 0, n)

    return _by_parts(session, operand, transform)


# ------------------------------------------------------------------------------------------------ filters


@surface(
    "spectral_filter(x, response, axis=-1)",
    "x with its spectrum times a response (n bins, n/2+1 for real x), or cut off above a part of its highest frequency",
    family=_FAMILY,
)
def spectral_filter(site: Site, x: Value, response: Value, axis: Value) -> Value:
    """ifft(response * fft(x)); a number in (0, 1] as response keeps the frequencies up to that part of the highest."""
    session, operand = site.session, operand_of(site, x, "spectral_filter")
    at = one_axis(session, operand.type.rank, axis)
    n = session.known(operand.type.shape[at], "op.spectral_filter")
    whole = operand.type.dtype.is_complex
    spectrum = session.emit("fft" if whole else "rfft", operand, axis=at, norm="ortho")
    if is_number(response):
        factor = _low_pass(site, spectrum, at, n, number(site, response, "response"))
    elif is_tensor(response):
        factor = floating(session, response, "the response of op.spectral_filter", (spectrum.type.shape[at],))
        if factor.type.rank == 1 and at != operand.type.rank - 1:
            factor = _along(session, factor, spectrum, at)
    else:
        raise site.fail("T0504", "the response must be a number in (0, 1] or a tensor over the bins")
    product = session.emit("mul", *align(session, (spectrum, factor), "op.spectral_filter"))
    if product.type.rank != operand.type.rank:
        raise site.fail("T0404", "the response of op.spectral_filter has more axes than the signal")
    if whole:
        return session.emit("ifft", product, axis=at, norm="ortho")
    return session.emit("irfft", product, axis=at, n=n, norm="ortho")


def _low_pass(site: Site, spectrum: Var, axis: int, n: int, cutoff: float) -> Var:
    """1 where a bin's frequency is at most cutoff * n / 2, else 0."""
    session = site.session
    if not 0.0 < cutoff <= 1.0:
        raise site.fail("T0504", f"a cutoff is a part of the highest frequency, in (0, 1], not {cutoff:g}")
    last = math.floor(cutoff * n / 2 + 1e-9)
    index = session.emit("iota", shape=(spectrum.type.shape[axis],), axis=0, dtype=spectrum.type.dtype.real)
    mirrored = session.emit("sub", constant_like(session, index, float(n)), index)
    near = session.emit("le", session.emit("minimum", index, mirrored), constant_like(session, index, float(last)))
    ones = session.emit("select", near, *(constant_like(session, index, v) for v in (1.0, 0.0)))
    return _along(session, ones, spectrum, axis)


@surface(
    "conv_fft(x, kernel, axis=-1, *, mode='circular')",
    "Convolution along an axis by Fourier transforms: circular, or 'full' with n + m - 1 results",
    family=_FAMILY,
)
def conv_fft(site: Site, x: Value, kernel: Value, axis: Value, mode: Value) -> Value:
    """Both are padded to one length, transformed, multiplied and transformed back; real where both are."""
    session, signal = site.session, operand_of(site, x, "conv_fft")
    at = one_axis(session, signal.type.rank, axis)
    n = session.known(signal.type.shape[at], "op.conv_fft")
    taps = floating(session, kernel, "the kernel of op.conv_fft", (n,))
    if taps.type.rank not in (1, signal.type.rank):
        raise site.fail("T0404", "the kernel of op.conv_fft has one axis, or as many as the signal")
    own = at if taps.type.rank == signal.type.rank else 0
    m = session.known(taps.type.shape[own], "op.conv_fft")
    full = choice(site, mode, "mode", ("circular", "full")) == "full"
    if m > n and not full:
        raise site.fail("T0404", f"a circular convolution of {n} numbers takes at most as many in its kernel, not {m}")
    size = n + m - 1 if full else n
    dtype = promoted(session, [signal.type.dtype, taps.type.dtype])
    assert dtype is not None
    spectra = []
    for value, axis_, length in ((signal, at, n), (taps, own, m)):
        value = cast(session, value, dtype)
        value = value if length == size else padded(session, value, axis_, size - length)
        name = "fft" if dtype.is_complex else "rfft"
        spectra.append(session.emit(name, value, axis=axis_, norm="backward"))
    if own != at or taps.type.rank != signal.type.rank:
        spectra[1] = _along(session, spectra[1], spectra[0], at)
    product = session.emit("mul", *align(session, spectra, "op.conv_fft"))
    if dtype.is_complex:
        return session.emit("ifft", product, axis=at, norm="backward")
    return session.emit("irfft", product, axis=at, n=size, norm="backward")
