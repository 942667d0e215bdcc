"""Complex numbers: made of real tensors, and taken apart."""

from __future__ import annotations

from tesserac.elaborate.calls import Site
from tesserac.elaborate.catalogue.registry import surface
from tesserac.elaborate.operands import align, floating
from tesserac.elaborate.values import Value
from tesserac.ir.program import Var


def _complex_operand(site: Site, x: Value, name: str) -> Var:
    return floating(site.session, x, f"the operand of op.{name}")


@surface("complex(re, im)", "The complex numbers re + i im; either part may be a number", family="complex")
def complex_(site: Site, re: Value, im: Value) -> Value:
    """Complex numbers of two real tensors of one shape (after broadcasting)."""
    parts = align(site.session, (re, im), "op.complex")
    return site.session.emit("complex", *parts)


@surface("real(x)", "The real part", family="complex")
def real(site: Site, x: Value) -> Value:
    """The real part; a real tensor itself."""
    operand = _complex_operand(site, x, "real")
    return site.session.emit("real", operand) if operand.type.dtype.is_complex else operand


@surface("imag(x)", "The imaginary part", family="complex")
def imag(site: Site, x: Value) -> Value:
    """The imaginary part; zeros for a real tensor."""
    operand = _complex_operand(site, x, "imag")
    if operand.type.dtype.is_complex:
        return site.session.emit("imag", operand)
    return site.session.emit("full", value=0.0, shape=operand.type.shape, dtype=operand.type.dtype)


@surface("conj(x)", "The complex conjugate", family="complex")
def conj(site: Site, x: Value) -> Value:
    """The complex conjugate; a real tensor itself."""
    operand = _complex_operand(site, x, "conj")
    return site.session.emit("conj", operand) if operand.type.dtype.is_complex else operand


@surface("angle(x)", "The argument, in (-pi, pi]", family="complex")
def angle(site: Site, x: Value) -> Value:
    """The argument of a complex number; of a real one 0 or pi."""
    operand = _complex_operand(site, x, "angle")
    if operand.type.dtype.is_complex:
        return site.session.emit("angle", operand)
    zero = site.session.emit("full", value=0.0, shape=operand.type.shape, dtype=operand.type.dtype)
    return site.session.emit("atan2", zero, operand)


@surface("atan2(y, x)", "The angle of the point (x, y), in (-pi, pi]", family="math")
def atan2(site: Site, y: Value, x: Value) -> Value:
    """arctan(y / x) in the quadrant that the signs name."""
    ordinate, abscissa = align(site.session, (y, x), "op.atan2")
    return site.session.emit("atan2", ordinate, abscissa)
