"""plan.lock.json: a plan written down, so that later builds take it, whatever the search would find by then."""


from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from tesserac.diagnostics import CompileError, Diagnostics, Span
from tesserac.foreign import parse_json
from tesserac.ir.mesh import Mesh
from tesserac.ir.program import Function
from tesserac.passes.mesh.hardware import Hardware
from tesserac.passes.mesh.nodes import Choice, Node
from tesserac.passes.mesh.roles import role_of
from tesserac.passes.mesh.search import Found, Plan, Searcher

VERSION = 1


def lock_text(function: Function, mesh: Mesh, hardware: Hardware, found: Found) -> str:
    """A plan as text that diffs well: one line per input, equation and output; and the machine that it was made for."""
    rows = [json.dumps(row) for row in _rows(function, found.nodes)]
    picks = [{axis: choices[i].name for axis, choices in found.plan.items()} for i in _order(function, found.nodes)]
    lines = ",\n".join(f"    {row[:-1]}, \"plan\": {json.dumps(pick)}}}" for row, pick in zip(rows, picks, strict=True))
    head = {"version": VERSION, "mesh": str(mesh), "hardware": hardware.name, "program": _digest(rows)}
    return "{\n" + "".join(f"  {json.dumps(k)}: {json.dumps(v)},\n" for k, v in head.items()) + \
        f"  \"nodes\": [\n{lines}\n  ]\n}}\n"


def _digest(rows: list[str]) -> str:
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]


def _order(function: Function, nodes: tuple[Node, ...]) -> list[int]:
    """Nodes in program order."""
    at = {node.key: i for i, node in enumerate(nodes)}
    names = [item.var.name for item in function.inputs]
    names += [e.results[0].name for e in function.equations if e.results]
    ordered = [at.pop(name) for name in names if name in at]
    return ordered + sorted(at.values())


def _rows(function: Function, nodes: tuple[Node, ...]) -> list[dict[str, Any]]:
    found = []
    for i in _order(function, nodes):
        node = nodes[i]
        op = node.equation.op if node.equation is not None else ("output" if node.operands else "input")
        kind = (*node.results, *node.operands)[0].type
        found.append({"name": node.key, "op": op, "type": str(kind), "reads": [v.name for v in node.operands]})
    return found


def from_lock(text: str, name: str, function: Function, mesh: Mesh, searcher: Searcher) -> Plan:
    """The plan of a lock file. CompileError T0710 if it was made for another program or mesh: it names what differs."""
    try:
        data = parse_json(text)
    except ValueError as error:
        raise _stale(f"{name} is no lock file of tesserac: it is not JSON: {error}", None) from None
    try:
        rows = data["nodes"]
        version, grid = data["version"], data["mesh"]
        plans = [dict(row["plan"]) for row in rows if (row["name"], row["op"])]
    except (ValueError, KeyError, TypeError):
        why = "it lacks a version, a mesh, or a plan of every node"
        raise _stale(f"{name} is no lock file of tesserac: {why}", None) from None
    if version != VERSION:
        raise _stale(f"{name} is of version {version}, and this tesserac reads version {VERSION}", None)
    if grid != str(mesh):
        raise _stale(f"{name} is for the mesh {grid}, and this is {mesh}", None)
    nodes = searcher.nodes
    spans = {n.key: n.equation.span for n in nodes if n.equation is not None}
    now = _rows(function, nodes)
    for mine, theirs in zip(now, rows, strict=False):
        then = {key: theirs.get(key) for key in mine}
        if mine != then:
            differs = next(key for key in mine if mine[key] != then[key])
            raise _stale(f"{name} is stale: {mine['op']} {mine['name']} ({differs} {mine[differs]}) was "
                         f"{then['op']} {then['name']} ({differs} {then[differs]})", spans.get(str(mine["name"])))
    if len(now) != len(rows):
        longer = now if len(now) > len(rows) else rows
        extra = longer[min(len(now), len(rows))]
        word = "new" if longer is now else "gone"
        which = extra["name"] if extra["op"] == "output" else f"{extra['op']} {extra['name']}"  # "output loss"
        raise _stale(f"{name} is stale: {which} is {word}", spans.get(str(extra["name"])))
    return _choices(plans, name, function, mesh, searcher, spans)


def locked_form(text: str, forms: Sequence[Function]) -> Function:
    """The form of a function that a lock file was made for, by the names in it; the first one if none fits."""
    for form in forms:
        names = [item.var.name for item in form.inputs] + [e.results[0].name for e in form.equations]
        if all(f'"name": "{name}"' in text for name in names if not name.startswith("grad.")):
            return form
    return forms[0]


def _choices(plans: list[dict[str, str]], name: str, function: Function, mesh: Mesh, searcher: Searcher,
             spans: Mapping[str, Span]) -> Plan:
    nodes = searcher.nodes
    order = _order(function, nodes)
    # What memory made a search add is among the choices of free axes; experts lie at ranks of axes that are theirs.
    free = searcher.under({axis: role_of("free") for axis in mesh.axes})
    plan: Plan = {}
    for axis in mesh.axes:
        own, all_others = searcher.domains.of(axis, plan), free.domains.of(axis, plan)
        picked: dict[int, Choice] = {}
        for i, row in zip(order, plans, strict=True):
            choice = next((c for c in (*own[i], *all_others[i]) if c.name == row.get(axis)), None)
            if choice is None:
                raise _stale(f"{name} is stale: {nodes[i].key} cannot lie as {row.get(axis)} on {axis}",
                             spans.get(nodes[i].key))
            picked[i] = choice
        plan[axis] = tuple(picked[i] for i in range(len(nodes)))
    return plan


def _stale(message: str, span: Span | None) -> CompileError:
    bag = Diagnostics()
    bag.error("T0710", message, span, help=("plan again and review what changed: tesserac plan --write-lock FILE",))
    return CompileError(bag.items)
