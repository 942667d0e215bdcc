"""A function on a mesh as a sum of tables: one variable per input, equation and output, one table per value.

The variables' choices are strategies on one mesh axis; the other axes are held fixed. What a choice costs is

- the equation's own time, forward and backward: operations or bytes moved, divided by what is cut;
- per byte of memory that stays (parameters with gradient and moments, results kept for the backward pass), a price;
- for every value, the conversions from where it is produced to where it is wanted, on this axis and, since a cut here
  makes its parts smaller there, on all the others.

So the sum over all tables is the same function of the whole assignment whatever axis is being solved for, and solving
for one axis after another never makes it larger.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tesserac.passes.mesh.cost import equation_work, passes
from tesserac.passes.mesh.elimination import IMPOSSIBLE, Integers, Table
from tesserac.passes.mesh.experts import EXPERTS
from tesserac.passes.mesh.hardware import Hardware
from tesserac.passes.mesh.nodes import Choice, Node, Numbers, Value
from tesserac.passes.mesh.placements import Placement
from tesserac.passes.mesh.trees import NANO, AxisCosts, Cost, Traffic, added

WIDEST = 30_000
"""Entries of a value's table beyond which its consumers are taken up one by one."""


Arrays = tuple[Integers, Integers, Integers]
"""A table's nanoseconds, collectives and bytes."""


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """The placements that every choice of a domain reads or makes a value in; equal ones have one number."""

    number: int
    sets: tuple[frozenset[Placement], ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Terms:
    """The tables of a value: for each the numbers of its variables, and what it says.

    Variables are numbered among the value's own nodes, ascending; after them come auxiliary ones of ``more`` choices.
    """

    tables: tuple[tuple[tuple[int, ...], Arrays], ...]
    more: tuple[int, ...]


Chosen = Mapping[str, Sequence[Choice]]
"""For every axis that has been solved: each node's choice."""


class Problem:
    """The nodes of a function with their costs on the axes of a mesh. ``price``: seconds per byte of memory kept."""

    def __init__(self, nodes: Sequence[Node], values: Sequence[Value], sizes: Mapping[str, int],
                 costs: Mapping[str, AxisCosts], hardware: Hardware, price: float = 0.0) -> None:
        self.nodes, self._values = nodes, values
        self.sizes, self.costs, self.hardware, self.price = dict(sizes), dict(costs), hardware, price
        self._alike = Numbers().of_all([_likeness(node) for node in nodes])
        self._work = {number: equation_work(node.equation) if node.equation is not None else (0.0, 0.0)
                      for number, node in zip(self._alike, nodes, strict=True)}
        # Where nodes and choices are alike, so is what a value costs: found out once for each such case.
        self._around = [tuple(sorted({value.maker, *(c for c, _ in value.readers)})) for value in values]
        self._cases = Numbers()
        self._forms = Numbers().of_all([_form(value, at) for value, at in zip(values, self._around, strict=True)])
        self._own: dict[object, Cost] = {}
        self._moved: dict[object, Cost] = {}
        self._held: dict[object, float] = {}
        self._cached: dict[object, Arrays] = {}
        self._terms: dict[object, _Terms] = {}
        self._domains = Numbers()
        self._columns: dict[object, Column] = {}

    # ---------------------------------------------------------------------------------------------- one assignment

    def cost(self, chosen: Chosen) -> Cost:
        """The whole sum for choices on all axes."""
        rows = list(zip(*chosen.values(), strict=True))
        states = self._cases.of_all([(self.price, *chosen, *row) for row in rows])
        found = []
        for i, key in enumerate(zip(self._alike, states, strict=True)):
            if key not in self._own:
                self._own[key] = self._own_cost(i, dict(zip(chosen, rows[i], strict=True)))
            found.append(self._own[key].times(self.nodes[i].count))
        for v, around in enumerate(self._around):
            case = (self._forms[v], *[states[n] for n in around])
            if case not in self._moved:
                self._moved[case] = self._moves(v, chosen, None)[0].times(self._values[v].count)
            found.append(self._moved[case])
        return added(found)

    def flops(self, i: int) -> float:
        """Operations of a node before anything is cut."""
        return self._work[self._alike[i]][0]

    def memory(self, chosen: Chosen) -> float:
        """Bytes of one rank that stay until the step ends."""
        total = 0.0
        for i, row in enumerate(zip(*chosen.values(), strict=True)):
            key = (self._alike[i], *chosen, *row)
            if key not in self._held:
                self._held[key] = self._moved_and_held(i, dict(zip(chosen, row, strict=True)))[1]
            total += self.nodes[i].count * self._held[key]
        return total

    def _moved_and_held(self, i: int, picked: Mapping[str, Choice]) -> tuple[float, float]:
        """Bytes of one rank's part of the operands and results, and of what stays of the results."""
        node, moved, held = self.nodes[i], 0.0, 0.0
        for k, var in enumerate(node.operands):
            moved += var.type.bytes / self._pieces((a, c.operands[k]) for a, c in picked.items())
        for k, var in enumerate(node.results):
            part = var.type.bytes / self._pieces((a, c.results[k]) for a, c in picked.items())
            moved += part
            held += part * node.keeps
        return moved, held

    def _pieces(self, places: Iterable[tuple[str, Placement]]) -> int:
        return math.prod(self.sizes[axis] for axis, place in places if place.is_divided)

    def _own_cost(self, i: int, picked: Mapping[str, Choice]) -> Cost:
        """A node's work, the collectives within it, and the price of the memory that it keeps."""
        node, (flops, stream) = self.nodes[i], self._work[self._alike[i]]
        moved, held = self._moved_and_held(i, picked)
        seconds, total = self.price * held, Cost()
        if node.equation is not None:
            ranks = math.prod(self.sizes[a] for a, c in picked.items() if c.cuts)
            rate = self.hardware.rate(node.results[0].type.dtype)
            busy = max(flops / ranks / rate, moved * stream / self.hardware.bandwidth)
            seconds += passes(node.equation, node.gradient) * busy
            for axis, choice in picked.items():
                total += self._rows_sent(node, axis, choice)
                if choice.strategy is not None and choice.strategy.traffic:
                    others = math.prod(self.sizes[a] for a, c in picked.items() if a != axis and c.cuts)
                    for sent in choice.strategy.traffic:
                        if sent.phase == "forward" or node.gradient:
                            total += self.costs[axis].within(sent.collective, sent.bytes / others)
        return total + Cost(round(seconds * NANO))

    def _rows_sent(self, node: Node, axis: str, choice: Choice) -> Cost:
        """Rows that go to their experts' ranks and back."""
        if choice.name != EXPERTS or node.equation is None or node.equation.op not in ("dispatch", "combine"):
            return Cost()
        rows = node.results[0] if node.equation.op == "dispatch" else node.operands[0]
        once = self.costs[axis].within("all_to_all", float(rows.type.bytes))
        return once + once if node.gradient else once

    def _moves(self, v: int, chosen: Chosen, cut: str | None) -> tuple[Cost, Cost]:
        """Conversions of one value on axes: with its parts as they are, and where it is ``cut`` on one more."""
        whole, smaller, value = Cost(), Cost(), self._values[v]
        for axis, choices in chosen.items():
            made = choices[value.maker].results[value.result]
            wanted = frozenset([choices[c].operands[o] for c, at in value.readers for o in at])
            if wanted <= {made}:
                continue
            others = {b: chosen[b] for b in chosen if b != axis}
            whole += self.costs[axis].tree(self._traffic(value, others), made, wanted)[0]
            if cut is not None:
                smaller += self.costs[axis].tree(self._traffic(value, others, self.sizes[cut]), made, wanted)[0]
        return whole, smaller

    def _traffic(self, value: Value, others: Chosen, cut: int = 1) -> Traffic:
        """A value that other axes cut as its maker leaves it, and one of this many ranks."""
        pieces = self._pieces((axis, choices[value.maker].results[value.result]) for axis, choices in others.items())
        return Traffic(value.bytes / pieces / cut, value.gradient, value.weight, value.waited)

    # ---------------------------------------------------------------------------------------------- tables of one axis

    def tables(self, axis: str, domains: Sequence[tuple[Choice, ...]], chosen: Chosen) -> tuple[list[int], list[Table]]:
        """Sizes of domains, and tables, for solving ``axis`` with the choices on all other axes held fixed.

        ``domains`` are the nodes' choices on the axis. Variables are the nodes in canonical order, followed by
        auxiliary ones for values with many consumers.
        """
        fixed = {b: choices for b, choices in chosen.items() if b != axis}
        sizes = [len(domain) for domain in domains]
        numbers = self._domains.of_all(domains)
        states = self._cases.of_all(list(zip([tuple(fixed)] * len(domains), numbers, *fixed.values(), strict=True)))
        found = [self._own_table(axis, i, domain, states[i], fixed) for i, domain in enumerate(domains)]
        for v, around in enumerate(self._around):
            case = (axis, self._forms[v], *[states[n] for n in around])
            if case not in self._terms:
                self._terms[case] = self._value_terms(axis, v, domains, numbers, fixed)
            terms = self._terms[case]
            if terms.more:
                around = (*around, *range(len(sizes), len(sizes) + len(terms.more)))
                sizes += terms.more
            found += [Table(tuple([around[at] for at in scope]), *arrays) for scope, arrays in terms.tables]
        return sizes, found

    def _own_table(self, axis: str, i: int, domain: Sequence[Choice], state: int, fixed: Chosen) -> Table:
        times = self.nodes[i].count
        key = (self._alike[i], times, self.price, axis, state)
        if key not in self._cached:
            held = {b: choices[i] for b, choices in fixed.items()}
            self._cached[key] = _parts([self._own_cost(i, {**held, axis: choice}) for choice in domain], times)
        return Table((i,), *self._cached[key])

    def _value_terms(self, axis: str, v: int, domains: Sequence[Sequence[Choice]], numbers: Sequence[int],
                     fixed: Chosen) -> _Terms:
        value, around = self._values[v], self._around[v]
        maker = around.index(value.maker)
        made = self._column(numbers[value.maker], domains[value.maker], "results", (value.result,))
        found: list[tuple[tuple[int, ...], Arrays]] = []
        if (elsewhere := self._moves(v, fixed, axis)) != (Cost(), Cost()):
            found.append(((maker,), self._elsewhere(value, made, *elsewhere)))
        sizes = [len(domains[n]) for n in around]
        wanted = {around.index(c): self._column(numbers[c], domains[c], "operands", at) for c, at in value.readers}
        scope = list(wanted)
        while math.prod([sizes[at] for at in {maker, *scope}]) > WIDEST and len(scope) > 1:
            scope, more = self._joined(scope, wanted, sizes)
            found.append(more)
        if scope:
            traffic = self._traffic(value, fixed)
            found.append(self._conversions(axis, traffic, value.count, (maker, made), [(c, wanted[c]) for c in scope]))
        return _Terms(tuple(found), tuple(sizes[len(around):]))

    def _column(self, number: int, domain: Sequence[Choice], which: str, at: tuple[int, ...]) -> Column:
        """The placements that every choice of a domain has for some of its operands, or for a result."""
        key = (number, which, at)
        if key not in self._columns:
            sets = tuple(frozenset(getattr(choice, which)[o] for o in at) for choice in domain)
            self._columns[key] = self._column_of(sets)
        return self._columns[key]

    def _column_of(self, sets: tuple[frozenset[Placement], ...]) -> Column:
        return self._columns.setdefault(sets, Column(len(self._columns), sets))

    def _elsewhere(self, value: Value, made: Column, others: Cost, smaller: Cost) -> Arrays:
        """What a maker's choices cost on the axes that are held fixed."""
        key = (made.number, value.count, others, smaller)
        if key not in self._cached:
            self._cached[key] = _parts([smaller if all(p.is_divided for p in place) else others
                                        for place in made.sets], value.count)
        return self._cached[key]

    def _joined(self, scope: list[int], columns: dict[int, Column],
                domains: list[int]) -> tuple[list[int], tuple[tuple[int, ...], Arrays]]:
        """Puts a new variable, the placements that two consumers want together, in the place of the two."""
        first, second = sorted(sorted(scope, key=lambda c: (domains[c], c))[:2])
        unions = [[a | b for b in columns[second].sets] for a in columns[first].sets]
        states = tuple(sorted({union for row in unions for union in row}, key=lambda s: sorted(map(str, s))))
        key = ("joined", columns[first].number, columns[second].number)
        if key not in self._cached:
            number = {state: at for at, state in enumerate(states)}
            cost = np.full((len(unions), len(unions[0]), len(states)), IMPOSSIBLE, np.int64)
            for a, row in enumerate(unions):
                for b, union in enumerate(row):
                    cost[a, b, number[union]] = 0
            self._cached[key] = cost, np.zeros_like(cost), np.zeros_like(cost)
        new = len(domains)
        domains.append(len(states))
        columns[new] = self._column_of(states)
        rest = [c for c in scope if c not in (first, second)]
        return [*rest, new], ((first, second, new), self._cached[key])

    def _conversions(self, axis: str, traffic: Traffic, count: int, made: tuple[int, Column],
                     wanted: Sequence[tuple[int, Column]]) -> tuple[tuple[int, ...], Arrays]:
        """The table of a value over its maker and its readers."""
        scope = sorted({at for at, _ in (made, *wanted)})
        shape = [(scope.index(at), column) for at, column in (made, *wanted)]
        key = (axis, traffic, count, *((at, column.number) for at, column in shape))
        if key not in self._cached:
            self._cached[key] = self._new_conversions(axis, traffic, count, shape)
        return tuple(scope), self._cached[key]

    def _new_conversions(self, axis: str, traffic: Traffic, count: int, shape: Sequence[tuple[int, Column]]) -> Arrays:
        """``shape``: of the maker, then of the readers, the axis of the table and the placements along it."""
        places = sorted({p for _, column in shape for s in column.sets for p in s}, key=str)
        bit = {place: 1 << at for at, place in enumerate(places)}
        rank = 1 + max(at for at, _ in shape)
        rows = []
        for at, column in shape:
            local = [1] * rank
            local[at] = -1
            rows.append(np.array([sum(bit[p] for p in s) for s in column.sets], np.int64).reshape(local))
        ours, masks = rows[0], np.zeros([1] * rank, np.int64)
        for row in rows[1:]:
            masks = masks | row
        code = masks + (ours << len(places))
        kinds, inverse = np.unique(code, return_inverse=True)
        costs = [self.costs[axis].tree(traffic, *_decoded(int(number), places))[0] for number in kinds]
        nanoseconds, collectives, sent = (part[inverse].reshape(code.shape) for part in _parts(costs, count))
        return nanoseconds, collectives, sent


def _likeness(node: Node) -> object:
    """Nodes of which this is equal cost the same."""
    op = (node.equation.op, node.equation.attrs) if node.equation is not None else None
    return op, tuple(v.type for v in (*node.operands, *node.results)), len(node.operands), node.keeps, node.gradient


def _form(value: Value, around: tuple[int, ...]) -> object:
    """Values of which this is equal have equal tables over their own nodes."""
    return (value.bytes, value.gradient, value.weight, value.waited, value.count, around.index(value.maker),
            value.result, *[(around.index(c), operands) for c, operands in value.readers])


def _decoded(number: int, places: Sequence[Placement]) -> tuple[Placement, frozenset[Placement]]:
    """The produced placement and the wanted ones from the bits of a table's entry."""
    ours, masks = number >> len(places), number & ((1 << len(places)) - 1)
    return places[ours.bit_length() - 1], frozenset(p for at, p in enumerate(places) if masks >> at & 1)


def _parts(costs: Sequence[Cost], count: int) -> Arrays:
    """Costs that occur ``count`` times."""
    costs = [cost.times(count) for cost in costs]
    nanoseconds = [IMPOSSIBLE if cost.impossible else cost.nanoseconds for cost in costs]
    return (np.array(nanoseconds, np.int64), np.array([c.collectives for c in costs], np.int64),
            np.array([c.bytes for c in costs], np.int64))
