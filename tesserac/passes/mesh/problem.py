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

from tesserac.ir.program import Equation, Var
from tesserac.passes.mesh.cost import equation_work, passes
from tesserac.passes.mesh.elimination import IMPOSSIBLE, Integers, Table
from tesserac.passes.mesh.experts import EXPERTS, MODES
from tesserac.passes.mesh.hardware import Hardware
from tesserac.passes.mesh.placements import Placement
from tesserac.passes.mesh.strategy import Strategy
from tesserac.passes.mesh.trees import NANO, AxisCosts, Cost, Traffic, added

WIDEST = 30_000
"""Entries of a value's table beyond which its consumers are taken up one by one."""


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """What one node does on one axis: a strategy's placements and its own collectives, or those of an input or output.

    ``strategy`` is None for inputs (no operands) and outputs (no results). A search makes each of them once, so that
    whole plans compare quickly.
    """

    name: str
    operands: tuple[Placement, ...]
    results: tuple[Placement, ...]
    strategy: Strategy | None = None

    @property
    def cuts(self) -> bool:
        """Whether ranks share the work."""
        if self.strategy is None:
            return any(p.is_divided for p in self.results)
        return self.strategy.cuts or self.name in MODES

    def __str__(self) -> str:
        return self.name


Arrays = tuple[Integers, Integers, Integers]
"""A table's nanoseconds, collectives and bytes."""


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A variable: an input, an equation or an output.

    key       orders nodes the same way whatever their order in the program
    equation  None for inputs and outputs
    keeps     bytes that each byte of its results stands for in memory until the step ends
    weight    a parameter: its gradient is reduced beside the backward pass
    gradient  whether a cotangent flows back to its results
    """

    key: str
    operands: tuple[Var, ...]
    results: tuple[Var, ...]
    equation: Equation | None = None
    keeps: float = 0.0
    weight: bool = False
    gradient: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """The placements that every choice of a domain reads or makes a value in; equal ones have one number."""

    number: int
    sets: tuple[frozenset[Placement], ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Laid:
    """Values on one axis: where each is made and wanted, None if that is one place, and in how many pieces it is."""

    moves: Sequence[tuple[Placement, frozenset[Placement]] | None]
    pieces: Sequence[int]


Chosen = Mapping[str, Sequence[Choice]]
"""For every axis that has been solved: each node's choice."""


class Problem:
    """The nodes of a function with their costs on the axes of a mesh. ``price``: seconds per byte of memory kept."""

    def __init__(self, nodes: Sequence[Node], sizes: Mapping[str, int], costs: Mapping[str, AxisCosts],
                 hardware: Hardware, price: float = 0.0) -> None:
        self.nodes = sorted(nodes, key=lambda node: node.key)
        self.sizes, self.costs, self.hardware, self.price = dict(sizes), dict(costs), hardware, price
        self.consumers: dict[str, list[tuple[int, int]]] = {v.name: [] for n in self.nodes for v in n.results}
        for i, node in enumerate(self.nodes):
            for k, var in enumerate(node.operands):
                self.consumers[var.name].append((i, k))
        self._values = sorted(((var, i, k) for i, node in enumerate(self.nodes)
                               for k, var in enumerate(node.results)), key=lambda value: value[0].name)
        alike: dict[object, int] = {}
        self._alike = [alike.setdefault(_likeness(node), len(alike)) for node in self.nodes]
        self._work = {number: equation_work(node.equation) if node.equation is not None else (0.0, 0.0)
                      for number, node in zip(self._alike, self.nodes, strict=True)}
        self._bytes = {v.name: v.type.bytes for node in self.nodes for v in node.results}
        self._reported = {i for i, node in enumerate(self.nodes) if node.results and all(
            v.type.rank == 0 and all(not self.nodes[c].results for c, _ in self.consumers[v.name])
            for v in node.results)}
        self._whole: dict[object, Cost] = {}
        self._own: dict[object, Cost] = {}
        self._cached: dict[object, Arrays] = {}
        self._domains: dict[tuple[Choice, ...], int] = {}
        self._known: dict[int, tuple[int, tuple[Choice, ...]]] = {}
        self._columns: dict[object, Column] = {}
        self._laid: dict[object, _Laid] = {}
        self._flags = [(self.nodes[i].gradient and var.type.dtype.is_differentiable, self.nodes[i].weight,
                        i not in self._reported) for var, i, _ in self._values]

    # ---------------------------------------------------------------------------------------------- one assignment

    def cost(self, chosen: Chosen) -> Cost:
        """The whole sum for choices on all axes."""
        key = (self.price, *((axis, tuple(choices)) for axis, choices in chosen.items()))
        if key not in self._whole:
            self._whole[key] = self._new_cost(chosen)
        return self._whole[key]

    def _new_cost(self, chosen: Chosen) -> Cost:
        picked = [dict(zip(chosen, row, strict=True)) for row in zip(*chosen.values(), strict=True)]
        own = [self._own_cost(i, picks) for i, picks in enumerate(picked)]
        laid = {axis: self._lying(axis, tuple(choices)) for axis, choices in chosen.items()}
        moving = {v for axis in laid for v, moves in enumerate(laid[axis].moves) if moves is not None}
        return added([*own, *(self._moves(v, laid, None)[0] for v in sorted(moving))])

    def flops(self, i: int) -> float:
        """Operations of a node before anything is cut."""
        return self._work[self._alike[i]][0]

    def memory(self, chosen: Chosen) -> float:
        """Bytes of one rank that stay until the step ends."""
        return sum(self._moved_and_held(i, {a: choices[i] for a, choices in chosen.items()})[1]
                   for i in range(len(self.nodes)))

    def _moved_and_held(self, i: int, picked: Mapping[str, Choice]) -> tuple[float, float]:
        """Bytes of one rank's part of the operands and results, and of what stays of the results."""
        node, moved, held = self.nodes[i], 0.0, 0.0
        for k, var in enumerate(node.operands):
            moved += self._bytes[var.name] / self._pieces((a, c.operands[k]) for a, c in picked.items())
        for k, var in enumerate(node.results):
            part = self._bytes[var.name] / self._pieces((a, c.results[k]) for a, c in picked.items())
            moved += part
            held += part * node.keeps
        return moved, held

    def _pieces(self, places: Iterable[tuple[str, Placement]]) -> int:
        return math.prod(self.sizes[axis] for axis, place in places if place.is_divided)

    def _own_cost(self, i: int, picked: Mapping[str, Choice]) -> Cost:
        """A node's work, the collectives within it, and the price of the memory that it keeps."""
        key = (self._alike[i], self.price, *picked.items())
        if key not in self._own:
            self._own[key] = self._new_own_cost(i, picked)
        return self._own[key]

    def _new_own_cost(self, i: int, picked: Mapping[str, Choice]) -> Cost:
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

    def _lying(self, axis: str, choices: tuple[Choice, ...]) -> _Laid:
        """Where values lie on an axis under given choices."""
        key = (axis, choices)
        if key not in self._laid:
            moves: list[tuple[Placement, frozenset[Placement]] | None] = []
            for var, i, k in self._values:
                produced = choices[i].results[k]
                wanted = frozenset([choices[c].operands[o] for c, o in self.consumers[var.name]])
                moves.append(None if wanted <= {produced} else (produced, wanted))
            self._laid[key] = _Laid(moves, [self._pieces(((axis, choices[i].results[k]),)) for _, i, k in self._values])
        return self._laid[key]

    def _moves(self, v: int, laid: Mapping[str, _Laid], cut: str | None) -> tuple[Cost, Cost]:
        """Conversions of one value on axes: with its parts as they are, and where it is ``cut`` on one more."""
        whole, smaller = Cost(), Cost()
        for axis, lies in laid.items():
            moves = lies.moves[v]
            if moves is None:
                continue
            part = self._part(v, [other for b, other in laid.items() if b != axis])
            whole += self.costs[axis].tree(Traffic(part, *self._flags[v]), *moves)[0]
            if cut is not None:
                smaller += self.costs[axis].tree(Traffic(part / self.sizes[cut], *self._flags[v]), *moves)[0]
        return whole, smaller

    def _part(self, v: int, others: Iterable[_Laid]) -> float:
        """Bytes of a value that axes cut, as its producer leaves it."""
        return self._bytes[self._values[v][0].name] / math.prod([lies.pieces[v] for lies in others])

    # ---------------------------------------------------------------------------------------------- tables of one axis

    def tables(self, axis: str, domains: Sequence[tuple[Choice, ...]], chosen: Chosen) -> tuple[list[int], list[Table]]:
        """Sizes of domains, and tables, for solving ``axis`` with the choices on all other axes held fixed.

        ``domains`` are the nodes' choices on the axis. Variables are the nodes in canonical order, followed by
        auxiliary ones for values with many consumers.
        """
        fixed = {b: choices for b, choices in chosen.items() if b != axis}
        sizes = [len(domain) for domain in domains]
        numbers = [self._number(domain) for domain in domains]
        found = [self._own_table(axis, i, domain, numbers[i], fixed) for i, domain in enumerate(domains)]
        laid = {b: self._lying(b, tuple(choices)) for b, choices in fixed.items()}
        for v in range(len(self._values)):
            found += self._value_tables(axis, v, domains, numbers, laid, sizes)
        return sizes, found

    def _number(self, domain: tuple[Choice, ...]) -> int:
        """Equal for equal domains. Most are the same object as before."""
        if id(domain) not in self._known:
            self._known[id(domain)] = self._domains.setdefault(domain, len(self._domains)), domain
        return self._known[id(domain)][0]

    def _own_table(self, axis: str, i: int, domain: Sequence[Choice], number: int, fixed: Chosen) -> Table:
        held = {b: choices[i] for b, choices in fixed.items()}
        key = (self._alike[i], self.price, axis, number, *held.items())
        if key not in self._cached:
            self._cached[key] = _parts([self._own_cost(i, {**held, axis: choice}) for choice in domain])
        return Table((i,), *self._cached[key])

    def _value_tables(self, axis: str, v: int, domains: Sequence[Sequence[Choice]], numbers: Sequence[int],
                      laid: Mapping[str, _Laid], sizes: list[int]) -> list[Table]:
        var, i, k = self._values[v]
        produced = self._column(numbers[i], domains[i], "results", (k,))
        found = []
        if any(lies.moves[v] is not None for lies in laid.values()):
            found.append(self._elsewhere(i, produced, *self._moves(v, laid, axis)))
        readers: dict[int, tuple[int, ...]] = {}
        for c, o in self.consumers[var.name]:
            readers[c] = (*readers.get(c, ()), o)
        if not readers:
            return found
        wanted = {c: self._column(numbers[c], domains[c], "operands", at) for c, at in readers.items()}
        traffic = Traffic(self._part(v, laid.values()), *self._flags[v])
        scope = sorted(wanted)
        while math.prod([sizes[i], *(sizes[c] for c in scope)]) > WIDEST and len(scope) > 1:
            scope, more = self._joined(scope, wanted, sizes)
            found.append(more)
        found.append(self._conversions(axis, traffic, i, produced, [(c, wanted[c]) for c in scope]))
        return found

    def _column(self, number: int, domain: Sequence[Choice], which: str, at: tuple[int, ...]) -> Column:
        """The placements that every choice of a domain has for some of its operands, or for a result."""
        key = (number, which, at)
        if key not in self._columns:
            sets = tuple(frozenset(getattr(choice, which)[o] for o in at) for choice in domain)
            self._columns[key] = self._column_of(sets)
        return self._columns[key]

    def _column_of(self, sets: tuple[frozenset[Placement], ...]) -> Column:
        return self._columns.setdefault(sets, Column(len(self._columns), sets))

    def _elsewhere(self, i: int, produced: Column, others: Cost, smaller: Cost) -> Table:
        """What a producer's choices cost on the axes that are held fixed."""
        key = (produced.number, others, smaller)
        if key not in self._cached:
            self._cached[key] = _parts([smaller if all(p.is_divided for p in place) else others
                                        for place in produced.sets])
        return Table((i,), *self._cached[key])

    def _joined(self, scope: list[int], columns: dict[int, Column], domains: list[int]) -> tuple[list[int], Table]:
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
        return [*rest, new], Table((first, second, new), *self._cached[key])

    def _conversions(self, axis: str, traffic: Traffic, i: int, produced: Column,
                     wanted: Sequence[tuple[int, Column]]) -> Table:
        """The table of a value over its producer and its consumers."""
        shape = [(i, produced), *wanted]
        order = sorted(range(len(shape)), key=lambda at: shape[at][0])
        key = (axis, traffic, order.index(0), *(shape[at][1].number for at in order))
        if key not in self._cached:
            self._cached[key] = self._new_conversions(axis, traffic, [shape[at][1].sets for at in order],
                                                      order.index(0))
        return Table(tuple(shape[at][0] for at in order), *self._cached[key])

    def _new_conversions(self, axis: str, traffic: Traffic, shape: Sequence[tuple[frozenset[Placement], ...]],
                         producer: int) -> Arrays:
        places = sorted({p for sets in shape for s in sets for p in s}, key=str)
        bit = {place: 1 << at for at, place in enumerate(places)}
        masks = np.zeros([1] * len(shape), np.int64)
        ours = np.zeros([1] * len(shape), np.int64)
        for position, sets in enumerate(shape):
            local = [1] * len(shape)
            local[position] = -1
            values = np.array([sum(bit[p] for p in s) for s in sets], np.int64).reshape(local)
            masks, ours = (masks, ours + values) if position == producer else (masks | values, ours)
        code = masks + (ours << len(places))
        kinds, inverse = np.unique(code, return_inverse=True)
        costs = [self.costs[axis].tree(traffic, *_decoded(int(number), places))[0] for number in kinds]
        nanoseconds, collectives, sent = (part[inverse].reshape(code.shape) for part in _parts(costs))
        return nanoseconds, collectives, sent


def _likeness(node: Node) -> object:
    """Nodes of which this is equal cost the same."""
    op = (node.equation.op, node.equation.attrs) if node.equation is not None else None
    return op, tuple(v.type for v in (*node.operands, *node.results)), len(node.operands), node.keeps, node.gradient


def _decoded(number: int, places: Sequence[Placement]) -> tuple[Placement, frozenset[Placement]]:
    """The produced placement and the wanted ones from the bits of a table's entry."""
    ours, masks = number >> len(places), number & ((1 << len(places)) - 1)
    return places[ours.bit_length() - 1], frozenset(p for at, p in enumerate(places) if masks >> at & 1)


def _parts(costs: Sequence[Cost]) -> Arrays:
    nanoseconds = [IMPOSSIBLE if cost.impossible else cost.nanoseconds for cost in costs]
    return (np.array(nanoseconds, np.int64), np.array([c.collectives for c in costs], np.int64),
            np.array([c.bytes for c in costs], np.int64))
