"""Pins: what the user says about where tensors lie, as restrictions of nodes' choices."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from tesserac.diagnostics import CompileError, Diagnostic, Diagnostics, Label, Span
from tesserac.ir.mesh import CLOSED, OPEN, Mesh, Pinned
from tesserac.ir.program import Entry, Function, Input, Var
from tesserac.passes.differentiate import expand_derivatives
from tesserac.passes.mesh.nodes import Choice, Node
from tesserac.passes.mesh.placements import Placement
from tesserac.passes.mesh.settings import Pin
from tesserac.passes.mesh.strategy import REQUESTS


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
                   if _is_about(pin, (var.name, paths.get(var.name, var.name)))]
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


def without_effect(entry: Entry) -> tuple[Diagnostic, ...]:
    """Warnings T0721 for pins of the source that none of an entry's functions has a use for."""
    bag = Diagnostics()
    functions = [expand_derivatives(function) for _, function in entry.roles()] if entry.pins else []
    for pin in entry.pins:
        why = [_unkept(pin, function) for function in functions]
        if all(why):
            bag.warning("T0721", f"this pin has no effect: {why[0]}" if pin.value else
                        f"this pin has no effect: nothing that {entry.label} computes needs the value", pin.span,
                        help=["pin what is computed from it, or leave the pin out"])
    return tuple(bag.items)


def _unkept(pin: Pinned, function: Function) -> str:
    """Why a function keeps a pin nowhere; "" where it does."""
    made = {v.name for e in function.equations for v in e.results}
    read = {v.name for e in function.equations if e.op not in REQUESTS for v in e.operands}
    if pin.value in {item.var.name for item in function.inputs} or (pin.value in made and (pin.terms or
                                                                                           pin.value in read)):
        return ""
    if pin.value in {output.var.name for output in function.outputs}:
        return f"nothing but an output reads `{pin.value}`, and outputs lie as rows are divided"
    return f"with derivatives written out, nothing reads `{pin.value}`"


def is_pinned(pins: Sequence[Pin], item: Input) -> bool:
    """Whether a pin is about an input."""
    return any(_is_about(pin, (item.var.name, item.path)) for pin in pins)


def matched(pins: Sequence[Pin], function: Function) -> list[Pin]:
    """The pins that are about an input or a value of a function."""
    paths = {item.var.name: item.path for item in function.inputs}
    return [pin for pin in pins
            if any(_is_about(pin, (v.name, paths.get(v.name, v.name))) for v in function.variables())]


def _is_about(pin: Pin, names: Collection[str]) -> bool:
    return any(fnmatchcase(name, pin.pattern) for name in names)


Fixed = Mapping[str, Sequence[Placement | None]]
"""Where inputs and outputs lie in any case: for every mesh axis in order, None where that is left open."""


def held_in_place(fixed: Fixed, nodes: Sequence[Node], mesh: Mesh) -> tuple[Restriction, ...]:
    """What fixed places of inputs and outputs mean for nodes."""
    made = []
    for i, node in enumerate(nodes):
        for axis, place in zip(mesh.axes, fixed.get(node.key, ()), strict=False):
            if place is not None:
                reads = _reads("results" if node.results else "operands", 0, place.__eq__)
                made.append(Restriction(i, axis, reads, f"{node.key} lies as {place}", None))
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
    if left:
        return left
    bag = Diagnostics()
    what = f"`{node.equation.op}` ({node.key})" if node.equation is not None else f"`{node.key}`"
    rule = next((rule for rule in rules if not any(map(rule.allows, choices))), None)
    if rule is not None:
        bag.error("T0706", f"no way to run {what} on axis {rule.axis} agrees with the pin {rule.text}",
                  rule.span or rule.pinned, labels=_pinned(rule),
                  help=(f"it can lie as {', '.join(dict.fromkeys(str(c) for c in choices))}",))
    else:  # each can be kept, but not all at once
        rule = next(rule for i, rule in enumerate(rules) if not _all_allowed(choices, rules[:i + 1]))
        other = next((o for o in rules if not _all_allowed(choices, (o, rule))), rules[0])
        spans = [span for r in (rule, other) for span in (r.span, r.pinned) if span is not None]
        bag.error("T0706", f"two pins contradict each other about {what} on axis {rule.axis}: {other.text} and "
                  f"{rule.text}", spans[0] if spans else None,
                  labels=tuple(label for r in (rule, other) for label in _pinned(r) if label.span != spans[0]),
                  help=("leave one of them out; pins stand in the source and in plan.toml",))
    raise CompileError(bag.items)


def _pinned(rule: Restriction) -> tuple[Label, ...]:
    return (Label(rule.pinned, "pinned here"),) if rule.pinned not in (None, rule.span) else ()


def _all_allowed(choices: Sequence[Choice], rules: Sequence[Restriction]) -> bool:
    return any(all(rule.allows(c) for rule in rules) for c in choices)
