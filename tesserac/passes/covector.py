"""The shared covector: derivatives of highest order of one value from a reverse sweep instead of forward channels.

Let z_k = f_k(z) be the equations of a value psi, and let every z_k carry the coefficients at a lower-closed set F of
indices only. At an index b outside F equation k then misses its remainder r_{k,b} = [f_k(z)]_b, computed from the
coefficients in F. With g_k the cotangent of z_k for psi, itself a function of the point with coefficients g_{k,c},

    psi_a  =  sum over k, and over c with a - c outside F, of  <g_{k,c}, r_{k,a-c}>

exactly, as long as a - b lies in F for every b <= a outside F: two remainders then never meet. Every index takes the
same covectors, so one reverse row replaces all forward rows of the highest order (and rows g_c those of the orders
below it, down to half the order). Since the sum is linear in each g, reverse mode over it is the ordinary one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tesserac.ir.builder import Builder
from tesserac.ir.program import Equation, Var
from tesserac.ops.rules import add_optional
from tesserac.passes.multiindex import Index, below, graded, minus
from tesserac.passes.reverse import pull_back
from tesserac.passes.taylor import Jets, Remainder
from tesserac.passes.transpose import Cotangents


@dataclass(frozen=True, slots=True)
class Covectors:
    """A way to compute the coefficients of ``value`` at ``indices``: ``kept`` is F, ``points`` the axes of points."""

    value: Var
    indices: tuple[Index, ...]
    kept: frozenset[Index]
    points: int


def reverse_indices(a: Index, kept: frozenset[Index]) -> set[Index] | None:
    """The c of the sum for one index; None if ``kept`` does not suffice for it."""
    found = {minus(a, b) for b in below(a) if b not in kept}
    return found if found <= kept else None


def add_coefficients(jets: Jets, plan: Covectors) -> None:
    """Sets the coefficients of the plan."""
    b, value = jets.builder, plan.value
    columns = value.type.size
    for size in value.type.sizes[: plan.points]:
        columns //= size
    totals: dict[Index, list[Var | None]] = {a: [] for a in plan.indices}
    for column in range(columns):
        for a, total in _Sweep(jets, plan, _seed(b, plan, column, columns)).run().items():
            totals[a].append(total)
    for a, parts in totals.items():
        with b.at(b.span, prefix=f"{value.name}_{jets.program.suffix(a)}_"):
            jets.put(value, a, _joined(b, plan, parts))


def _seed(b: Builder, plan: Covectors, column: int, columns: int) -> Var:
    """The cotangent that picks one column of the value at every point."""
    like = plan.value.type
    if columns == 1:
        return b.constant(1.0, like, named=f"d_{plan.value.name}")
    points = like.sizes[: plan.points]
    ones = b.constant(1.0, like.with_shape((*points, 1)), named="one")
    none = (0,) * len(points)
    picked = b.op("pad", ones, low=(*none, column), high=(*none, columns - 1 - column))
    return b.op("reshape", picked, shape=like.shape, named=f"d_{plan.value.name}")


def _joined(b: Builder, plan: Covectors, parts: list[Var | None]) -> Var | None:
    """Sums per point and column as a value of the type of the plan's."""
    like = plan.value.type
    points = like.sizes[: plan.points]
    if all(part is None for part in parts):
        return None
    if len(parts) == 1 and parts[0] is not None:
        return parts[0] if parts[0].type == like else b.op("reshape", parts[0], shape=like.shape)
    zero = b.constant(0.0, like.with_shape(points))
    columns = [b.op("reshape", zero if part is None else part, shape=(*points, 1)) for part in parts]
    joined = b.op("concat", *columns, axis=len(points))
    return joined if joined.type == like else b.op("reshape", joined, shape=like.shape)


class _Sweep:
    """One reverse sweep and the sums over it."""

    def __init__(self, jets: Jets, plan: Covectors, seed: Var) -> None:
        self._jets = jets
        self._plan = plan
        self._equations = jets.program.ancestors(plan.value)
        self._sums = Cotangents(jets.builder, [(plan.value.name, seed)])
        self._remainders: dict[str, Remainder] = {}

    def run(self) -> dict[Index, Var | None]:
        """The sum for every index of the plan, per point; None for zero."""
        jets, b = self._jets, self._jets.builder
        active = {v.name for e in self._equations for v in (*e.operands, *e.results) if jets.program.depends(v)}
        pull_back(b, self._equations, self._sums, active, {})
        by, names = f"{self._plan.value.name}_by_", self._sums.readable_names(jets.names)
        jets.names.update((key, by + name.removeprefix("d_")) for key, name in names.items())
        totals: dict[Index, Var | None] = dict.fromkeys(self._plan.indices)
        for coordinate in dict.fromkeys(d.coordinate for d in jets.program.directions):
            for a in self._plan.indices:
                totals[a] = add_optional(b, totals[a], self._of_coordinate(coordinate, a))
        for equation in self._equations:
            with b.at(equation.span):
                for a in self._plan.indices:
                    for position in range(len(equation.results)):
                        totals[a] = add_optional(b, totals[a], self._of_equation(equation, position, a))
        return totals

    def _outside(self, a: Index) -> Iterable[Index]:
        return (c for c in below(a) if c not in self._plan.kept)

    def _of_equation(self, equation: Equation, position: int, a: Index) -> Var | None:
        """<g_c, r_{a-c}> of one equation's result, summed over c."""
        value = equation.results[position]
        cotangent = self._sums.get(value.name)
        if cotangent is None or not self._jets.program.depends(value):
            return None
        remainder = self._remainders.setdefault(
            equation.results[0].name, Remainder(self._jets, equation, self._plan.kept))
        return self._paired(cotangent, a, {c: remainder.coefficient(value, c) for c in self._outside(a)})

    def _of_coordinate(self, coordinate: Var, a: Index) -> Var | None:
        """The same where not even the coordinate's own direction is kept."""
        cotangent = self._sums.get(coordinate.name)
        if cotangent is None:
            return None
        return self._paired(cotangent, a, {c: self._jets.coefficient(coordinate, c) for c in self._outside(a)})

    def _paired(self, cotangent: Var, a: Index, remainders: dict[Index, Var | None]) -> Var | None:
        b, total = self._jets.builder, None
        for c in graded(remainders):
            remainder, along = remainders[c], minus(a, c)
            if remainder is None:
                continue
            self._jets.prepare(cotangent, [along])
            covector = self._jets.coefficient(cotangent, along)
            if covector is not None:
                total = add_optional(b, total, b.op("mul", covector, remainder))
        if total is None or total.type.rank == self._plan.points:
            return total
        return b.op("reduce_sum", total, axes=tuple(range(self._plan.points, total.type.rank)))
