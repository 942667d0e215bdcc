"""Exact minimisation of a sum of small tables by variable elimination.

A plan is one choice per variable; what it costs is a sum of tables, each over a few variables. Variables are
eliminated one after another (bucket elimination; Dechter, Artificial Intelligence 113, 1999; Bertele and Brioschi,
Nonserial Dynamic Programming, 1972): the tables that mention a variable become one without it, and the best choice is
kept for going back. Which variable comes next decides only how large tables grow: the one whose table is smallest.

Costs are integers and compared lexicographically (nanoseconds, collectives, bytes, sum of the choices' numbers), so
sums do not depend on their order, and equal costs are decided the same way whatever order the variables came in.

Equal layers of a program bring the same arrays again and again. Arrays are numbered, and what comes of eliminating a
variable is kept by the numbers of its terms and how their scopes lie to each other, so a layer like one before it costs
a look-up per variable.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from tesserac.diagnostics import InternalError
from tesserac.immutable import dataclass

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


@dataclass(frozen=True, slots=True, eq=False)
class _Content:
    """A table as it is summed: nanoseconds, and what decides between equals packed into one number."""

    cost: Integers
    tie: Integers


@dataclass(frozen=True, slots=True, eq=False)
class _Term:
    """A table and what it is about: variables of several choices, ascending, and the number of its content."""

    scope: tuple[int, ...]
    content: int


class _Elimination:
    def __init__(self, domains: Sequence[int], tables: list[Table], limit: int) -> None:
        self._domains = tuple(domains)
        self._limit = limit
        self._contents: list[_Content] = []
        self._eliminated: dict[object, tuple[int, Integers]] = {}
        self._terms: list[_Term | None] = []
        self._of: list[list[int]] = [[] for _ in domains]
        self._neighbours: list[set[int]] = [{v} for v in range(len(domains))]  # all that share a term with it
        self._constant = 0
        self._width, self._largest, self._exact = 0, 1, True
        keys = [(id(t.nanoseconds), id(t.collectives), id(t.bytes)) for t in tables]
        distinct = dict(zip(keys, tables, strict=True))
        pack = _packing(self._domains, [(distinct[key], times) for key, times in Counter(keys).items()])
        numbers = {key: self._number(*_packed(table, pack)) for key, table in distinct.items()}
        # A variable with one choice adds an axis of size 1; dozens of them are more than an array may have.
        settled = {v for v, size in enumerate(domains) if size == 1}
        for key, table in zip(keys, tables, strict=True):
            scope = table.scope
            if table.nanoseconds.shape != tuple([domains[v] for v in scope]):
                raise InternalError(f"a table of shape {table.nanoseconds.shape} over variables {scope}")
            if not settled.isdisjoint(scope):
                scope = tuple([v for v in scope if v not in settled])
            self._add(_Term(scope, numbers[key]))

    def _number(self, cost: Integers, tie: Integers) -> int:
        self._contents.append(_Content(cost, tie))
        return len(self._contents) - 1

    def _add(self, term: _Term) -> None:
        if not term.scope:
            self._constant += int(self._contents[term.content].cost)
            return
        for variable in term.scope:
            self._of[variable].append(len(self._terms))
            self._neighbours[variable].update(term.scope)
        self._terms.append(term)

    def _entries(self, variable: int) -> int:
        return math.prod([self._domains[v] for v in self._neighbours[variable]])

    def run(self) -> Solution:
        """Eliminates all variables, then goes back through them."""
        heap = [(self._entries(v), v) for v, size in enumerate(self._domains) if size > 1]
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
                if (entries := self._entries(other)) != current[other]:
                    current[other] = entries
                    heapq.heappush(heap, (entries, other))
        choices = [0] * len(self._domains)
        for variable, scope, best in reversed(record):
            choices[variable] = int(best[tuple([choices[v] for v in scope])])
        return Solution(tuple(choices), min(self._constant, IMPOSSIBLE), self._width, self._largest, self._exact)

    def _summed(self, terms: Sequence[_Term], scope: tuple[int, ...], axis: int) -> _Content:
        """The sum of terms over all their variables; what decides between equals has the choice's number as well."""
        shape = tuple(self._domains[v] for v in scope)
        cost, tie = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        tie += np.arange(shape[axis]).reshape([-1 if at == axis else 1 for at in range(len(shape))])
        for term in terms:
            local = tuple(self._domains[v] if v in term.scope else 1 for v in scope)
            content = self._contents[term.content]
            cost += content.cost.reshape(local)
            tie += content.tie.reshape(local)
        return _Content(np.minimum(cost, IMPOSSIBLE), tie)

    def _eliminate(self, variable: int) -> tuple[int, tuple[int, ...], Integers]:
        terms = []
        for at in self._of[variable]:
            if (term := self._terms[at]) is not None:
                terms.append(term)
                self._terms[at] = None
        scope = tuple(sorted(self._neighbours[variable]))
        axis = scope.index(variable)
        key = (axis, self._domains[variable],
               *sorted([(t.content, *[scope.index(v) for v in t.scope]) for t in terms]))
        if key not in self._eliminated:
            least, chosen, best = _least(self._summed(terms, scope, axis), axis)
            self._eliminated[key] = self._number(least, chosen), best
        number, best = self._eliminated[key]
        self._width = max(self._width, len(scope))
        self._largest = max(self._largest, best.size * self._domains[variable])
        rest = scope[:axis] + scope[axis + 1:]
        self._add(_Term(rest, number))
        return variable, rest, best

    def _most_connected(self, current: dict[int, int]) -> int:
        return max(current, key=lambda v: (len(self._neighbours[v]), -v))

    def _fix(self, variable: int) -> tuple[int, tuple[int, ...], Integers]:
        """Takes the choice with the least sum of every term's own best, and cuts all its terms down to it."""
        self._exact = False
        size = self._domains[variable]
        bound, tie = np.zeros(size, np.int64), np.arange(size, dtype=np.int64)
        terms = [(at, term) for at in self._of[variable] if (term := self._terms[at]) is not None]
        for _, term in terms:
            content, axis = self._contents[term.content], term.scope.index(variable)
            others = tuple(a for a in range(len(term.scope)) if a != axis)
            bound += content.cost.min(others) if others else content.cost
            tie += content.tie.min(others) if others else content.tie
        best = int(np.lexsort((tie, bound))[0])
        for at, term in terms:
            content, axis = self._contents[term.content], term.scope.index(variable)
            self._terms[at] = None
            rest = term.scope[:axis] + term.scope[axis + 1:]
            self._add(_Term(rest, self._number(np.asarray(content.cost.take(best, axis)),
                                               np.asarray(content.tie.take(best, axis)))))
        return variable, (), np.asarray(best, np.int64)


def _least(whole: _Content, axis: int) -> tuple[Integers, Integers, Integers]:
    """The least cost along an axis, what decided between equals there, and which choice that is."""
    least = whole.cost.min(axis)
    among = np.where(whole.cost == np.expand_dims(least, axis), whole.tie, np.iinfo(np.int64).max)
    best = np.asarray(among.argmin(axis), np.int64)
    return least, np.take_along_axis(whole.tie, np.expand_dims(best, axis), axis).squeeze(axis), best


def _packed(table: Table, pack: tuple[int, int, int]) -> tuple[Integers, Integers]:
    """A table's two arrays, without the axes of variables that have one choice."""
    shape = tuple(n for n in table.nanoseconds.shape if n > 1)
    tie = table.collectives * pack[0] + (table.bytes >> pack[1]) * pack[2]
    return np.minimum(table.nanoseconds, IMPOSSIBLE).reshape(shape), tie.reshape(shape)


def _packing(domains: Sequence[int], tables: Sequence[tuple[Table, int]]) -> tuple[int, int, int]:
    """How collectives, bytes and choice numbers share 62 bits: two factors, and the bits that bytes lose between.

    ``tables``: different ones, and how often each occurs.
    """
    counts = sum(times * int(t.collectives.max(initial=0)) for t, times in tables)
    volume = sum(times * int(t.bytes.max(initial=0)) for t, times in tables)
    numbers = sum(size - 1 for size in domains)
    low, high = numbers.bit_length(), counts.bit_length()
    lost = max(0, volume.bit_length() + low + high - 62)
    middle = (volume >> lost).bit_length()
    return 1 << (middle + low), lost, 1 << low
