"""``inspect --stage plan``: offset, size and lifetime of every buffer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tesserac.codegen.comments import quantity
from tesserac.codegen.cpu.tables import declared_parameters, parameters_of
from tesserac.ir.program import Var
from tesserac.passes.plan import Plan, StagePlan, outer_view, rounded, storage_bytes

if TYPE_CHECKING:
    from tesserac.codegen.cpu.project import EntryPlans

BAR = 40
"""Characters of a drawn lifetime."""


@dataclass
class _Buffer:
    name: str
    kind: str
    offset: int
    size: int
    first: int
    last: int


def memory_lines(plans: EntryPlans) -> Iterator[str]:
    """Parameters, and per function shared memory and the scratch of one thread, in the order of their offsets."""
    parameters = parameters_of(plans.entry)
    offset = 0
    count = len(declared_parameters(plans.entry))
    yield f"{plans.entry.label}: {count} parameters; gradients and optimizer moments have the same layout"
    for parameter in parameters:
        size = rounded(parameter.elements * parameter.type.dtype.itemsize)
        yield f"  {offset:>12,}  {size:>12,}  {parameter.shape_text}"
        offset += size
    for role, plan in plans.roles():
        yield from _function(f"{plans.entry.label} {role}", plan)


def _function(title: str, plan: Plan) -> Iterator[str]:
    count = sum(len(stage.launches) for stage in plan.stages)
    yield f"\n{title}: lifetimes are numbers of launches, of 0 to {max(count - 1, 0)}"
    yield f"  shared by all threads, {plan.shared_bytes:,} bytes ({quantity(plan.shared_bytes, 'B')})"
    yield from _table(_shared(plan), count)
    start = 0
    for number, stage in enumerate(plan.stages):
        if stage.fused.values.stage.tiles is not None:
            yield f"  scratch of each thread in stage {number + 1}, {plan.scratch_bytes:,} bytes"
            yield from _table(_scratch(stage, start), count)
        if stage.fused.values.stage.experts is not None:
            yield f"  shared memory of a tile of stage {number + 1}"
            yield from _table(_scratch(stage, start), count)
        start += len(stage.launches)


def _table(buffers: list[_Buffer], count: int) -> Iterator[str]:
    width = max((len(b.name) for b in buffers), default=0)
    for b in sorted(buffers, key=lambda b: (b.offset, b.first, b.name)):
        left, right = b.first * BAR // max(count, 1), b.last * BAR // max(count, 1) + 1
        bar = "." * left + "#" * (right - left) + "." * (BAR - right)
        yield f"    {b.offset:>12,}  {b.size:>12,}  {b.first:>4}-{b.last:<4} {bar}  {b.name:<{width}}  {b.kind}"


def _shared(plan: Plan) -> list[_Buffer]:
    found: dict[Var, _Buffer] = {}
    position = 0
    for stage in plan.stages:
        values = stage.fused.values
        for launch in stage.launches:
            for argument in launch.arguments:
                var = argument.var
                for outer in values.outside(var) or (var,):
                    place = plan.outer.get(outer)
                    if place is not None and place.kind == "shared":
                        whole = values.stage.in_tiles or var in values.imports
                        view = outer_view(plan.outer, outer) if whole else values.storage(var)
                        size = rounded(storage_bytes(view, outer.type.dtype.itemsize))
                        buffer = found.setdefault(
                            outer, _Buffer(outer.name, str(outer.type), place.offset, size, position, position)
                        )
                        buffer.last = position
            position += 1
    return list(found.values())


def _scratch(stage: StagePlan, start: int) -> list[_Buffer]:
    found: dict[Var, _Buffer] = {}
    values = stage.fused.values
    for number, launch in enumerate(stage.launches, start):
        for argument in launch.arguments:
            var = argument.var
            place = stage.places.get(var) or stage.partial.get(var)
            if place is not None:
                size = rounded(storage_bytes(values.storage(var), var.type.dtype.itemsize))
                buffer = found.setdefault(var, _Buffer(var.name, str(var.type), place.offset, size, number, number))
                buffer.last = number
    return list(found.values())
