"""Reassociation: another order of products where that takes fewer operations. Changes rounding, hence behind a flag.

A contraction whose result something else than a contraction reads is a *root*: with the contractions above it, it is
one product of many factors, and any order of multiplying the factors gives its value. The orders of all roots are
chosen together, because a product that two roots need is computed once: each root in turn takes its cheapest order
given the products of the others, until none improves. The cheapest order of one root is found over all subsets
of its factors (as for a matrix chain, but for any tree of letters).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from itertools import permutations, product
from typing import ClassVar

from tesserac.diagnostics import Span
from tesserac.ir.program import Equation, Function, Var
from tesserac.passes.rules.build import transposed
from tesserac.passes.rules.letters import ALPHABET, split_spec
from tesserac.passes.rules.rewriter import Rewriter

_MOST_ORDERINGS = 24


@dataclass(frozen=True, slots=True)
class Change:
    """A contraction that is computed in another order: floating-point operations that it adds to the program."""

    span: Span
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Reassociate:
    """The pass; ``most_factors`` bounds the products whose orders are searched (3^n splits each)."""

    name: ClassVar[str] = "reassociate"
    reason: ClassVar[str] = "products in the order that takes the fewest operations (changes rounding)"

    most_factors: int = 7

    def run(self, function: Function) -> Function:
        """See Pass."""
        return reassociation(function, self.most_factors)[0]


def reassociate(function: Function) -> Function:
    """The function with its products in a cheaper order; itself when there is none."""
    return Reassociate().run(function)


def reassociation(function: Function, most_factors: int = 7) -> tuple[Function, tuple[Change, ...]]:
    """The function with its products in a cheaper order, and what was changed."""
    graph = Rewriter(function)
    roots = _roots(graph, function, most_factors)
    original = [root.tree for root in roots]
    starts = (original, [root.cheapest(frozenset()) for root in roots])
    plans = min((_descend(roots, list(start)) for start in starts), key=lambda trees: _total(roots, trees))
    if _total(roots, plans) >= _total(roots, original):
        return function, ()
    before, after = _costs(roots, original), _costs(roots, plans)
    changes = tuple(Change(root.equation.span, before[i], after[i]) for i, root in enumerate(roots)
                    if plans[i] != original[i] or before[i] != after[i])
    _emit(graph, roots, plans)
    while graph.next() is not None:
        pass  # products that nobody reads any more are dropped
    return graph.finish(), changes


Tree = frozenset[int] | tuple["Tree", "Tree"]
"""An order of products: a set of one factor, or a pair of orders."""


@dataclass(slots=True)
class _Root:
    """A product of many factors. Letters are numbers; ``letters[i]`` are those of factor i's axes.

    ``given`` has the axes of the partial products that the function came with.
    """

    equation: Equation
    factors: list[Var]
    letters: list[tuple[int, ...]]
    result: tuple[int, ...]
    sizes: dict[int, int]
    tree: Tree
    given: dict[frozenset[int], tuple[int, ...]] = field(default_factory=dict)
    keys: dict[frozenset[int], tuple[str, tuple[int, ...]]] = field(default_factory=dict)

    def kept(self, subset: frozenset[int]) -> tuple[int, ...]:
        """The letters of a partial product: those that the rest or the result still needs."""
        inside = dict.fromkeys(c for i in sorted(subset) for c in self.letters[i])
        outside = {c for i in range(len(self.factors)) if i not in subset for c in self.letters[i]} | set(self.result)
        kept = tuple(c for c in inside if c in outside)
        given = self.given.get(subset, ())
        return given if set(given) == set(kept) else kept

    def key(self, subset: frozenset[int]) -> tuple[str, tuple[int, ...]]:
        """A text equal for equal products, and the letters of the product in the order in which the text has them."""
        if subset not in self.keys:
            self.keys[subset] = self._canonical(subset)
        return self.keys[subset]

    def cost(self, left: frozenset[int], right: frozenset[int]) -> float:
        """Floating-point operations of one product of two partial products."""
        count = 2.0
        for letter in {*self.kept(left), *self.kept(right)}:
            count *= self.sizes[letter]
        return count

    def cheapest(self, free: frozenset[str]) -> Tree:
        """The order with the fewest operations when the products in ``free`` exist already."""
        whole = frozenset(range(len(self.factors)))
        best: dict[frozenset[int], tuple[float, Tree]] = {frozenset({i}): (0.0, frozenset({i})) for i in whole}
        for subset in _subsets(len(self.factors)):
            options = []
            for left in _halves(subset):
                right = subset - left
                own = 0.0 if self.key(subset)[0] in free else self.cost(left, right) + best[left][0] + best[right][0]
                options.append((own, (best[left][1], best[right][1])))
            best[subset] = min(options, key=lambda option: option[0])
        return best[whole][1]

    def _canonical(self, subset: frozenset[int]) -> tuple[str, tuple[int, ...]]:
        kept = set(self.kept(subset))
        groups: dict[str, list[int]] = {}
        for i in sorted(subset, key=lambda i: self.factors[i].name):
            groups.setdefault(self.factors[i].name, []).append(i)
        best: tuple[str, tuple[int, ...]] | None = None
        for count, orders in enumerate(product(*(permutations(group) for group in groups.values()))):
            names: dict[int, str] = {}
            words = []
            for i in (i for order in orders for i in order):
                for letter in self.letters[i]:
                    names.setdefault(letter, str(len(names)))
                words.append(self.factors[i].name + "(" + " ".join(names[c] for c in self.letters[i]) + ")")
            order = tuple(c for c in names if c in kept)
            text = " ".join(words) + " -> " + " ".join(names[c] for c in order)
            best = (text, order) if best is None else min(best, (text, order))
            if count == _MOST_ORDERINGS:
                break
        assert best is not None
        return best


def members(tree: Tree) -> frozenset[int]:
    """The factors of an order of products."""
    return tree if isinstance(tree, frozenset) else members(tree[0]) | members(tree[1])


def _subsets(count: int) -> Iterator[frozenset[int]]:
    """Subsets of two or more of ``count`` factors, smaller ones first."""
    masks = sorted((m for m in range(1 << count) if m & (m - 1)), key=int.bit_count)
    return (frozenset(i for i in range(count) if mask >> i & 1) for mask in masks)


def _halves(subset: frozenset[int]) -> Iterator[frozenset[int]]:
    """One half of every split of a set in two."""
    first, *rest = sorted(subset)
    for mask in range((1 << len(rest)) - 1):
        yield frozenset([first, *(item for i, item in enumerate(rest) if mask >> i & 1)])


def _roots(graph: Rewriter, function: Function, most: int) -> list[_Root]:
    """The roots in order, each with at most ``most`` factors.

    Where a product would have more, its longest operands are factors of it and roots of their own, and they are so in
    every product: equal products must have equal factors to be known as equal.
    """
    products = [e for e in function.equations if e.op == "contract" and graph.definition(e.result) is not None]
    counts: dict[str, int] = {}
    stops: set[str] = set()
    for equation in products:
        operands = (graph.definition(equation.result) or equation).operands
        while (total := sum(counts.get(var.name, 1) for var in operands)) > most:
            longest = max(operands, key=lambda var: counts.get(var.name, 1)).name
            if counts.get(longest, 1) == 1:
                break
            counts[longest] = 1
            stops.add(longest)
        counts[equation.result.name] = total
    return [_expand(graph, equation, stops) for equation in products
            if equation.result.name in stops or _is_root(graph, equation)]


def _is_root(graph: Rewriter, equation: Equation) -> bool:
    return graph.is_output(equation.result) or any(user.op != "contract" for user in graph.users(equation.result))


def _expand(graph: Rewriter, equation: Equation, stops: Set[str]) -> _Root:
    """The product of factors that a contraction and those above it compute; ``stops`` are factors as they are."""
    equation = graph.definition(equation.result) or equation
    root = _Root(equation, [], [], (), {}, frozenset())

    def name(axes: str, known: dict[str, int], var: Var) -> tuple[int, ...]:
        for letter, size in zip(axes, var.type.sizes, strict=True):
            if letter not in known:
                known[letter] = len(root.sizes)
                root.sizes[known[letter]] = size
        return tuple(known[letter] for letter in axes)

    def visit(var: Var, outer: tuple[int, ...]) -> Tree:
        inner = graph.defined_by(var, "contract")
        if inner is None or var.name in stops:
            root.factors.append(var)
            root.letters.append(outer)
            return frozenset({len(root.factors) - 1})
        tree = product_of(inner, dict(zip(split_spec(str(inner.attr("spec")))[2], outer, strict=True)))
        root.given[members(tree)] = outer
        return tree

    def product_of(inner: Equation, known: dict[str, int]) -> Tree:
        first, second, _ = split_spec(str(inner.attr("spec")))
        sides = [name(axes, known, var) for axes, var in zip((first, second), inner.operands, strict=True)]
        return visit(inner.operands[0], sides[0]), visit(inner.operands[1], sides[1])

    letters: dict[str, int] = {}
    for letter, size in zip(split_spec(str(equation.attr("spec")))[2], equation.result.type.sizes, strict=True):
        letters[letter] = len(root.sizes)
        root.sizes[letters[letter]] = size
    root.result = tuple(letters.values())
    root.tree = product_of(equation, letters)
    return root


def _costs(roots: Sequence[_Root], trees: Sequence[Tree], skip: int = -1, seen: set[str] | None = None) -> list[float]:
    """Operations of every root in order, each product counted where it is first needed."""
    seen = set() if seen is None else seen

    def walk(root: _Root, tree: Tree) -> float:
        if isinstance(tree, frozenset):
            return 0.0
        key = root.key(members(tree))[0]
        if key in seen:
            return 0.0
        seen.add(key)
        left, right = tree
        return root.cost(members(left), members(right)) + walk(root, left) + walk(root, right)

    return [0.0 if i == skip else walk(root, tree) for i, (root, tree) in enumerate(zip(roots, trees, strict=True))]


def _total(roots: Sequence[_Root], trees: Sequence[Tree]) -> float:
    return sum(_costs(roots, trees))


def _descend(roots: Sequence[_Root], trees: list[Tree]) -> list[Tree]:
    """Improves one root at a time until none improves."""
    total = _total(roots, trees)
    improved = True
    while improved:
        improved = False
        for i, root in enumerate(roots):
            if len(root.factors) < 3:
                continue
            free: set[str] = set()
            _costs(roots, trees, i, free)
            trial = [*trees[:i], root.cheapest(frozenset(free)), *trees[i + 1:]]
            cost = _total(roots, trial)
            if cost < total:
                trees, total, improved = trial, cost, True
    return trees


def _emit(graph: Rewriter, roots: Sequence[_Root], trees: Sequence[Tree]) -> None:
    """Replaces the roots by contractions in their new order; those that are as before are found as they are."""
    made: dict[str, tuple[Var, tuple[int, ...]]] = {}

    def reuse(root: _Root, subset: frozenset[int]) -> tuple[Var, tuple[int, ...]] | None:
        text, order = root.key(subset)
        found = made.get(text)
        if found is None:
            return None
        var, places = found
        return graph.current(var), tuple(order[place] for place in places)

    def build(root: _Root, tree: Tree, result: tuple[int, ...] | None = None) -> tuple[Var, tuple[int, ...]]:
        if isinstance(tree, frozenset):
            (factor,) = tree
            return graph.current(root.factors[factor]), root.letters[factor]
        subset = members(tree)
        found = reuse(root, subset)
        if found is not None:
            return found
        (left, first), (right, second) = build(root, tree[0]), build(root, tree[1])
        letters = result if result is not None else root.kept(subset)
        names = {letter: ALPHABET[i] for i, letter in enumerate(dict.fromkeys((*first, *second)))}
        first_, second_, third = ("".join(names[c] for c in part) for part in (first, second, letters))
        var = graph.op("contract", left, right, spec=f"{first_},{second_}->{third}")
        text, order = root.key(subset)
        made[text] = var, tuple(order.index(c) for c in letters)
        return var, letters

    for root, tree in zip(roots, trees, strict=True):
        graph.work_at(root.equation)
        var, letters = build(root, tree, root.result)
        value, old = transposed(graph, var, list(map(letters.index, root.result))), graph.current(root.equation.result)
        if value != old:
            graph.replace(old, value)
