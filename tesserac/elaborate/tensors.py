"""Operators and indexing on tensors."""

from __future__ import annotations

from collections.abc import Sequence

from tesserac.elaborate.operands import (
    align,
    broadcast_shape,
    broadcast_to,
    cast,
    floating,
    indices,
    promoted,
    tensor,
    weak,
)
from tesserac.elaborate.session import Session
from tesserac.elaborate.values import Slot, Value, describe
from tesserac.ir.program import Equation, Var
from tesserac.ir.types import Dim, DType

_ARITHMETIC = {
    "+": ("add", "addition"),
    "-": ("sub", "subtraction"),
    "*": ("mul", "multiplication"),
    "/": ("div", "division"),
}
_COMPARISONS = {"==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"}
_LETTERS = "abcdefghijopqrstuvwxyz"


def arithmetic(session: Session, op: str, left: Value, right: Value) -> Var:
    """``left op right`` where at least one side is a tensor."""
    if op == "@":
        return matmul(session, left, right)
    if op == "**":
        return power(session, left, right)
    if op in ("//", "%"):
        return _floor_division(session, op, left, right)
    if op not in _ARITHMETIC:
        raise session.report.fail("T0503", f"`{op}` is not an operation on tensors", session.span)
    name, words = _ARITHMETIC[op]
    return elementwise(session, name, words, left, right)


def elementwise(session: Session, name: str, words: str, *values: Value) -> Var:
    """An elementwise op of broadcast operands."""
    operands = align(session, values, words)
    dtype = operands[0].type.dtype
    if dtype == DType.BOOL and name not in ("eq", "ne"):
        raise session.report.fail(
            "T0407",
            f"{words} of bool elements",
            session.span,
            help=["convert a mask with op.cast(mask, float32), or choose with op.where(mask, a, b)"],
        )
    if name == "div" and not dtype.is_differentiable:
        raise session.report.fail(
            "T0407",
            f"division of {dtype} elements would need floats",
            session.span,
            help=["convert first: op.cast(a, float32) / op.cast(b, float32)"],
        )
    return session.emit(name, *operands)


def power(session: Session, base: Value, exponent: Value) -> Var:
    """``base ** exponent``; small integer powers become products, which are exact and cheap to differentiate."""
    if isinstance(exponent, int | float) and not isinstance(exponent, bool):
        x = floating(session, base, "the base of a power")
        if exponent == 0:
            return session.emit("full", value=1.0, shape=x.type.shape, dtype=x.type.dtype)
        if exponent == 1:
            return x
        if exponent == 2:
            return squared(session, x)
        if exponent == 3:
            return session.emit("mul", session.emit("square", x), x)
        if exponent == 4:
            return session.emit("square", session.emit("square", x))
        if exponent == 0.5 and not x.type.dtype.is_complex:
            return session.emit("sqrt", x)
        if exponent == -0.5 and not x.type.dtype.is_complex:
            return session.emit("rsqrt", x)
        if exponent == -1:
            return session.emit("reciprocal", x)
        if x.type.dtype.is_complex and exponent == int(exponent) and abs(exponent) <= _LARGEST_POWER:
            return _integer_power(session, x, int(exponent))
        return session.emit("pow", x, weak(session, exponent, x, "a power"))
    return elementwise(session, "pow", "a power", base, exponent)


_LARGEST_POWER = 1024
"""Of a complex tensor: at most twenty products."""


def _integer_power(session: Session, x: Var, exponent: int) -> Var:
    """Repeated squaring."""
    result, factor, left = None, x, abs(exponent)
    while left:
        if left & 1:
            result = factor if result is None else session.emit("mul", result, factor)
        left >>= 1
        factor = session.emit("square", factor) if left else factor
    assert result is not None
    return session.emit("reciprocal", result) if exponent < 0 else result


def squared(session: Session, x: Var) -> Var:
    """``x * x``; the square of an absolute value without its root, which has no derivative at 0."""
    definition = session.definitions.get(x.name)
    if isinstance(definition, Equation) and definition.op == "magnitude":
        return squared_magnitude(session, definition.operands[0])
    return session.emit("square", x)


def squared_magnitude(session: Session, x: Var) -> Var:
    """``|x|^2``, a real number, also of a complex tensor."""
    if not x.type.dtype.is_complex:
        return session.emit("square", x)
    return session.emit("add", *(session.emit("square", session.emit(part, x)) for part in ("real", "imag")))


def magnitude(session: Session, x: Var) -> Var:
    """``|x|``."""
    return session.emit("magnitude" if x.type.dtype.is_complex else "abs", x)


def _floor_division(session: Session, op: str, left: Value, right: Value) -> Var:
    a, b = align(session, (left, right), "division")
    if not a.type.dtype.is_float:
        raise session.report.fail("T0501", f"`{op}` on {a.type.dtype} tensors is not supported yet", session.span)
    whole = session.emit("floor", session.emit("div", a, b))
    return whole if op == "//" else session.emit("sub", a, session.emit("mul", whole, b))


def negate(session: Session, op: str, value: Value) -> Var:
    """``-x``, ``+x``, ``~x``."""
    x = tensor(session, value, "the operand")
    if op == "+":
        return x
    if op == "~":
        if x.type.dtype != DType.BOOL:
            raise session.report.fail("T0407", f"`~` takes bool elements, not {x.type.dtype}", session.span)
        return session.emit("logical_not", x)
    if x.type.dtype == DType.BOOL:
        raise session.report.fail("T0407", "`-` of bool elements", session.span, help=["`~mask` inverts a mask"])
    return session.emit("neg", x)


def comparison(session: Session, op: str, left: Value, right: Value) -> Var:
    """``left < right`` elementwise; the result is bool."""
    if op not in _COMPARISONS:
        raise session.report.fail("T0205", f"`{op}` is not an operation on tensors", session.span)
    operands = align(session, (left, right), "a comparison")
    return session.emit(_COMPARISONS[op], *operands)


def logic(session: Session, op: str, left: Value, right: Value) -> Var:
    """``a & b``, ``a | b``, ``a ^ b`` of bool tensors."""
    a, b = align(session, (left, right), f"`{op}`")
    if a.type.dtype != DType.BOOL:
        raise session.report.fail("T0407", f"`{op}` takes bool elements, not {a.type.dtype}", session.span)
    return session.emit({"&": "logical_and", "|": "logical_or", "^": "ne"}[op], a, b)


# ------------------------------------------------------------------------------------------------ products


def matmul(session: Session, left: Value, right: Value) -> Var:
    """NumPy's ``@``. A parameter of unknown shape is taken to be a matrix."""
    for value in (left, right):
        if not isinstance(value, Var | Slot):
            raise session.report.fail("T0503", f"`@` takes tensors, not {describe(value)}", session.span)
    if _unshaped(left) and not _unshaped(right):
        b = floating(session, right, "the right operand of `@`")
        inner = b.type.shape[-2 if b.type.rank > 1 else -1] if b.type.rank else 1
        a = floating(session, left, "the left operand of `@`", _matrix(session, left, 1, inner), b)
    else:
        a = floating(session, left, "the left operand of `@`")
        inner = a.type.shape[-1] if a.type.rank else 1
        b = floating(session, right, "the right operand of `@`", _matrix(session, right, 0, inner), a)
    return product(session, a, b)


def _unshaped(value: Value) -> bool:
    return isinstance(value, Slot) and value.var is None and value.shape is None


def _matrix(session: Session, value: Value, axis: int, inner: Dim) -> tuple[Dim, ...] | None:
    """The shape of an unshaped parameter multiplied along ``axis``; the other axis stays open."""
    if not isinstance(value, Slot) or not value.is_parameter or not _unshaped(value):
        return None
    value.shape_text = value.shape_text or ""
    other = session.open_dim(value, 1 - axis)
    return (inner, other) if axis == 0 else (other, inner)


def product(session: Session, a: Var, b: Var, transposed: bool = False) -> Var:
    """``a @ b`` (``a @ b.T`` over the last two axes when ``transposed``) as one contraction."""
    for var in (a, b):
        if var.type.rank == 0:
            raise session.report.fail(
                "T0404",
                f"`@` needs at least one axis, but `{session.name_of(var)}` is a scalar",
                session.span,
                help=["scalars multiply with `*`"],
            )
    dtype = promoted(session, (a.type.dtype, b.type.dtype))
    if dtype is None:
        raise session.report.fail("T0407", f"`@` of {a.type.dtype} and {b.type.dtype} needs a cast", session.span)
    a, b = cast(session, a, dtype), cast(session, b, dtype)
    rows = "m" if a.type.rank > 1 else ""
    columns = "n" if b.type.rank > 1 else ""
    inner_axis = -1 if transposed or not columns else -2
    session.unify(a.type.shape[-1], b.type.shape[inner_axis], "the inner dimensions of `@`", (a, b))
    a, b, left, right, batch = _batch_letters(session, a, b, len(rows) + 1, len(columns) + 1)
    tail = f"{columns}k" if transposed or not columns else f"k{columns}"
    saved, session.stem = session.stem, session.stem or "matmul"
    try:
        return session.emit("contract", a, b, spec=f"{left}{rows}k,{right}{tail}->{batch}{rows}{columns}")
    finally:
        session.stem = saved


def _batch_letters(session: Session, a: Var, b: Var, a_tail: int, b_tail: int) -> tuple[Var, Var, str, str, str]:
    """Letters of the leading axes of both operands; an axis of size 1 that meets a larger one is dropped."""
    one = session.solver.is_one
    ranks = a.type.rank - a_tail, b.type.rank - b_tail
    count = max(ranks)
    keep: tuple[list[int], list[int]] = [], []
    letters = ["", ""]
    for axis in range(count):
        places = [axis - count + rank for rank in ranks]
        dims = [v.type.shape[p] if p >= 0 else None for v, p in ((a, places[0]), (b, places[1]))]
        both = dims[0] is not None and dims[1] is not None
        for side in (0, 1):
            dim, other = dims[side], dims[1 - side]
            if dim is None or (both and one(dim) and other is not None and not one(other)):
                continue
            keep[side].append(places[side])
            letters[side] += _LETTERS[axis]
    reduced = []
    for var, rank, kept in ((a, ranks[0], keep[0]), (b, ranks[1], keep[1])):
        if len(kept) < rank:
            shape = tuple(var.type.shape[p] for p in kept) + var.type.shape[rank:]
            var = session.emit("reshape", var, shape=shape)
        reduced.append(var)
    return reduced[0], reduced[1], letters[0], letters[1], _LETTERS[:count]


# ------------------------------------------------------------------------------------------------ indexing


def index_tensor(session: Session, value: Var | Slot, index: Value) -> Var:
    """``x[...]`` with integers, slices, ``None``, ``...``, or one integer tensor that gathers rows."""
    x = tensor(session, value)
    parts = list(index) if isinstance(index, tuple) else [index]
    if len(parts) == 1 and isinstance(parts[0], Var | Slot):
        return session.emit("take", x, indices(session, parts[0], "an index"))
    taken = sum(1 for p in parts if p is not None and p is not ...)
    if taken > x.type.rank:
        raise session.report.fail(
            "T0404", f"{taken} indices for a tensor with {x.type.rank} axes ({session.type_text(x.type)})", session.span
        )
    if ... in parts:
        place = parts.index(...)
        parts[place : place + 1] = [slice(None)] * (x.type.rank - taken)
    parts += [slice(None)] * (x.type.rank - sum(1 for p in parts if p is not None))
    bounds: list[tuple[int, Dim, int]] = []
    shape: list[Dim | None] = []
    for part in parts:
        if part is None:
            shape.append(1)
            continue
        axis = len(bounds)
        bounds.append(_bounds(session, part, x, axis))
        shape.append(None if isinstance(part, int) else -1)
    if any(b != (0, d, 1) for b, d in zip(bounds, x.type.shape, strict=True)):
        x = session.emit(
            "slice",
            x,
            starts=tuple(b[0] for b in bounds),
            limits=tuple(b[1] for b in bounds),
            strides=tuple(b[2] for b in bounds),
        )
    sizes = iter(x.type.shape)
    final: list[Dim] = []
    for entry in shape:
        if entry == 1:
            final.append(1)
            continue
        size = next(sizes)
        if entry is not None:
            final.append(size)
    return x if tuple(final) == x.type.shape else session.emit("reshape", x, shape=tuple(final))


def _bounds(session: Session, part: Value, x: Var, axis: int) -> tuple[int, Dim, int]:
    """start, limit and step of one axis; negative positions count from the end."""
    dim = x.type.shape[axis]
    if isinstance(part, slice) and (part.start, part.stop, part.step) == (None, None, None):
        return 0, dim, 1
    size = session.known(dim, f"indexing axis {axis}")
    if isinstance(part, int) and not isinstance(part, bool):
        if not -size <= part < size:
            raise session.report.fail(
                "T0404", f"index {part} is outside axis {axis}, which has {size} elements", session.span
            )
        return part % size, part % size + 1, 1
    if not isinstance(part, slice) or not all(
        p is None or isinstance(p, int) for p in (part.start, part.stop, part.step)
    ):
        what = describe(part) if not isinstance(part, slice) else "a slice of values that are not compile-time integers"
        raise session.report.fail(
            "T0404",
            f"an index is an integer, a slice, None or `...`, not {what}",
            session.span,
            help=["op.take(x, ids) gathers rows by a tensor of integers"],
        )
    if part.step is not None and part.step < 1:
        raise session.report.fail(
            "T0404", "a slice step must be positive", session.span,
            help=[f"backwards: op.take(x, {size - 1} - op.iota({size}), axis={axis})"],
        )  # fmt: skip
    start, stop, step = part.indices(size)
    if stop <= start:
        raise session.report.fail(
            "T0404", f"the slice of axis {axis} is empty (the axis has {size} elements)", session.span
        )
    return start, stop, step


def reduce_axes(session: Session, x: Var, axis: Value) -> tuple[int, ...]:
    """The axes that ``axis=`` names, in order; all for None."""
    if axis is None:
        return tuple(range(x.type.rank))
    given: Sequence[Value] = axis if isinstance(axis, list | tuple) else (axis,)
    axes = sorted({one_axis(session, x.type.rank, a) for a in given})
    if len(axes) != len(given):
        raise session.report.fail("T0404", "an axis is named twice", session.span)
    return tuple(axes)


def one_axis(session: Session, rank: int, axis: Value, what: str = "axis") -> int:
    """An axis number counted from either end."""
    if not isinstance(axis, int) or isinstance(axis, bool):
        raise session.report.fail("T0504", f"{what} must be an integer, not {describe(axis)}", session.span)
    if not -rank <= axis < rank:
        raise session.report.fail("T0404", f"{what} {axis} is outside a tensor with {rank} axes", session.span)
    return axis % rank


def stretched(session: Session, values: Sequence[Var], what: str) -> list[Var]:
    """Operands broadcast to one shape, dtypes left alone."""
    shape = broadcast_shape(session, values, what)
    return [broadcast_to(session, v, shape) for v in values]
