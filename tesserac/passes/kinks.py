"""Remarks on second derivatives of ops that are linear, or mere choices, between kinks."""

from __future__ import annotations

from tesserac.diagnostics import Diagnostic, Diagnostics, Label, Span
from tesserac.ir.program import Equation, Function
from tesserac.ops.base import spec_of
from tesserac.ops.elementwise import zero_jvp

KINKED = frozenset({"relu", "abs", "maximum", "minimum", "select", "reduce_max", "reduce_min", "sort", "topk"})
"""Ops whose own second derivative is zero wherever it exists."""


CHOICES = {"select": "where", "maximum": "maximum", "minimum": "minimum", "reduce_max": "max", "reduce_min": "min",
           "sort": "sort", "topk": "topk"}
"""Those that choose between values which may be curved themselves, by what the language calls them."""


def kink_remarks(function: Function) -> tuple[Diagnostic, ...]:
    """T0604 for every such op that a second or higher derivative by a coordinate goes through, once per place."""
    asked: dict[str, Span] = {}
    orders: dict[str, int] = {}
    bag = Diagnostics()
    varying = _varying(function)
    seen: set[tuple[str, str]] = set()
    found: list[Equation] = []
    for equation in reversed(function.equations):
        order = max((orders.get(v.name, 0) for v in equation.results), default=0)
        span = next((asked[v.name] for v in equation.results if v.name in asked), equation.span)
        if equation.op == "derivative":
            value = equation.operands[0].name
            if order + 1 > orders.get(value, 0):
                orders[value] = order + 1
                asked[value] = span
            continue
        if not order or equation.op == "stop_gradient":
            continue
        if order > 1 and equation.op in KINKED and any(v.name in varying for v in equation.operands):
            found.append(equation)
        for operand, down in zip(equation.operands, _rule_depths(equation), strict=True):
            if order - down > orders.get(operand.name, 0):
                orders[operand.name] = order - down
                asked[operand.name] = span
    for equation in reversed(found):
        key = equation.op, str(equation.span)
        if key not in seen:
            seen.add(key)
            name = equation.results[0].name
            message, label, help = _texts(equation.op)
            bag.warning("T0604", message, equation.span,
                        labels=(Label(equation.span, label),
                                Label(asked[name], "a derivative of higher order goes through it")),
                        help=(help,))
    return tuple(bag.items)


def _texts(op: str) -> tuple[str, str, str]:
    """Message, label and help of T0604 for an op."""
    if op not in CHOICES:
        return (f"the second derivative of `{op}` is zero everywhere", "piecewise linear",
                "choose a smooth activation: tanh, gelu, silu, sin")
    return (f"derivatives of second order see only what `{CHOICES[op]}` chooses, not where its choice changes",
            "kinks here contribute nothing",
            "blend smoothly where that matters, for example with weights of op.sigmoid")


def _rule_depths(equation: Equation) -> tuple[int, ...]:
    """How many derivatives fewer go through each operand than through the result.

    What a rule of the source's own makes is a first derivative already, and the value that it belongs to is not
    differentiated at all: so many that none is left.
    """
    if equation.op != "custom_grad":
        return (0,) * len(equation.operands)
    count, never = len(equation.operands) // 2 - 1, 1 << 30
    return (never, never, *(1,) * count, *(0,) * count)


def _varying(function: Function) -> set[str]:
    """Names of the values that carry a tangent of some coordinate."""
    found = {e.operands[1].name for e in function.equations if e.op == "derivative"}
    for equation in function.equations:
        if equation.op == "stop_gradient" or spec_of(equation.op).jvp is zero_jvp:
            continue
        if any(v.name in found for v in equation.operands):
            found.update(v.name for v in equation.results if v.type.dtype.is_differentiable)
    return found
