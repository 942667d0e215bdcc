"""Proof that a value at one point depends on the coordinate at that point alone.

``derivative`` is the derivative at every point, and it is computed as the derivative of a sum over points, which is
the same only if no equation on the way joins points. The axes that number points are followed from the coordinate to
the value by the ops' factor rules, the ones that cut a program by its batch index: an axis may be carried along,
moved, merged with others by a reshape and parted again, but not summed over, cut, or met by itself under a second
letter (as in x x^T). Values that do not vary with the coordinate may do what they like.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tesserac.ir.program import Equation, Var
from tesserac.ops.base import spec_of
from tesserac.ops.transform import point_rank
from tesserac.passes.demand import Unit


@dataclass(frozen=True, slots=True)
class Stretch:
    """A factor of an axis: ``row`` is the axis of points it is, None for anything else."""

    row: int | None
    size: int


Axes = tuple[tuple[Stretch, ...], ...]
"""What every axis of a value consists of, slowest first."""


class Rows:
    """Where the points of one coordinate lie in every value computed from it.

    ``follow`` takes equations in program order; afterwards ``culprit`` and ``in_place`` answer for their results.
    """

    def __init__(self, coordinate: Var) -> None:
        self._points = coordinate.type.sizes[: point_rank(coordinate.type)]
        self._axes: dict[str, Axes] = {coordinate.name: self._leading(coordinate)}
        self._culprits: dict[str, Equation] = {}

    def _leading(self, var: Var) -> Axes:
        """Points first, in order; a single point needs no following."""
        sizes = var.type.sizes
        return tuple((Stretch(k if k < len(self._points) and n > 1 else None, n),) for k, n in enumerate(sizes))

    def knows(self, var: Var) -> bool:
        """Whether the value has been followed."""
        return var.name in self._axes or var.name in self._culprits

    def culprit(self, var: Var) -> Equation | None:
        """The first equation that joins points on the way to a value, or moves them from where they stood."""
        return self._culprits.get(var.name)

    def in_place(self, var: Var) -> bool:
        """Whether the points number the leading axes of a value, as they do those of the coordinate."""
        return var.name not in self._axes or self._axes[var.name] == self._leading(var)

    def follow(self, equation: Equation, carried: Sequence[Var]) -> None:
        """Takes up one equation; ``carried`` are its results that vary smoothly with their operands."""
        inherited = next((self._culprits[v.name] for v in equation.operands if v.name in self._culprits), None)
        if inherited is not None:
            self._culprits.update((v.name, inherited) for v in carried)
            return
        if not any(v.name in self._axes for v in equation.operands):
            return
        found = self._reshaped(equation) if equation.op == "reshape" else self._lettered(equation)
        for position, var in enumerate(equation.results):
            if var in carried and var.name not in self._axes:
                if found is None:
                    self._culprits[var.name] = equation
                else:
                    self._axes[var.name] = found[position]

    def _lettered(self, equation: Equation) -> list[Axes] | None:
        """By the op's factor rule: None if points meet."""
        rule = spec_of(equation.op).factors
        if rule is None:
            return None
        factors = rule([v.type for v in equation.operands], [v.type for v in equation.results], equation.attributes)
        of_letter: dict[str, tuple[Stretch, ...]] = {}
        for var, letters in zip(equation.operands, factors.operands, strict=True):
            for stretches, letter in zip(self._axes.get(var.name, ()), letters, strict=False):
                if all(s.row is None for s in stretches):
                    continue
                if letter is None or factors.kind(letter) != "pass" or of_letter.get(letter, stretches) != stretches:
                    return None
                of_letter[letter] = stretches
        rows = [s.row for stretches in of_letter.values() for s in stretches if s.row is not None]
        if len(rows) != len(set(rows)):
            return None
        if any(not set(of_letter) <= set(letters) for letters in factors.results):
            return None
        return [tuple(of_letter.get(letter or "", (Stretch(None, n),)) for letter, n in
                      zip(letters, var.type.sizes, strict=True))
                for var, letters in zip(equation.results, factors.results, strict=True)]

    def _reshaped(self, equation: Equation) -> list[Axes] | None:
        """Regroups the stretches: an axis of points may be merged with others, but not cut."""
        stretches = [s for axis in self._axes[equation.operands[0].name] for s in axis if s.size != 1][::-1]
        axes: list[tuple[Stretch, ...]] = []
        for size in equation.result.type.sizes:
            parts: list[Stretch] = []
            rest = size
            while rest != 1:
                part = stretches.pop()
                if rest % part.size == 0:
                    parts.append(part)
                    rest //= part.size
                elif part.row is None and part.size % rest == 0:
                    parts.append(Stretch(None, rest))
                    stretches.append(Stretch(None, part.size // rest))
                    rest = 1
                else:
                    return None
            axes.append(tuple(parts) or (Stretch(None, 1),))
        return [tuple(self._merged(axis) for axis in axes)]

    @staticmethod
    def _merged(axis: tuple[Stretch, ...]) -> tuple[Stretch, ...]:
        """Neighbours that are not points count as one."""
        found: list[Stretch] = []
        for part in axis:
            if found and found[-1].row is None and part.row is None:
                found[-1] = Stretch(None, found[-1].size * part.size)
            else:
                found.append(part)
        return tuple(found)


def points_lead(found: Unit, roots: Iterable[str]) -> bool:
    """Whether points number the leading axes of all that varies on the way to some values, as those of coordinates.

    What pairs values point by point relies on it: a network that is written with its points in columns is right, but
    neither a covector nor a factor of every point can tell there which axis they are.
    """
    equations = found.behind(roots)
    for coordinate in dict.fromkeys(d.coordinate for d in found.directions):
        bits = sum(1 << i for i, d in enumerate(found.directions) if d.coordinate == coordinate)
        rows = Rows(coordinate)
        for equation in equations:
            carried = [v for v in equation.results if found.support.get(v.name, 0) & bits]
            rows.follow(equation, carried)
            if not all(rows.culprit(v) is None and rows.in_place(v) for v in carried):
                return False
    return True
