"""Derivatives by coordinate: every ``derivative`` equation of a function, replaced in the order of the program.

Coordinates that do not depend on each other span one *space*, in which derivatives commute: a mixed derivative is
one Taylor coefficient, computed once, whichever way it was asked for. Where one coordinate is computed from another,
each has a space of its own, and the derivatives of one are ordinary values to the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tesserac.ir.builder import Builder
from tesserac.ir.program import Equation, Function, Var
from tesserac.ops.attributes import integer
from tesserac.passes.taylor import Direction, Jets, Program


class Coordinates:
    """Replaces the ``derivative`` equations of one function, which the builder copies."""

    def __init__(self, b: Builder, function: Function) -> None:
        self._builder = b
        self._groups = independent(function)
        self._jets: dict[tuple[Direction, ...], Jets] = {}

    def derivative(self, asked: Equation, replaced: Mapping[str, Var]) -> Var:
        """The value of one ``derivative`` equation, whose operands are looked up in ``replaced``."""
        b, direction = self._builder, _direction(asked)
        group = next(group for group in self._groups if direction in group)
        if group not in self._jets:
            known = [replace(d, coordinate=replaced.get(d.coordinate.name, d.coordinate)) for d in group]
            self._jets[group] = Jets(Program(b, known))
        value = replaced.get(asked.operands[0].name, asked.operands[0])
        with b.at(asked.span):
            found = self._jets[group].derivative(value, group.index(direction))
            return b.constant(0.0, value.type) if found is None else found

    def names(self) -> dict[str, str]:
        """Proposed names of the values made so far."""
        found: dict[str, str] = {}
        for jets in self._jets.values():
            found.update(jets.names)
        return found


def _direction(asked: Equation) -> Direction:
    return Direction(asked.operands[1], integer(asked.attributes, "component"))


def independent(function: Function) -> list[tuple[Direction, ...]]:
    """The directions that some equation asks for, in groups whose coordinates do not depend on one another."""
    directions = dict.fromkeys(_direction(e) for e in function.equations if e.op == "derivative")
    before = {d.coordinate.name: _ancestors(function, d.coordinate) for d in directions}
    groups: list[list[Direction]] = []
    for direction in directions:
        name = direction.coordinate.name
        for group in groups:
            others = {d.coordinate.name for d in group}
            if not others & before[name] and not any(name in before[other] for other in others):
                group.append(direction)
                break
        else:
            groups.append([direction])
    return [tuple(group) for group in groups]


def _ancestors(function: Function, var: Var) -> set[str]:
    """Names of the values that a value is computed from, without itself."""
    wanted = {var.name}
    for equation in reversed(function.equations):
        if any(v.name in wanted for v in equation.results):
            wanted.update(v.name for v in equation.operands)
    return wanted - {var.name}
