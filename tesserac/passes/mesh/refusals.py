"""What is said when a strategy is asked for that an equation cannot have."""

from __future__ import annotations

from collections.abc import Sequence

from tesserac.diagnostics import CompileError, Diagnostics, Label
from tesserac.ir.program import Equation, Input
from tesserac.ops.base import spec_of
from tesserac.passes.mesh.placements import PARTIAL
from tesserac.passes.mesh.strategy import Strategy


def illegal(equation: Equation, strategy: Strategy, axis: str, size: int, legal: Sequence[Strategy]) -> CompileError:
    """T0717 for a term of a sum where the op is not linear, T0718 for one that meets a whole value, else T0703.

    A strategy says where operands lie; the first two are faults of the placements, the last of the name or the sizes.
    """
    bag, span = Diagnostics(), equation.span
    partial = {i for i, p in enumerate(strategy.operands) if p == PARTIAL}
    rule = spec_of(equation.op).linear
    groups = () if rule is None else rule(equation)
    joint = next((set(g) for g in groups if partial & set(g)), set())
    if not partial or len(strategy.operands) != len(equation.operands) or partial == joint:
        bag.error("T0703", f"`{equation.op}` cannot run as {strategy.name} on the {size} ranks of axis {axis}", span,
                  labels=(Label(span, f"its result is {equation.results[0].type}"),),
                  help=(f"here it can run as {', '.join(s.name for s in legal)}",))
        return CompileError(bag.items)
    term = equation.operands[min(partial)]
    if not joint:
        bag.error("T0717", f"{term} is a term of a sum on axis {axis}, and `{equation.op}` is not linear in it", span,
                  labels=(Label(span, f"every rank would compute `{equation.op}` of a term"),),
                  help=("add the terms first: an all-reduce (R) or a reduce-scatter (S)",))
        return CompileError(bag.items)
    at = min(partial ^ joint)
    other = equation.operands[at]
    bag.error("T0718", f"`{equation.op}` joins {term}, a term of a sum on axis {axis}, and {other}, which is "
              f"{strategy.operands[at]}", span,
              labels=(Label(span, f"the sum over {size} ranks would count one of them {size} times"),),
              help=(f"keep {other} on the first rank only (R -> P)", f"or add the terms of {term} first (P -> R)"))
    return CompileError(bag.items)


def uneven(item: Input, text: str) -> CompileError:
    """T0704 for an input that does not come apart into even pieces."""
    bag = Diagnostics()
    bag.error("T0704", f"`{item.path}` does not come apart evenly: {text}", item.span,
              help=("choose a mesh axis whose size divides the dimension, or change the dimension",))
    return CompileError(bag.items)
