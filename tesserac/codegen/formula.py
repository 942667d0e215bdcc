"""What a kernel computes, in the user's names: the comment above it."""

from __future__ import annotations

from collections.abc import Sequence

from tesserac.codegen.records import Origin
from tesserac.codegen.stage_values import StageValues
from tesserac.ir.program import Equation, Var
from tesserac.ops.base import spec_of

LIMIT = 96
MANY = 10


def origin_of(values: StageValues, roots: Sequence[Equation]) -> Origin:
    """Spans and formulas of a kernel's results."""
    spans = tuple(dict.fromkeys(root.span for root in roots))
    return Origin(spans, tuple(formula(values, root) for root in roots))


def formula(values: StageValues, equation: Equation) -> str:
    """``y = expression`` with inlined operands written out while the line stays short."""
    left = listed([v.name for v in equation.results])
    text, _ = _expression(values, equation, 3)
    if len(text) > LIMIT:
        text, _ = _expression(values, equation, 1)
    return f"{left} = {text}"


def _operand(values: StageValues, var: Var, depth: int) -> tuple[str, int]:
    base, _ = values.through_views(var, ())
    if values.is_leaf(base) or depth == 0:
        return base.name, 0
    equation = values.producer[base]
    if equation.op == "full":
        return f"{values.constant(equation):g}", 0
    if equation.op == "iota":
        return f"index along axis {equation.attr('axis')}", 16
    return _expression(values, equation, depth - 1)


def _expression(values: StageValues, equation: Equation, depth: int) -> tuple[str, int]:
    """Text and the precedence of its outermost operator (0: none)."""
    operands = [_operand(values, v, depth) for v in equation.operands]
    scalar = spec_of(equation.op).scalar
    if scalar is not None:
        ternary = equation.op == "select"
        level = 16 if ternary else scalar.precedence
        texts = [
            f"({t})" if (level and (p > level or (p == level and i))) or (ternary and p == 16) else t
            for i, (t, p) in enumerate(operands)
        ]
        return scalar.formula.format(*texts, **equation.attributes), level
    names = [t for t, _ in operands]
    attrs = equation.attributes
    if spec_of(equation.op).kind == "contract":
        return f"sum[{attrs['spec']}] {names[0]} * {names[1]}", 16
    if equation.op.startswith("reduce_") and "axes" in attrs:
        axes = attrs["axes"]
        assert isinstance(axes, tuple)
        return f"{equation.op[7:]}({names[0]}) over axis {', '.join(map(str, axes))}", 16
    if equation.op == "take":
        return f"{names[0]}[{names[1]}]", 0
    if equation.op == "scatter_add":
        return f"rows {names[0]} += {names[1]}", 16
    shown = [f"{k}={v}" for k, v in attrs.items() if k in ("heads", "causal", "axis", "perm")]
    return f"{equation.op}({', '.join([listed(names), *shown])})", 0


def listed(names: Sequence[str]) -> str:
    """Names one after the other; of more than ten, as the tensors of an exchange may be, the first and the last."""
    if len(names) <= MANY:
        return ", ".join(names)
    return f"{names[0]}, {names[1]}, ... {names[-1]} ({len(names)} tensors)"
