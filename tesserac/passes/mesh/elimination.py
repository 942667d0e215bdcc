"""Exact minimisation of a sum of small tables by variable elimination.

A plan is one choice per variable; what it costs is a sum of tables, each over a few variables. Variables are
eliminated one after another (bucket elimination; Dechter, Artificial Intelligence 113, 1999; Bertele and Brioschi,
Nonserial Dynamic Programming, 1972): the tables that mention a variable become one without it, and the best choice is
kept for going back. Which variable comes next decides only how large tables grow: the one whose table is smallest.

Costs are integers and compared lexicographically (nanoseconds, collectives, bytes, sum of the choices' numbers), so
sums do not depend on their order, and equal costs are decided the same way whatever order the variables came in.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tesserac.diagnostics import InternalError

Integers = NDArray[np.int64]

IMPOSSIBLE = 1 << 50
"""Nanoseconds of what may not be chosen: above any real cost, and a sum of many stays below 2^63."""

LARGEST_TABLE = 4_000_000
"""Entries beyond which a variable is fixed instead of eliminated, and the result is no longer exact."""


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """One term: what every combination of its variables' choices costs. ``scope`` is ascending."""

    scope: tuple[int, ...]
    nanoseconds: Integers
    collectives: Integers
    bytes: Integers

    @classmethod
    def of(cls, scope: Sequence[int], nanoseconds: object, collectives: object = 0, bytes: object = 0) -> Table:
        """From nested lists or arrays; what is not given is zero."""
        cost = np.asarray(nanoseconds, np.int64)
        parts = (np.broadcast_to(np.asarray(part, np.int64), cost.shape) for part in (collectives, bytes))
        return cls(tuple(scope), cost, *parts)


@dataclass(frozen=True, slots=True)
class Solution:
    """A choice per variable. ``exact`` is False where a table would have grown beyond LARGEST_TABLE."""

    choices: tuple[int, ...]
    nanoseconds: int
    width: int
    largest: int
    exact: bool = True

    @property
    def possible(self) -> bool:
        """Whether some combination is allowed at all."""
        return self.nanoseconds < IMPOSSIBLE


def minimise(domains: Sequence[int], tables: Iterable[Table], limit: int = LARGEST_TABLE) -> Solution:
    """The choices with the least sum. ``domains``: number of choices per variable, numbered in canonical order."""
    return _Elimination(domains, list(tables), limit).run()


def cost_of(choices: Sequence[int], tables: Iterable[Table]) -> tuple[int, int, int]:
    """Nanoseconds, collectives and bytes of given choices."""
    total = [0, 0, 0]
    for table in tables:
        at = tuple(choices[v] for v in table.scope)
        for i, part in enumerate((table.nanoseconds, table.collectives, table.bytes)):
            total[i] += int(part[at])
    return total[0], total[1], total[2]


@dataclass(slots=True, eq=False)
class _Term:
    """A table as it is summed: nanoseconds, and what decides between equals packed into one number."""

    scope: tuple[int, ...]
    cost: Integers
    tie: Integers


class _Elimination:
    def __init__(self, domains: Sequence[int], tables: list[Table], limit: int) -> None:
        self._domains = tuple(domains)
        self._limit = limit
        self._tables = tables
        self._terms: list[_Term | None] = []
        self._of: list[list[int]] = [[] for _ in domains]
        self._neighbours: list[set[int]] = [set() for _ in domains]
        self._constant = 0
        self._width, self._largest, self._exact = 0, 1, True
        pack = _packing(self._domains, tables)
        for table in tables:
            for axis, variable in enumerate(table.scope):
                if table.nanoseconds.shape[axis] != self._domains[variable]:
                    raise InternalError(f"a table of shape {table.nanoseconds.shape} over variables {table.scope}")
            tie = table.collectives * pack[0] + (table.bytes >> pack[1]) * pack[2]
            # A variable with one choice adds an axis of size 1; dozens of them are more than an array may have.
            scope = tuple(v for v in table.scope if self._domains[v] > 1)
            shape = tuple(self._domains[v] for v in scope)
            self._add(_Term(scope, np.minimum(table.nanoseconds, IMPOSSIBLE).reshape(shape), tie.reshape(shape)))
        for variable, size in enumerate(self._domains):
            self._add(_Term((variable,), np.zeros(size, np.int64), np.arange(size, dtype=np.int64)))

    def _add(self, term: _Term) -> None:
        if not term.scope:
            self._constant += int(term.cost)
            return
        for variable in term.scope:
            self._of[variable].append(len(self._terms))
            self._neighbours[variable].update(term.scope)
        self._terms.append(term)

    def _entries(self, variable: int) -> int:
        return math.prod(self._domains[v] for v in self._neighbours[variable] | {variable})

    def run(self) -> Solution:
        """Eliminates all variables, then goes back through them."""
        heap = [(self._entries(v), v) for v in range(len(self._domains))]
        current = {v: size for size, v in heap}
        heapq.heapify(heap)
        record: list[tuple[int, tuple[int, ...], Integers]] = []
        while heap:
            size, variable = heapq.heappop(heap)
            if current.get(variable) != size:
                continue
            if size > self._limit:
                heapq.heappush(heap, (size, variable))
                variable = self._most_connected(current)
            del current[variable]
            around = self._neighbours[variable] - {variable}
            record.append(self._fix(variable) if size > self._limit else self._eliminate(variable))
            for other in around:
                self._neighbours[other].discard(variable)
                if size <= self._limit:
                    self._neighbours[other] |= around
                current[other] = self._entries(other)
                heapq.heappush(heap, (current[other], other))
        choices: dict[int, int] = {}
        for variable, scope, best in reversed(record):
            choices[variable] = int(best[tuple(choices[v] for v in scope)])
        found = tuple(choices[v] for v in range(len(self._domains)))
        nanoseconds = min(cost_of(found, self._tables)[0], IMPOSSIBLE)
        return Solution(found, nanoseconds, self._width, self._largest, self._exact)

    def _summed(self, variable: int) -> tuple[tuple[int, ...], Integers, Integers]:
        """The sum of all terms that mention a variable, over all their variables."""
        terms = [term for at in self._of[variable] if (term := self._terms[at]) is not None]
        scope = tuple(sorted({v for term in terms for v in term.scope}))
        shape = tuple(self._domains[v] for v in scope)
        cost, tie = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for term in terms:
            local = tuple(self._domains[v] if v in term.scope else 1 for v in scope)
            cost += term.cost.reshape(local)
            tie += term.tie.reshape(local)
        return scope, np.minimum(cost, IMPOSSIBLE), tie

    def _eliminate(self, variable: int) -> tuple[int, tuple[int, ...], Integers]:
        scope, cost, tie = self._summed(variable)
        axis = scope.index(variable)
        self._width, self._largest = max(self._width, len(scope)), max(self._largest, cost.size)
        least = cost.min(axis)
        among = np.where(cost == np.expand_dims(least, axis), tie, np.iinfo(np.int64).max)
        best = among.argmin(axis)
        chosen = np.take_along_axis(tie, np.expand_dims(best, axis), axis).squeeze(axis)
        for at in self._of[variable]:
            self._terms[at] = None
        rest = scope[:axis] + scope[axis + 1:]
        self._add(_Term(rest, least, chosen))
        return variable, rest, best.astype(np.int64)

    def _most_connected(self, current: dict[int, int]) -> int:
        return max(current, key=lambda v: (len(self._neighbours[v]), -v))

    def _fix(self, variable: int) -> tuple[int, tuple[int, ...], Integers]:
        """Takes the choice with the least sum of every term's own best, and cuts all its terms down to it."""
        self._exact = False
        size = self._domains[variable]
        bound, tie = np.zeros(size, np.int64), np.zeros(size, np.int64)
        terms = [(at, term) for at in self._of[variable] if (term := self._terms[at]) is not None]
        for _, term in terms:
            axis = term.scope.index(variable)
            others = tuple(a for a in range(len(term.scope)) if a != axis)
            bound += term.cost.min(others) if others else term.cost
            tie += term.tie.min(others) if others else term.tie
        best = int(np.lexsort((tie, bound))[0])
        for at, term in terms:
            axis = term.scope.index(variable)
            self._terms[at] = None
            rest = term.scope[:axis] + term.scope[axis + 1:]
            self._add(_Term(rest, np.asarray(term.cost.take(best, axis)), np.asarray(term.tie.take(best, axis))))
        return variable, (), np.asarray(best, np.int64)


def _packing(domains: Sequence[int], tables: Sequence[Table]) -> tuple[int, int, int]:
    """How collectives, bytes and choice numbers share 62 bits: two factors, and the bits that bytes lose between."""
    counts = sum(int(t.collectives.max(initial=0)) for t in tables)
    volume = sum(int(t.bytes.max(initial=0)) for t in tables)
    numbers = sum(size - 1 for size in domains)
    low, high = numbers.bit_length(), counts.bit_length()
    lost = max(0, volume.bit_length() + low + high - 62)
    middle = (volume >> lost).bit_length()
    return 1 << (middle + low), lost, 1 << low
