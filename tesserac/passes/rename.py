"""Renaming of values, and the tidying of names after a pass that made many temporary ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tesserac.ir.builder import stem_of
from tesserac.ir.program import Equation, Function, Var


def renamed_equation(equation: Equation, values: Mapping[str, Var]) -> Equation:
    """The equation with operands replaced by name."""
    if not any(v.name in values for v in equation.operands):
        return equation
    return equation.over(tuple(values.get(v.name, v) for v in equation.operands))


def tidy(function: Function, keep: set[str], proposed: Mapping[str, str]) -> Function:
    """Drops equations whose results are neither used nor kept, and numbers the names that remain.

    Values in ``keep`` stay, name and all; others are called what ``proposed`` says, or what they are called
    already, with a suffix ``.N`` where a name occurs again.
    """
    used = {o.var.name for o in function.outputs}
    alive: list[Equation] = []
    for equation in reversed(function.equations):
        if any(v.name in used or v.name in keep for v in equation.results):
            alive.append(equation)
            used.update(v.name for v in equation.operands)
    alive.reverse()
    names = _Names(keep)
    values: dict[str, Var] = {}
    equations = []
    for equation in alive:
        operands = tuple(values.get(v.name, v) for v in equation.operands)
        results = []
        for var in equation.results:
            if var.name not in keep:
                wanted = proposed.get(var.name) or stem_of(var.name)
                values[var.name] = var.called(names.take(wanted))
            results.append(values.get(var.name, var))
        equations.append(equation.over(operands, tuple(results)))
    outputs = tuple(replace(o, var=values.get(o.var.name, o.var)) for o in function.outputs)
    return replace(function, equations=tuple(equations), outputs=outputs)


class _Names:
    def __init__(self, taken: set[str]) -> None:
        self._taken = set(taken)
        self._next: dict[str, int] = {}

    def take(self, name: str) -> str:
        stem = stem_of(name)
        while name in self._taken:
            self._next[stem] = self._next.get(stem, 0) + 1
            name = f"{stem}.{self._next[stem]}"
        self._taken.add(name)
        return name
