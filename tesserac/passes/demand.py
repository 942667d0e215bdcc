"""Which derivatives of which values a function asks for, over all its ``derivative`` equations.

Requests are followed from the last equation back: a derivative of an expression of derivatives asks for derivatives of
what the expression is made of, down to *roots*, values computed without any derivative. A root is as narrow as it can
be: a request for u = x (1 - x) net(x) is passed on to the one column that the network gives.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tesserac.ir.program import Equation, Function, Var
from tesserac.ops.attributes import integer
from tesserac.ops.base import spec_of
from tesserac.ops.elementwise import zero_jvp
from tesserac.passes.multiindex import Index, closure, plus, spread, unit
from tesserac.passes.spaces import directions_of
from tesserac.passes.varying import Direction

HEAVY = ("contract", "grouped", "fused")
"""Kinds of ops whose work is counted."""

_LINEAR = frozenset({"add", "sub", "neg", "cast", "reduce_sum", "cumsum"})


@dataclass
class Unit:
    """The part of a function before any derivative, as one group of directions sees it."""

    directions: tuple[Direction, ...]
    support: dict[str, int]
    definitions: dict[str, Equation]
    heavy: set[str] = field(default_factory=set)
    early: set[str] = field(default_factory=set)

    def carries(self, var: Var, a: Index) -> bool:
        """Whether a coefficient can be other than zero."""
        bits = self.support.get(var.name, 0)
        return all(bits >> i & 1 for i, n in enumerate(a) if n)

    def behind(self, roots: Iterable[str]) -> list[Equation]:
        """The varying equations that the roots are computed from, in program order."""
        wanted, kept = set(roots), []
        for equation in reversed(list({id(e): e for e in self.definitions.values()}.values())):
            if any(v.name in wanted and self.support.get(v.name) for v in equation.results):
                kept.append(equation)
                wanted.update(v.name for v in equation.operands)
        return kept[::-1]

    def varying(self, equation: Equation) -> list[Var]:
        """The operands that vary."""
        return [v for v in equation.operands if self.support.get(v.name)]

    def linear(self, equation: Equation) -> bool:
        """Whether an equation acts on every coefficient by itself."""
        if equation.op in _LINEAR or spec_of(equation.op).kind == "view":
            return True
        count = len(self.varying(equation))
        return count <= 1 and (equation.op in ("mul", "contract")
                               or (equation.op == "div" and not self.support.get(equation.operands[1].name)))


def unit_of(function: Function, directions: Sequence[Direction]) -> Unit:
    """What varies, what is computed without any derivative, and what lies behind a matrix product."""
    support: dict[str, int] = {}
    coordinates = {d.coordinate.name for d in directions}
    for i, direction in enumerate(directions):
        support[direction.coordinate.name] = support.get(direction.coordinate.name, 0) | 1 << i
    found = Unit(tuple(directions), support, {})
    found.early.update(item.var.name for item in function.inputs)
    for equation in function.equations:
        transform = spec_of(equation.op).kind == "transform"
        for var in equation.results:
            found.definitions[var.name] = equation
        if not transform and all(v.name in found.early for v in equation.operands):
            found.early.update(v.name for v in equation.results)
        if equation.op == "stop_gradient" or spec_of(equation.op).jvp is zero_jvp:
            continue
        bits, heavy = 0, spec_of(equation.op).kind in HEAVY
        for operand in equation.operands:
            bits |= support.get(operand.name, 0)
            heavy = heavy or operand.name in found.heavy
        for var in equation.results:
            if bits and var.name not in coordinates and var.type.dtype.is_differentiable:
                support[var.name] = bits
                if heavy:
                    found.heavy.add(var.name)
    return found


def requests(function: Function, found: Unit) -> dict[str, set[Index]]:
    """Indices by root."""
    count = len(found.directions)
    numbers = {(d.coordinate.name, d.component): i for i, d in enumerate(found.directions)}
    asked: dict[str, set[Index]] = {}
    for equation in reversed(function.equations):
        if equation.op == "derivative":
            value, coordinate = equation.operands
            number = numbers.get((coordinate.name, integer(equation.attributes, "component")))
            if number is not None:
                step = unit(number, count)
                deeper = asked.pop(equation.result.name, set())
                _ask(found, asked, value, {step, *(plus(step, a) for a in deeper)})
        elif equation.op == "combination":
            along = [numbers.get((d.coordinate.name, d.component)) for d in directions_of(equation)]
            if None not in along:
                taken: list[tuple[int, ...]] = list(equation.attr("indices"))  # type: ignore[arg-type]
                tops = {spread(a, [n for n in along if n is not None], count) for a in taken}
                lower = {a for a in closure(tops) if a not in tops and any(a)}
                _ask(found, asked, equation.operands[0], lower)
        elif equation.op == "custom_grad" or spec_of(equation.op).kind != "transform":
            wanted = {a for v in equation.results for a in asked.get(v.name, ())}
            early = equation.results[0].name in found.early
            if wanted and (not early or _passes_on(found, asked, equation)):
                for var in equation.results:
                    asked.pop(var.name, None)
                below = wanted if found.linear(equation) else {a for a in closure(wanted) if any(a)}
                for operand in _differentiated(found, equation):
                    _ask(found, asked, operand, below)
    return {name: indices for name, indices in asked.items() if indices and name in found.early}


def _differentiated(found: Unit, equation: Equation) -> list[Var]:
    """The varying operands that a derivative goes through: with a rule of the source's own, its inputs alone."""
    if equation.op != "custom_grad":
        return found.varying(equation)
    return [v for v in equation.operands[len(equation.operands) // 2 + 1 :] if found.support.get(v.name)]


def _ask(found: Unit, asked: dict[str, set[Index]], value: Var, indices: set[Index]) -> None:
    """Notes a request; what no product lies behind is cheap in any way and asks for nothing."""
    if value.name in found.early and value.name not in found.heavy:
        return
    wanted = {a for a in indices if found.carries(value, a)}
    if wanted:
        asked.setdefault(value.name, set()).update(wanted)


def _passes_on(found: Unit, asked: dict[str, set[Index]], equation: Equation) -> bool:
    """Whether the operands are no wider than the results, counting only what lies behind a product.

    A linear equation of one operand gains nothing by it and is left with the name that the user gave its result.
    """
    if spec_of(equation.op).kind not in ("elementwise", "view"):
        return False
    operands = {v.name: v for v in found.varying(equation) if v.name in found.heavy}
    fresh = sum(v.type.size for v in operands.values() if v.name not in asked)
    if not operands or (fresh and found.linear(equation)):
        return False
    return fresh <= sum(v.type.size for v in equation.results)
