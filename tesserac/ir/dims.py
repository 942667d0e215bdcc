"""What shape rules may ask of dimensions, for sizes that are known and for symbols that are not yet.

A shape rule is written once against :class:`Dims`; :class:`StaticDims` serves programs whose shapes are
numbers, and the elaborator's solver serves symbolic ones by unification.
"""

from __future__ import annotations

from typing import Protocol

from tesserac.ir.types import Dim


class ShapeError(Exception):
    """A shape or dtype rule does not hold; ``operands`` are the positions of the operands that disagree."""

    def __init__(self, message: str, operands: tuple[int, ...] = (), help: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.operands = operands
        self.help = help


class ComplexRefused(ShapeError):
    """A complex operand where only real numbers have a meaning."""


class Dims(Protocol):
    """Arithmetic and equality on dimensions."""

    def equal(self, a: Dim, b: Dim, what: str, operands: tuple[int, ...] = ()) -> Dim:
        """Requires a == b and returns it; raises ShapeError mentioning ``what``."""

    def is_one(self, a: Dim) -> bool:
        """Whether the dimension is known to be 1 (a symbol is taken to be larger)."""

    def sum(self, dims: tuple[Dim, ...]) -> Dim:
        """Sum of dimensions."""

    def product(self, dims: tuple[Dim, ...]) -> Dim:
        """Product of dimensions."""

    def quotient(self, a: Dim, b: Dim, what: str, operands: tuple[int, ...] = ()) -> Dim:
        """a / b, which must be exact."""


class StaticDims:
    """Dims over plain sizes."""

    def equal(self, a: Dim, b: Dim, what: str, operands: tuple[int, ...] = ()) -> Dim:
        """See Dims."""
        if a != b:
            raise ShapeError(f"{what}: {a} and {b} differ", operands)
        return a

    def is_one(self, a: Dim) -> bool:
        """See Dims."""
        return a == 1

    def sum(self, dims: tuple[Dim, ...]) -> Dim:
        """See Dims."""
        return sum(_size(d) for d in dims)

    def product(self, dims: tuple[Dim, ...]) -> Dim:
        """See Dims."""
        count = 1
        for dim in dims:
            count *= _size(dim)
        return count

    def quotient(self, a: Dim, b: Dim, what: str, operands: tuple[int, ...] = ()) -> Dim:
        """See Dims."""
        if _size(b) == 0 or _size(a) % _size(b):
            raise ShapeError(f"{what}: {a} is not divisible by {b}", operands)
        return _size(a) // _size(b)


def _size(dim: Dim) -> int:
    if not isinstance(dim, int):
        raise TypeError(f"dimension {dim} is not resolved")
    return dim


STATIC = StaticDims()
