"""How many linear combinations of highest derivatives a function really looks at.

A Laplacian is one combination of d second derivatives: it could be propagated as one channel (collapsed Taylor mode,
Dangel, Siebert, Zeinhofer and Walther 2025). Coefficients may be anything that is known without the highest
derivatives themselves, such as the velocities in front of them.
"""

from __future__ import annotations

from collections.abc import Container

from tesserac.ir.program import Function
from tesserac.ops.attributes import integer
from tesserac.ops.base import spec_of
from tesserac.passes.demand import Unit
from tesserac.passes.multiindex import Index, plus, unit, within

Term = tuple[str, Index]
"""A derivative of a value."""


def combinations(function: Function, found: Unit, roots: Container[str]) -> tuple[int, int]:
    """Number of combinations of the roots' highest derivatives that are read otherwise than linearly; and of those."""
    forms = _forms(function, found)
    terms = {term for form in forms.values() for term in form if term[0] in roots}
    tops = {(name, a) for name, a in terms
            if any(a) and not any(name == other and a != b and within(a, b) for other, b in terms)}
    consumed: dict[str, frozenset[Term]] = {}
    for equation in function.equations:
        if spec_of(equation.op).kind == "transform":
            continue
        carrying = [v for v in equation.operands if forms.get(v.name, frozenset()) & tops]
        if carrying and not (_carries(equation.op) and (equation.op != "mul" or len(carrying) == 1)):
            consumed.update((v.name, forms[v.name] & tops) for v in carrying)
    for output in function.outputs:
        if forms.get(output.var.name, frozenset()) & tops:
            consumed[output.var.name] = forms[output.var.name] & tops
    return len(consumed), len(tops)


def _carries(op: str) -> bool:
    return op in ("add", "sub", "neg", "mul") or spec_of(op).kind == "view"


def _forms(function: Function, found: Unit) -> dict[str, frozenset[Term]]:
    """Of every value the derivatives that it is a combination of."""
    zero = (0,) * len(found.directions)
    numbers = {(d.coordinate.name, d.component): i for i, d in enumerate(found.directions)}
    forms: dict[str, frozenset[Term]] = {}
    for equation in function.equations:
        if equation.op == "derivative":
            value, coordinate = equation.operands
            number = numbers.get((coordinate.name, integer(equation.attributes, "component")))
            if number is not None:
                step = unit(number, len(zero))
                form = forms.get(value.name, frozenset({(value.name, zero)}))
                forms[equation.result.name] = frozenset((name, plus(a, step)) for name, a in form)
        elif spec_of(equation.op).kind != "transform" and _carries(equation.op):
            form = frozenset().union(*(forms.get(v.name, frozenset()) for v in equation.operands))
            if form:
                forms[equation.result.name] = form
    return forms
