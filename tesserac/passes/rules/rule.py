"""Rules as data: a name, the ops at which it may apply, one line of reason and the rewrite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tesserac.ir.program import Equation, Var
from tesserac.passes.rules.rewriter import Rewriter

Rewrite = Callable[[Rewriter, Equation], Var | None]


@dataclass(frozen=True, slots=True)
class Rule:
    """``rewrite`` returns the value that stands for the equation's result, or None where the rule does not apply.

    ``ops`` are op names, or ``kind:K`` for every op of a kind; ``above`` are ops all of which must have made an operand
    for the rule to apply. A rule never increases what the sum of all
    rules decreases (equations, elements, nesting of views), so rewriting ends.
    """

    name: str
    ops: tuple[str, ...]
    reason: str
    rewrite: Rewrite
    above: frozenset[str] = frozenset()

    def applies_to(self, op: str, kind: str, above: frozenset[str]) -> bool:
        """Whether an equation of this op, with operands made by the ops ``above``, is worth a look."""
        return (op in self.ops or f"kind:{kind}" in self.ops) and self.above <= above
