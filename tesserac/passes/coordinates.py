"""Derivatives by coordinate: every ``derivative`` equation of a function, replaced in the order of the program.

Coordinates that do not depend on each other span one *space*, in which derivatives commute: a mixed derivative is
one Taylor coefficient, computed once, whichever way it was asked for. Where one coordinate is computed from another,
each has a space of its own, and the derivatives of one are ordinary values to the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tesserac.diagnostics import Diagnostics, Label
from tesserac.ir.builder import Builder
from tesserac.ir.program import Equation, Function, Var
from tesserac.ops.transform import point_rank
from tesserac.passes.collapse import Channels, weights_of
from tesserac.passes.covector import Covectors, add_coefficients
from tesserac.passes.decision import Decision, decisions
from tesserac.passes.multiindex import Index, spread
from tesserac.passes.rows import Rows
from tesserac.passes.spaces import directions_of, independent
from tesserac.passes.taylor import Jets
from tesserac.passes.varying import Direction, Program

_HELP = ("take the derivative of a value from before the points are joined",
         "or wrap what joins them in op.stop_gradient(...) if it is meant to be a constant there")
_HELP_MOVED = ("transpose the value so that the axes of the points come first, as they do in the coordinate",)


class Coordinates:
    """Replaces the ``derivative`` equations of one function, which the builder copies."""

    def __init__(self, b: Builder, function: Function, plain: bool) -> None:
        self._builder = b
        self._plain = plain
        self._function = function
        self._groups = independent(function)
        self._jets: dict[tuple[Direction, ...], Jets] = {}
        self._channels: dict[int, Channels] = {}
        self._rows: dict[str, Rows] = {}
        self._bag = Diagnostics()
        self._blamed: set[tuple[str, str]] = set()

    def derivative(self, asked: Equation, replaced: Mapping[str, Var]) -> Var:
        """The value of one ``derivative`` equation, whose operands are looked up in ``replaced``."""
        b = self._builder
        jets, (number,) = self._space(directions_of(asked), replaced)
        value = replaced.get(asked.operands[0].name, asked.operands[0])
        proven = self._prove(jets, jets.origin(value).value, jets.program.directions[number].coordinate, asked)
        with b.at(asked.span):
            found = jets.derivative(value, number) if proven else None
            return b.constant(0.0, value.type) if found is None else found

    def combination(self, asked: Equation, replaced: Mapping[str, Var]) -> Var:
        """The value of one ``combination`` equation."""
        b, directions = self._builder, directions_of(asked)
        jets, numbers = self._space(directions, replaced)
        value = asked.operands[0]
        proven = [self._prove(jets, value, jets.program.directions[n].coordinate, asked) for n in numbers]
        weights = tuple((spread(a, numbers, len(jets.program.directions)), w, replaced.get(f.name, f) if f else None)
                        for a, w, f in weights_of(asked))
        with b.at(asked.span):
            if id(jets) not in self._channels:
                self._channels[id(jets)] = Channels(jets)
            found = self._channels[id(jets)].value(value, weights) if all(proven) else None
            return b.constant(0.0, value.type) if found is None else found

    def _space(self, directions: Sequence[Direction], replaced: Mapping[str, Var]) -> tuple[Jets, list[int]]:
        """The coefficients along the group that some directions belong to, and their numbers in it."""
        b = self._builder
        group = next(group for group in self._groups if directions[0] in group)
        if group not in self._jets:
            known = [replace(d, coordinate=replaced.get(d.coordinate.name, d.coordinate)) for d in group]
            program = Program(b, known)
            self._jets[group] = (Jets(program) if self._plain
                                 else Shortcuts(program, decisions(self._function, group)).jets)
        return self._jets[group], [group.index(d) for d in directions]

    def raise_if_errors(self) -> None:
        """Raises what was found about derivatives that do not exist point by point (T0603)."""
        self._bag.raise_if_errors()

    def _prove(self, jets: Jets, value: Var, coordinate: Var, asked: Equation) -> bool:
        """Whether every point of the value depends on the same point of the coordinate alone; else T0603."""
        program = jets.program
        rows = self._rows.setdefault(coordinate.name, Rows(coordinate))
        if not rows.knows(value):
            for equation in program.ancestors(value):
                if not rows.knows(equation.results[0]):
                    rows.follow(equation, [v for v in equation.results if program.carries(v, coordinate)])
        culprit = rows.culprit(value)
        if culprit is None and rows.in_place(value):
            return True
        place = culprit.span if culprit else asked.span
        if (str(place), coordinate.name) not in self._blamed:
            self._blamed.add((str(place), coordinate.name))
            self._bag.error("T0603", _coupled(culprit, value, coordinate), asked.span,
                            labels=_labels(culprit, value, coordinate, asked), help=_HELP if culprit else _HELP_MOVED)
        return False

    def names(self) -> dict[str, str]:
        """Proposed names of the values made so far."""
        found: dict[str, str] = {}
        for jets in self._jets.values():
            found.update(jets.names)
        return found


class Shortcuts:
    """Coefficients along independent directions, those that a decision planned from reverse rows."""

    def __init__(self, program: Program, found: Sequence[Decision]) -> None:
        self.jets = Jets(program, self._take)
        self._decisions = {root: decision for decision in found for root in decision.asked}

    def _take(self, value: Var, a: Index) -> bool:
        decision = self._decisions.get(value.name)
        planned = decision.chosen.planned.get(value.name, ()) if decision is not None else ()
        if decision is None or a not in planned:
            return False
        add_coefficients(self.jets, Covectors(value, planned, decision.chosen.kept, decision.points))
        return True


def _coupled(culprit: Equation | None, value: Var, coordinate: Var) -> str:
    if culprit is None:
        return f"the rows of this value are not the points of `{coordinate.name}`"
    return f"`{culprit.op}` joins different points, so there is no derivative by `{coordinate.name}` at each of them"


def _labels(culprit: Equation | None, value: Var, coordinate: Var, asked: Equation) -> tuple[Label, ...]:
    if culprit is None:
        points = coordinate.type.shape[: point_rank(coordinate.type)]
        return (Label(asked.span, f"its leading axes were moved away from the {list(points)} points"),)
    return (Label(asked.span, "asked for here"),
            Label(culprit.span, "its result at one point depends on other points as well"))
