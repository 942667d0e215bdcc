"""Composite ops over a cut axis: their parts, and how a factor is followed through them.

A softmax over a cut axis is its maximum, its exponentials and their sum, and each of them has a factor rule. So nothing
is written down per op: cuts spread through the expansion from the operands, terms of a sum stay terms as long as what
uses them is linear, and everything else is computed alike on all ranks.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

from tesserac.diagnostics import InternalError
from tesserac.ir.builder import Builder
from tesserac.ir.program import Equation, Var
from tesserac.ops.base import Factors
from tesserac.passes.linearize import expanded
from tesserac.passes.mesh.conversions import backward_collective, collective, version_tree
from tesserac.passes.mesh.placements import (
    PARTIAL,
    VARYING,
    Placement,
    Placements,
    Shard,
    placed,
)
from tesserac.passes.mesh.strategy import Strategy, Traffic, strategies
from tesserac.passes.reverse import forward_active


def follow(equation: Equation, factors: Factors, letter: str, size: int) -> Strategy | None:
    """The strategy that cuts a composite along a factor that its rule says must be whole; None if it breaks off."""
    block, values = parts(equation)
    start = tuple(Shard(row.index(letter)) if letter in row else placed(v.type, VARYING)
                  for v, row in zip(equation.operands, factors.operands, strict=True))
    spread = _Spread(block, dict(zip((v.name for v in equation.operands), start, strict=True)), size)
    if not spread.run():
        return None
    results = tuple(spread.placements[v.name] for v in values)
    chosen = tuple(spread.chosen[i] for i in range(len(block)))
    return Strategy(f"stat({letter})", start, results, letter, parts=chosen,
                    traffic=_traffic(equation, block, chosen, start, size))


def inner_strategies(equation: Equation, strategy: Strategy, size: int) -> tuple[Strategy, ...]:
    """Strategies of the expansion's equations on an axis where the composite itself has this one."""
    if strategy.parts:
        return strategy.parts
    block, _ = parts(equation)
    start = dict(zip((v.name for v in equation.operands), strategy.operands, strict=True))
    spread = _Spread(block, start, size)
    if not spread.run():
        raise InternalError(f"the expansion of {equation.op} cannot follow {strategy}")
    return tuple(spread.chosen[i] for i in range(len(block)))


def parts(equation: Equation) -> tuple[tuple[Equation, ...], tuple[Var, ...]]:
    """The equations of a composite's expansion, and what stands for its results."""
    b = Builder()
    b.reserve(v.name for v in (*equation.operands, *equation.results))
    block, results = expanded(b, equation)
    return early_stops(block), results


def early_stops(block: tuple[Equation, ...]) -> tuple[Equation, ...]:
    """``stop_gradient(reduce_max(x))`` as ``reduce_max(stop_gradient(x))``: ranks need not share its derivative."""
    found = list(block)
    for i, (extreme, stop) in enumerate(itertools.pairwise(block)):
        reduces = extreme.op in ("reduce_max", "reduce_min")
        if reduces and stop.op == "stop_gradient" and stop.operands == extreme.results:
            x, held = extreme.operands[0], Var(extreme.result.name, extreme.operands[0].type)
            found[i] = replace(stop, operands=(x,), results=(held,))
            found[i + 1] = replace(extreme, operands=(held,), results=stop.results)
    return tuple(found)


class _Spread:
    """Chooses a strategy for every part, cuts first."""

    def __init__(self, block: tuple[Equation, ...], placements: dict[str, Placement], size: int) -> None:
        self.block = block
        self.placements = placements
        self.size = size
        self.chosen: dict[int, Strategy] = {}
        self._maker = {v.name: i for i, e in enumerate(block) for v in e.results}

    def run(self) -> bool:
        """Whether every cut could be followed."""
        progress = True
        while progress:
            progress = False
            for i, equation in enumerate(self.block):
                if i in self.chosen or not any(p.is_cut for p in self._known(equation)):
                    continue
                strategy = self._matching(equation)
                if strategy is None:
                    return False
                self._choose(i, strategy)
                progress = True
        for i, equation in enumerate(self.block):
            if i not in self.chosen:
                self._choose(i, self._alike(equation))
        return True

    def _known(self, equation: Equation) -> list[Placement]:
        return [self.placements[v.name] for v in equation.operands if v.name in self.placements]

    def _matching(self, equation: Equation) -> Strategy | None:
        """The cut that agrees with all operands that are cut already."""
        for strategy in strategies(equation, self.size):
            have = [self.placements.get(v.name) for v in equation.operands]
            pairs = zip(have, strategy.operands, strict=True)
            if strategy.cuts and all(p == wanted for p, wanted in pairs if p is not None and p.is_cut):
                return strategy
        return None

    def _choose(self, i: int, strategy: Strategy) -> None:
        """Takes a strategy, and has operands that nothing decided yet made where it needs them."""
        equation = self.block[i]
        self.chosen[i] = strategy
        self.placements.update((v.name, p) for v, p in zip(equation.results, strategy.results, strict=True))
        for var, wanted in zip(equation.operands, strategy.operands, strict=True):
            maker = self._maker.get(var.name)
            if wanted.is_cut and maker is not None and maker not in self.chosen:
                at = self.block[maker].results.index(var)
                made = next((s for s in strategies(self.block[maker], self.size) if s.cuts and s.results[at] == wanted),
                            None)
                if made is not None and not any(p.is_cut for p in self._known(self.block[maker])):
                    self._choose(maker, made)

    def _alike(self, equation: Equation) -> Strategy:
        """Without a cut operand: terms of a sum pass where that is linear, all else is repeated on every rank."""
        have = [self.placements[v.name] for v in equation.operands]
        options = strategies(equation, self.size)
        if PARTIAL in have:
            for strategy in options:
                if strategy.name.startswith("lin") and all(
                        (p == PARTIAL) == (q == PARTIAL) for p, q in zip(have, strategy.operands, strict=True)):
                    return strategy
        name = "R*" if VARYING in have else "R"
        return next(s for s in options if s.name == name)


def _traffic(equation: Equation, block: tuple[Equation, ...], chosen: tuple[Strategy, ...], start: Placements,
             size: int) -> tuple[Traffic, ...]:
    """Collectives within the expansion; what its operands and results need outside is not counted."""
    made = {v.name: (v.type, p) for v, p in zip(equation.operands, start, strict=True)}
    active = forward_active(block, {v.name for v in equation.operands if v.type.dtype.is_differentiable})
    needed: dict[str, list[Placements]] = {}
    found: list[Traffic] = []
    for part, strategy in zip(block, chosen, strict=True):
        made.update((v.name, (v.type, p)) for v, p in zip(part.results, strategy.results, strict=True))
        for var, placement in zip(part.operands, strategy.operands, strict=True):
            needed.setdefault(var.name, []).append((placement,))
        found.extend(strategy.traffic)
    for name, versions in needed.items():
        type_, produced = made[name]
        for step in version_tree(type_, (size,), (produced,), versions):
            ways = [("forward", collective(step.source, step.target))]
            if name in active:
                ways.append(("backward", backward_collective(step.source, step.target)))
            found.extend(Traffic(phase, kind, type_.bytes) for phase, kind in ways if kind is not None)
    return tuple(found)


