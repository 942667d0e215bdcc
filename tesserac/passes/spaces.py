"""Groups of coordinates that do not depend on one another: in each, derivatives commute."""

from __future__ import annotations

from tesserac.ir.program import Equation, Function, Var
from tesserac.ops.attributes import integer, integers
from tesserac.passes.varying import Direction


def directions_of(asked: Equation) -> tuple[Direction, ...]:
    """What a ``derivative`` or ``combination`` differentiates along; nothing for any other equation."""
    if asked.op == "derivative":
        return (Direction(asked.operands[1], integer(asked.attributes, "component")),)
    if asked.op == "combination":
        components = integers(asked.attributes, "components")
        coordinates = asked.operands[1 : 1 + len(components)]
        return tuple(Direction(v, n) for v, n in zip(coordinates, components, strict=True))
    return ()


def independent(function: Function) -> list[tuple[Direction, ...]]:
    """The directions that some equation asks for, in groups whose coordinates do not depend on one another."""
    directions = dict.fromkeys(d for e in function.equations for d in directions_of(e))
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
