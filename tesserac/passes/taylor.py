"""Multivariate Taylor mode: normalised coefficients of values along coordinates, as ordinary equations.

``v_a`` stands for (1/a!) d^a v. With that normalisation a linear equation acts on each coefficient by itself and a
product is a convolution, v_a = sum over b <= a of x_b y_{a-b}. Any other equation y = f(x) is differentiated once
by its op's own rule, y' = L(x, y; x') with L linear in x', and that relation read for coefficients is the recurrence

    y_a = (1 / a_i) [L(x, y; x')]_{a - e_i},        [x']_b = (b_i + 1) x_{b + e_i},

whose right side needs coefficients of lower order only, those of the slopes in L among them: these are ordinary
values with coefficients of their own, so that 1 - tanh^2 is one more convolution. The number of equations grows as
the square of the number of coefficients, whatever the order. (Griewank and Walther, Evaluating Derivatives, ch. 13.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tesserac.ir.program import Equation, Var
from tesserac.ops.base import spec_of
from tesserac.ops.rules import add_optional, scaled
from tesserac.passes.columns import product_of_columns
from tesserac.passes.linearize import Linear
from tesserac.passes.multiindex import Index, below, closure, factorials, graded, minus, plus, unit
from tesserac.passes.varying import Program

Look = Callable[[Var, Index], Var | None]
"""Coefficient of a value at an index; None stands for zero."""

PRODUCTS = ("mul", "contract")


@dataclass(frozen=True, slots=True)
class Origin:
    """A value that is ``factor`` times the coefficient of another one."""

    value: Var
    index: Index
    factor: float


class Jets:
    """Coefficients of values, each computed once.

    ``shortcut`` is asked first: it may compute a coefficient in another way, ``set`` it and answer True.
    """

    def __init__(self, program: Program, shortcut: Callable[[Var, Index], bool] | None = None) -> None:
        self.program = program
        self._shortcut = shortcut
        self.builder = program.builder
        self._known: dict[tuple[str, Index], Var | None] = {}
        self._origins: dict[str, Origin] = {}
        self._tangents: dict[tuple[str, int], tuple[Var | None, ...]] = {}
        self._plain: set[str] = set()
        self.names: dict[str, str] = {}

    # ---- what callers ask ------------------------------------------------------------------------------------

    def origin(self, value: Var) -> Origin:
        """The value that this one is a derivative of, or itself."""
        return self._origin_of(value) or Origin(value, self._zero(), 1.0)

    def put(self, value: Var, a: Index, coefficient: Var | None) -> None:
        """Makes a value that was computed in another way the coefficient from now on."""
        self._known[value.name, a] = coefficient
        if coefficient is not None:
            self._origins[coefficient.name] = Origin(value, a, 1.0)
            self._name(coefficient, value, a)

    def prepare(self, value: Var, indices: Iterable[Index]) -> None:
        """Computes what coefficients are made of, from the first equation on: recursion stays shallow.

        Values that are coefficients of others lead back to those, not to the equations that compute them.
        """
        missing = [a for a in graded(closure(indices)) if any(a) and (value.name, a) not in self._known]
        if not missing or self._taken(value, missing[-1]):
            return
        equations = self.program.ancestors(value, self._origins)
        read = dict.fromkeys(v.name for e in equations for v in e.operands if v.name in self._origins)
        for origin in dict.fromkeys(self._origins[name] for name in read):
            if origin.value != value:
                self.prepare(origin.value, [plus(origin.index, a) for a in missing])
        for equation in equations:
            for a in missing:
                for var in equation.results:
                    self.coefficient(var, a)

    def derivative(self, value: Var, direction: int) -> Var | None:
        """The partial derivative of a value, which may be a derivative itself; None for zero."""
        origin = self.origin(value)
        index = plus(origin.index, unit(direction, len(self.program.directions)))
        self.prepare(origin.value, [index])
        found = self.coefficient(origin.value, index)
        if found is None:
            return None
        factor = origin.factor * (factorials(index) / factorials(origin.index))
        whole = Origin(origin.value, index, factor)
        result = self._times(found, factor, whole)
        # It may be the coefficient of an earlier value as well; what it was asked for is what it is.
        if result.name not in self._plain:
            self._origins[result.name] = whole
        return result

    def coefficient(self, value: Var, a: Index) -> Var | None:
        """(1/a!) d^a of a value; None for zero."""
        if not any(a):
            return value
        if not self.program.depends(value, a):
            return None
        key = value.name, a
        if key not in self._known:
            origin = self._origin_of(value)
            mark = len(self.builder.equations)
            if self._taken(value, a):
                return self._known[key]
            found = self._of_origin(origin, a) if origin else self._of_definition(value, a)
            self._known[key] = found
            if found is not None and found.name not in self._plain and self._made_since(mark, found):
                self._origins.setdefault(found.name, Origin(value, a, 1.0))
        return self._known[key]

    # ---- bookkeeping -----------------------------------------------------------------------------------------

    def _zero(self) -> Index:
        return (0,) * len(self.program.directions)

    def _taken(self, value: Var, a: Index) -> bool:
        """Whether the shortcut computed a coefficient."""
        return self._shortcut is not None and self._shortcut(value, a)

    def _origin_of(self, value: Var) -> Origin | None:
        return self._origins.get(value.name)

    def _name(self, var: Var, value: Var, a: Index) -> None:
        name, over = f"{self.names.get(value.name, value.name)}_{self.program.suffix(a)}", factorials(a)
        self.names.setdefault(var.name, name if over == 1 else f"{name}_over{over}")

    def _made_since(self, mark: int, var: Var) -> bool:
        return any(var in e.results for e in self.builder.equations[mark:])

    def _times(self, var: Var, factor: float, origin: Origin) -> Var:
        if factor == 1.0:
            return var
        key = f"{var.name}*{factor!r}", origin.index
        if key not in self._known:
            made = scaled(self.builder, var, factor)
            self._known[key] = made
            if factor == factorials(origin.index):
                name = self.names.get(origin.value.name, origin.value.name)
                self.names[made.name] = f"{name}_{self.program.suffix(origin.index)}"
            self._origins[made.name] = origin
        found = self._known[key]
        assert found is not None
        return found

    def _of_origin(self, origin: Origin, a: Index) -> Var | None:
        index = plus(origin.index, a)
        found = self.coefficient(origin.value, index)
        if found is None:
            return None
        factor = origin.factor * (factorials(index) / (factorials(origin.index) * factorials(a)))
        return self._times(found, factor, Origin(origin.value, index, factor))

    def _of_definition(self, value: Var, a: Index) -> Var | None:
        defined = self.program.definition(value)
        if defined is None:
            return self.program.seed(value, a)
        equation, position = defined
        with self.builder.at(equation.span, prefix=f"{value.name}_{self.program.suffix(a)}_"):
            found = self._of_equation(equation, position, a)
        if found is not None:
            self._name(found, value, a)
        return found

    # ---- rules -----------------------------------------------------------------------------------------------

    def _of_equation(self, equation: Equation, position: int, a: Index) -> Var | None:
        flags = [self.program.depends(v) for v in equation.operands]
        direct = self.structural(equation, flags, a, self.coefficient)
        if direct is not None:
            return direct[0]
        if spec_of(equation.op).jvp is None:
            return self.coefficient(self.program.expansion(equation)[position], a)
        linear = self.program.linearized(equation)
        tangents = {v.name for v in linear.inputs if v is not None}
        tangents.update(v.name for e in linear.equations for v in e.results)
        if not any(self._varies(e, tangents) for e in linear.equations):
            given = [self.coefficient(v, a) if flag else None for v, flag in zip(equation.operands, flags, strict=True)]
            return self.tangent(equation, given)[position]
        if all(self._convolves(e, tangents) for e in linear.equations):
            return self._recurrence(equation, linear, position, a)
        return self._nested(equation, position, a)

    def _varies(self, equation: Equation, tangents: set[str]) -> bool:
        """Whether a tangent equation has a factor that varies."""
        return any(v.name not in tangents and self.program.depends(v) for v in equation.operands)

    def _convolves(self, equation: Equation, tangents: set[str]) -> bool:
        """Whether the factors of a tangent equation that vary enter it as those of a product or quotient."""
        if not self._varies(equation, tangents):
            return True
        return equation.op in PRODUCTS or (equation.op == "div" and equation.operands[1].name not in tangents)

    def tangent(self, equation: Equation, given: Sequence[Var | None]) -> tuple[Var | None, ...]:
        """Tangents of an equation's results by its op's rule; None stands for zero."""
        if all(t is None for t in given):
            return tuple(None for _ in equation.results)
        rule = spec_of(equation.op).jvp
        assert rule is not None
        return rule(self.builder, equation, given)

    def structural(self, equation: Equation, flags: Sequence[bool], a: Index, look: Look) -> tuple[Var | None] | None:
        """The coefficient of a product, square or quotient by its own rule; None for any other equation."""
        op, operands = equation.op, equation.operands
        if op in PRODUCTS and all(flags):
            return (self._convolution(equation, a, look),)
        if op == "square":
            return (self._squares(operands[0], a, look),)
        if op == "contract":
            return product_of_columns(self.program, look, equation, flags, a)
        if op == "div" and flags[1]:
            return (self._quotient(equation, a, look),)
        return None

    def _convolution(self, equation: Equation, a: Index, look: Look) -> Var | None:
        """sum over b <= a of x_b y_{a-b}."""
        (x, y), b = equation.operands, self.builder
        if x == y and equation.op == "mul":
            return self._squares(x, a, look)
        total: Var | None = None
        for c in below(a):
            first, second = look(x, c), look(y, minus(a, c))
            if first is not None and second is not None:
                (term,) = b.ops(equation.op, (first, second), equation.attributes)
                total = add_optional(b, total, term)
        return total

    def _squares(self, x: Var, a: Index, look: Look) -> Var | None:
        """The convolution of a value with itself: equal terms once, doubled."""
        b = self.builder
        pairs: Var | None = None
        middle: Var | None = None
        for c in below(a):
            other = minus(a, c)
            if c < other:
                continue
            first, second = look(x, c), look(x, other)
            if first is None or second is None:
                continue
            if c == other:
                middle = b.op("square", first)
            else:
                pairs = add_optional(b, pairs, b.op("mul", first, second))
        return add_optional(b, None if pairs is None else scaled(b, pairs, 2.0), middle)

    def _quotient(self, equation: Equation, a: Index, look: Look) -> Var | None:
        """q_a = (x_a - sum over 0 < b <= a of q_{a-b} y_b) / y."""
        (x, y), b = equation.operands, self.builder
        rest = look(x, a)
        total: Var | None = None
        for c in below(a):
            if any(c):
                slope, q = look(y, c), look(equation.result, minus(a, c))
                if slope is not None and q is not None:
                    total = add_optional(b, total, b.op("mul", q, slope))
        if total is not None:
            rest = b.op("neg", total) if rest is None else b.op("sub", rest, total)
        divisor = look(y, self._zero())
        assert divisor is not None
        return None if rest is None else b.op("div", rest, divisor)

    def _recurrence(self, equation: Equation, linear: Linear, position: int, a: Index) -> Var | None:
        """y_a from the tangent equations read for coefficients."""
        output = linear.outputs[position]
        if output is None:
            return None
        return _TangentScope(self, equation, linear, a).look(output, minus(a, self._step(a)))

    def _step(self, a: Index) -> Index:
        return unit(next(i for i, n in enumerate(a) if n), len(a))

    def _nested(self, equation: Equation, position: int, a: Index) -> Var | None:
        """One forward derivative in full, whose coefficients are then asked for: nested forward mode."""
        step = self._step(a)
        direction = step.index(1)
        key = equation.results[0].name, direction
        if key not in self._tangents:
            given = [self.coefficient(v, step) for v in equation.operands]
            self._origins.update((t.name, Origin(v, step, 1.0)) for v, t in zip(equation.operands, given, strict=True)
                                 if t is not None and isinstance(self, Remainder))
            self._tangents[key] = self.tangent(equation, given)
            self._plain.update(v.name for v in self._tangents[key] if v is not None)
        tangent = self._tangents[key][position]
        if tangent is None:
            return None
        found = self.coefficient(tangent, minus(a, step))
        return found if found is None or a[direction] == 1 else scaled(self.builder, found, 1.0 / a[direction])


class _TangentScope:
    """One equation's tangent equations read for coefficients: y_a = [L(x, y; x')]_{a - e_i} / a_i."""

    def __init__(self, jets: Jets, equation: Equation, linear: Linear, a: Index) -> None:
        self._jets = jets
        self._direction = next(i for i, n in enumerate(a) if n)
        self._count = a[self._direction]
        pairs = zip(linear.inputs, equation.operands, strict=True)
        self._sources = {t.name: v for t, v in pairs if t is not None}
        self._defined = {v.name: (e, i) for e in linear.equations for i, v in enumerate(e.results)}
        self._known: dict[tuple[str, Index], Var | None] = {}

    def look(self, value: Var, c: Index) -> Var | None:
        """Coefficient of a tangent, divided by a_i, or of a value."""
        if value.name not in self._sources and value.name not in self._defined:
            return self._jets.coefficient(value, c)
        key = value.name, c
        if key not in self._known:
            source = self._sources.get(value.name)
            self._known[key] = self._of_source(source, c) if source is not None else self._of_tangent(value, c)
        return self._known[key]

    def _of_source(self, source: Var, c: Index) -> Var | None:
        found = self._jets.coefficient(source, plus(c, unit(self._direction, len(c))))
        factor = (c[self._direction] + 1) / self._count
        return found if found is None or factor == 1.0 else scaled(self._jets.builder, found, factor)

    def _of_tangent(self, value: Var, c: Index) -> Var | None:
        equation, position = self._defined[value.name]
        own = [v.name in self._sources or v.name in self._defined for v in equation.operands]
        flags = [mine or self._jets.program.depends(v) for mine, v in zip(own, equation.operands, strict=True)]
        if flags != own:
            direct = self._jets.structural(equation, flags, c, self.look)
            assert direct is not None
            return direct[0]
        given = [self.look(v, c) if mine else None for mine, v in zip(own, equation.operands, strict=True)]
        return self._jets.tangent(equation, given)[position]


class Remainder(Jets):
    """Coefficients of one equation's results when its operands have only the coefficients in ``kept``.

    This is what the equation adds by itself at an index outside ``kept``. Inside, everything is as it is.
    """

    def __init__(self, whole: Jets, equation: Equation, kept: frozenset[Index]) -> None:
        super().__init__(whole.program)
        self._whole = whole
        self._kept = kept
        self._operands = {v.name for v in equation.operands}

    def coefficient(self, value: Var, a: Index) -> Var | None:
        """See Jets."""
        if not any(a):
            return value
        if a in self._kept:
            return self._whole.coefficient(value, a)
        return None if value.name in self._operands else super().coefficient(value, a)
