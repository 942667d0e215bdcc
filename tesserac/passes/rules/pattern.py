"""Rules on elementwise ops, written as text: ``add(a, neg(b)) -> sub(a, b)``.

In a pattern a lower-case name matches any value (the same name twice: the same value), an upper-case
name matches a constant (a ``full``), and a number matches a constant of that number. ``neg!(a)`` also asks
that nobody else reads the inner value, so that the rewrite saves work instead of repeating it. Commutative ops match
in either order. On the right, a number stands for a constant of the result's type, and ops on constants
become constants at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from tesserac.ir.program import Equation, Var
from tesserac.passes.rules.constants import fold
from tesserac.passes.rules.rewriter import Rewriter
from tesserac.passes.rules.rule import Rule
from tesserac.passes.rules.sameness import COMMUTATIVE

_TOKEN = re.compile(r"\s*(?:(?P<number>-?\d+(?:\.\d+)?)|(?P<name>[A-Za-z_][A-Za-z_0-9]*!?)|(?P<mark>[(),]))")

Bindings = dict[str, Var]
Condition = Callable[[Rewriter, Equation, Bindings], bool]


@dataclass(frozen=True, slots=True)
class Term:
    """A node of a pattern: a number, a name without arguments, or an op with them."""

    head: str | float
    arguments: tuple[Term, ...] = ()
    single: bool = False

    @property
    def made_by(self) -> str | None:
        """The op of the values that this term matches; None where it may be any."""
        if isinstance(self.head, float) or (self.head.isupper() and not self.arguments):
            return "full"
        return self.head if self.arguments else None


def parse_term(text: str) -> Term:
    """The term that a text denotes; ValueError if it is not one."""
    tokens = _tokens(text)
    term, rest = _parse(tokens)
    if rest:
        raise ValueError(f"text after the term in {text!r}")
    return term


def pattern(name: str, before: str, after: str, reason: str, when: Condition | None = None) -> Rule:
    """A rule from two terms; ``when`` may refuse a match."""
    source, target = parse_term(before), parse_term(after)

    def rewrite(graph: Rewriter, equation: Equation) -> Var | None:
        bindings: Bindings = {}
        if not _match_operands(graph, source, equation, bindings):
            return None
        if when is not None and not when(graph, equation, bindings):
            return None
        return _build(graph, target, bindings, equation.result)

    above = frozenset(op for argument in source.arguments if (op := argument.made_by) is not None)
    return Rule(name, (str(source.head),), reason, rewrite, above)


def _tokens(text: str) -> list[str]:
    found, position = [], 0
    while position < len(text.rstrip()):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ValueError(f"unexpected character in pattern {text!r} at {position}")
        found.append(match.group().strip())
        position = match.end()
    return found


def _parse(tokens: list[str]) -> tuple[Term, list[str]]:
    head, rest = tokens[0], tokens[1:]
    if head[0].isdigit() or head[0] == "-":
        return Term(float(head)), rest
    name, single = head.rstrip("!"), head.endswith("!")
    if not rest or rest[0] != "(":
        return Term(name), rest
    arguments = []
    while rest[0] != ")":
        argument, rest = _parse(rest[1:])
        arguments.append(argument)
    return Term(name, tuple(arguments), single), rest[1:]


def _match(graph: Rewriter, term: Term, var: Var, bindings: Bindings) -> bool:
    if isinstance(term.head, float):
        value = graph.constant_of(var)
        return value is not None and not isinstance(value, bool) and value == term.head
    if term.arguments:
        inner = graph.defined_by(var, term.head)
        if inner is None or (term.single and graph.uses(var) > 1):
            return False
        return _match_operands(graph, term, inner, bindings)
    if term.head.isupper() and graph.constant_of(var) is None:
        return False
    return bindings.setdefault(term.head, var) == var


def _match_operands(graph: Rewriter, term: Term, equation: Equation, bindings: Bindings) -> bool:
    orders = [equation.operands]
    if equation.op in COMMUTATIVE:
        orders.append(equation.operands[::-1])
    for operands in orders:
        trial = dict(bindings)
        if all(_match(graph, t, v, trial) for t, v in zip(term.arguments, operands, strict=True)):
            bindings.update(trial)
            return True
    return False


def _build(graph: Rewriter, term: Term, bindings: Bindings, result: Var) -> Var:
    if isinstance(term.head, float):
        return graph.constant(term.head, result.type)
    if not term.arguments:
        return bindings[term.head]
    operands = [_build(graph, argument, bindings, result) for argument in term.arguments]
    value = graph.op(term.head, *operands)
    equation = graph.definition(value)
    folded = None if equation is None or equation.op != term.head else fold(graph, equation)
    return value if folded is None else folded
