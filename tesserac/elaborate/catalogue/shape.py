"""Shapes, pieces and lookups."""

from __future__ import annotations

from collections.abc import Sequence

from tesserac.elaborate.calls import Site
from tesserac.elaborate.catalogue.registry import surface
from tesserac.elaborate.catalogue.support import dimensions, element_type, integer, number
from tesserac.elaborate.operands import broadcast_to, cast, complex_constant, indices, is_number, promoted, tensor
from tesserac.elaborate.tensors import one_axis
from tesserac.elaborate.values import Value, describe
from tesserac.ir.program import Var
from tesserac.ir.types import Dim, DType


@surface("reshape(x, *shape)", "The same elements in another shape; one size may be -1", family="shape")
def reshape(site: Site, x: Value, shape: tuple[Value, ...]) -> Value:
    """Row-major reshape."""
    session = site.session
    operand = tensor(session, x, "the operand of op.reshape")
    values = list(shape[0]) if len(shape) == 1 and isinstance(shape[0], list | tuple) else list(shape)
    holes = [i for i, v in enumerate(values) if v == -1 and not isinstance(v, float)]
    if len(holes) > 1:
        raise site.fail("T0404", "only one size may be -1")
    known = dimensions(site, [v for i, v in enumerate(values) if i not in holes])
    if holes:
        rest = session.divide(
            session.solver.product(operand.type.shape),
            session.solver.product(known),
            "the number of elements by the other sizes",
            (operand,),
        )
        known = (*known[: holes[0]], rest, *known[holes[0] :])
    return operand if known == operand.type.shape else session.emit("reshape", operand, shape=known)


@surface(
    "transpose(x, *axes)",
    "Axes in another order: a permutation, two axes to swap, or nothing to swap the last two",
    family="shape",
    aliases=("permute",),
)
def transpose(site: Site, x: Value, axes: tuple[Value, ...]) -> Value:
    """Permutation of axes."""
    session = site.session
    operand = tensor(session, x, "the operand of op.transpose")
    rank = operand.type.rank
    given = list(axes[0]) if len(axes) == 1 and isinstance(axes[0], list | tuple) else list(axes)
    order = [one_axis(session, rank, a) for a in given]
    if not order and rank >= 2:
        order = [rank - 2, rank - 1]
    if len(order) == 2 and rank != 2:
        swap = list(range(rank))
        swap[order[0]], swap[order[1]] = order[1], order[0]
        order = swap
    elif not given and rank == 2:
        order = [1, 0]
    if sorted(order) != list(range(rank)):
        raise site.fail(
            "T0404", f"{tuple(order)} is not a permutation of the {rank} axes of {session.type_text(operand.type)}"
        )
    return operand if order == list(range(rank)) else session.emit("transpose", operand, perm=tuple(order))


def concatenated(site: Site, parts: Sequence[Var], axis: int) -> Var:
    """Tensors of one rank joined along an axis."""
    session = site.session
    if len(parts) == 1:
        return parts[0]
    ranks = {p.type.rank for p in parts}
    if len(ranks) != 1 or 0 in ranks:
        raise site.fail(
            "T0404",
            "tensors that are joined need the same number of axes, not "
            + ", ".join(session.type_text(p.type) for p in parts),
        )
    dtype = promoted(session, [p.type.dtype for p in parts])
    if dtype is None:
        raise site.fail(
            "T0407", "tensors that are joined need one element type, not " + ", ".join(str(p.type.dtype) for p in parts)
        )
    place = one_axis(session, ranks.pop(), axis)
    for i in range(parts[0].type.rank):
        for other in parts[1:] if i != place else ():
            session.unify(
                parts[0].type.shape[i], other.type.shape[i], f"axis {i} of the joined tensors", (parts[0], other)
            )
    return session.emit("concat", *(cast(session, p, dtype) for p in parts), axis=place)


def _tensors(site: Site, xs: Value, what: str) -> list[Var]:
    if not isinstance(xs, list | tuple) or not xs:
        raise site.fail("T0503", f"{what} takes a list of tensors, not {describe(xs)}")
    return [tensor(site.session, x, f"an operand of {what}") for x in xs]


@surface("concat(xs, axis=0)", "Tensors joined along an axis", family="shape", aliases=("concatenate", "cat"))
def concat(site: Site, xs: Value, axis: Value) -> Value:
    """Concatenation."""
    return concatenated(site, _tensors(site, xs, "op.concat"), integer(site, axis, "axis", -8))


@surface("stack(xs, axis=0)", "Tensors of one shape joined along a new axis", family="shape")
def stack(site: Site, xs: Value, axis: Value) -> Value:
    """Concatenation along a new axis."""
    parts = _tensors(site, xs, "op.stack")
    place = one_axis(site.session, parts[0].type.rank + 1, axis)
    shaped = [site.session.emit("reshape", p, shape=(*p.type.shape[:place], 1, *p.type.shape[place:])) for p in parts]
    return concatenated(site, shaped, place)


@surface("split(x, n, axis=0)", "x cut into n equal parts, or into parts of the listed sizes", family="shape")
def split(site: Site, x: Value, n: Value, axis: Value) -> Value:
    """A tuple of slices."""
    session = site.session
    operand = tensor(session, x, "the operand of op.split")
    place = one_axis(session, operand.type.rank, axis)
    size = session.known(operand.type.shape[place], "op.split")
    if isinstance(n, list | tuple):
        sizes = [integer(site, s, "every size") for s in n]
        if sum(sizes) != size:
            raise site.fail(
                "T0404",
                f"the sizes add up to {sum(sizes)}, but axis {place} of {session.type_text(operand.type)} has {size}",
            )
    else:
        parts = integer(site, n, "the number of parts")
        if size % parts:
            raise site.fail(
                "T0404", f"axis {place} of {session.type_text(operand.type)} does not split into {parts} equal parts"
            )
        sizes = [size // parts] * parts
    pieces, start = [], 0
    for length in sizes:
        pieces.append(_cut(site, operand, place, start, start + length))
        start += length
    return tuple(pieces)


def _cut(site: Site, x: Var, axis: int, start: int, limit: int) -> Var:
    rank = x.type.rank
    return site.session.emit(
        "slice",
        x,
        starts=tuple(start if i == axis else 0 for i in range(rank)),
        limits=tuple(limit if i == axis else d for i, d in enumerate(x.type.shape)),
        strides=(1,) * rank,
    )


@surface("slice(x, starts, sizes)", "The part of x that starts at `starts` and has the given sizes", family="shape")
def slice_(site: Site, x: Value, starts: Value, sizes: Value) -> Value:
    """A box of the tensor."""
    operand = tensor(site.session, x, "the operand of op.slice")
    if (
        not isinstance(starts, list | tuple)
        or not isinstance(sizes, list | tuple)
        or not len(starts) == len(sizes) == operand.type.rank
    ):
        raise site.fail(
            "T0504", f"op.slice takes one start and one size per axis of {site.session.type_text(operand.type)}"
        )
    low = tuple(integer(site, s, "a start", 0) for s in starts)
    high = tuple(a + integer(site, s, "a size") for a, s in zip(low, sizes, strict=True))
    return site.session.emit("slice", operand, starts=low, limits=high, strides=(1,) * len(low))


@surface(
    "pad(x, pads, value=0.0)",
    "x with a border: one (before, after) pair per axis, or one pair for the last axis",
    family="shape",
)
def pad(site: Site, x: Value, pads: Value, value: Value) -> Value:
    """Constant padding."""
    operand = tensor(site.session, x, "the operand of op.pad")
    rows = list(pads) if isinstance(pads, list | tuple) else []
    if len(rows) == 2 and all(isinstance(r, int) for r in rows) and operand.type.rank:
        rows = [(0, 0)] * (operand.type.rank - 1) + [tuple(rows)]
    if len(rows) != operand.type.rank or any(not isinstance(r, list | tuple) or len(r) != 2 for r in rows):
        raise site.fail(
            "T0504", f"pads holds one (before, after) pair per axis of {site.session.type_text(operand.type)}"
        )
    pairs = [tuple(integer(site, p, "a padding", 0) for p in row) for row in rows if isinstance(row, list | tuple)]
    return site.session.emit(
        "pad",
        operand,
        low=tuple(p[0] for p in pairs),
        high=tuple(p[1] for p in pairs),
        value=number(site, value, "value"),
    )


@surface("take(x, ids, axis=0)", "Elements of an axis by number", family="shape", aliases=("gather",))
def take(site: Site, x: Value, ids: Value, axis: Value) -> Value:
    """Lookup along an axis."""
    session = site.session
    operand = tensor(session, x, "the operand of op.take")
    place = one_axis(session, operand.type.rank, axis)
    rows = indices(session, ids, "the ids of op.take")
    if place == 0:
        return session.emit("take", operand, rows)
    order = (place, *(i for i in range(operand.type.rank) if i != place))
    taken = session.emit("take", session.emit("transpose", operand, perm=order), rows)
    count = rows.type.rank
    back = (*range(count, count + place), *range(count), *range(count + place, taken.type.rank))
    return session.emit("transpose", taken, perm=back)


@surface("one_hot(ids, n, dtype=None)", "1 at the position that each id names, else 0", family="shape")
def one_hot(site: Site, ids: Value, n: Value, dtype: Value) -> Value:
    """Indicator vectors along a new last axis."""
    session = site.session
    rows = indices(session, ids, "the ids of op.one_hot")
    shape = (*rows.type.shape, integer(site, n, "n"))
    wide = session.emit("broadcast", rows, shape=shape, axes=tuple(range(rows.type.rank)))
    counted = session.emit("iota", shape=shape, axis=rows.type.rank, dtype=rows.type.dtype)
    return session.emit(
        "cast", session.emit("eq", wide, counted), dtype=session.float if dtype is None else element_type(site, dtype)
    )


@surface(
    "iota(n, axis=0, *, dtype='int32')",
    "0, 1, 2... along an axis; n is a size or a shape",
    family="shape",
    aliases=("arange",),
)
def iota(site: Site, n: Value, axis: Value, dtype: Value) -> Value:
    """Counting numbers."""
    shape = dimensions(site, (n,), "n")
    return site.session.emit(
        "iota", shape=shape, axis=one_axis(site.session, len(shape), axis), dtype=element_type(site, dtype)
    )


@surface("full(shape, value, *, dtype=None)", "A tensor filled with a number", family="shape")
def full(site: Site, shape: Value, value: Value, dtype: Value) -> Value:
    """A constant tensor."""
    kind = site.session.float if dtype is None else element_type(site, dtype)
    if isinstance(value, complex):
        kind = kind.complex if dtype is None else kind
        if not kind.is_complex:
            raise site.fail("T0504", f"value must be a real number for {kind}, not {value!r}")
        return complex_constant(site.session, value, dimensions(site, (shape,)), kind)
    filled = number(site, value, "value") if kind.is_differentiable else integer(site, value, "value", -(2**40))
    return site.session.emit("full", value=filled, shape=dimensions(site, (shape,)), dtype=kind)


@surface("zeros(*shape, dtype=None)", "A tensor of zeros", family="shape")
def zeros(site: Site, shape: tuple[Value, ...], dtype: Value) -> Value:
    """Zeros."""
    return full(site, shape[0] if len(shape) == 1 else shape, 0, dtype)


@surface("ones(*shape, dtype=None)", "A tensor of ones", family="shape")
def ones(site: Site, shape: tuple[Value, ...], dtype: Value) -> Value:
    """Ones."""
    return full(site, shape[0] if len(shape) == 1 else shape, 1, dtype)


@surface("broadcast_to(x, *shape)", "x stretched to a shape, as NumPy does", family="shape", aliases=("expand",))
def broadcast_to_(site: Site, x: Value, shape: tuple[Value, ...]) -> Value:
    """Explicit broadcasting."""
    operand = tensor(site.session, x, "the operand of op.broadcast_to")
    target = dimensions(site, shape)
    if len(target) < operand.type.rank:
        raise site.fail(
            "T0404", f"{site.session.type_text(operand.type)} has more axes than the shape it is stretched to"
        )
    return broadcast_to(site.session, operand, target)


@surface("squeeze(x, axis)", "x without an axis of size 1", family="shape")
def squeeze(site: Site, x: Value, axis: Value) -> Value:
    """Drops an axis of size 1."""
    operand = tensor(site.session, x, "the operand of op.squeeze")
    place = one_axis(site.session, operand.type.rank, axis)
    site.session.unify(operand.type.shape[place], 1, "the axis that op.squeeze drops", (operand,))
    return site.session.emit("reshape", operand, shape=operand.type.shape[:place] + operand.type.shape[place + 1 :])


@surface("expand_dims(x, axis)", "x with a new axis of size 1", family="shape", aliases=("unsqueeze",))
def expand_dims(site: Site, x: Value, axis: Value) -> Value:
    """Adds an axis of size 1."""
    operand = tensor(site.session, x, "the operand of op.expand_dims")
    place = one_axis(site.session, operand.type.rank + 1, axis)
    return site.session.emit("reshape", operand, shape=(*operand.type.shape[:place], 1, *operand.type.shape[place:]))


def _triangle(site: Site, x: Value, offset: Value, op: str) -> Value:
    """Keeps the elements whose column minus row compares to ``offset``; an integer first makes an [n, n] mask."""
    session = site.session
    shift = integer(site, offset, "offset", -(2**31))
    operand = None if is_number(x) else tensor(session, x, "the operand")
    shape: tuple[Dim, ...] = (integer(site, x, "n"),) * 2 if operand is None else operand.type.shape
    if len(shape) < 2:
        raise site.fail("T0404", "a triangle needs at least two axes")
    row = session.emit("iota", shape=shape, axis=len(shape) - 2, dtype=DType.I32)
    column = session.emit("iota", shape=shape, axis=len(shape) - 1, dtype=DType.I32)
    bound = session.emit("add", row, session.emit("full", value=shift, shape=shape, dtype=DType.I32))
    mask = session.emit(op, column, bound)
    if operand is None:
        return mask
    return session.emit("select", mask, operand, session.emit("full", value=0, shape=shape, dtype=operand.type.dtype))


@surface("tril(x, offset=0)", "x with zeros above the diagonal; op.tril(n) is the bool mask", family="shape")
def tril(site: Site, x: Value, offset: Value) -> Value:
    """Lower triangle."""
    return _triangle(site, x, offset, "le")


@surface("triu(x, offset=0)", "x with zeros below the diagonal; op.triu(n) is the bool mask", family="shape")
def triu(site: Site, x: Value, offset: Value) -> Value:
    """Upper triangle."""
    return _triangle(site, x, offset, "ge")
