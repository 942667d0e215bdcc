"""What a kernel computes, in the user's names: the comment above it."""

from __future__ import annotations

from collections.abc import Sequence

from tesserac.codegen.records import Origin
from tesserac.codegen.stage_values import StageValues
from tesserac.ir.program import Equation, Var
from tesserac.ops.base import spec_of

LIMIT = 96


def origin_of(values: StageValues, roots: Sequence[Equation]) -> Origin:
    """Spans and formulas of a kernel's results."""
    spans = tuple(dict.fromkeys(root.span for root in roots))
    return Origin(spans, tuple(formula(values, root) for root in roots))


def formula(values: StageValues, equation: Equation) -> str:
    """``y = expression`` with inlined operands written out while the line stays short."""
    left = ", ".join(v.name for v in equation.results)
    text = _expression(values, equation, 3)
    if len(text) > LIMIT:
        text = _expression(values, equation, 1)
    return f"{left} = {text}"


def _operand(values: StageValues, var: Var, depth: int) -> str:
    base, _ = values.through_views(var, ())
    if values.is_leaf(base) or depth == 0:
        return base.name
    equation = values.producer[base]
    if equation.op == "full":
        return f"{values.constant(equation):g}"
    return _expression(values, equation, depth - 1)


def _expression(values: StageValues, equation: Equation, depth: int) -> str:
    names = [_operand(values, v, depth) for v in equation.operands]
    scalar = spec_of(equation.op).scalar
    if scalar is not None:
        return scalar.formula.format(*names, **equation.attributes)
    attrs = equation.attributes
    if equation.op == "contract":
        return f"sum[{attrs['spec']}] {names[0]} * {names[1]}"
    if equation.op.startswith("reduce_"):
        return f"{equation.op[7:]}({names[0]}, axes={attrs['axes']})"
    if equation.op == "take":
        return f"{names[0]}[{names[1]}]"
    if equation.op == "scatter_add":
        return f"rows {names[0]} += {names[1]}"
    shown = ", ".join(f"{k}={v}" for k, v in attrs.items() if k in ("heads", "causal", "axis", "perm"))
    return f"{equation.op}({', '.join(names)}{', ' + shown if shown else ''})"
