"""Typed access to the attributes of an equation, for rules that must satisfy the type checker."""

from __future__ import annotations

from tesserac.diagnostics import InternalError
from tesserac.ir.types import Dim, DType
from tesserac.ops.base import Attrs


def integers(attrs: Attrs, name: str) -> tuple[int, ...]:
    """A tuple of plain integers (axes, permutations, paddings)."""
    value = attrs[name]
    if not isinstance(value, tuple) or not all(isinstance(v, int) for v in value):
        raise InternalError(f"attribute {name} must be a tuple of integers, not {value!r}")
    return tuple(v for v in value if isinstance(v, int))


def dims_of(attrs: Attrs, name: str) -> tuple[Dim, ...]:
    """A tuple of dimensions: sizes, or symbols before shapes are resolved."""
    value = attrs[name]
    if not isinstance(value, tuple) or not all(isinstance(v, int | str) for v in value):
        raise InternalError(f"attribute {name} must be a tuple of dimensions, not {value!r}")
    return tuple(v for v in value if isinstance(v, int | str))


def sizes_of(attrs: Attrs, name: str) -> tuple[int, ...]:
    """A shape attribute whose dimensions are all numbers."""
    return integers(attrs, name)


def integer(attrs: Attrs, name: str) -> int:
    """One integer."""
    value = attrs[name]
    if not isinstance(value, int):
        raise InternalError(f"attribute {name} must be an integer, not {value!r}")
    return int(value)


def number(attrs: Attrs, name: str) -> float:
    """One number, integer or floating."""
    value = attrs[name]
    if not isinstance(value, int | float):
        raise InternalError(f"attribute {name} must be a number, not {value!r}")
    return float(value)


def string(attrs: Attrs, name: str) -> str:
    """One string."""
    value = attrs[name]
    if not isinstance(value, str):
        raise InternalError(f"attribute {name} must be a string, not {value!r}")
    return value


def element_type(attrs: Attrs, name: str = "dtype") -> DType:
    """An element type."""
    value = attrs[name]
    if not isinstance(value, DType):
        raise InternalError(f"attribute {name} must be an element type, not {value!r}")
    return value
