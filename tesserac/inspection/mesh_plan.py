"""The text of ``tesserac plan``: a plan for a reader, from its data."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tesserac.codegen.comments import quantity
from tesserac.passes.mesh.pictures import mesh_picture, shard_picture
from tesserac.passes.mesh.planning import Planned
from tesserac.passes.mesh.traffic import KINDS

NEWLINE = "\n"
SHAPES = 12
"""Kinds of parameters and inputs whose shards are drawn."""
BUCKETS = 6
"""Buckets of gradients that are listed; --json lists all."""


def plan_text(planned: Planned, data: Mapping[str, Any], source: Mapping[str, list[str]],
              reasons: list[str]) -> str:
    """The report. ``source``: lines of every file; ``reasons``: why this plan, as `reasons.py` finds them."""
    parts = [*_head(planned, data), "", *_lines(data, source), *_totals(data), *_holdings(planned, data),
             *_memory(data), *_step(data), *_templates(data), *(f"why: {reason}" for reason in reasons)]
    return NEWLINE.join(parts)


def _head(planned: Planned, data: Mapping[str, Any]) -> Iterator[str]:
    mesh = planned.mesh
    yield f"{data['entry']} ({data['function']}): {len(mesh.devices)} ranks, mesh {mesh}, {data['hardware']}"
    yield from (f"  {line}" for line in mesh_picture(mesh))
    for axis in data["mesh"]["axes"]:
        groups = mesh.groups(axis["name"])
        shown = " ".join(f"{{{','.join(map(str, g[:8]))}{',...' if len(g) > 8 else ''}}}" for g in groups[:4])
        more = " ..." if len(groups) > 4 else ""
        where = "across nodes" if axis["spans_nodes"] else "within a node"
        yield (f"  {axis['name']}: {axis['size']} ranks, {axis['role']}, {where}, {axis['latency_us']:g} us + "
               f"{quantity(axis['bandwidth'], 'B/s')}, groups {shown}{more}")


def _lines(data: Mapping[str, Any], source: Mapping[str, list[str]]) -> Iterator[str]:
    for row in data["lines"]:
        lines = source.get(row["file"], [])
        text = lines[row["line"] - 1].strip() if 0 < row["line"] <= len(lines) else ""
        yield f"{row['at']}  {text}"
        for equation in row["equations"]:
            yield f"    {_equation(equation)}"
        for item in row["collectives"]:
            yield f"      {_collective(item)}"


def _equation(equation: Mapping[str, Any]) -> str:
    times = f" x{equation['count']}" if equation["count"] > 1 else ""
    axes = "   ".join(f"{axis} {_strategy(choice)}" for axis, choice in equation["axes"].items())
    return f"{equation['op']}{times} {equation['value']}: {equation['type']}   {axes}"


def _strategy(choice: Mapping[str, Any]) -> str:
    """``by h: S(2), S(2) -> S(2)``, or ``R`` for what every rank does alike."""
    if choice["strategy"] in ("R", "R*"):
        return str(choice["strategy"])
    by = "on terms of a sum" if choice["strategy"].startswith("lin") else f"by {choice['strategy']}"
    return f"{by}: {_placed(choice['operands'])} -> {_placed(choice['results'])}"


def _placed(places: Sequence[str]) -> str:
    """``S(1), R*``; many in a row that one rank holds alone are counted: ``8 x O``."""
    runs = [(key, len(list(group))) for key, group in itertools.groupby("O" if p[0] == "O" else p for p in places)]
    return ", ".join(f"{count} x {key}" if key == "O" else ", ".join([key] * count) for key, count in runs)


def _collective(item: Mapping[str, Any]) -> str:
    some = f"{item['overlapped']} of them " if item["count"] > 1 else ""
    beside = f"{some}beside the backward pass, {item['exposed_us']:.1f} us exposed"
    hidden = beside if item["overlapped"] else "exposed"
    times, all_ = (f"{item['count']} x ", " in all") if item["count"] > 1 else ("", "")
    phase = f"{item['gradients']} gradients" if item["gradients"] > 1 else item["phase"]
    return (f"{times}{KINDS[item['kind']]} on {item['axis']}, {phase}: "
            f"{quantity(item['bytes'], 'B')}{all_}, {item['us']:.1f} us{all_}, {hidden}")


def _totals(data: Mapping[str, Any]) -> Iterator[str]:
    yield ""
    yield "collectives of a step" if data["collectives"] else "no collectives"
    if data["collectives"]:
        yield (f"  {'axis':8}{'phase':10}{'kind':5}{'count':>6}{'bytes':>12}{'sent by a rank':>16}{'us':>10}"
               f"{'exposed':>10}")
    for item in data["totals"]:
        yield (f"  {item['axis']:8}{item['phase']:10}{KINDS[item['kind']]:5}{item['count']:6}"
               f"{quantity(item['bytes'], 'B'):>12}{quantity(item['wire_bytes'], 'B'):>16}{item['us']:10.1f}"
               f"{item['exposed_us']:10.1f}")
    for bucket in data["buckets"][:BUCKETS]:
        many = "1 gradient" if bucket["gradients"] == 1 else f"{bucket['gradients']} gradients"
        beside = ", beside the backward pass" if bucket["overlapped"] else ""
        yield f"  bucket on {bucket['axis']}: {many} in one all-reduce of {quantity(bucket['bytes'], 'B')}{beside}"
    if len(data["buckets"]) > BUCKETS:
        yield f"  ... and {len(data['buckets']) - BUCKETS} more buckets"


def _holdings(planned: Planned, data: Mapping[str, Any]) -> Iterator[str]:
    """Parameters and inputs by what they look like: one picture for all that are cut alike."""
    yield ""
    yield "what a rank holds"
    alike: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for item in (*data["inputs"], *data["parameters"]):
        places = tuple(place[0] if place[0] == "O" else place for place in item["placements"].values())
        alike.setdefault((tuple(item["shape"]), item["dtype"], places), []).append(item)
    for count, items in enumerate(alike.values()):
        if count == SHAPES:
            yield f"  ... and {len(alike) - SHAPES} more kinds; --json lists all"
            return
        names = items[0]["name"] + (f" and {len(items) - 1} more" if len(items) > 1 else "")
        places = planned.sharded.inputs[items[0]["name"]]
        head, *boxes = shard_picture(names, items[0]["shape"], places, planned.mesh)
        each = " each" if len(items) > 1 else ""
        there = "at that rank" if any(place.kind == "O" for place in places) else "of a rank"
        yield f"  {head}: {quantity(items[0]['bytes'], 'B')} {there}{each}"
        yield from (f"    {line}" for line in boxes)


def _memory(data: Mapping[str, Any]) -> Iterator[str]:
    memory = data["memory"]
    yield ""
    parts = ", ".join(f"{name} {quantity(memory[name], 'B')}"
                      for name in ("parameters", "gradients", "moments", "data", "values"))
    over = "" if memory["total"] <= memory["limit"] else ": IT DOES NOT FIT"
    yield (f"memory of a rank: {quantity(memory['total'], 'B')} of {quantity(memory['limit'], 'B')}{over} "
           f"({parts}; values as if nothing fused)")


def _step(data: Mapping[str, Any]) -> Iterator[str]:
    step, search = data["step"], data["search"]
    yield (f"predicted step: {step['total_us']:.1f} us = {step['compute_us']:.1f} us of kernels, as if nothing fused, "
           f"+ {step['exposed_us']:.1f} us of waiting for collectives")
    if data["lock"] is not None:
        yield f"the plan is that of {data['lock']}; nothing was searched"
        return
    exact = "exact on every axis given the others" if search["exact"] else "NOT exact: a table grew too large"
    yield f"search: {search['seconds']:.2f} s, {exact}"


def _templates(data: Mapping[str, Any]) -> Iterator[str]:
    mine = data["search"]["nanoseconds"]
    yield f"cost under the model: {mine / 1e3:.1f} us"
    for item in data["templates"]:
        if not item["possible"]:
            yield f"  {item['name']}: cannot be had here"
            continue
        ratio = item["nanoseconds"] / mine if mine else 1.0
        why = "leaves axes idle" if item["name"] == "dp" else "only where memory is short"
        yield (f"  {item['name']}: {item['nanoseconds'] / 1e3:.1f} us, {ratio:.2f} of it"
               f"{'' if item['allowed'] else f' ({why})'}")


def summary_text(planned: Planned, data: Mapping[str, Any]) -> str:
    """The short report of ``--shard=auto``: mesh, collectives, memory, time."""
    return NEWLINE.join([*_head(planned, data), *_totals(data), *_memory(data), *_step(data), *_templates(data)])
