"""Rules for slice, pad and concat: the gradient of a split is one concat of the pieces' gradients."""

from __future__ import annotations

from collections.abc import Sequence

from tesserac.ir.program import Equation, Var
from tesserac.ops.attributes import integer, number
from tesserac.passes.rules.build import axes_of, reshaped, spread, without
from tesserac.passes.rules.rewriter import Rewriter
from tesserac.passes.rules.rule import Rule

Bounds = tuple[list[int], list[int], list[int]]


def _bounds(equation: Equation) -> Bounds:
    """Starts, limits and strides of a slice, the limits one past the last element that is taken."""
    starts, strides = list(axes_of(equation, "starts")), list(axes_of(equation, "strides"))
    sizes = equation.result.type.sizes
    return starts, [a + (n - 1) * s + 1 for a, n, s in zip(starts, sizes, strides, strict=True)], strides


def sliced(graph: Rewriter, var: Var, starts: Sequence[int], limits: Sequence[int],
           strides: Sequence[int] | None = None) -> Var:
    """The part of a value between bounds; the value itself where that is all of it."""
    strides = [1] * len(starts) if strides is None else strides
    if not any(starts) and tuple(limits) == var.type.sizes and set(strides) <= {1}:
        return var
    return graph.op("slice", var, starts=tuple(starts), limits=tuple(limits), strides=tuple(strides))


def joined(graph: Rewriter, parts: Sequence[Var], axis: int) -> Var:
    """The parts one after another; a single part as it is."""
    return parts[0] if len(parts) == 1 else graph.op("concat", *parts, axis=axis)


def _slice_of_slice(graph: Rewriter, equation: Equation) -> Var | None:
    inner = graph.defined_by(equation.operands[0], "slice")
    if inner is None or equation.result.type.size == 0:
        return None
    starts, limits, strides = _bounds(equation)
    offsets, steps = axes_of(inner, "starts"), axes_of(inner, "strides")
    moved = [(o + a * t, o + (b - 1) * t + 1, s * t)
             for o, t, a, b, s in zip(offsets, steps, starts, limits, strides, strict=True)]
    return sliced(graph, inner.operands[0], *([m[i] for m in moved] for i in range(3)))


def _slice_of_broadcast(graph: Rewriter, equation: Equation) -> Var | None:
    inner = graph.defined_by(equation.operands[0], "broadcast")
    if inner is None or equation.result.type.size == 0:
        return None
    source, axes, bounds = inner.operands[0], axes_of(inner), _bounds(equation)
    whole = inner.result.type.sizes
    cut = [[b[axis] if source.type.sizes[i] == whole[axis] else default for i, axis in enumerate(axes)]
           for b, default in zip(bounds, (0, 1, 1), strict=True)]
    return spread(graph, sliced(graph, source, *cut), equation.result.type.sizes, axes)


def _slice_of_concat(graph: Rewriter, equation: Equation) -> Var | None:
    inner = graph.defined_by(equation.operands[0], "concat")
    if inner is None or equation.result.type.size == 0:
        return None
    axis = integer(inner.attributes, "axis")
    starts, limits, strides = _bounds(equation)
    first, last = starts[axis], limits[axis]
    touched: list[Var] = []
    position = begin = 0
    for part in inner.operands:
        end = position + part.type.sizes[axis]
        if position < last and end > first:
            begin = begin if touched else position
            touched.append(part)
        position = end
    length = sum(part.type.sizes[axis] for part in touched)
    if len(touched) > 1 and (strides[axis] != 1 or length == inner.result.type.sizes[axis]):
        return None
    starts[axis], limits[axis] = first - begin, last - begin
    return sliced(graph, joined(graph, touched, axis), starts, limits, strides)


def _slice_of_pad(graph: Rewriter, equation: Equation) -> Var | None:
    inner = graph.defined_by(equation.operands[0], "pad")
    if inner is None or equation.result.type.size == 0:
        return None
    source, low = inner.operands[0], axes_of(inner, "low")
    starts, limits, strides = _bounds(equation)
    ranges = list(zip(starts, limits, low, source.type.sizes, strict=True))
    if any(limit <= lo or start >= lo + size for start, limit, lo, size in ranges):
        return graph.constant(number(inner.attributes, "value"), equation.result.type)
    if any(start < lo or limit > lo + size for start, limit, lo, size in ranges):
        return None
    return sliced(graph, source, [r[0] - r[2] for r in ranges], [r[1] - r[2] for r in ranges], strides)


def _pad_of_pad(graph: Rewriter, equation: Equation) -> Var | None:
    inner = graph.defined_by(equation.operands[0], "pad")
    if inner is None or number(inner.attributes, "value") != number(equation.attributes, "value"):
        return None
    sides = {side: tuple(a + b for a, b in zip(axes_of(inner, side), axes_of(equation, side), strict=True))
             for side in ("low", "high")}
    return graph.op("pad", inner.operands[0], low=sides["low"], high=sides["high"], value=equation.attr("value"))


def _concat_of_one(graph: Rewriter, equation: Equation) -> Var | None:
    axis = integer(equation.attributes, "axis")
    parts = [var for var in equation.operands if var.type.sizes[axis]]
    return None if len(parts) == len(equation.operands) > 1 or not parts else joined(graph, parts, axis)


def _concat_of_concat(graph: Rewriter, equation: Equation) -> Var | None:
    axis = equation.attr("axis")
    parts: list[Var] = []
    for var in equation.operands:
        inner = graph.defined_by(var, "concat")
        nested = inner is not None and inner.attr("axis") == axis and graph.uses(var) == 1
        parts.extend(inner.operands if inner is not None and nested else (var,))
    return None if len(parts) == len(equation.operands) else graph.op("concat", *parts, axis=axis)


def _concat_of_slices(graph: Rewriter, equation: Equation) -> Var | None:
    axis = integer(equation.attributes, "axis")
    parts: list[Var] = []
    for var in equation.operands:
        merged = _adjacent(graph, parts[-1], var, axis) if parts else None
        if merged is None:
            parts.append(var)
        else:
            parts[-1] = merged
    return None if len(parts) == len(equation.operands) else joined(graph, parts, axis)


def _adjacent(graph: Rewriter, left: Var, right: Var, axis: int) -> Var | None:
    """The one slice that two slices of a value form along ``axis``."""
    first, second = graph.defined_by(left, "slice"), graph.defined_by(right, "slice")
    if first is None or second is None or first.operands != second.operands:
        return None
    (a, b, s), (c, d, t) = _bounds(first), _bounds(second)
    if s != t or s[axis] != 1 or b[axis] != c[axis]:
        return None
    if any(i != axis and (a[i], b[i]) != (c[i], d[i]) for i in range(len(a))):
        return None
    b[axis] = d[axis]
    return sliced(graph, first.operands[0], a, b, s)


def _sum_of_pads(graph: Rewriter, equation: Equation) -> Var | None:
    """In a sum, zero-padded values that fill neighbouring ranges of an axis are one padded concat."""
    users = graph.users(equation.result)
    if len(users) == 1 and users[0].op == "add" and graph.uses(equation.result) == 1:
        return None  # the root of the tree sees all terms
    terms = _terms(graph, equation)
    pads = [pad for pad in (_padded_range(graph, term) for term in terms) if pad is not None]
    pads.sort(key=lambda pad: pad[:2])
    for place in range(len(pads) - 1):
        run = [pads[place]]
        for pad in pads[place + 1:]:
            if pad[0] == run[-1][0] and pad[1] == run[-1][2]:
                run.append(pad)
        if len(run) > 1:
            return _join_run(graph, equation, terms, run)
    return None


def _terms(graph: Rewriter, root: Equation) -> list[Var]:
    terms: list[Var] = []
    stack = list(root.operands[::-1])
    while stack:
        var = stack.pop()
        inner = graph.defined_by(var, "add")
        if inner is not None and graph.uses(var) == 1 and inner.operands[0] != inner.operands[1]:
            stack += inner.operands[::-1]
        else:
            terms.append(var)
    return terms


def _padded_range(graph: Rewriter, term: Var) -> tuple[int, int, int, Var, Var] | None:
    """Axis, begin and end of what a zero pad along one axis surrounds; the value inside and the term."""
    pad = graph.defined_by(term, "pad")
    if pad is None or number(pad.attributes, "value") != 0:
        return None
    low, high = axes_of(pad, "low"), axes_of(pad, "high")
    axes = [axis for axis in range(len(low)) if low[axis] or high[axis]]
    if len(axes) != 1:
        return None
    inside = pad.operands[0]
    begin = low[axes[0]]
    return axes[0], begin, begin + inside.type.sizes[axes[0]], inside, term


def _join_run(graph: Rewriter, equation: Equation, terms: Sequence[Var],
              run: Sequence[tuple[int, int, int, Var, Var]]) -> Var:
    axis, begin, end = run[0][0], run[0][1], run[-1][2]
    shape = equation.result.type.sizes
    whole = joined(graph, [pad[3] for pad in run], axis)
    if end - begin < shape[axis]:
        low = tuple(begin if i == axis else 0 for i in range(len(shape)))
        high = tuple(shape[axis] - end if i == axis else 0 for i in range(len(shape)))
        whole = graph.op("pad", whole, low=low, high=high)
    gone = [pad[4] for pad in run]
    rest = list(terms)
    for var in gone:
        rest.remove(var)
    for var in rest:
        whole = graph.op("add", whole, var)
    return whole


def _split_one_range(graph: Rewriter, equation: Equation) -> Var | None:
    """A slice of a reshape that only adds axes of size 1 is that reshape of a slice."""
    inner = graph.defined_by(equation.operands[0], "reshape")
    if inner is None or equation.result.type.size == 0:
        return None
    source, sizes = inner.operands[0], inner.result.type.sizes
    units = [axis for axis, size in enumerate(sizes) if size == 1]
    if without(sizes, units) != tuple(n for n in source.type.sizes if n != 1):
        return None
    bounds = _bounds(equation)
    real = [axis for axis, size in enumerate(sizes) if size != 1]
    cut: list[list[int]] = []
    for values, default in zip(bounds, (0, 1, 1), strict=True):
        given = iter([values[axis] for axis in real])
        cut.append([next(given) if n != 1 else default for n in source.type.sizes])
    return reshaped(graph, sliced(graph, source, *cut), equation.result.type.sizes)


RULES = (
    Rule("slice-slice", ("slice",), "bounds compose", _slice_of_slice),
    Rule("slice-broadcast", ("slice",), "cut the smaller value", _slice_of_broadcast),
    Rule("slice-concat", ("slice",), "only the pieces that are read", _slice_of_concat),
    Rule("slice-pad", ("slice",), "a part of the inside, or of the padding", _slice_of_pad),
    Rule("slice-units", ("slice",), "axes of size 1 are not cut", _split_one_range),
    Rule("pad-pad", ("pad",), "paddings of one value add up", _pad_of_pad),
    Rule("concat-one", ("concat",), "a single piece, or pieces without elements", _concat_of_one),
    Rule("concat-concat", ("concat",), "nested pieces along one axis", _concat_of_concat),
    Rule("concat-slices", ("concat",), "neighbouring slices of a value are one slice", _concat_of_slices),
    Rule("sum-of-pads", ("add",), "the gradient of a split is one concat", _sum_of_pads),
)
