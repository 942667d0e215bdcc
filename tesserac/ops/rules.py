"""What several families share: type checks, factor letters and the small programs that rules emit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tesserac.ir.dims import STATIC, ComplexRefused, Dims, ShapeError
from tesserac.ir.program import Equation, Var
from tesserac.ir.types import Dim, DType, TensorType
from tesserac.ops.base import Attrs, Factors, LinearRule

if TYPE_CHECKING:
    from tesserac.ir.builder import Builder

LETTERS = "abcdefghijklmnopqrstuvwxyz"


PARTS = "take a real part of it first: op.real(x), op.imag(x), op.abs(x) or op.angle(x)"
"""What to do about a complex tensor where a real one is needed."""


def need_real(name: str, types: Sequence[TensorType], operands: Sequence[int], help: str = PARTS) -> None:
    """ComplexRefused if one of the operands at these positions is complex."""
    for position in operands:
        if types[position].dtype.is_complex:
            raise ComplexRefused(f"{name} has no meaning for complex elements ({types[position].dtype})", (position,),
                                 help)


def need_field(name: str, types: Sequence[TensorType], operands: Sequence[int]) -> None:
    """ShapeError unless the operands at these positions are floating point or complex."""
    for position in operands:
        if not types[position].dtype.is_differentiable:
            raise ShapeError(f"{name} needs a floating-point operand, not {types[position].dtype}", (position,),
                             "convert it first: op.cast(x, dtype=\"float32\")")


def need_float(name: str, types: Sequence[TensorType], operands: Sequence[int], help: str = PARTS) -> None:
    """ShapeError unless the operands at these positions are real floating point."""
    need_real(name, types, operands, help)
    need_field(name, types, operands)


def conjugated(builder: Builder, x: Var) -> Var:
    """The complex conjugate of a complex value; a real value itself. Transposes multiply by it."""
    return builder.op("conj", x) if x.type.dtype.is_complex else x


def need_integer(name: str, types: Sequence[TensorType], position: int) -> None:
    """ShapeError unless the operand at this position is an integer."""
    if not types[position].dtype.is_integer:
        raise ShapeError(f"{name} needs an integer operand, not {types[position].dtype}", (position,))


def need_rank(name: str, types: Sequence[TensorType], position: int, least: int) -> None:
    """ShapeError if the operand at this position has fewer axes than ``least``."""
    if types[position].rank < least:
        raise ShapeError(f"{name} needs an operand with at least {least} ax{'i' if least == 1 else 'e'}s, "
                         f"not {types[position]}", (position,))


def same_dtype(name: str, types: Sequence[TensorType], positions: Sequence[int]) -> DType:
    """The element type that these operands share; ShapeError if they differ."""
    first = positions[0]
    for other in positions[1:]:
        if types[other].dtype != types[first].dtype:
            raise ShapeError(f"{name}: element types {types[first].dtype} and {types[other].dtype} differ",
                             (first, other), "convert one of them with op.cast")
    return types[first].dtype


def same_shape(name: str, types: Sequence[TensorType], positions: Sequence[int], dims: Dims) -> tuple[Dim, ...]:
    """The shape that these operands share; ShapeError if they differ."""
    first = positions[0]
    shape = types[first].shape
    for other in positions[1:]:
        if types[other].rank != types[first].rank:
            raise ShapeError(f"{name}: shapes {types[first]} and {types[other]} differ in rank", (first, other))
        if dims is STATIC and types[other].shape == shape:
            continue
        shape = tuple(dims.equal(a, b, f"{name}, axis {axis}", (first, other))
                      for axis, (a, b) in enumerate(zip(shape, types[other].shape, strict=True)))
    return shape


def check_axis(name: str, axis: int, rank: int) -> None:
    """ShapeError unless 0 <= axis < rank."""
    if not 0 <= axis < rank:
        raise ShapeError(f"{name}: axis {axis} does not exist in a tensor with {rank} axes", (0,))


def pointwise_factors(ins: Sequence[TensorType], outs: Sequence[TensorType], attrs: Attrs) -> Factors:
    """Every axis passes through; all operands and results have the same shape."""
    axes = tuple(LETTERS[: outs[0].rank])
    return Factors(tuple(axes for _ in ins), tuple(axes for _ in outs))


def axis_blocked_factors(axis: int, ins: Sequence[TensorType], outs: Sequence[TensorType]) -> Factors:
    """Every axis passes through except one that must be whole."""
    axes = tuple(LETTERS[: ins[0].rank])
    return Factors((axes,), tuple(axes for _ in outs), ((axes[axis], "blocked"),))


def linear_in(*groups: tuple[int, ...]) -> LinearRule:
    """Jointly linear in the operands of every group, whatever the attributes."""
    return lambda equation: groups


def linear_in_all(equation: Equation) -> tuple[tuple[int, ...], ...]:
    """Jointly linear in all operands."""
    return (tuple(range(len(equation.operands))),)


def linear_jvp(builder: Builder, equation: Equation, tangents: Sequence[Var | None]) -> tuple[Var | None, ...]:
    """Tangent of an op that is linear in its one differentiable operand: the op itself on the tangent."""
    if all(t is None for t in tangents):
        return tuple(None for _ in equation.results)
    operands = [v if t is None else t for v, t in zip(equation.operands, tangents, strict=True)]
    return builder.ops(equation.op, operands, equation.attributes)


def zeros(builder: Builder, like: TensorType) -> Var:
    """A tensor of zeros."""
    return builder.constant(0.0, like, named="zero")


def scaled(builder: Builder, x: Var, factor: float, named: str | None = None) -> Var:
    """x times a number."""
    return builder.op("mul", x, builder.constant(factor, x.type, named="factor"), named=named)


def shifted(builder: Builder, x: Var, offset: float, named: str | None = None) -> Var:
    """x plus a number."""
    return builder.op("add", x, builder.constant(offset, x.type, named="offset"), named=named)


def one_minus(builder: Builder, x: Var) -> Var:
    """1 - x."""
    return builder.op("sub", builder.constant(1.0, x.type, named="one"), x)


def masked(builder: Builder, mask: Var, x: Var, named: str | None = None) -> Var:
    """x where the mask holds, 0 elsewhere."""
    return builder.op("select", mask, x, zeros(builder, x.type), named=named)


def add_optional(builder: Builder, a: Var | None, b: Var | None) -> Var | None:
    """a + b where None stands for zero."""
    if a is None or b is None:
        return b if a is None else a
    return builder.op("add", a, b)


def last_sum(builder: Builder, x: Var, named: str | None = None) -> Var:
    """Sum over the last axis."""
    return builder.op("reduce_sum", x, axes=(x.type.rank - 1,), named=named)


def last_mean(builder: Builder, x: Var, named: str | None = None) -> Var:
    """Mean over the last axis."""
    total = last_sum(builder, x, None if named is None else f"{named}_sum")
    return scaled(builder, total, 1.0 / max(x.type.sizes[-1], 1), named)


def along_last(builder: Builder, x: Var, like: TensorType, named: str | None = None) -> Var:
    """Repeats x of shape [...] along a new last axis, giving ``like``'s shape."""
    return builder.op("broadcast", x, shape=like.shape, axes=tuple(range(x.type.rank)), named=named)


def along_rows(builder: Builder, x: Var, like: TensorType, named: str | None = None) -> Var:
    """Repeats a vector over every row of ``like``'s shape."""
    if like.rank == 1:
        return x
    return builder.op("broadcast", x, shape=like.shape, axes=(like.rank - 1,), named=named)


def row_sum(builder: Builder, x: Var) -> Var:
    """Sum over all axes but the last."""
    if x.type.rank == 1:
        return x
    return builder.op("reduce_sum", x, axes=tuple(range(x.type.rank - 1)))


def everything_sum(builder: Builder, x: Var, named: str | None = None) -> Var:
    """Sum over all axes."""
    if x.type.rank == 0:
        return x
    return builder.op("reduce_sum", x, axes=tuple(range(x.type.rank)), named=named)


def fill(builder: Builder, scalar: Var, like: TensorType) -> Var:
    """Repeats a scalar over ``like``'s shape."""
    if like.rank == 0:
        return scalar
    return builder.op("broadcast", scalar, shape=like.shape, axes=())
