"""A plan as plain data: what ``tesserac plan --json`` prints, and what its text is made from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tesserac.ir.program import Equation, Function, Input
from tesserac.passes.mesh.nodes import Choice
from tesserac.passes.mesh.placements import REPLICATED, local_type
from tesserac.passes.mesh.planning import Planned
from tesserac.passes.mesh.traffic import Collective, compute_seconds, summed
from tesserac.passes.reverse import forward_active

MICRO = 1e6


def described_plan(planned: Planned, label: str, role: str) -> dict[str, Any]:
    """Everything of a plan that a program could want to read."""
    compute = compute_seconds(planned.joint, planned.hardware)
    exposed = sum(item.exposed for item in planned.collectives)
    return {
        "entry": label,
        "function": role,
        "mesh": {"axes": [_axis(planned, axis) for axis in planned.mesh.axes],
                 "devices": list(planned.mesh.devices)},
        "hardware": planned.hardware.name,
        "lock": planned.settings.lock[0] if planned.settings.lock is not None else None,
        "search": {"nanoseconds": planned.found.cost.nanoseconds, "exact": planned.found.exact,
                   "width": planned.found.width, "seconds": round(planned.seconds, 3),
                   "price_of_memory": planned.found.price},
        "lines": lines_of(planned),
        "parameters": [_held(planned, item) for item in planned.function.parameters],
        "inputs": [_held(planned, item) for item in planned.function.data],
        "outputs": {name: [str(p) for p in places] for name, places in planned.sharded.outputs.items()},
        "collectives": [collective(item) for item in planned.collectives],
        "totals": totals(planned.collectives),
        "buckets": [{"axis": c.axis, "gradients": c.tensors, "bytes": c.bytes, "overlapped": c.begun}
                    for c in planned.collectives if c.phase == "gradient" and c.kind == "all_reduce"],
        "memory": {"parameters": planned.memory.parameters, "gradients": planned.memory.gradients,
                   "moments": planned.memory.moments, "data": planned.memory.data, "values": planned.memory.values,
                   "total": planned.memory.total, "limit": planned.limit},
        "step": {"compute_us": _us(compute), "exposed_us": _us(exposed), "total_us": _us(compute + exposed)},
        "templates": [{"name": s.template.name, "nanoseconds": s.found.cost.nanoseconds,
                       "possible": not s.found.cost.impossible, "allowed": s.template.reachable}
                      for s in planned.templates],
    }


def _us(seconds: float) -> float:
    return round(seconds * MICRO, 3)


def _axis(planned: Planned, axis: str) -> dict[str, Any]:
    link = planned.hardware.link(planned.mesh, axis)
    role = planned.searcher.roles[axis]
    return {"name": axis, "size": planned.mesh.sizes[axis], "role": role.name,
            "spans_nodes": planned.hardware.spans_nodes(planned.mesh, axis),
            "latency_us": _us(link.latency), "bandwidth": link.bandwidth}


def collective(item: Collective) -> dict[str, Any]:
    """One collective."""
    return {"number": item.number, "axis": item.axis, "kind": item.kind, "phase": item.phase, "bytes": item.bytes,
            "wire_bytes": round(item.wire), "us": _us(item.seconds), "exposed_us": _us(item.exposed),
            "overlapped": item.begun, "value": item.value, "tensors": item.tensors,
            "at": f"{item.span.file}:{item.span.line}"}


def totals(items: Sequence[Collective]) -> list[dict[str, Any]]:
    """Counts and sums by axis, phase and kind."""
    return [{"axis": axis, "phase": phase, "kind": kind, "count": count, "bytes": size, "wire_bytes": round(wire),
             "us": _us(seconds), "exposed_us": _us(exposed),
             "overlapped": sum(c.begun for c in items if (c.axis, c.phase, c.kind) == (axis, phase, kind)),
             "gradients": sum(c.tensors for c in items if (c.axis, c.phase, c.kind) == (axis, phase, kind))
             if phase == "gradient" else 0}
            for (axis, phase, kind), (count, size, wire, seconds, exposed) in summed(items).items()]


def _held(planned: Planned, item: Input) -> dict[str, Any]:
    """A parameter or input: where it lies on every axis, and one rank's part."""
    path = item.path
    places = planned.sharded.inputs.get(path, tuple(REPLICATED for _ in planned.mesh.axes))
    local = local_type(item.var.type, places, tuple(planned.mesh.sizes.values()))
    return {"name": path, "shape": list(item.var.type.sizes), "dtype": str(item.var.type.dtype),
            "placements": {a: str(p) for a, p in zip(planned.mesh.axes, places, strict=True)},
            "local": list(local.sizes), "bytes": local.bytes}


def choices_of(planned: Planned, equation: Equation) -> dict[str, Choice]:
    """What an equation does on every axis."""
    return {axis: planned.found.choice(axis, equation.results[0].name) for axis in planned.mesh.axes}


def lines_of(planned: Planned) -> list[dict[str, Any]]:
    """By source line: equations with their strategies and the placements of what they make, equal ones counted once."""
    active = _trained(planned.function)
    rows: dict[tuple[str, int], dict[Any, dict[str, Any]]] = {}
    for equation in planned.function.equations:
        if equation.op == "backward":
            continue
        choices = choices_of(planned, equation)
        result = equation.results[0]
        shown = {axis: {"strategy": c.name, "operands": [str(p) for p in c.operands],
                        "results": [str(p) for p in c.results]} for axis, c in choices.items()}
        place = (equation.span.file, equation.span.line)
        row = rows.setdefault(place, {}).setdefault(
            (equation.op, str(result.type), repr(shown)),
            {"op": equation.op, "value": result.name, "type": str(result.type), "count": 0, "axes": shown,
             "gradient": result.name in active})
        row["count"] += 1
    for item in planned.collectives:
        rows.setdefault((item.span.file, item.span.line), {})
    return [{"at": f"{file}:{line}", "file": file, "line": line, "equations": list(found.values()),
             "collectives": totals([c for c in planned.collectives if (c.span.file, c.span.line) == (file, line)])}
            for (file, line), found in sorted(rows.items())]


def _trained(function: Function) -> set[str]:
    wrt = {v.name for e in function.equations if e.op == "backward" for v in e.operands[1:]}
    return forward_active(function.equations, wrt)
