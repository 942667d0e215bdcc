"""Exchanges of complex values: both planes go together, so that one exchange of the plan is one of the program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tesserac.ir.program import Attr, Equation, Var
from tesserac.ops.planes import Pair, Plane, each_plane, whole

if TYPE_CHECKING:
    from tesserac.ir.builder import Builder


def reduced_planes(b: Builder, e: Equation, operands: Sequence[Pair]) -> tuple[Pair, ...]:
    """An all-reduce takes any number of tensors: of each the real plane, then the other. A sum keeps their signs."""
    if not e.results[0].type.dtype.is_complex:
        return each_plane(b, e, operands)
    planes = [plane for pair in operands for plane in (pair.re, pair.im)]
    given = [p for p in planes if p is not None]
    found = iter(b.ops(e.op, [p.var for p in given], e.attributes) if given else ())
    sums = [None if p is None else Plane(next(found), p.negative) for p in planes]
    return tuple(map(Pair, sums[::2], sums[1::2]))


def stacked_planes(b: Builder, e: Equation, operands: Sequence[Pair]) -> tuple[Pair, ...]:
    """Exchanges of one tensor move its planes as one of a rank higher, side by side along axis 0."""
    (pair,) = operands
    if pair.re is None or pair.im is None:
        return each_plane(b, e, operands)
    like = e.operands[0].type
    negative = pair.re.negative and pair.im.negative
    planes = (pair.re.var, pair.im.var) if negative else (whole(b, pair.re, like), whole(b, pair.im, like))
    both = b.op("concat", *(b.op("reshape", p, shape=(1, *p.type.sizes)) for p in planes), axis=0, named="planes")
    attrs: dict[str, Attr] = {k: int(str(v)) + 1 if k in ("dim", "split", "concat") else v
                              for k, v in e.attributes.items()}
    (moved,) = b.ops(e.op, (both,), attrs)
    re, im = (Plane(_plane(b, moved, at), negative) for at in (0, 1))
    return (Pair(re, im),)


def _plane(b: Builder, both: Var, at: int) -> Var:
    sizes = both.type.sizes
    starts, limits = (at, *(0 for _ in sizes[1:])), (at + 1, *sizes[1:])
    part = b.op("slice", both, starts=starts, limits=limits, strides=(1,) * len(sizes))
    return b.op("reshape", part, shape=sizes[1:])
