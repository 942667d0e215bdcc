"""The work of a scheme: floating-point operations of the matrix products that derivatives by coordinate cost.

Counted are the products of the program that results, gradient included: a product of a channel and a weight is one
product forward, one for the channel's cotangent and one for the weight's. Channels that are the same at every point are
rows of a weight and cost nothing; so do covectors that have met nothing but weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tesserac.ir.program import Equation, Function, Var
from tesserac.ops.base import flops_of, spec_of
from tesserac.passes.demand import HEAVY, Unit
from tesserac.passes.multiindex import Index, below, closure, minus

NEGLIGIBLE = 0.1
"""Products below this part of the widest one do not decide between schemes: a last layer of one column."""


@dataclass(frozen=True, slots=True)
class Work:
    """One product: its operations for one channel, and how often they are done forward and reverse."""

    equation: Equation
    flops: float
    forward: int
    reverse: int


@dataclass(frozen=True, slots=True)
class Counted:
    """All operations, and how often those of the unit's widest products are done: rows per point."""

    flops: float
    rows: float


class Counter:
    """Counts for one unit and its roots, whose number of columns per point is given."""

    def __init__(self, function: Function, found: Unit, columns: Mapping[str, int]) -> None:
        self._unit = found
        self.columns = dict(columns)
        roots = list(columns)
        self._equations = found.behind(roots)
        self._fixed = _without_data(function)
        self._flat = _flat(found, self._equations, self._fixed)
        self._moved = _moved(function)
        trained = bool(self._moved)
        self.works = [self._work(e, trained) for e in self._equations if spec_of(e.op).kind in HEAVY]
        self._widest = max((w.flops for w in self.works), default=1.0)
        self._weighty = [w for w in self.works if w.flops >= NEGLIGIBLE * self._widest]

    def _work(self, equation: Equation, trained: bool) -> Work:
        moved = sum(v.name in self._moved for v in equation.operands)
        weights = sum(v.name in self._moved and not self._unit.support.get(v.name) for v in equation.operands)
        return Work(equation, flops_of(equation), 1 + moved, 1 + weights + trained)

    def computes(self, var: Var) -> bool:
        """Whether some product of this field lies behind a value."""
        names = {v.name for e in self._unit.behind([var.name]) for v in e.results}
        return any(v.name in names for w in self.works for v in w.equation.results)

    def widest(self) -> str:
        """The shape of the weight in the widest product."""
        work = max(self.works, key=lambda w: w.flops)
        weight = next((v for v in work.equation.operands if not self._unit.support.get(v.name)), None)
        return "x".join(map(str, weight.type.sizes)) if weight is not None else f"`{work.equation.op}`"

    def channel(self) -> float:
        """Operations of one more forward channel in the products that matter."""
        return sum(w.flops * w.forward for w in self._weighty if not self._is_flat(w.equation))

    def covector(self, root: str) -> float:
        """The same for one more reverse row for every column of a root."""
        constant = self._constant(root)
        below = {id(w) for w in self._below(root)}
        return self.columns[root] * sum(w.flops * w.reverse for w in self._weighty if id(w) in below
                   and not self._is_flat(w.equation) and not self._picked(w.equation, constant))

    def count(self, kept: Mapping[str, frozenset[Index]], reverse: Mapping[str, Sequence[Index]],
              curving: Mapping[str, frozenset[Index]]) -> Counted:
        """``kept``: indices wanted of each root forward; ``reverse``: covectors of each; ``curving``: forward indices
        that remainders on the way to a root read."""
        done: dict[int, float] = {}
        needs = self._needs(kept, curving)
        for i, work in enumerate(self.works):
            done[i] = work.forward * self._forward(work, needs)
        for root, indices in reverse.items():
            constant = self._constant(root)
            reached = {id(w) for w in self._below(root)}
            for i, work in enumerate(self.works):
                if id(work) in reached and not self._is_flat(work.equation):
                    for c in indices:
                        if not self._picked(work.equation, constant):
                            done[i] += self.columns[root] * work.reverse * self._pairs(work.equation, c)
        wide = [i for i, w in enumerate(self.works) if w.flops == self._widest]
        return Counted(sum(n * self.works[i].flops for i, n in done.items()),
                       sum(done[i] for i in wide) / max(len(wide), 1))

    def with_channels(self, counted: Counted, channels: int) -> Counted:
        """And some more forward channels."""
        extra = [(w, channels * w.forward) for w in self.works if not self._is_flat(w.equation)]
        wide = [n for w, n in extra if w.flops == self._widest]
        return Counted(counted.flops + sum(n * w.flops for w, n in extra), counted.rows + sum(wide) / max(len(wide), 1))

    def collapsed(self, lower: Counted, combinations: int) -> Counted:
        """``lower`` and one forward channel per combination of highest derivatives.

        Their cotangents are multiples of one row per column, so that is all that comes back.
        """
        back = min(combinations, sum(self.columns.values()))
        extra = [(w, combinations + back * (w.forward - 1)) for w in self.works if not self._is_flat(w.equation)]
        wide = [n for w, n in extra if w.flops == self._widest]
        return Counted(lower.flops + sum(n * w.flops for w, n in extra), lower.rows + sum(wide) / max(len(wide), 1))

    # ---- what a product sees -----------------------------------------------------------------------------------

    def _is_flat(self, equation: Equation) -> bool:
        return all(v.name in self._flat for v in self._unit.varying(equation))

    def _forward(self, work: Work, needs: Mapping[str, set[Index]]) -> float:
        """Channels of a product's result, the value itself included, by how many products each takes."""
        indices = set().union(*(needs.get(v.name, set()) for v in work.equation.results))
        if self._is_flat(work.equation):
            return 1.0
        return 1.0 + sum(self._pairs(work.equation, a) for a in indices
                         if any(self._unit.carries(v, a) for v in work.equation.results))

    def _pairs(self, equation: Equation, a: Index) -> float:
        operands = self._unit.varying(equation)
        if len(operands) < 2:
            return 1.0
        first, second = operands[0], operands[-1]
        return float(sum(self._unit.carries(first, c) and self._unit.carries(second, minus(a, c)) for c in below(a)))

    def _needs(self, kept: Mapping[str, frozenset[Index]], curving: Mapping[str, frozenset[Index]]
               ) -> dict[str, set[Index]]:
        """Forward indices that are needed of every value."""
        needs: dict[str, set[Index]] = {root: {a for a in indices if any(a)} for root, indices in kept.items()}
        under: dict[str, set[Index]] = {root: {a for a in indices if any(a)} for root, indices in curving.items()}
        for equation in reversed(self._equations):
            wanted = set().union(*(needs.get(v.name, set()) for v in equation.results))
            read = set().union(*(under.get(v.name, set()) for v in equation.results))
            linear = self._unit.linear(equation)
            if not linear:
                wanted = {a for a in closure(wanted) if any(a)} | read
            for operand in self._unit.varying(equation):
                needs.setdefault(operand.name, set()).update(wanted)
                under.setdefault(operand.name, set()).update(read)
        return needs

    def _below(self, root: str) -> list[Work]:
        names = {v.name for e in self._unit.behind([root]) for v in e.results}
        return [w for w in self.works if any(v.name in names for v in w.equation.results)]

    def _constant(self, root: str) -> set[str]:
        """Values whose covector has met no value of a point yet: it is the same for all of them."""
        behind = self._unit.behind([root])
        varied: set[str] = set()
        for equation in reversed(behind):
            others = [v for v in equation.operands if not self._unit.support.get(v.name)]
            plain = self._unit.linear(equation) and all(v.name in self._fixed for v in others)
            if not plain or any(v.name in varied for v in equation.results):
                varied.update(v.name for v in self._unit.varying(equation))
        return {v.name for e in behind for v in e.results} - varied

    def _picked(self, equation: Equation, constant: set[str]) -> bool:
        return all(v.name in constant for v in equation.results)


def fields(found: Unit, roots: Iterable[str]) -> list[list[str]]:
    """The roots in groups that no product connects."""
    groups: list[tuple[list[str], set[str]]] = []
    for root in roots:
        behind = {v.name for e in found.behind([root]) if spec_of(e.op).kind in HEAVY for v in e.results}
        joined, names = [root], behind
        for group in [g for g in groups if g[1] & behind]:
            groups.remove(group)
            joined, names = group[0] + joined, names | group[1]
        groups.append((joined, names))
    return [group for group, _ in groups]


def _without_data(function: Function) -> set[str]:
    """Names of the values that are computed from parameters and constants alone."""
    found = {item.var.name for item in function.parameters}
    for equation in function.equations:
        if spec_of(equation.op).kind != "random" and all(v.name in found for v in equation.operands):
            found.update(v.name for v in equation.results)
    return found


def _moved(function: Function) -> set[str]:
    """Names of the values that some gradient is taken through: they depend on what it is taken by."""
    found = {v.name for e in function.equations if e.op == "backward" for v in e.operands[1:]}
    for equation in function.equations:
        if equation.op != "stop_gradient" and any(v.name in found for v in equation.operands):
            found.update(v.name for v in equation.results)
    return found


def _flat(found: Unit, equations: Sequence[Equation], fixed: set[str]) -> set[str]:
    """Names of the values that are linear in the coordinates, with slopes that are the same at every point."""
    flat = {d.coordinate.name for d in found.directions}
    for equation in equations:
        others = [v for v in equation.operands if not found.support.get(v.name)]
        if (found.linear(equation) and all(v.name in fixed for v in others)
                and all(v.name in flat for v in found.varying(equation))):
            flat.update(v.name for v in equation.results)
    return flat
