"""Algebraic simplification: rewrites a function to a fixpoint without changing results beyond rounding.

Unused equations go, equal ones are computed once, and the rules of :mod:`tesserac.passes.rules` apply until none does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tesserac.diagnostics import InternalError
from tesserac.ir.program import Equation, Function
from tesserac.ops.base import spec_of
from tesserac.passes.rules import RULES, rules_for
from tesserac.passes.rules.rewriter import Rewriter

_REWRITES_PER_EQUATION = 50


@dataclass(frozen=True, slots=True)
class Simplify:
    """The pass; ``only`` restricts it to some rules by name (tests and bisection of a fault)."""

    name: ClassVar[str] = "simplify"
    reason: ClassVar[str] = "fewer and smaller equations: constants fold, views merge, gradients of splits are concats"

    only: tuple[str, ...] = ()

    def run(self, function: Function) -> Function:
        """See Pass."""
        return simplify(function, self.only)


def simplify(function: Function, only: tuple[str, ...] = ()) -> Function:
    """The simplified function; a second application changes nothing.

    A function that still asks for derivatives only loses unused equations, because rewriting may change what a
    derivative with respect to an intermediate value means.
    """
    unknown = set(only) - {rule.name for rule in RULES}
    if unknown:
        raise InternalError(f"no such rule: {', '.join(sorted(unknown))}")
    if any(spec_of(equation.op).kind == "transform" for equation in function.equations):
        return without_unused(function)
    graph = Rewriter(function)
    budget = 1000 + _REWRITES_PER_EQUATION * len(function.equations)
    spent = -1
    total = 0
    while spent:
        spent = _sweep(graph, only, budget - total)
        total += spent
    return graph.finish()


def without_unused(function: Function) -> Function:
    """The function without the equations that no output depends on."""
    live = {output.var.name for output in function.outputs}
    kept: list[Equation] = []
    for equation in reversed(function.equations):
        if any(var.name in live for var in equation.results):
            live.update(var.name for var in equation.operands)
            kept.append(equation)
    return Function(function.name, function.inputs, tuple(reversed(kept)), function.outputs)


def _sweep(graph: Rewriter, only: tuple[str, ...], budget: int) -> int:
    """Looks at every equation and at those that change meanwhile; returns the number of rewrites."""
    rewrites = 0
    graph.start()
    while (equation := graph.next()) is not None:
        if len(equation.results) != 1:
            continue
        for rule in rules_for(equation.op, graph.ops_above(equation), only):
            value = rule.rewrite(graph, equation)
            if value is None:
                continue
            if rewrites == budget:
                raise InternalError(f"simplification does not end: rule {rule.name} still applies to {equation.result}")
            rewrites += 1
            graph.replace(equation.result, value)
            break
    return rewrites
