"""Warnings about plans: what lies everywhere, what is gathered, what is idle, what does not divide."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

from tesserac.codegen.comments import quantity
from tesserac.diagnostics import Diagnostic, Span
from tesserac.passes.mesh.planning import Planned
from tesserac.passes.mesh.traffic import Collective

LARGE = 64 << 20
"""Bytes from which a tensor on every rank, or a gather, is worth a warning unless the command line says otherwise."""


def advice(planned: Planned, large: float = LARGE) -> list[Diagnostic]:
    """All warnings; W101 to W106 in their order."""
    return [*_replicated(planned, large), *_gathered(planned, large), *_unused(planned), *_across_nodes(planned),
            *_uneven(planned), *_gathered_for(planned)]


def _warning(code: str, message: str, span: Span | None, *help_: str, severity: str = "warning") -> Diagnostic:
    return Diagnostic(code, severity, message, span, help=help_)


def _replicated(planned: Planned, large: float) -> Iterator[Diagnostic]:
    for item in planned.function.parameters:
        size = item.var.type.bytes
        if size < large:
            continue
        whole = [axis for axis in planned.mesh.axes if not planned.found.choice(axis, item.var.name).cuts
                 and planned.searcher.roles[axis].cut_weights]
        for axis in whole:
            ranks = planned.mesh.sizes[axis]
            even = [d for d, n in enumerate(item.var.type.sizes) if n % ranks == 0]
            why = "another place would cost more" if even else f"none of its dimensions is a multiple of {ranks}"
            what = f"{item.path} ({quantity(size, 'B')}) lies whole on every rank of {axis}"
            yield _warning("T0711", f"W101: {what}: {why}", item.span,
                           f'pin it in plan.toml: "{item.path}" = [..., "{axis}", ...]')


def expected_gathers(planned: Planned) -> set[tuple[str, str]]:
    """(axis, phase) of gathers that belong to a template of this mesh."""
    found = set()
    for axis in planned.mesh.axes:
        role = planned.searcher.roles[axis]
        if role.name in ("tensor", "sequence") or role.stores_weights:
            found |= {(axis, "forward"), (axis, "backward")}
    return found


def _gathered(planned: Planned, large: float) -> Iterator[Diagnostic]:
    known = expected_gathers(planned)
    for item in planned.collectives:
        if item.kind == "all_gather" and item.bytes >= large and (item.axis, item.phase) not in known:
            what = f"{quantity(item.bytes, 'B')} are gathered on {item.axis} to make {item.value}"
            yield _warning("T0712", f"W102: {what}, which no template does", item.span,
                           "see `why` in the report, or pin another placement")


def _unused(planned: Planned) -> Iterator[Diagnostic]:
    for axis in planned.mesh.axes:
        if not any(choice.cuts for choice in planned.found.plan[axis]):
            what = f"nothing is cut along axis {axis}: its {planned.mesh.sizes[axis]} ranks all do the same"
            yield _warning("T0713", f"W103: {what}", planned.mesh.span,
                           "leave the axis out, or give it another name: its name says what it may cut")


def _across_nodes(planned: Planned) -> Iterator[Diagnostic]:
    hardware, mesh = planned.hardware, planned.mesh
    inside = [a for a in mesh.axes if not hardware.spans_nodes(mesh, a)]
    for axis in mesh.axes:
        role = planned.searcher.roles[axis].name
        if role == "data" or not hardware.spans_nodes(mesh, axis):
            continue
        swap = f"{inside[-1]} stays within a node instead: put {axis} last in the mesh" if inside else \
            f"nodes have {hardware.devices_per_node} devices: make {axis} no larger"
        yield _warning("T0714", f"W104: axis {axis} spans nodes, so its collectives cross the network", mesh.span, swap)


def _uneven(planned: Planned) -> Iterator[Diagnostic]:
    for axis in planned.mesh.axes:
        ranks, role = planned.mesh.sizes[axis], planned.searcher.roles[axis]
        if role.name == "data":
            for item in planned.function.data:
                if item.var.type.rank and not planned.found.choice(axis, item.var.name).cuts:
                    n = item.var.type.sizes[0]
                    what = f"{axis}={ranks} does not divide the {n} samples of {item.path}, which every rank computes"
                    yield _warning("T0715", f"W105: {what}", item.span,
                                   f"{-(-n // ranks) * ranks} samples come apart evenly")
        elif role.name == "tensor":
            yield from _heads(planned, axis, ranks)


def _heads(planned: Planned, axis: str, ranks: int) -> Iterator[Diagnostic]:
    seen: set[Span] = set()
    for equation in planned.function.equations:
        if equation.op != "attention" or equation.span in seen:
            continue
        chosen = planned.found.choice(axis, equation.results[0].name).name
        heads = equation.attr("heads")
        if isinstance(heads, int) and heads % ranks and chosen not in ("h", "r"):
            seen.add(equation.span)
            how = "its queries are cut along the sequence instead" if chosen == "s" else "every rank computes all of it"
            what = f"{axis}={ranks} does not divide heads={heads}, so attention is not cut by heads"
            yield _warning("T0715", f"W105: {what}: {how}", equation.span,
                           f"heads={ranks} (or a multiple) cuts weights by columns and rows")


def _gathered_for(planned: Planned) -> Iterator[Diagnostic]:
    """Operators on axes of data or sequences that read whole what lies in parts."""
    made = {v.name: (i, k) for i, node in enumerate(planned.found.nodes) for k, v in enumerate(node.results)}
    for axis in planned.mesh.axes:
        if planned.searcher.roles[axis].name not in ("data", "sequence", "expert"):
            continue
        choices, seen = planned.found.plan[axis], set()
        for node, choice in zip(planned.found.nodes, choices, strict=True):
            if node.equation is None or choice.cuts or (node.equation.op, node.equation.span.line) in seen:
                continue
            for var, place in zip(node.operands, choice.operands, strict=True):
                i, k = made[var.name]
                if choices[i].results[k].is_cut and not place.is_cut:
                    seen.add((node.equation.op, node.equation.span.line))
                    size = quantity(var.type.bytes, "B")
                    what = f"`{node.equation.op}` cannot be cut along {axis} here, so {size} are gathered"
                    yield _warning("T0716", f"W106: {what} and every rank computes all of it",
                                   node.equation.span, "let it work along a dimension that is not cut")
                    break


# ------------------------------------------------------------------------------------------------ what may be refused


def too_large(planned: Planned) -> list[Diagnostic]:
    """T0720 if one rank's part does not fit: an error where the user gave the limit, a warning for the machine's."""
    memory = planned.memory
    if memory.total <= planned.limit:
        return []
    held = {"parameters": memory.parameters, "gradients": memory.gradients, "moments": memory.moments,
            "data": memory.data, "values": memory.values}
    parts = ", ".join(f"{name} {quantity(size, 'B')}" for name, size in held.items())
    tensors = sorted(((v.type.bytes, v.name) for v in planned.joint.variables()), reverse=True)[:5]
    largest = ", ".join(f"{name} {quantity(size, 'B')}" for size, name in tensors)
    what = f"a rank needs {quantity(memory.total, 'B')}, and it has {quantity(planned.limit, 'B')}"
    values = memory.data + memory.values > memory.total / 2
    axes = "more ranks: a dp axis cuts values" if values else "more ranks: a tp axis cuts parameters, or zero.stage = 3"
    severity = "error" if planned.settings.memory is not None else "warning"
    return [Diagnostic("T0720", severity, f"the plan does not fit: {what}", planned.mesh.span,
                       notes=(parts, f"the largest tensors of a rank: {largest}"), help=(axes,))]


def refused(planned: Planned, deny_replicated: float | None, largest: float | None, strict: bool) -> list[Diagnostic]:
    """Errors for what the command line forbids.

    ``deny_replicated``: bytes from which no parameter may lie whole on an axis that may cut it. ``largest``: bytes
    that no collective may exceed. ``strict``: no collective above 1 MB that neither a template nor a pin accounts for.
    """
    found: list[Diagnostic] = []
    if deny_replicated is not None:
        found += [Diagnostic("T0708", "error", d.message[6:] + ", and --deny-replicated forbids that", d.span,
                             help=d.help) for d in _replicated(planned, max(deny_replicated, 1.0))]
    for item in planned.collectives:
        if largest is not None and item.bytes > largest:
            found.append(_too_much(item, f"more than --max-collective-bytes {quantity(largest, 'B')}"))
        elif strict and item.bytes > 1e6 and item.phase != "gradient" and _implicit(planned, item):
            found.append(_too_much(item, "which --shard=strict allows only where a template or a pin accounts for it"))
    return found


def _implicit(planned: Planned, item: Collective) -> bool:
    role = planned.searcher.roles[item.axis]
    if _asked_for(planned, item):
        return False
    if role.name in ("tensor", "sequence"):
        return item.kind == "all_to_all"
    return role.name == "free" or item.kind != "all_reduce"


def _asked_for(planned: Planned, item: Collective) -> bool:
    """Whether a pin says where the value lies that is sent: conversions are called after it and the axis."""
    name = item.value.rpartition(f".{item.axis}")[0]
    path = next((i.path for i in planned.function.inputs if i.var.name == name), name)
    return any(fnmatchcase(n, pin.pattern) for pin in planned.searcher.pins for n in (name, path))


def _too_much(item: Collective, why: str) -> Diagnostic:
    kind = item.kind.replace("_", "-")
    article = "an" if kind[0] == "a" else "a"
    return Diagnostic("T0709", "error", f"{article} {kind} of {quantity(item.bytes, 'B')} on {item.axis} "
                      f"makes {item.value} ({item.phase}), {why}", item.span,
                      help=("pin the value where you want it, or raise the limit",))
