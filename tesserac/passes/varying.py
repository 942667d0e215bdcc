"""A program as coordinates see it: who defines what, and what varies along which direction."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

from tesserac.ir.builder import Builder
from tesserac.ir.program import Equation, Var
from tesserac.ops.base import spec_of
from tesserac.ops.elementwise import zero_jvp
from tesserac.passes.linearize import Linear, expanded, linearize, no_rule
from tesserac.passes.multiindex import Index


@dataclass(frozen=True, slots=True)
class Direction:
    """One component of a coordinate."""

    coordinate: Var
    component: int


class Program:
    """The equations of a builder as Taylor mode reads them: who defines what, and what depends on which direction.

    Equations may be added to the builder at any time; they are taken up when they are asked about.
    """

    def __init__(self, b: Builder, directions: Sequence[Direction]) -> None:
        self.builder = b
        self.directions = tuple(directions)
        self._coordinates: dict[str, int] = {}
        for i, direction in enumerate(self.directions):
            name = direction.coordinate.name
            self._coordinates[name] = self._coordinates.get(name, 0) | 1 << i
        self._letters = [f"{d.coordinate.name}{d.component if (self._columns(d.coordinate) > 1) else ''}"
                         for d in self.directions]
        self._seen = 0
        self._definitions: dict[str, tuple[Equation, int]] = {}
        self._support: dict[str, int] = dict(self._coordinates)
        self._linear: dict[str, Linear] = {}
        self._expansions: dict[str, tuple[Var, ...]] = {}

    def _catch_up(self) -> None:
        equations = self.builder.equations
        while self._seen < len(equations):
            equation = equations[self._seen]
            self._seen += 1
            bits = 0
            if equation.op != "stop_gradient" and spec_of(equation.op).jvp is not zero_jvp:
                for operand in equation.operands:
                    bits |= self._support.get(operand.name, 0)
            for position, var in enumerate(equation.results):
                self._definitions[var.name] = equation, position
                if bits and var.name not in self._coordinates and var.type.dtype.is_differentiable:
                    self._support[var.name] = bits

    def depends(self, var: Var, a: Index | None = None) -> bool:
        """Whether a value varies along some direction, or along every direction of an index."""
        self._catch_up()
        bits = self._support.get(var.name, 0)
        return bool(bits) if a is None else all(bits >> i & 1 for i, n in enumerate(a) if n)

    def carries(self, var: Var, coordinate: Var) -> bool:
        """Whether a value varies smoothly with one coordinate."""
        self._catch_up()
        return bool(self._support.get(var.name, 0) & self._coordinates[coordinate.name])

    def definition(self, var: Var) -> tuple[Equation, int] | None:
        """The equation of a value and the position of the value among its results; None for coordinates and inputs."""
        self._catch_up()
        return None if var.name in self._coordinates else self._definitions.get(var.name)

    def linearized(self, equation: Equation) -> Linear:
        """The tangent equations of an equation, in whatever varies."""
        name = equation.results[0].name
        if name not in self._linear:
            with self.builder.at(equation.span, prefix="t_"):
                self._linear[name] = linearize(self.builder, equation, [self.depends(v) for v in equation.operands])
        return self._linear[name]

    def expansion(self, equation: Equation) -> tuple[Var, ...]:
        """The results of a fused op as its primitives compute them."""
        name = equation.results[0].name
        if name not in self._expansions:
            if spec_of(equation.op).expand is None:
                raise no_rule(equation)
            with self.builder.at(equation.span, prefix=f"{name}_"):
                self._expansions[name] = expanded(self.builder, equation)[1]
        return self._expansions[name]

    def suffix(self, a: Index) -> str:
        """The index as it stands in names: xxy."""
        return "".join(self._letters[i] * n for i, n in enumerate(a))

    def ancestors(self, var: Var, known: Container[str] = ()) -> list[Equation]:
        """The varying equations that a value is computed from, in program order, back to values that are ``known``."""
        self._catch_up()
        wanted, found = {var.name}, []
        for equation in reversed(self.builder.equations):
            varies = any(v.name in wanted and self._support.get(v.name) for v in equation.results)
            if varies and not any(v.name in self._coordinates for v in equation.results):
                found.append(equation)
                wanted.update(v.name for v in equation.operands if v.name not in known)
        return found[::-1]

    def seed(self, coordinate: Var, a: Index) -> Var | None:
        """The coefficient of a coordinate itself: one along its own directions, else zero."""
        if sum(a) != 1:
            return None
        direction = self.directions[a.index(1)]
        if direction.coordinate != coordinate:
            return None
        b, like, ones = self.builder, coordinate.type, self.one(coordinate)
        columns = self._columns(coordinate)
        if columns == 1:
            return ones
        before = (0,) * (like.rank - 1)
        return b.op("pad", ones, low=(*before, direction.component), high=(*before, columns - 1 - direction.component),
                    named=f"unit_{coordinate.name}")

    def one(self, coordinate: Var) -> Var:
        """The derivative of a component of a coordinate by itself."""
        like = coordinate.type
        column = like if self._columns(coordinate) == 1 else like.with_shape((*like.shape[:-1], 1))
        return self.builder.constant(1.0, column, named=f"one_{coordinate.name}")

    @staticmethod
    def _columns(coordinate: Var) -> int:
        return coordinate.type.sizes[-1] if coordinate.type.rank > 1 else 1
