"""How one equation can run on one mesh axis: what it needs where, and what it leaves where.

A strategy follows a factor of the op's rule (operands that have it are cut, the others are the same on all ranks with
partial cotangents, results that lack it are terms of a sum), repeats the whole computation on every rank (``R``, or
``R*`` with partial cotangents, which is right because a VJP is linear in them), lets terms of a sum pass through an op
that is linear (``lin``), or expands a composite op and follows a factor through its parts (``stat(f)``: softmax over a
cut axis). On several axes an equation has one strategy per axis.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from tesserac.ir.program import Attr, Equation, Var
from tesserac.ir.types import DType, TensorType
from tesserac.ops.base import Cuts, Factors, spec_of
from tesserac.passes.mesh.local import localized
from tesserac.passes.mesh.placements import PARTIAL, REPLICATED, VARYING, Placement, Placements, Shard, placed


@dataclass(frozen=True, slots=True)
class Traffic:
    """A collective within a strategy: forward or backward, its op, bytes of the tensor before other axes cut it."""

    phase: str
    collective: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Strategy:
    """Placements of an equation's operands as it consumes them, and of its results as it leaves them.

    ``letter``: the factor that is followed; ``rule``: the number of the factor rule that it belongs to. ``parts`` are
    the strategies of the equations of the expansion, where there is one; ``traffic`` is what they send. A request for
    gradients takes its operands as they lie: both tuples of its one strategy are empty.
    """

    name: str
    operands: Placements
    results: Placements
    letter: str | None = None
    rule: int = 0
    parts: tuple[Strategy, ...] = ()
    traffic: tuple[Traffic, ...] = ()

    @property
    def cuts(self) -> bool:
        """Whether ranks share the work."""
        return self.letter is not None

    def __str__(self) -> str:
        return f"{self.name}: {', '.join(map(str, self.operands))} -> {', '.join(map(str, self.results))}"


REQUESTS = ("backward",)
"""Equations that ask for gradients; they stay as they are, and reverse mode runs over the program of one rank."""

UNEXPANDED = ("attention", "attention_grad", "contract_wide")
"""Composite ops whose expansion would make tensors that the op exists to avoid."""


def factor_rules(equation: Equation, size: int) -> tuple[Factors, ...]:
    """The ways to cut an equation among ``size`` ranks."""
    spec = spec_of(equation.op)
    types = [v.type for v in equation.operands], [v.type for v in equation.results]
    if spec.mesh is not None:
        return spec.mesh.factors(*types, equation.attributes, size)
    return () if spec.factors is None else (spec.factors(*types, equation.attributes),)


def strategies(equation: Equation, size: int) -> tuple[Strategy, ...]:
    """All legal strategies of an equation on an axis of ``size`` ranks; shapes are those the axes before it left.

    The first is ``R``. The order is that of the op's rule, so that equal costs are decided the same way every time.
    """
    return _strategies(equation.op, tuple(v.type for v in equation.operands), tuple(v.type for v in equation.results),
                       equation.attrs, size)


@lru_cache(maxsize=20_000)
def _strategies(op: str, operands: tuple[TensorType, ...], results: tuple[TensorType, ...],
                attrs: tuple[tuple[str, Attr], ...], size: int) -> tuple[Strategy, ...]:
    equation = Equation(op, tuple(Var(f"x{i}", t) for i, t in enumerate(operands)),
                        tuple(Var(f"y{i}", t) for i, t in enumerate(results)), attrs)
    if op in REQUESTS:
        return (Strategy("backward", (), ()),)
    found = [_everywhere(equation, "R", REPLICATED)]
    if any(v.type.dtype.is_differentiable for v in (*equation.operands, *equation.results)):
        found.append(_everywhere(equation, "R*", VARYING))
    for number, factors in enumerate(factor_rules(equation, size)):
        found.extend(_following(equation, factors, number, letter) for letter in _letters(factors)
                     if factors.kind(letter) != "blocked" and divides(equation, factors, letter, size))
    if op == "custom_grad":
        # R* would need a placeholder that is a term of the cotangent, before there is one.
        return tuple(_with_cotangents(strategy) for strategy in found if strategy.name != "R*")
    found.extend(_linear(equation))
    found.extend(_expanded(equation, size))
    return tuple(found)


def divides(equation: Equation, factors: Factors, letter: str, size: int) -> bool:
    """Whether all axes that carry a factor, and the op's own unit of it, come apart into ``size`` even pieces."""
    rows = zip((*equation.operands, *equation.results), (*factors.operands, *factors.results), strict=True)
    extents = [n for var, row in rows for n, c in zip(var.type.sizes, row, strict=True) if c == letter]
    unit = factors.unit(letter)
    if unit is not None:
        extents.append(unit)
    return bool(extents) and all(n % size == 0 and n > 0 for n in extents)


def _letters(factors: Factors) -> tuple[str, ...]:
    rows = (*factors.operands, *factors.results)
    return tuple(dict.fromkeys(letter for row in rows for letter in row if letter is not None))


def _everywhere(equation: Equation, name: str, placement: Placement) -> Strategy:
    return Strategy(name, tuple(placed(v.type, placement) for v in equation.operands),
                    tuple(placed(v.type, placement) for v in equation.results))


def _following(equation: Equation, factors: Factors, number: int, letter: str) -> Strategy:
    kind = factors.kind(letter)
    missing = {"sum": PARTIAL, "joined": REPLICATED}.get(kind, PARTIAL)
    operands = tuple(Shard(row.index(letter)) if letter in row else placed(v.type, VARYING)
                     for v, row in zip(equation.operands, factors.operands, strict=True))
    results = tuple(Shard(row.index(letter)) if letter in row else missing for row in factors.results)
    traffic = () if kind != "joined" else (Traffic("forward", "all_reduce", equation.results[0].type.bytes),)
    return Strategy(letter, operands, results, letter, number, traffic=traffic)


def _with_cotangents(strategy: Strategy) -> Strategy:
    """For custom_grad: cotangents lie as the duals of what they belong to."""
    count = len(strategy.operands) // 2 - 1
    inputs = strategy.operands[2 + count:]
    value = strategy.results[0]
    return Strategy(strategy.name, (value, value.dual, *(p.dual for p in inputs), *inputs), strategy.results,
                    strategy.letter, strategy.rule)


def _linear(equation: Equation) -> Iterator[Strategy]:
    rule = spec_of(equation.op).linear
    groups = () if rule is None else rule(equation)
    for number, group in enumerate(groups):
        if any(equation.operands[i].type.dtype is DType.BOOL for i in group):
            continue
        operands = tuple(PARTIAL if i in group else placed(v.type, VARYING) for i, v in enumerate(equation.operands))
        name = "lin" if len(groups) == 1 else f"lin{number}"
        yield Strategy(name, operands, tuple(PARTIAL for _ in equation.results))


def _expanded(equation: Equation, size: int) -> Iterator[Strategy]:
    from tesserac.passes.mesh.expansion import follow  # which asks for the strategies of the parts

    if spec_of(equation.op).expand is None or equation.op in UNEXPANDED:
        return
    for factors in factor_rules(equation, size):
        for letter in _letters(factors):
            if factors.kind(letter) == "blocked" and divides(equation, factors, letter, size):
                found = follow(equation, factors, letter, size)
                if found is not None:
                    yield found


# ------------------------------------------------------------------------------------------------ several axes


def after(equation: Equation, strategy: Strategy, size: int) -> Equation:
    """The equation as the next mesh axis finds it, once this strategy has cut it among ``size`` ranks."""
    if not strategy.operands and not strategy.results:
        return equation
    letter = strategy.letter
    cuts: Cuts = {} if letter is None else {letter: (("", size),)}

    def shapes(values: Sequence[Var], placements: Placements) -> list[tuple[int, ...]]:
        return [tuple(n // size if p.dim == i and p.kind in ("S", "T") else n for i, n in enumerate(v.type.sizes))
                for v, p in zip(values, placements, strict=True)]

    return localized(equation, shapes(equation.operands, strategy.operands),
                     shapes(equation.results, strategy.results), cuts)
