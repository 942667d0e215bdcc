"""Pins: what the user says about where tensors lie, as restrictions of nodes' choices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from tesserac.diagnostics import CompileError, Diagnostics, Label, Span
from tesserac.ir.mesh import CLOSED, OPEN, Mesh
from tesserac.ir.program import Function, Var
from tesserac.passes.mesh.placements import Placement
from tesserac.passes.mesh.problem import Choice, Node
from tesserac.passes.mesh.settings import Pin


@dataclass(frozen=True, slots=True)
class Restriction:
    """One pin on one node and axis: which choices are left, and what to call it in an error."""

    node: int
    axis: str
    allows: Callable[[Choice], bool]
    text: str
    span: Span | None
    pinned: Span | None = None


def restrictions(pins: Sequence[Pin], function: Function, nodes: Sequence[Node], mesh: Mesh) -> tuple[Restriction, ...]:
    """What pins mean for nodes. CompileError T0706 for a pin that matches nothing or does not fit a tensor.

    An input lies as its pin says; a value is used as its pin says by everything that reads it, however it was made.
    """
    found = Diagnostics()
    paths = {item.var.name: item.path for item in function.inputs}
    made: list[Restriction] = []
    for pin in pins:
        matches = [var for node in nodes for var in node.results
                   if any(fnmatchcase(name, pin.pattern) for name in (var.name, paths.get(var.name, var.name)))]
        fitting = [var for var in matches if _fits(pin, var)]
        if not matches or not fitting:
            known = sorted({paths.get(v.name, v.name) for n in nodes for v in n.results})
            what = "matches no parameter, input or value" if not matches else \
                f"has {len(pin.dims or ())} dimensions, and {matches[0].name} has {matches[0].type.rank}"
            found.error("T0706", f"the pin {pin} {what}", None,
                        help=[f"names are, for instance, {', '.join(known[:6])}"])
        unknown = {a for dim in pin.dims or ((pin.axis,),) for a in dim} - {*mesh.axes, CLOSED, OPEN}
        if unknown:
            found.error("T0706", f"the pin {pin} names the axis {sorted(unknown)[0]}, and the mesh is {mesh}", None,
                        help=["axes of size 1 and of other meshes cannot be pinned to"])
            continue
        named = [a for dim in pin.dims or () for a in dim if a not in (CLOSED, OPEN)]
        if len(named) != len(set(named)):
            twice = next(a for a in named if named.count(a) > 1)
            found.error("T0706", f"the pin {pin} names the axis {twice} twice", pin.span,
                        help=["an axis cuts one dimension of a tensor, once"])
        for var in fitting:
            made += _on_value(pin, var, nodes, mesh)
    found.raise_if_errors()
    return tuple(made)


def _fits(pin: Pin, var: Var) -> bool:
    return pin.dims is None or len(pin.dims) == var.type.rank


def _on_value(pin: Pin, var: Var, nodes: Sequence[Node], mesh: Mesh) -> list[Restriction]:
    found = []
    for i, node in enumerate(nodes):
        span = node.equation.span if node.equation is not None else None
        for axis in mesh.axes:
            good = _placements(pin, axis)
            if good is None:
                continue
            if var in node.results and (not node.operands or axis in pin.terms):
                at = node.results.index(var)
                found.append(Restriction(i, axis, _reads("results", at, good), str(pin), span, pin.span))
            elif var in node.operands and node.results and axis not in pin.terms:
                made_by_input = any(var in other.results and not other.operands for other in nodes)
                if not made_by_input:
                    at = node.operands.index(var)
                    found.append(Restriction(i, axis, _reads("operands", at, good), str(pin), span, pin.span))
    return found


def _reads(which: str, at: int, good: Callable[[Placement], bool]) -> Callable[[Choice], bool]:
    return lambda choice: good(getattr(choice, which)[at])


def _placements(pin: Pin, axis: str) -> Callable[[Placement], bool] | None:
    """Which placements a pin leaves on an axis (for terms, where the value is made); None: all."""
    if axis in pin.terms:
        return lambda place: place.kind == "P"
    if axis in pin.whole:
        return lambda place: place.kind in ("R", "R*")
    if pin.dims is None:
        return (lambda place: place.is_cut) if pin.axis == axis else None
    for dim, axes in enumerate(pin.dims):
        if axis in axes:
            return lambda place, dim=dim: place.is_cut and place.dim == dim  # type: ignore[misc]
    if any(OPEN in axes for axes in pin.dims):
        return None
    return lambda place: place.kind in ("R", "R*")


def restricted(choices: Sequence[Choice], rules: Sequence[Restriction], node: Node) -> tuple[Choice, ...]:
    """The choices that all pins of a node leave; CompileError T0706 if there are none."""
    left = tuple(c for c in choices if all(rule.allows(c) for rule in rules))
    if not left:
        rule = rules[0]
        bag = Diagnostics()
        what = f"`{node.equation.op}` ({node.key})" if node.equation is not None else f"`{node.key}`"
        bag.error("T0706", f"no way to run {what} on axis {rule.axis} agrees with the pin {rule.text}", rule.span,
                  labels=(Label(rule.pinned, "pinned here"),) if rule.pinned not in (None, rule.span) else (),
                  help=(f"it can lie as {', '.join(dict.fromkeys(str(c) for c in choices))}",))
        raise CompileError(bag.items)
    return left
