"""What it costs to make every version of a value that its consumers want, and back again, on one mesh axis.

A value is produced in one placement and wanted in several. Each wanted version is made once, from the produced one or
from another, so that consumers share what is gathered, and contributions to a cotangent are added before they are
converted back. The cheapest such tree is found by trying all orders; there are few versions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import cache

from tesserac.immutable import dataclass
from tesserac.passes.mesh.conversions import backward_collective, collective
from tesserac.passes.mesh.cost import bucketed_seconds, collective_seconds, wire_bytes
from tesserac.passes.mesh.hardware import Hardware, Link
from tesserac.passes.mesh.placements import Placement

NANO = 1e9
FEW = 5
"""Versions that are tried in all orders; more are made in the given one."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What plans are compared by. ``impossible`` is what a role forbids."""

    nanoseconds: int = 0
    collectives: int = 0
    bytes: int = 0
    impossible: bool = False

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.nanoseconds + other.nanoseconds, self.collectives + other.collectives,
                    self.bytes + other.bytes, self.impossible or other.impossible)

    def times(self, count: int) -> Cost:
        """The same so many times."""
        if count == 1:
            return self
        return Cost(self.nanoseconds * count, self.collectives * count, self.bytes * count, self.impossible)

    @property
    def key(self) -> tuple[bool, int, int, int]:
        """Cheaper first."""
        return self.impossible, self.nanoseconds, self.collectives, self.bytes


def added(costs: Sequence[Cost]) -> Cost:
    """The sum of many."""
    return Cost(sum([c.nanoseconds for c in costs]), sum([c.collectives for c in costs]),
                sum([c.bytes for c in costs]), any(c.impossible for c in costs))


@dataclass(frozen=True, slots=True)
class Move:
    """One conversion of a tree."""

    source: Placement
    target: Placement


@dataclass(frozen=True, slots=True)
class Traffic:
    """A tensor as its conversions see it: bytes (whole along this axis), and what happens to its cotangent.

    ``gradient``: a cotangent flows back. ``weight``: it is a parameter, whose gradient is reduced in buckets beside
    the backward pass. ``waited``: something of the step reads it; nothing waits for the sum that a loss is reported as.
    """

    bytes: float
    gradient: bool
    weight: bool
    waited: bool = True


class AxisCosts:
    """Costs of conversions on one axis: ``ranks``, its link, and the collectives that its role may use."""

    def __init__(self, ranks: int, link: Link, hardware: Hardware, allowed: frozenset[str]) -> None:
        self.ranks, self.link, self.hardware, self.allowed = ranks, link, hardware, allowed
        self.tree: Callable[[Traffic, Placement, frozenset[Placement]], tuple[Cost, tuple[Move, ...]]] = cache(
            self._tree)
        self.move: Callable[[Traffic, Placement, Placement], Cost] = cache(self._move)

    def within(self, kind: str, whole: float) -> Cost:
        """A collective inside an equation's own strategy."""
        return self._collective(kind, Traffic(whole, gradient=False, weight=False), overlapped=False)

    def _collective(self, kind: str | None, traffic: Traffic, overlapped: bool) -> Cost:
        if kind is None:
            return Cost()
        if overlapped and kind == "all_reduce":
            seconds = bucketed_seconds(traffic.bytes, self.ranks, self.link, self.hardware)
        else:
            seconds = collective_seconds(kind, traffic.bytes, self.ranks, self.link)
            if overlapped:
                seconds -= (seconds - self.link.latency) * self.hardware.overlap
        nanoseconds = round(seconds * NANO) if traffic.waited else 0
        return Cost(nanoseconds, 1, round(wire_bytes(kind, traffic.bytes, self.ranks)))

    def _move(self, traffic: Traffic, source: Placement, target: Placement) -> Cost:
        if source.is_own or target.is_own:  # a mixture's own rows, which nothing else can read
            return Cost(impossible=True)
        forward = collective(source, target)
        found = self._collective(forward, traffic, overlapped=False)
        kinds = {forward}
        if traffic.gradient:
            way_back = backward_collective(source, target)
            kinds.add(way_back)
            found += self._collective(way_back, traffic, overlapped=traffic.weight)
        if not kinds - {None} <= self.allowed:
            return Cost(found.nanoseconds, found.collectives, found.bytes, impossible=True)
        return found

    def _tree(self, traffic: Traffic, produced: Placement,
              wanted: frozenset[Placement]) -> tuple[Cost, tuple[Move, ...]]:
        missing = sorted(wanted - {produced}, key=str)
        orders = itertools.permutations(missing) if len(missing) <= FEW else iter([tuple(missing)])
        best: tuple[Cost, tuple[Move, ...]] | None = None
        for order in orders:
            have, total, moves = [produced], Cost(), []
            for target in order:
                step, source = min(((self.move(traffic, s, target), s) for s in have),
                                   key=lambda found: found[0].key)
                total += step
                moves.append(Move(source, target))
                have.append(target)
            if best is None or total.key < best[0].key:
                best = total, tuple(moves)
        assert best is not None  # there is at least the empty order
        return best
