"""The choice between the ways to compute derivatives by coordinate, and what it was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tesserac.ir.program import Function
from tesserac.ops.transform import point_rank
from tesserac.passes.collapse import collapse
from tesserac.passes.demand import Unit, requests, unit_of
from tesserac.passes.multiindex import Index
from tesserac.passes.rows import points_lead
from tesserac.passes.schemes import Scheme, cheapest_scheme, taylor_scheme
from tesserac.passes.spaces import independent
from tesserac.passes.varying import Direction
from tesserac.passes.work import Counted, Counter, fields

WORTH = 0.98
"""Reverse rows are taken where they leave at most this part of the work of plain Taylor mode."""


@dataclass(frozen=True)
class Decision:
    """What a group of directions is asked for, and how it is computed; ``points``: leading axes that number points."""

    directions: tuple[Direction, ...]
    points: int
    asked: Mapping[str, frozenset[Index]]
    taylor: Scheme
    chosen: Scheme
    counter: Counter | None = None
    unit: Unit | None = None
    channels: int = 0
    """Combinations that are propagated as one channel each."""

    @property
    def work(self) -> Counted:
        """Of the scheme and the combinations."""
        if self.counter is None or not self.channels:
            return self.chosen.counted
        return self.counter.with_channels(self.chosen.counted, self.channels)


NOTHING = Scheme(frozenset(), {}, {}, Counted(0.0, 0.0))


def decisions(function: Function, directions: Sequence[Direction]) -> tuple[Decision, ...]:
    """The cheapest schemes for all that a function asks along independent directions: one for every field.

    Roots that are computed by the same products belong to one field; the points of a boundary are another one.
    """
    found = unit_of(function, directions)
    asked = {name: frozenset(indices) for name, indices in requests(function, found).items()}
    ranks = {point_rank(d.coordinate.type) for d in directions}
    if not asked or len(ranks) != 1:
        return (Decision(tuple(directions), 0, asked, NOTHING, NOTHING),)
    (points,) = ranks
    return tuple(_decide(function, found, {root: asked[root] for root in roots}, points)
                 for roots in fields(found, asked))


def decide(function: Function, directions: Sequence[Direction]) -> Decision:
    """The decision of a function with one field."""
    (decision,) = decisions(function, directions)
    return decision


def _decide(function: Function, found: Unit, asked: Mapping[str, frozenset[Index]], points: int) -> Decision:
    types = {v.name: v.type for v in function.variables()}
    columns = {name: types[name].size // max(_product(types[name].sizes[:points]), 1) for name in asked}
    counter = Counter(function, found, columns)
    taylor, channels = taylor_scheme(counter, asked), _channels(function, counter)
    # A combination reads the lower coefficients of every value on the way, so they have to be there.
    forward = channels or not points_lead(found, asked)
    best = taylor if forward else cheapest_scheme(counter, asked)
    chosen = best if best.counted.flops <= WORTH * taylor.counted.flops else taylor
    return Decision(found.directions, points, asked, taylor, chosen, counter, found, channels)


def _product(sizes: Sequence[int]) -> int:
    count = 1
    for size in sizes:
        count *= size
    return count


def _channels(function: Function, counter: Counter) -> int:
    """Different combinations of values of this field: the same one of several values is one channel."""
    return len({(e.operands[1:], e.attrs) for e in function.equations
                if e.op == "combination" and counter.computes(e.operands[0])})


def collapsed_where_cheaper(function: Function) -> Function:
    """The function, with combinations of highest derivatives as one channel each where that is the least work."""
    for group in independent(function):
        now = decisions(function, group)
        other = collapse(function, now[0].unit) if now[0].unit is not None else None
        if other is not None and _total(decisions(other, group)) <= WORTH * _total(now):
            function = other
    return function


def _total(found: Sequence[Decision]) -> float:
    return sum(decision.work.flops for decision in found)
