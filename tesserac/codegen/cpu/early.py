"""Gradients that are final long before a function ends: those of an expert, behind its last tile of rows.

A training step that does not need all gradients at once updates the expert's parameters there and then, and the next
expert's gradients take the same memory (``Call::update`` in runtime/program.h). This is legal where nothing that
comes later reads the gradients or the parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tesserac.codegen.cpu.tables import Cuts, Parameter, table_rows
from tesserac.ir.program import Var
from tesserac.passes.plan import Place, Plan, StagePlan
from tesserac.passes.planar import plane_of


@dataclass(frozen=True, slots=True)
class EarlyUpdates:
    """What a stage's experts leave final: the exports of their gradients, and per expert the parameters' table rows."""

    exports: frozenset[tuple[Var, ...]]
    rows: tuple[tuple[int, ...], ...]


def early_updates(plan: Plan, parameters: Sequence[Parameter], cuts: Cuts) -> dict[int, EarlyUpdates]:
    """By number of the stage, for those that have any."""
    result = {}
    rows = list(table_rows(parameters, cuts))
    for number, stage in enumerate(plan.stages):
        each = _final(number, stage, plan, parameters)
        if each:
            paths = ([parameters[plan.outer[v].index].declared.path for v in values] for values in each)
            numbers = zip(*([rows.index(path) for path in own] for own in paths), strict=True)
            result[number] = EarlyUpdates(frozenset(each), tuple(numbers))
    return result


def _final(number: int, stage: StagePlan, plan: Plan, parameters: Sequence[Parameter]) -> list[tuple[Var, ...]]:
    """The gradients, one tuple for all experts of the stage, that may be taken over behind each expert."""
    experts = stage.fused.values.stage.experts
    if experts is None or len(experts.ids) < 2:
        return []
    used_elsewhere = {use for other in plan.stages if other is not stage for use in _uses(other, plan.outer, "grad")}
    read_later = {use for other in plan.stages[number + 1 :] for use in _uses(other, plan.outer, "param")}
    own = _own_parameters(stage, plan.outer)
    found: dict[tuple[Var, ...], None] = {}
    for export in stage.fused.values.stage.exports:
        places = [plan.outer[v] for v in export.each if v in plan.outer]
        indices = [place.index for place in places]
        if (
            len(places) == len(experts.ids) == len(set(indices))
            and all(place.kind == "grad" and plane_of(parameters[place.index].item.path) is None for place in places)
            and not used_elsewhere.intersection(indices)
            and not read_later.intersection(indices)
            and all(own.get(index, expert) == expert for expert, index in enumerate(indices))
        ):
            found[export.each] = None
    taken = [plan.outer[v].index for each in found for v in each]
    return list(found) if len(taken) == len(set(taken)) else []


def _uses(stage: StagePlan, outer: Mapping[Var, Place], kind: str) -> set[int]:
    """Numbers of the parameters whose values, or gradients, a stage reads or writes."""
    item = stage.fused.values.stage
    touched = [v for read in item.imports for v in read.outers] + [v for made in item.exports for v in made.outers]
    touched += [argument.var for launch in stage.launches for argument in launch.arguments]
    return {outer[v].index for v in touched if v in outer and outer[v].kind == kind}


def _own_parameters(stage: StagePlan, outer: Mapping[Var, Place]) -> dict[int, int]:
    """Parameters that a stage of experts reads, and the expert whose tiles do; -1: others do, too."""
    readers: dict[int, int] = {}
    item = stage.fused.values.stage
    arguments = [argument.var for launch in stage.launches for argument in launch.arguments]
    whole = [v for crossing in item.imports if not crossing.each for v in crossing.outers]
    for var in (*whole, *arguments):
        if var in outer and outer[var].kind == "param":
            readers[outer[var].index] = -1
    for crossing in item.imports:
        for expert, var in enumerate(crossing.each):
            if var in outer and outer[var].kind == "param":
                index = outer[var].index
                readers[index] = expert if readers.get(index, expert) == expert else -1
    return readers
