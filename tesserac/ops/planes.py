"""Complex values as pairs of real ones: what the ``planar`` rules of ops are written with.

A plane is a real value with a sign that has not been applied yet, and ``None`` is a plane that is zero everywhere.
So conjugation costs nothing, a real number that meets a complex one is not multiplied by zeros, and signs end up as
the choice between a sum and a difference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tesserac.ir.program import Equation, Var
from tesserac.ir.types import TensorType

if TYPE_CHECKING:
    from tesserac.ir.builder import Builder


@dataclass(frozen=True, slots=True)
class Plane:
    """The value of ``var``, or its negative."""

    var: Var
    negative: bool = False

    def negated(self) -> Plane:
        """The plane of opposite sign."""
        return Plane(self.var, not self.negative)


@dataclass(frozen=True, slots=True)
class Pair:
    """A complex value by its planes; a real one (integers and bools, too) has no ``im``."""

    re: Plane | None
    im: Plane | None = None


PlanarRule = Callable[["Builder", Equation, Sequence[Pair]], tuple[Pair, ...]]
"""Adds the real equations that stand for a complex one, from the pairs of its operands; a pair for every result."""


def real_type(kind: TensorType) -> TensorType:
    """The type of one plane."""
    return kind.with_dtype(kind.dtype.real)


def whole(b: Builder, plane: Plane | None, like: TensorType) -> Var:
    """A plane as a value; ``like`` is the type of the complex value that it belongs to."""
    if plane is None:
        return b.constant(0.0, real_type(like), named="zero")
    return b.op("neg", plane.var) if plane.negative else plane.var


def negated(plane: Plane | None) -> Plane | None:
    """The negative of a plane."""
    return None if plane is None else plane.negated()


def plus(b: Builder, p: Plane | None, q: Plane | None) -> Plane | None:
    """p + q."""
    if p is None or q is None:
        return q if p is None else p
    if p.negative == q.negative:
        return Plane(b.op("add", p.var, q.var), p.negative)
    first, second = (q, p) if p.negative else (p, q)
    return Plane(b.op("sub", first.var, second.var))


def minus(b: Builder, p: Plane | None, q: Plane | None) -> Plane | None:
    """p - q."""
    return plus(b, p, negated(q))


def times(b: Builder, p: Plane | None, q: Plane | None) -> Plane | None:
    """p * q; a zero plane makes zero, also of infinities."""
    if p is None or q is None:
        return None
    if p.var == q.var:
        return Plane(b.op("square", p.var), p.negative != q.negative)
    return Plane(b.op("mul", p.var, q.var), p.negative != q.negative)


def over(b: Builder, p: Plane | None, divisor: Var) -> Plane | None:
    """p / divisor."""
    return None if p is None else Plane(b.op("div", p.var, divisor), p.negative)


def product(b: Builder, x: Pair, y: Pair) -> Pair:
    """x * y, elementwise."""
    return Pair(minus(b, times(b, x.re, y.re), times(b, x.im, y.im)),
                plus(b, times(b, x.re, y.im), times(b, x.im, y.re)))


def quotient(b: Builder, x: Pair, y: Pair, like: TensorType) -> Pair:
    """x / y, elementwise; the divisor is scaled by its larger part, so that its square does not overflow."""
    if y.im is None:
        divisor = whole(b, y.re, like)
        return Pair(over(b, x.re, divisor), over(b, x.im, divisor))
    most = larger_part(b, y, like)
    scaled = Pair(over(b, y.re, most), over(b, y.im, most))
    square = plus(b, times(b, scaled.re, scaled.re), times(b, scaled.im, scaled.im))
    divisor = b.op("mul", whole(b, square, like), most)
    found = product(b, x, Pair(scaled.re, negated(scaled.im)))
    return Pair(over(b, found.re, divisor), over(b, found.im, divisor))


def larger_part(b: Builder, x: Pair, like: TensorType) -> Var:
    """max(|re|, |im|): what squares are scaled by, so that they neither overflow nor vanish."""
    parts = [b.op("abs", p.var) for p in (x.re, x.im) if p is not None]
    if not parts:
        return whole(b, None, like)
    return parts[0] if len(parts) == 1 else b.op("maximum", *parts)


def each_plane(b: Builder, e: Equation, operands: Sequence[Pair]) -> tuple[Pair, ...]:
    """For ops that are linear with real coefficients in their complex operands together: the op on either plane.

    Operands that are not complex (indices, masks) are the same for both.
    """
    planes: list[list[Plane | None]] = []
    for imaginary in (False, True):
        parts = [pair.im if imaginary else pair.re for pair in operands]
        numbers = [p for v, p in zip(e.operands, parts, strict=True) if v.type.dtype.is_complex]
        given = [p for p in numbers if p is not None]
        if not given:
            planes.append([None] * len(e.results))
            continue
        common = len(given) == len(numbers) and len({p.negative for p in given}) == 1
        values = []
        for var, part, pair in zip(e.operands, parts, operands, strict=True):
            if not var.type.dtype.is_complex:
                values.append(whole(b, pair.re, var.type))
            else:
                values.append(part.var if common and part is not None else whole(b, part, var.type))
        negative = common and given[0].negative
        planes.append([Plane(plane, negative) for plane in b.ops(e.op, values, e.attributes)])
    return tuple(Pair(re, im) for re, im in zip(*planes, strict=True))


def bilinear_planes(b: Builder, e: Equation, operands: Sequence[Pair], left: Sequence[int],
                    right: Sequence[int]) -> tuple[Pair, ...]:
    """For ops that are bilinear in the operands at ``left`` and those at ``right``: (l + i m)(r + i s) by definition.

    Any number of results; a side whose imaginary planes are all zero takes part in half of the products only.
    """

    def planes(positions: Sequence[int], imaginary: bool) -> dict[int, Var] | None:
        parts = {i: operands[i].im if imaginary else operands[i].re for i in positions}
        if all(p is None for p in parts.values()):
            return None
        return {i: whole(b, p, e.operands[i].type) for i, p in parts.items()}

    def product(left_imaginary: bool, right_imaginary: bool) -> list[Plane | None]:
        first, second = lefts[left_imaginary], rights[right_imaginary]
        if first is None or second is None:
            return [None] * len(e.results)
        given = [first.get(i, second.get(i, v)) for i, v in enumerate(e.operands)]
        return [Plane(v) for v in b.ops(e.op, given, e.attributes)]

    lefts = [planes(left, imaginary) for imaginary in (False, True)]
    rights = [planes(right, imaginary) for imaginary in (False, True)]
    res = zip(product(False, False), product(True, True), strict=True)
    ims = zip(product(False, True), product(True, False), strict=True)
    return tuple(Pair(minus(b, *re), plus(b, *im)) for re, im in zip(res, ims, strict=True))
