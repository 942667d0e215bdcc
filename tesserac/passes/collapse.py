"""Collapsed Taylor mode: a linear combination of highest derivatives as one channel (Dangel et al. 2025).

The highest coefficient of y = f(x) is y_a = J x_a + r_a, with J the same for all a and the remainder r_a made of lower
coefficients. So a combination with known weights, sum of w_a y_a, obeys the same equation as its terms: it is pushed
forward once, whatever the number of its terms, and for all columns of a value at once.

``collapse`` rewrites a function that asks for such combinations into ``combination`` equations; ``Channels`` computes
them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tesserac.ir.builder import Builder
from tesserac.ir.program import Attr, Equation, Function, Var
from tesserac.ops.attributes import integer, number
from tesserac.ops.base import spec_of
from tesserac.ops.rules import add_optional, scaled
from tesserac.passes.demand import Unit
from tesserac.passes.multiindex import Index, closure, factorials, graded, plus, unit, within
from tesserac.passes.simplify import without_unused
from tesserac.passes.taylor import Jets, Remainder
from tesserac.passes.varying import Direction

Form = dict[tuple[Var, Index], float]
"""A value as a combination of derivatives with constant weights."""

Weights = tuple[tuple[Index, float], ...]
"""A combination of derivatives of one value, by order."""


def collapse(function: Function, found: Unit) -> Function | None:
    """The function with its combinations of highest derivatives as ``combination`` equations; None if it has none."""
    forms = _forms(function, found)
    ends = _ends(function, forms)
    tops = _tops(forms, ends)
    if not any(sum(1 for term in forms[name] if term in tops) > 1 for name in ends):
        return None
    b = Builder()
    b.reserve(v.name for v in function.variables())
    for equation in function.equations:
        name = equation.results[0].name
        if name in ends and any(term in tops for term in forms[name]):
            with b.at(equation.span):
                value = _combined(b, found.directions, forms[name], tops)
            # The name stays, so that what reads it need not change.
            last = b.equations.pop()
            assert last.result == value
            b.append(replace(last, results=equation.results))
        else:
            b.append(equation)
    rewritten = without_unused(replace(function, equations=tuple(b.equations)))
    return None if _differentiated(rewritten) else rewritten


def _differentiated(function: Function) -> bool:
    """Whether a derivative is taken through a combination, which would need its parts after all."""
    behind: set[str] = set()
    for equation in function.equations:
        if equation.op == "derivative" and equation.operands[0].name in behind:
            return True
        if equation.op == "combination" or any(v.name in behind for v in equation.operands):
            behind.update(v.name for v in equation.results)
    return False


def _forms(function: Function, found: Unit) -> dict[str, Form]:
    zero = (0,) * len(found.directions)
    numbers = {(d.coordinate.name, d.component): i for i, d in enumerate(found.directions)}
    constants: dict[str, float] = {}
    forms: dict[str, Form] = {}
    for equation in function.equations:
        if equation.op == "full":
            constants[equation.result.name] = number(equation.attributes, "value")
        elif equation.op == "broadcast" and equation.operands[0].name in constants:
            constants[equation.result.name] = constants[equation.operands[0].name]
        elif equation.op == "derivative":
            value, coordinate = equation.operands
            direction = numbers.get((coordinate.name, integer(equation.attributes, "component")))
            form = forms.get(value.name) or ({(value, zero): 1.0} if value.name in found.early else None)
            if direction is not None and form is not None:
                step = unit(direction, len(zero))
                forms[equation.result.name] = {(v, plus(a, step)): w for (v, a), w in form.items()}
        elif (form := _combination(equation, forms, constants)) is not None:
            forms[equation.result.name] = form
    return forms


def _combination(equation: Equation, forms: Mapping[str, Form], constants: Mapping[str, float]) -> Form | None:
    """The form of a sum, difference, negative or multiple of forms."""
    operands = [forms.get(v.name) for v in equation.operands]
    signs = {"add": (1.0, 1.0), "sub": (1.0, -1.0), "neg": (-1.0,)}.get(equation.op)
    if equation.op == "mul":
        for form, other in ((operands[0], equation.operands[1]), (operands[1], equation.operands[0])):
            if form is not None and other.name in constants:
                return {term: w * constants[other.name] for term, w in form.items()}
    if signs is None or any(form is None for form in operands):
        return None
    total: Form = {}
    for sign, form in zip(signs, operands, strict=True):
        for term, w in (form or {}).items():
            total[term] = total.get(term, 0.0) + sign * w
    return {term: w for term, w in total.items() if w != 0.0}


def _ends(function: Function, forms: Mapping[str, Form]) -> set[str]:
    """Names of the forms that something reads which is no form itself."""
    found = {o.var.name for o in function.outputs if o.var.name in forms}
    for equation in function.equations:
        if not any(v.name in forms for v in equation.results):
            found.update(v.name for v in equation.operands if v.name in forms)
    return found


def _tops(forms: Mapping[str, Form], ends: set[str]) -> set[tuple[Var, Index]]:
    """The derivatives of second and higher order that no other one that is read lies above."""
    terms = {term for name in ends for term in forms[name]}
    everything = {a for _, a in terms}
    return {(v, a) for v, a in terms if sum(a) > 1 and not any(a != c and within(a, c) for c in everything)}


def _combined(b: Builder, directions: Sequence[Direction], form: Form, tops: set[tuple[Var, Index]]) -> Var:
    """The value of a form: one combination of the highest derivatives of each value, and the others one by one."""
    by_value: dict[Var, dict[Index, float]] = {}
    parts: list[Var] = []
    for (value, a), weight in form.items():
        if (value, a) in tops:
            by_value.setdefault(value, {})[a] = weight
        else:
            parts.append(scaled(b, _derivative(b, directions, value, a), weight))
    for value, weights in by_value.items():
        indices = graded(weights)
        first = weights[indices[0]]
        if len(indices) == 1:
            found = _derivative(b, directions, value, indices[0])
        else:
            attrs: dict[str, Attr] = {"components": tuple(d.component for d in directions), "indices": tuple(indices),
                                      "weights": tuple(weights[a] / first for a in indices)}
            (found,) = b.ops("combination", (value, *(d.coordinate for d in directions)), attrs)
        parts.append(scaled(b, found, first))
    total = parts[0]
    for part in parts[1:]:
        total = b.op("add", total, part)
    return total


def _derivative(b: Builder, directions: Sequence[Direction], value: Var, a: Index) -> Var:
    for direction, count in zip(directions, a, strict=True):
        for _ in range(count):
            value = b.op("derivative", value, direction.coordinate, component=direction.component)
    return value


def weights_of(equation: Equation) -> Weights:
    """The indices and weights of a ``combination``."""
    indices, weights = equation.attr("indices"), equation.attr("weights")
    assert isinstance(indices, tuple)
    assert isinstance(weights, tuple)
    pairs = zip(indices, weights, strict=True)
    return tuple((tuple(int(n) for n in a), float(w)) for a, w in pairs)  # type: ignore[union-attr, arg-type]


class Channels:
    """Combinations of coefficients, pushed forward; ``jets`` holds the lower ones."""

    def __init__(self, jets: Jets) -> None:
        self._jets = jets
        self._known: dict[tuple[str, Weights], Var | None] = {}

    def value(self, value: Var, weights: Weights) -> Var | None:
        """sum of w_a d^a value; None for zero."""
        lower = _lower(weights)
        self._jets.prepare(value, lower)
        for equation in self._jets.program.ancestors(value):
            for var in equation.results:
                self._channel(var, weights, lower)
        return self._channel(value, weights, lower)

    def _channel(self, value: Var, weights: Weights, lower: frozenset[Index]) -> Var | None:
        key = value.name, weights
        if key not in self._known:
            defined = self._jets.program.definition(value)
            varies = defined is not None and self._jets.program.depends(value)
            self._known[key] = self._of_equation(*defined, weights, lower) if defined and varies else None
        return self._known[key]

    def _of_equation(self, equation: Equation, position: int, weights: Weights, lower: frozenset[Index]) -> Var | None:
        jets, b = self._jets, self._jets.builder
        name = jets.names.get(equation.results[position].name, equation.results[position].name)
        with b.at(equation.span, prefix=f"{name}_sum_"):
            if spec_of(equation.op).jvp is None:
                return self._channel(jets.program.expansion(equation)[position], weights, lower)
            given = [self._channel(v, weights, lower) for v in equation.operands]
            total = jets.tangent(equation, given)[position]
            remainder = Remainder(jets, equation, lower)
            for a, weight in weights:
                added = remainder.coefficient(equation.results[position], a)
                if added is not None:
                    total = add_optional(b, total, _times(b, added, weight * factorials(a)))
        if total is not None:
            jets.names.setdefault(total.name, f"{name}_sum")
        return total


def _times(b: Builder, var: Var, factor: float) -> Var:
    return var if factor == 1.0 else scaled(b, var, factor)


def _lower(weights: Weights) -> frozenset[Index]:
    """Everything strictly below the indices."""
    tops = [a for a, _ in weights]
    return frozenset(c for c in closure(tops) if c not in tops)
