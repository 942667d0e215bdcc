"""What several op families share: argument checks, constants of deferred value, first values of parameters, layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tesserac.elaborate.annotations import DTYPES
from tesserac.elaborate.calls import Site
from tesserac.elaborate.operands import is_number, is_tensor
from tesserac.elaborate.session import Session
from tesserac.elaborate.values import InitRule, Layer, UnknownDim, Value, describe
from tesserac.ir.program import Initializer, Var
from tesserac.ir.types import Dim, DType

MAX_RANK = 8
"""Most axes a tensor may have."""


def integer(site: Site, value: Value, what: str, least: int = 1) -> int:
    """A compile-time integer of at least ``least``."""
    if isinstance(value, int) and not isinstance(value, bool) and least <= value < 2**40:
        return value
    raise site.fail("T0504", f"{what} must be an integer of at least {least}, not {describe(value)}")


def number(site: Site, value: Value, what: str) -> float:
    """A finite compile-time number."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise site.fail("T0504", f"{what} must be a finite real number, not {describe(value)}")


def boolean(site: Site, value: Value, what: str) -> bool:
    """A compile-time truth value."""
    if isinstance(value, bool):
        return value
    raise site.fail("T0504", f"{what} must be True or False, not {describe(value)}")


def choice(site: Site, value: Value, what: str, options: Sequence[str]) -> str:
    """One of several strings."""
    if isinstance(value, str) and value in options:
        return value
    raise site.fail("T0504", f"{what} must be one of {', '.join(map(repr, options))}, not {describe(value)}")


def element_type(site: Site, value: Value) -> DType:
    """A dtype given as a name or an element type."""
    if isinstance(value, DType):
        return value
    if isinstance(value, str) and value in DTYPES:
        return DTYPES[value]
    raise site.fail("T0504", f"dtype must be an element type such as float32 or int32, not {describe(value)}")


def dimensions(site: Site, values: Sequence[Value], what: str = "shape") -> tuple[Dim, ...]:
    """Sizes given one by one or as one list."""
    if len(values) == 1 and isinstance(values[0], list | tuple):
        values = values[0]
    if len(values) > MAX_RANK:
        raise site.fail("T0404", f"{len(values)} axes; the limit is {MAX_RANK}")
    return tuple(
        value.dim if isinstance(value, UnknownDim) else integer(site, value, f"every size in {what}")
        for value in values
    )


@dataclass(frozen=True, slots=True)
class Reciprocal:
    """1/N for N the product of dimensions, once they are known; equal when the dimensions are."""

    dims: tuple[Dim, ...]
    size: Callable[[Dim], int | None] = field(compare=False)

    def __call__(self) -> float:
        count = 1
        for dim in self.dims:
            count *= self.size(dim) or 1
        return 1.0 / count


def reciprocal_count(session: Session, dims: Sequence[Dim], dtype: DType) -> Var:
    """1/N as a scalar for N the product of dimensions, filled in once they are known."""
    scalar = session.emit("full", value=0.0, shape=(), dtype=dtype)
    session.deferred[scalar.name] = Reciprocal(tuple(dims), session.solver.size)
    return scalar


def scaled_by(session: Session, x: Var, scalar: Var) -> Var:
    """``x`` times a scalar tensor."""
    if x.type.rank:
        scalar = session.emit("broadcast", scalar, shape=x.type.shape, axes=())
    return session.emit("mul", x, scalar)


def constant_like(session: Session, x: Var, value: float) -> Var:
    """A tensor of ``x``'s type filled with a number."""
    return session.emit("full", value=value, shape=x.type.shape, dtype=x.type.dtype)


# ------------------------------------------------------------------------------------------------ first values

INITIALISERS = ("uniform", "glorot", "he", "normal", "zeros", "ones")
"""Names that ``init=`` takes; a number stands for a normal distribution of that width."""


def initialiser(site: Site, value: Value, fan_in: Dim, fan_out: Dim, default: str = "uniform") -> InitRule:
    """First values of a weight. ``uniform`` is U(-1/sqrt(fan_in), 1/sqrt(fan_in)); glorot and he as published
    (Glorot and Bengio 2010; He et al. 2015); ``normal`` is N(0, 0.02)."""
    if is_number(value):
        width = number(site, value, "init")
        return lambda shape: Initializer("normal", 0.0, width)
    name = choice(site, default if value is None else value, "init", INITIALISERS)
    size = site.session.solver.size

    def rule(shape: tuple[int, ...]) -> Initializer:
        rows, columns = size(fan_in) or 1, size(fan_out) or 1
        if name == "uniform":
            return uniform(rows)
        if name == "glorot":
            bound = math.sqrt(6.0 / (rows + columns))
            return Initializer("uniform", -bound, bound)
        if name == "he":
            return Initializer("normal", 0.0, math.sqrt(2.0 / rows))
        return Initializer("normal", 0.0, 0.02) if name == "normal" else Initializer(name)

    return rule


def uniform(fan_in: int) -> Initializer:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    bound = 1.0 / math.sqrt(max(fan_in, 1))
    return Initializer("uniform", -bound, bound)


def fixed(kind: str) -> InitRule:
    """zeros or ones."""
    return lambda shape: Initializer(kind)


# ------------------------------------------------------------------------------------------------ layers

Parameters = Mapping[str, tuple[Sequence[Dim], InitRule]]
"""Shape and first values by parameter name."""


def make_layer(
    site: Site,
    op: str,
    sizes: tuple[Value, ...],
    parameters: Parameters,
    apply: Callable[..., Value],
    signature: str = "layer(x)",
    name: Value = None,
) -> Layer:
    """The layer that this call of a factory makes, or made in an earlier run of the same module."""
    if name is not None and not (isinstance(name, str) and name.isidentifier()):
        raise site.fail("T0504", f"name must be an identifier, not {describe(name)}")
    place = site.place(op, name if isinstance(name, str) else None)
    if place.layer is not None:
        if (place.layer.op, place.layer.sizes) != (op, sizes):
            raise site.fail(
                "T0306",
                f"this run of the module makes op.{op}{sizes} where an earlier one made "
                f"op.{place.layer.op}{place.layer.sizes}",
                notes=("a module's layers are created once and shared by all of its calls",),
            )
        return place.layer
    place.named = isinstance(name, str)
    session = site.session
    slots = {}
    for key, (shape, rule) in parameters.items():
        slot = slots[key] = session.slot(key, session.span, scope=place, owner=site.arguments.frame.owner)
        slot.shape, slot.dtype, slot.init, slot.declared_dtype = tuple(shape), session.float, rule, True
    place.layer = Layer(op, sizes, place, session.span, slots, apply, signature)
    return place.layer


def is_size(value: Value) -> bool:
    """Whether a first argument makes a call a factory call."""
    return (isinstance(value, int) and not isinstance(value, bool)) or isinstance(value, UnknownDim)


def is_operand(value: Value) -> bool:
    """Whether a first argument makes a call apply at once."""
    return is_tensor(value) or (isinstance(value, list | tuple) and bool(value) and all(map(is_tensor, value)))
