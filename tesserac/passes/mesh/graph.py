"""The variables of a function's plan, and what each may do on an axis."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from copy import copy

from tesserac.ir.program import Equation, Function, Input, Var
from tesserac.ops.base import spec_of
from tesserac.passes.mesh.experts import EXPERTS, TOKENS, mixture_strategies
from tesserac.passes.mesh.folding import Folding
from tesserac.passes.mesh.nodes import Choice, Node, Numbers
from tesserac.passes.mesh.owned import owned_experts
from tesserac.passes.mesh.pins import Restriction, restricted
from tesserac.passes.mesh.placements import REPLICATED, Placements, Shard
from tesserac.passes.mesh.problem import Chosen
from tesserac.passes.mesh.roles import Kinds, Role
from tesserac.passes.mesh.strategy import REQUESTS, Strategy, after, strategies
from tesserac.passes.reverse import forward_active

TRAINED = 4.0
"""A parameter's bytes stand for as many of its gradient and of the two moments of Adam."""
PRODUCTS = ("attention", "grouped_contract", "grouped_outer")
"""Ops that are mostly products, besides those of kind contract."""
NORMS = ("layernorm", "rmsnorm", "batchnorm", "groupnorm")
"""Ops that sequence parallelism spreads over the ranks of a tensor axis."""
OUTPUT = "output "
"""What keys of outputs begin with: no name of a value has a space."""


def nodes_of(function: Function) -> list[Node]:
    """Inputs, equations and outputs of a function before reverse mode; requests for gradients are no variables."""
    wrt = {v.name for e in function.equations if e.op == "backward" for v in e.operands[1:]}
    active = forward_active(function.equations, wrt)
    nodes = [_input(item, wrt) for item in function.inputs]
    for equation in function.equations:
        if equation.op in REQUESTS:
            continue
        gradient = any(v.name in active for v in equation.results)
        keeps = 1.0 if gradient and spec_of(equation.op).kind != "view" else 0.0
        nodes.append(Node(equation.results[0].name, equation.operands, equation.results, equation, keeps, False,
                          gradient))
    made = {v.name for node in nodes for v in node.results}
    nodes += [Node(OUTPUT + o.name, (o.var,), ()) for o in function.outputs if o.var.name in made]
    return nodes


def _input(item: Input, wrt: set[str]) -> Node:
    trained = item.var.name in wrt
    return Node(item.var.name, (), (item.var,), None, TRAINED if trained else 1.0, item.is_parameter, trained)


def mixtures_of(function: Function, variables: Variables, sizes: Mapping[str, int], roles: Mapping[str, Role],
                whole: Mapping[str, Collection[str]]) -> dict[str, dict[str, Choice]]:
    """How mixtures of experts run on every axis that may cut tokens, by the name of an equation's first result.

    Axes of experts give every rank some of them, with their parameters, which are in it by name, but for those that
    are ``whole`` on the axis; all others cut tokens. Tokens have to divide all of these axes.
    """
    tokens = {axis: n for axis, n in sizes.items() if roles[axis].name in ("data", "expert")}
    routes = [e.operands[0].type.sizes[0] for e in function.equations if e.op == "route"]
    if not routes or any(n % math.prod(tokens.values()) for n in routes):
        return {}
    found: dict[str, dict[str, Choice]] = {}
    names = {item.path: item.var.name for item in function.inputs}
    for axis, size in tokens.items():
        modes = (EXPERTS, TOKENS) if roles[axis].name == "expert" else (TOKENS,)
        tried = (mixture_strategies(function, size, mode) for mode in modes)
        chosen: dict[int, Strategy] = next((t for t in tried if t), {})
        chosen, held = owned_experts(function, chosen, size, whole.get(axis, ()))
        found[axis] = {function.equations[at].results[0].name: variables.following(s) for at, s in chosen.items()}
        found[axis] |= {names[path]: variables.choice(str(place), (), (place,)) for path, place in held.items()}
    return found


class Variables:
    """Nodes in canonical order with what does not depend on roles: what their axes are, which of them are alike."""

    def __init__(self, nodes: Sequence[Node], kinds: Kinds) -> None:
        self.nodes = nodes
        self.kinds = [tuple([kinds.of(v) for v in (*n.operands, *n.results)]) for n in nodes]
        self.signatures = Numbers().of_all([_signature(n, k) for n, k in zip(nodes, self.kinds, strict=True)])
        self.stream = _stream(nodes)
        self.legal: dict[object, list[Choice]] = {}
        self._choices: dict[object, Choice] = {}

    def likeness(self) -> list[tuple[object, ...]]:
        """For every node what is equal where nodes compute the same and may do the same."""
        return [(number, node.keeps, node.gradient, node.key in self.stream)
                for number, node in zip(self.signatures, self.nodes, strict=True)]

    def folded(self, folding: Folding) -> Variables:
        """The variables that stand for these. Choices are the same objects."""
        other = copy(self)
        other.nodes = folding.nodes
        other.kinds = [self.kinds[i] for i in folding.first]
        other.signatures = [self.signatures[i] for i in folding.first]
        return other

    def choice(self, name: str, operands: Placements, results: Placements, strategy: Strategy | None = None) -> Choice:
        """The one choice that has these parts."""
        key = (name, operands, results, strategy)
        if key not in self._choices:
            self._choices[key] = Choice(name, operands, results, strategy)
        return self._choices[key]

    def following(self, strategy: Strategy) -> Choice:
        """The choice of a strategy."""
        return self.choice(strategy.name, strategy.operands, strategy.results, strategy)


def _signature(node: Node, kinds: tuple[tuple[str, ...], ...]) -> Hashable:
    """What decides a node's strategies: equal for the same equation of equal layers."""
    op, attrs = (node.equation.op, node.equation.attrs) if node.equation is not None else (node.key[:7], ())
    op = op if node.equation is not None or node.operands else "input"
    return op, attrs, tuple([v.type for v in (*node.operands, *node.results)]), kinds, node.weight


class Domains:
    """Choices of every node on one axis, given what the other axes do; ``roles`` by axis name."""

    def __init__(self, variables: Variables, sizes: Mapping[str, int], roles: Mapping[str, Role],
                 pinned: Sequence[Restriction] = (),
                 mixtures: Mapping[str, Mapping[str, Choice]] | None = None) -> None:
        self.nodes = variables.nodes
        self.sizes = dict(sizes)
        self.roles = dict(roles)
        self._variables, self._kinds, self._signatures = variables, variables.kinds, variables.signatures
        self._cached: dict[object, tuple[Choice, ...]] = {}
        self._mixtures = mixtures or {}
        self._stream = variables.stream
        self._pinned: dict[tuple[int, str], list[Restriction]] = {}
        for rule in pinned:
            self._pinned.setdefault((rule.node, rule.axis), []).append(rule)

    def of(self, axis: str, chosen: Chosen) -> list[tuple[Choice, ...]]:
        """The choices of all nodes on an axis; at least one each."""
        others = {b: choices for b, choices in chosen.items() if b != axis}
        role = self.roles[axis]
        found = self._every(axis, others, role)
        found = [self._as_pinned(i, axis, others, choices) for i, choices in enumerate(found)]
        if any(node.equation is not None and node.equation.op == "attention" and not self._wanted(i, found[i], role)
               for i, node in enumerate(self.nodes)):
            return found
        return [self._wanted(i, choices, role) or choices
                if is_product(self.nodes[i]) and (i, axis) not in self._pinned else choices
                for i, choices in enumerate(found)]

    def _as_pinned(self, i: int, axis: str, others: Chosen, choices: tuple[Choice, ...]) -> tuple[Choice, ...]:
        """What a pin leaves of a node's choices: of those that its role allows or, if that is nothing, of all."""
        rules = self._pinned.get((i, axis))
        if rules is None:
            return choices
        left = tuple(c for c in choices if all(rule.allows(c) for rule in rules))
        held = tuple((b, picks[i]) for b, picks in others.items())
        return left or restricted(self._legal(i, axis, held), rules, self.nodes[i])

    def _legal(self, i: int, axis: str, held: tuple[tuple[str, Choice], ...]) -> list[Choice]:
        """Everything that a node could do, whatever its role."""
        node, known = self.nodes[i], self._variables.legal
        key = (self._signatures[i], self.sizes[axis], tuple((self.sizes[b], choice) for b, choice in held))
        if key not in known:
            known[key] = self._placed(node, axis, held) if node.equation is None else \
                self._equation(node.equation, axis, held)
        return known[key]

    def _wanted(self, i: int, choices: tuple[Choice, ...], role: Role) -> tuple[Choice, ...]:
        """A product's choices that cut along what the role wants its products cut along."""
        key = (self._signatures[i], choices, role.products)
        if key not in self._cached:
            self._cached[key] = tuple(c for c in choices if self._cut_kinds(i, c) and
                                      self._cut_kinds(i, c) <= role.products)
        return self._cached[key]

    def _cut_kinds(self, i: int, choice: Choice) -> set[str]:
        """What the axes are that a choice cuts."""
        kinds = self._kinds[i]
        return {kinds[k][place.dim] for k, place in enumerate((*choice.operands, *choice.results)) if place.is_cut}

    def _every(self, axis: str, others: Chosen, role: Role) -> list[tuple[Choice, ...]]:
        found: list[tuple[Choice, ...]] = []
        own = self._mixtures.get(axis, {})
        for i, node in enumerate(self.nodes):
            if node.key in own:
                found.append((own[node.key],))
                continue
            held = tuple((b, choices[i]) for b, choices in others.items())
            key = (self._signatures[i], axis, held, node.key in self._stream)
            if key not in self._cached:
                allowed = [c for c in self._legal(i, axis, held) if self._allowed(i, c, role)]
                self._cached[key] = tuple(_required(allowed, node, role, self._stream))
            found.append(self._cached[key])
        return found

    def _equation(self, equation: Equation, axis: str, held: tuple[tuple[str, Choice], ...]) -> list[Choice]:
        for other, choice in held:
            if choice.strategy is not None:
                equation = after(equation, choice.strategy, self.sizes[other])
        return [self._variables.following(s) for s in strategies(equation, self.sizes[axis])]

    def _placed(self, node: Node, axis: str, held: tuple[tuple[str, Choice], ...]) -> list[Choice]:
        """An input lies whole or cut along one of its axes; so does an output that is not a scalar."""
        var: Var = (*node.operands, *node.results)[0]
        extents = list(var.type.sizes)
        for other, choice in held:
            for place in (*choice.operands, *choice.results):
                if place.is_cut:
                    extents[place.dim] //= self.sizes[other]
        cuts = [Shard(d) for d, n in enumerate(extents) if n % self.sizes[axis] == 0]
        whole, parts = [(REPLICATED,)], [(cut,) for cut in cuts]
        # Of equal costs the first one is taken: a rank that reads only what it needs is better.
        made = self._variables.choice
        return ([made(str(p[0]), p, ()) for p in whole + parts] if node.operands else
                [made(str(p[0]), (), p) for p in parts + whole])

    def _allowed(self, i: int, choice: Choice, role: Role) -> bool:
        node, cut = self.nodes[i], self._cut_kinds(i, choice)
        if not cut:
            return True
        if node.weight and not role.cut_weights:
            return False
        if node.weight and role.stores_weights:
            return True
        return cut <= role.allow if node.weight or node.equation is None else bool(cut & role.allow)


def _stream(nodes: Sequence[Node]) -> set[str]:
    """The residual stream: norms, what they read, back to the products that made it, and what goes on elementwise."""
    makers = {v.name: node for node in nodes for v in node.results}
    readers: dict[str, list[Node]] = {}
    for node in nodes:
        if node.equation is not None and spec_of(node.equation.op).kind == "elementwise":
            for var in node.operands:
                readers.setdefault(var.name, []).append(node)
    found: set[str] = set()
    stack = [node for node in nodes if node.equation is not None and node.equation.op in NORMS]
    while stack:
        node = stack.pop()
        if node.key in found or node.equation is None or is_product(node):
            continue
        found.add(node.key)
        stack.extend(makers[v.name] for v in node.operands if v.type.rank > 1)
        stack.extend(readers.get(node.key, ()))
    return found


def is_product(node: Node) -> bool:
    """Whether a node's work is that of matrix products."""
    equation = node.equation
    return equation is not None and (spec_of(equation.op).kind == "contract" or equation.op in PRODUCTS)


def _required(choices: list[Choice], node: Node, role: Role, stream: set[str]) -> list[Choice]:
    """Those that cut, where the role wants that and there are any."""
    if node.weight and role.must_cut_weights:
        return [c for c in choices if c.cuts] or choices
    if role.between == "cut" and node.equation is not None and node.equation.op in NORMS:
        return [c for c in choices if c.cuts] or choices
    if role.between == "whole" and node.key in stream:
        return [c for c in choices if c.name in ("R", "R*")]
    if node.weight or role.must_cut == "none" or (role.must_cut == "products" and not is_product(node)):
        return choices
    return [c for c in choices if any(p.is_cut for p in (*c.operands, *c.results))] or choices
