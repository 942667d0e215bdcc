"""Which values of a function are linear combinations of derivatives by coordinate, and of which."""

from __future__ import annotations

from math import prod

from tesserac.ir.program import Equation, Function, Var
from tesserac.ops.attributes import integer, integers, number
from tesserac.ops.transform import point_rank
from tesserac.passes.demand import Unit
from tesserac.passes.multiindex import Index, plus, unit, within

Term = tuple[Var, Index, tuple[Var, ...]]
"""A derivative of a value, and the factors in front of it by name, which differ from point to point."""

Form = dict[Term, float]
"""A value as a combination of terms with constant weights."""


class Forms:
    """``of``: the form of a value by name; ``ends``: names of forms that something reads which is no form itself.

    With ``factors``, a value of one number per point may multiply a form.
    """

    def __init__(self, function: Function, found: Unit, factors: bool) -> None:
        self.of: dict[str, Form] = {}
        self._unit = found
        self._factors = factors
        self._constants: dict[str, float] = {}
        self._read: set[str] = set()
        self._numbers = {(d.coordinate.name, d.component): i for i, d in enumerate(found.directions)}
        for equation in function.equations:
            form = self._form(equation)
            if form is not None:
                self.of[equation.results[0].name] = form
        self.ends = self._ends(function)

    def tops(self) -> set[tuple[Var, Index]]:
        """The derivatives of second and higher order that no other one that is read lies above."""
        terms = {term[:2] for name in self.ends for term in self.of[name]}
        everything = {a for _, a in terms}
        return {(v, a) for v, a in terms if sum(a) > 1 and not any(a != c and within(a, c) for c in everything)}

    def _form(self, equation: Equation) -> Form | None:
        if equation.op == "full":
            self._constants[equation.result.name] = number(equation.attributes, "value")
        elif equation.op == "broadcast" and equation.operands[0].name in self._constants:
            self._constants[equation.result.name] = self._constants[equation.operands[0].name]
        elif equation.op == "derivative":
            return self._derivative(equation)
        elif equation.op == "mul":
            return self._multiple(equation)
        elif equation.op in ("add", "sub", "neg"):
            return self._sum(equation)
        return None

    def _derivative(self, equation: Equation) -> Form | None:
        value, coordinate = equation.operands
        direction = self._numbers.get((coordinate.name, integer(equation.attributes, "component")))
        zero = (0,) * len(self._unit.directions)
        form = self.of.get(value.name) or ({(value, zero, ()): 1.0} if value.name in self._unit.early else None)
        if direction is None or form is None or any(factors for _, _, factors in form):
            return None
        step = unit(direction, len(zero))
        return {(v, plus(a, step), ()): w for (v, a, _), w in form.items()}

    def _sum(self, equation: Equation) -> Form | None:
        operands = [self.of.get(v.name) for v in equation.operands]
        if any(form is None for form in operands):
            return None
        total: Form = {}
        for sign, form in zip((1.0, -1.0 if equation.op == "sub" else 1.0), operands, strict=False):
            for term, w in (form or {}).items():
                total[term] = total.get(term, 0.0) + (-w if equation.op == "neg" else sign * w)
        return {term: w for term, w in total.items() if w != 0.0}

    def _multiple(self, equation: Equation) -> Form | None:
        """A form times a constant, or times a factor that is none of second or higher order itself."""
        x, y = equation.operands
        sides = ((self.of.get(x.name), y), (self.of.get(y.name), x))
        for form, other in sides:
            if form is not None and other.name in self._constants:
                return {term: w * self._constants[other.name] for term, w in form.items()}
        curved = [(form, other) for form, other in sides if form is not None and any(sum(a) > 1 for _, a, _ in form)]
        if not self._factors or len(curved) != 1:
            return None
        ((form, other),) = curved
        factor = self._per_point(other, form)
        if factor is None:
            return None
        self._read.update((factor.name, other.name))
        return {(v, a, tuple(sorted((*factors, factor), key=str))): w for (v, a, factors), w in form.items()}

    def _per_point(self, var: Var, form: Form) -> Var | None:
        """The value of one number per point that a value repeats along its other axes; None if it is not so."""
        numbered = enumerate(self._unit.directions)
        taken = [d.coordinate.type for i, d in numbered if any(a[i] for _, a, _ in form)]
        shapes = {t.sizes[: point_rank(t)] for t in taken}
        if len(shapes) != 1:
            return None
        (points,) = shapes
        count = prod(points)
        if var.type.size == count and var.type.sizes[: len(points)] == points:
            return var
        defined = self._unit.definitions.get(var.name)
        if defined is None or defined.op != "broadcast" or var.type.sizes[: len(points)] != points:
            return None
        source, axes = defined.operands[0], integers(defined.attributes, "axes")
        in_order = axes[: len(points)] == tuple(range(len(points))) and source.type.sizes[: len(points)] == points
        return source if in_order and source.type.size == count else None

    def _ends(self, function: Function) -> set[str]:
        found = {o.var.name for o in function.outputs if o.var.name in self.of}
        found.update(name for name in self._read if name in self.of)
        for equation in function.equations:
            if not any(v.name in self.of for v in equation.results):
                found.update(v.name for v in equation.operands if v.name in self.of)
        return found
