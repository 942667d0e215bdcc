"""Collapsed Taylor mode: a linear combination of highest derivatives as one channel (Dangel et al. 2025).

The highest coefficient of y = f(x) is y_a = J x_a + r_a, with J the same for all a and the remainder r_a made of lower
coefficients. So a combination with known weights, sum of w_a y_a, obeys the same equation as its terms: it is pushed
forward once, whatever the number of its terms, and for all columns of a value at once. A weight is a number times a
*factor* that may differ from point to point, since J joins no points: a diffusivity, a velocity, a lower derivative.

``collapse`` rewrites a function that asks for such combinations into ``combination`` equations; ``Channels`` computes
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tesserac.ir.builder import Builder
from tesserac.ir.program import Attr, Equation, Function, Var
from tesserac.ops.attributes import integers
from tesserac.ops.base import spec_of
from tesserac.ops.rules import add_optional, scaled
from tesserac.passes.demand import Unit
from tesserac.passes.forms import Form, Forms
from tesserac.passes.multiindex import Index, closure, factorials, graded
from tesserac.passes.rows import points_lead
from tesserac.passes.simplify import without_unused
from tesserac.passes.taylor import Jets, Remainder
from tesserac.passes.varying import Direction

Weights = tuple[tuple[Index, float, Var | None], ...]
"""A combination of derivatives of one value, by order: a number, and the factor that it stands in front of."""


def collapse(function: Function, found: Unit) -> Function | None:
    """The function with its combinations of highest derivatives as ``combination`` equations; None if it has none."""
    for factors in (True, False):
        forms = Forms(function, found, factors)
        if not factors or points_lead(found, {value.name for value, _ in forms.tops()}):
            rewritten = _collapsed(function, found, forms)
            if rewritten is not None:
                return rewritten
    return None


def _collapsed(function: Function, found: Unit, forms: Forms) -> Function | None:
    tops = forms.tops()
    if not any(len({term[:2] for term in forms.of[name] if term[:2] in tops}) > 1 for name in forms.ends):
        return None
    b = Builder()
    b.reserve(v.name for v in function.variables())
    for equation in function.equations:
        name = equation.results[0].name
        if name in forms.ends and any(term[:2] in tops for term in forms.of[name]):
            with b.at(equation.span):
                value = _combined(b, found.directions, forms.of[name], tops)
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


def _combined(b: Builder, directions: Sequence[Direction], form: Form, tops: set[tuple[Var, Index]]) -> Var:
    """The value of a form: one combination of the highest derivatives of each value, and the others one by one."""
    by_value: dict[Var, Form] = {}
    parts: list[Var] = []
    for term, weight in form.items():
        value, a, factors = term
        if (value, a) in tops:
            by_value.setdefault(value, {})[term] = weight
        else:
            parts.append(scaled(b, _multiplied(b, _derivative(b, directions, value, a), factors), weight))
    for value, terms in by_value.items():
        ordered = [term for a in graded({term[1] for term in terms}) for term in terms if term[1] == a]
        first = terms[ordered[0]]
        common = [f for f in dict.fromkeys(ordered[0][2]) if all(f in factors for _, _, factors in ordered)]
        if len(ordered) == 1:
            found = _derivative(b, directions, value, ordered[0][1])
        else:
            rest = {(v, a, _without(factors, common)): terms[v, a, factors] / first for v, a, factors in ordered}
            found = _combination(b, directions, value, rest)
        parts.append(scaled(b, _multiplied(b, found, common), first))
    total = parts[0]
    for part in parts[1:]:
        total = b.op("add", total, part)
    return total


def _combination(b: Builder, directions: Sequence[Direction], value: Var, terms: Form) -> Var:
    """The equation for a combination of derivatives of one value, along those directions alone that it takes."""
    taken = [i for i in range(len(directions)) if any(a[i] for _, a, _ in terms)]
    directions = [directions[i] for i in taken]
    distinct = [factors for factors in dict.fromkeys(factors for _, _, factors in terms) if factors]
    attrs: dict[str, Attr] = {
        "components": tuple(d.component for d in directions),
        "indices": tuple(tuple(a[i] for i in taken) for _, a, _ in terms),
        "weights": tuple(terms.values()),
        "factors": tuple(distinct.index(factors) if factors else -1 for _, _, factors in terms),
    }
    behind = [_product(b, factors) for factors in distinct]
    (found,) = b.ops("combination", (value, *(d.coordinate for d in directions), *behind), attrs)
    return found


def _without(factors: Sequence[Var], common: Sequence[Var]) -> tuple[Var, ...]:
    """The factors less one of each common one."""
    left = list(factors)
    for factor in common:
        left.remove(factor)
    return tuple(left)


def _product(b: Builder, factors: Sequence[Var]) -> Var:
    """One number per point, of the shape of the first factor."""
    first, *others = factors
    for other in others:
        first = b.op("mul", first, b.op("reshape", other, shape=first.type.shape))
    return first


def _multiplied(b: Builder, value: Var, factors: Sequence[Var]) -> Var:
    """A value of every point times the number of that point."""
    if not factors:
        return value
    factor, shape = _product(b, factors), value.type.sizes
    points, rest = 0, factor.type.size
    while rest > 1:  # its leading axes are the points
        rest //= shape[points]
        points += 1
    if factor.type.shape != shape:
        factor = b.op("reshape", factor, shape=shape[:points])
        factor = b.op("broadcast", factor, shape=shape, axes=tuple(range(points)))
    return b.op("mul", value, factor)


def _derivative(b: Builder, directions: Sequence[Direction], value: Var, a: Index) -> Var:
    for direction, count in zip(directions, a, strict=True):
        for _ in range(count):
            value = b.op("derivative", value, direction.coordinate, component=direction.component)
    return value


def weights_of(equation: Equation) -> Weights:
    """The indices, weights and factors of a ``combination``."""
    indices, weights = equation.attr("indices"), equation.attr("weights")
    assert isinstance(indices, tuple)
    assert isinstance(weights, tuple)
    behind = equation.operands[1 + len(integers(equation.attributes, "components")) :]
    factors = [behind[n] if n >= 0 else None for n in integers(equation.attributes, "factors")]
    return tuple((tuple(int(n) for n in a), float(w), factor)  # type: ignore[union-attr, arg-type]
                 for a, w, factor in zip(indices, weights, factors, strict=True))


class Channels:
    """Combinations of coefficients, pushed forward; ``jets`` holds the lower ones."""

    def __init__(self, jets: Jets) -> None:
        self._jets = jets
        self._known: dict[tuple[str, Weights], Var | None] = {}

    def value(self, value: Var, weights: Weights) -> Var | None:
        """sum of w_a d^a value, with what stands in front of each; None for zero."""
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
            for a, weight, factor in weights:
                added = remainder.coefficient(equation.results[position], a)
                if added is not None:
                    added = _multiplied(b, added, () if factor is None else (factor,))
                    total = add_optional(b, total, _times(b, added, weight * factorials(a)))
        if total is not None:
            jets.names.setdefault(total.name, f"{name}_sum")
        return total


def _times(b: Builder, var: Var, factor: float) -> Var:
    return var if factor == 1.0 else scaled(b, var, factor)


def _lower(weights: Weights) -> frozenset[Index]:
    """Everything strictly below the indices."""
    tops = [a for a, _, _ in weights]
    return frozenset(c for c in closure(tops) if c not in tops)
