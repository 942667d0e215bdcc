"""The cheapest way to compute the derivatives that are asked of a unit, by the work of its matrix products.

A scheme is a lower-closed set of indices propagated forward and, for every root that is asked for an index outside it,
the reverse rows that stand for the rest (see covector.py). With everything kept it is plain Taylor mode.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tesserac.passes.covector import reverse_indices
from tesserac.passes.multiindex import Index, below, closure, graded, minus, unit, within
from tesserac.passes.work import Counted, Counter

LARGEST_SEARCH = 60
"""Closed sets of more indices than this are only cut by order, not index by index."""

Asked = Mapping[str, frozenset[Index]]
"""Indices by root."""


@dataclass(frozen=True)
class Scheme:
    """``kept``: indices propagated forward; ``reverse``: rows by root; ``planned``: what each root takes from them."""

    kept: frozenset[Index]
    reverse: Mapping[str, tuple[Index, ...]]
    planned: Mapping[str, tuple[Index, ...]]
    counted: Counted


def taylor_scheme(counter: Counter, asked: Asked) -> Scheme:
    """Everything forward."""
    found = _scheme(counter, asked, frozenset(closure(a for indices in asked.values() for a in indices)))
    assert found is not None
    return found


def forward_over_reverse(counter: Counter, asked: Asked) -> Scheme:
    """One reverse sweep gives first derivatives, along which the others are taken: counted for comparison.

    Of every index one direction is left to the sweep, the one that keeps the set of the others smallest.
    """
    kept: set[Index] = {tuple(0 for _ in a) for indices in asked.values() for a in indices}
    wanted = graded({a for indices in asked.values() for a in indices})
    for a in sorted(wanted, key=lambda a: sum(n > 0 for n in a)):
        choices = [minus(a, unit(i, len(a))) for i, n in enumerate(a) if n]
        kept.update(below(min(choices, key=lambda c: (sum(b not in kept for b in below(c)), graded([c])))))
    rows = {root: tuple(graded(b for b in kept if any(within(b, a) for a in indices)))
            for root, indices in asked.items()}
    curving = {root: frozenset(found) for root, found in rows.items()}
    return Scheme(frozenset(kept), rows, {}, counter.count({root: frozenset() for root in asked}, rows, curving))


def lower_scheme(counter: Counter, asked: Asked) -> Scheme:
    """Everything but the highest indices forward, which collapsed Taylor mode adds combinations to."""
    lower = {root: frozenset(a for a in closure(indices) if any(a != b and within(a, b) for b in indices))
             for root, indices in asked.items()}
    kept = frozenset(a for indices in lower.values() for a in indices)
    return Scheme(kept, {}, {}, counter.count(lower, {}, {}))


def cheapest_scheme(counter: Counter, asked: Asked) -> Scheme:
    """The scheme with the least work; of equal ones the one with the fewest reverse rows."""
    everything = frozenset(closure(a for indices in asked.values() for a in indices))
    price = _price(counter, asked)
    starts = [frozenset(a for a in everything if sum(a) <= order)
              for order in range(max(sum(a) for a in everything), -1, -1)]
    priced = [(cost, kept) for kept in starts if (cost := price(kept)) is not None]
    if len(everything) <= LARGEST_SEARCH:
        priced = [_descend(cost, kept, price) for cost, kept in priced]
    best = min(priced, key=lambda pair: (pair[0], graded(pair[1])))[1]
    found = _scheme(counter, asked, best)
    assert found is not None
    return found


Price = tuple[float, int]
"""Operations, then the number of reverse rows."""


def _price(counter: Counter, asked: Asked) -> Callable[[frozenset[Index]], Price | None]:
    """What keeping a set costs, to first order: channels times their work; None where the set does not suffice."""
    channel = counter.channel()
    covector = {root: counter.covector(root) for root in asked}

    def price(kept: frozenset[Index]) -> Price | None:
        split = _split(asked, kept)
        if split is None:
            return None
        reverse, _ = split
        used = {a for indices in asked.values() for b in indices for a in below(b) if a in kept}
        return (channel * len(used) + sum(covector[root] * len(rows) for root, rows in reverse.items()),
                sum(len(rows) * counter.columns[root] for root, rows in reverse.items()))

    return price


def _descend(cost: Price, kept: frozenset[Index], price: Callable[[frozenset[Index]], Price | None]
             ) -> tuple[Price, frozenset[Index]]:
    """Drops one highest index after another, the cheapest first, as long as that costs no more work."""
    best, current = (cost, kept), (cost, kept)
    while True:
        tops = [a for a in graded(current[1]) if any(a) and not any(a != b and within(a, b) for b in current[1])]
        tried = [(found, smaller) for a in tops if (found := price(smaller := current[1] - {a})) is not None]
        if not tried:
            return best
        current = min(tried, key=lambda pair: (pair[0], graded(pair[1])))
        if current[0][0] > best[0][0]:
            return best
        if current[0] < best[0]:
            best = current


def _split(asked: Asked, kept: frozenset[Index]
           ) -> tuple[dict[str, set[Index]], dict[str, tuple[Index, ...]]] | None:
    """Reverse rows and planned indices by root; None where a set does not suffice."""
    reverse: dict[str, set[Index]] = {}
    planned: dict[str, tuple[Index, ...]] = {}
    for root, indices in asked.items():
        outside = graded(a for a in indices if a not in kept)
        for a in outside:
            rows = reverse_indices(a, kept)
            if rows is None:
                return None
            reverse.setdefault(root, set()).update(rows)
        if outside:
            planned[root] = tuple(outside)
    return reverse, planned


def _scheme(counter: Counter, asked: Asked, kept: frozenset[Index]) -> Scheme | None:
    split = _split(asked, kept)
    if split is None:
        return None
    reverse, planned = {root: tuple(graded(rows)) for root, rows in split[0].items()}, split[1]
    forward = {root: frozenset(a for a in indices if a in kept) for root, indices in asked.items()}
    curving = {root: frozenset(b for a in indices for b in below(a) if b in kept) for root, indices in planned.items()}
    return Scheme(kept, reverse, planned, counter.count(forward, reverse, curving))
