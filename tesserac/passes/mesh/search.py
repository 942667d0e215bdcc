"""The cheapest plan: each axis exactly, given the others, until nothing changes.

Axes are taken in the order of their roles, later ones finding what earlier ones left; then each is solved again with
the others held fixed. The objective is one function of all choices, so no such step makes it larger, and starting from
a template's plan never ends above the template.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace

from tesserac.ir.mesh import Mesh
from tesserac.ir.program import Function
from tesserac.passes.mesh.elimination import Solution, minimise
from tesserac.passes.mesh.folding import folded, unfolded
from tesserac.passes.mesh.graph import Domains, Variables, mixtures_of, nodes_of
from tesserac.passes.mesh.hardware import Hardware
from tesserac.passes.mesh.nodes import Choice, Node
from tesserac.passes.mesh.pins import Fixed, Restriction, held_in_place, restrictions
from tesserac.passes.mesh.problem import Problem
from tesserac.passes.mesh.roles import Kinds, Role
from tesserac.passes.mesh.settings import Pin
from tesserac.passes.mesh.trees import AxisCosts, Cost

ROUNDS = 3
"""How often all axes are solved again."""

DEAREST = 1e-5
"""Seconds per byte beyond which nothing is left to gain, and large tensors would cost as much as what is impossible."""

Plan = dict[str, tuple[Choice, ...]]
"""Each node's choice by axis; nodes in canonical order."""


@dataclass(frozen=True, slots=True)
class Found:
    """A plan with its cost under the model.

    ``exact``: no table grew too large, so that every axis is optimal given the others. ``memory``: bytes that stay on
    one rank until the step ends. ``seconds``: time of the search.
    """

    nodes: tuple[Node, ...]
    plan: Mapping[str, tuple[Choice, ...]]
    cost: Cost
    memory: float
    exact: bool
    width: int
    seconds: float
    price: float = 0.0

    def choice(self, axis: str, key: str) -> Choice:
        """What a node does on an axis; KeyError if there is none of that key."""
        at = bisect_left(self.nodes, key, key=lambda node: node.key)  # nodes are in the order of their keys
        if at == len(self.nodes) or self.nodes[at].key != key:
            raise KeyError(key)
        return self.plan[axis][at]


class Searcher:
    """Searches plans of one function on one mesh with given roles.

    ``whole``: paths of experts' parameters that every rank needs. ``fixed``: placements of inputs and outputs by key.
    """

    def __init__(self, function: Function, mesh: Mesh, hardware: Hardware, roles: Mapping[str, Role],
                 pins: Sequence[Pin] = (), whole: Collection[str] = (), fixed: Fixed | None = None) -> None:
        self._fixed = fixed or {}
        self.function, self.mesh, self.hardware, self.whole = function, mesh, hardware, frozenset(whole)
        self.nodes = tuple(sorted(nodes_of(function), key=lambda node: node.key))
        self.folding = unfolded(self.nodes)
        self._variables = Variables(self.nodes, Kinds(function))
        self._problems: dict[object, Problem] = {}
        self._settle(roles, pins)

    def _settle(self, roles: Mapping[str, Role], pins: Sequence[Pin]) -> None:
        self.roles, self.pins = dict(roles), tuple(pins)
        pinned = restrictions(self.pins, self.function, self.nodes, self.mesh)
        pinned = (*pinned, *(held_in_place(self._fixed, self.nodes, self.mesh) if self._fixed else ()))
        mixtures = mixtures_of(self.function, self._variables, self.mesh.sizes, self.roles, self._whole(pinned))
        self._apart = {rule.node for rule in pinned}
        self.domains = Domains(self._variables, self.mesh.sizes, self.roles,
                               [replace(rule, node=self.folding.of[rule.node]) for rule in pinned], mixtures)
        self.order = sorted(self.mesh.axes,
                            key=lambda a: (self.roles[a].order, -self.mesh.sizes[a], self.mesh.axes.index(a)))
        self._exact, self._width = True, 0
        self._solved: dict[object, tuple[Solution, tuple[Choice, ...]]] = {}

    @property
    def problem(self) -> Problem:
        """The costs under these roles; made when they are first asked for."""
        collectives = tuple((axis, self.roles[axis].collectives) for axis in self.mesh.axes)
        if collectives not in self._problems:
            costs = {axis: AxisCosts(size, self.hardware.link(self.mesh, axis), self.hardware,
                                     self.roles[axis].collectives) for axis, size in self.mesh.sizes.items()}
            self._problems[collectives] = Problem(self.folding.nodes, self.folding.values, self.mesh.sizes, costs,
                                                  self.hardware)
        return self._problems[collectives]

    def folded(self) -> Searcher:
        """The same search with one variable for nodes that are alike; mixtures of experts have nodes of their own.

        Itself, if there are hardly fewer variables.
        """
        if any(node.equation is not None and node.equation.op == "route" for node in self.nodes):
            return self
        folding = folded(self.folding, self._variables.likeness(), self._apart)
        if folding is self.folding:
            return self
        other = copy(self)
        other.folding, other._variables, other._problems = folding, self._variables.folded(folding), {}
        other._settle(self.roles, self.pins)
        return other

    def under(self, roles: Mapping[str, Role], pins: Sequence[Pin] = ()) -> Searcher:
        """A search of the same function with other roles and pins. What depends on neither is not found out again."""
        other = copy(self)
        other._settle(roles, pins)
        return other

    def _whole(self, pinned: Sequence[Restriction]) -> dict[str, set[str]]:
        """Experts' parameters that may not lie at the experts' ranks, by axis: those with pins, and ``whole``."""
        paths = {item.var.name: item.path for item in self.function.inputs}
        return {axis: {paths[key] for rule in pinned if rule.axis == axis
                       and (key := self.nodes[rule.node].key) in paths} | self.whole
                for axis in self.mesh.axes}

    def run(self, price: float = 0.0, starts: Sequence[Plan] = ()) -> Found:
        """The cheapest plan that descent finds from nothing and from each of the given plans."""
        begin = time.process_time()
        others = starts if len(self.order) > 1 else ()  # on one axis, nothing is better than the first
        self.problem.price = price
        self._exact, self._width = True, 0
        tried = [self._descend(self.folding.folded(start)) for start in ({}, *others)]
        plan = min(tried, key=lambda plan: self.problem.cost(plan).key)
        self.problem.price = 0.0
        return Found(self.nodes, self.folding.unfolded(plan), self.problem.cost(plan), self.problem.memory(plan),
                     self._exact, self._width, time.process_time() - begin, price)

    def confirmed(self, found: Found) -> Found | None:
        """A plan from a folded search as solving every axis from it leaves it; None if that finds a cheaper one."""
        self.problem.price = found.price
        self._exact, self._width = True, 0
        start = dict(found.plan)
        cheaper = self.problem.cost(self._descend(start)).key < self.problem.cost(start).key
        self.problem.price = 0.0
        return None if cheaper else replace(found, exact=self._exact, width=self._width)

    def _descend(self, plan: Plan) -> Plan:
        if not plan:
            for axis in self.order:
                plan[axis] = self._solve(axis, plan)
            if len(self.order) == 1:
                return plan
        cost = self.problem.cost(plan)
        for _ in range(ROUNDS):
            before = cost
            for axis in self.order:
                candidate = {**plan, axis: self._solve(axis, plan)}
                found = self.problem.cost(candidate)
                if found.key < cost.key:
                    plan, cost = candidate, found
            if cost == before:
                break
        return plan

    def _solve(self, axis: str, plan: Plan) -> tuple[Choice, ...]:
        key = (axis, self.problem.price, *((b, plan[b]) for b in sorted(plan) if b != axis))
        if key not in self._solved:
            domains = self.domains.of(axis, plan)
            solution = minimise(*self.problem.tables(axis, domains, plan))
            self._solved[key] = solution, tuple(domain[solution.choices[i]] for i, domain in enumerate(domains))
        solution, found = self._solved[key]
        self._exact &= solution.exact
        self._width = max(self._width, solution.width)
        return found

    def priced(self, plan: Plan) -> Found:
        """A plan from elsewhere with its cost."""
        return Found(self.nodes, plan, self.problem.cost(plan), self.problem.memory(plan), False, 0, 0.0)

    def without(self, found: Found, axis: str, members: frozenset[int],
                names: Collection[str]) -> tuple[str, Cost] | None:
        """What nodes would do on an axis if none of ``names``, and what that would cost; None if there is nothing."""
        domains = [tuple(c for c in domain if c.name not in names) if i in members else domain
                   for i, domain in enumerate(self.domains.of(axis, found.plan))]
        if not all(domains):
            return None
        sizes, tables = self.problem.tables(axis, domains, found.plan)
        picks = minimise(sizes, tables).choices
        plan = {**found.plan, axis: tuple(domain[picks[i]] for i, domain in enumerate(domains))}
        return plan[axis][min(members)].name, self.problem.cost(plan)


def within_memory(searcher: Searcher, limit: float, rounds: int = 12) -> Found:
    """The cheapest plan whose memory fits: a price per byte, found by bisection (a Lagrange multiplier).

    Returns the plan that keeps least if none fits; the caller compares.
    """
    found = searcher.run()
    if found.memory <= limit:
        return found
    low, high = 0.0, 1e-12
    best = searcher.run(high)
    while best.memory > limit and high < DEAREST:
        low, high = high, high * 16
        best = min(searcher.run(high), best, key=lambda plan: plan.memory)
    if best.memory > limit:
        return best
    for _ in range(rounds):
        middle = (low + high) / 2 if low else high / 4
        tried = searcher.run(middle)
        if tried.memory <= limit:
            high = middle
            if tried.cost.key < best.cost.key:
                best = tried
        else:
            low = middle
    return best


def storing_weights(roles: Mapping[str, Role]) -> dict[str, Role]:
    """The roles with data axes that may hold parameters in parts, gathered before use."""
    return {axis: replace(role, cut_weights=True, stores_weights=True) if role.name == "data" else role
            for axis, role in roles.items()}
