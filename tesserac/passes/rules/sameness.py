"""When two equations compute the same: same op, operands and attributes, commutative operands in either order."""

from __future__ import annotations

from collections.abc import Sequence

from tesserac.ir.program import Attr, Equation, Var
from tesserac.passes.rules.letters import canonical_spec

COMMUTATIVE = frozenset({"add", "mul", "maximum", "minimum", "eq", "ne", "logical_and", "logical_or"})
Key = tuple[str, tuple[str, ...], str]


def key_of_op(op: str, operands: Sequence[Var], attrs: tuple[tuple[str, Attr], ...]) -> Key:
    """Two applications of an op with the same key have the same value."""
    names = tuple(var.name for var in operands)
    if op in COMMUTATIVE:
        return op, tuple(sorted(names)), ""
    if op == "contract":
        spec = dict(attrs)["spec"]
        left, right = names
        swapped = left > right
        return op, (right, left) if swapped else names, canonical_spec(str(spec), swapped)
    # repr keeps 0.0 and -0.0 apart, and 1, 1.0 and true.
    return op, names, repr(attrs) if attrs else ""


def key_of(equation: Equation) -> Key:
    """The key of an equation; its results do not count."""
    return key_of_op(equation.op, equation.operands, equation.attrs)
