"""``inspect --stage fuse``: which equations became which kernel, and why their results went to memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from tesserac.codegen.comments import experts_text, quantity, short_name, sizes
from tesserac.codegen.records import AttentionKernel, ContractKernel, Launch
from tesserac.diagnostics import some
from tesserac.inspection.kernels import EmittedKernel, launches
from tesserac.ir.program import Equation, Var
from tesserac.passes.plan import Plan, StagePlan, rounded, storage_bytes

if TYPE_CHECKING:
    from tesserac.codegen.cpu.project import EntryPlans

Where = tuple[int, Var]
"""A value that lives within one stage (its number), or between stages (-1)."""


def fusion_lines(plans: EntryPlans, kernels: list[EmittedKernel]) -> Iterator[str]:
    """Every stage with its launches in order: kernel, sizes, work, lines, formulas, and who reads each result."""
    names = {id(use.launch): kernel.name for kernel in kernels for use in kernel.uses}
    for role, plan in plans.roles():
        flops = sum(use.launch.flops * use.times for use in launches(plan, role))
        count = sum(len(stage.launches) for stage in plan.stages)
        equations = len(plan.staged.function.equations)
        work = quantity(flops, "FLOP")
        yield f"{plans.entry.label} {role}: {equations} equations in {count} launches, {work} per call"
        readers = _readers(plan, names)
        for number, stage in enumerate(plan.stages):
            yield f"\n  stage {number + 1}: {_title(stage)}"
            for launch in stage.launches:
                yield from _launch(plan, number, launch, names[id(launch)], readers)
        yield ""


def fused_equations(stage: StagePlan, launch: Launch) -> list[Equation]:
    """The equations of a stage that a launch computes: its results and what is inlined into them."""
    producer = {var.name: equation for var, equation in stage.fused.values.producer.items()}
    names = [node.name for node in getattr(launch.kernel, "nodes", ()) if node.kind not in ("load", "constant")]
    names += [a.var.name for slot, a in zip(launch.kernel.slots, launch.arguments, strict=True) if slot.written]
    order = {id(e): n for n, e in enumerate(stage.fused.values.stage.equations)}
    chosen = {id(producer[name]): producer[name] for name in names if name in producer}
    return sorted(chosen.values(), key=lambda e: order[id(e)])


def _title(stage: StagePlan) -> str:
    item = stage.fused.values.stage
    if item.experts is not None:
        kept = sum(rounded(storage_bytes(stage.fused.values.storage(v), v.type.dtype.itemsize)) for v in stage.places)
        return (
            f"tiles of at most {item.tile} rows of {experts_text(item.experts)}, all threads on one tile; "
            f"{quantity(kept, 'B')} of values in flight"
        )
    if item.tiles is None:
        return "once, by all threads"
    return f"{item.tiles} tiles of {item.tile} batch element{'s' if item.tile > 1 else ''}, each by one thread"


def _launch(plan: Plan, number: int, launch: Launch, name: str, readers: Mapping[Where, list[str]]) -> Iterator[str]:
    stage = plan.stages[number]
    lines = ", ".join(dict.fromkeys(f"{short_name(s.file)}:{s.line}" for s in launch.origin.spans))
    cost = f"{quantity(launch.flops, 'FLOP')}, {quantity(launch.bytes, 'B')}"
    yield f"    {name}  {sizes(launch.kernel)}, {cost}  {lines}"
    for formula in launch.origin.formulas:
        yield f"      {formula}"
    for slot, argument in zip(launch.kernel.slots, launch.arguments, strict=True):
        if slot.written:
            where = _where(stage, number, argument.var)
            yield f"      -> {argument.var.name}: {_reason(plan, stage, argument.var, readers.get(where, []))}"


def _reason(plan: Plan, stage: StagePlan, var: Var, readers: list[str]) -> str:
    """Why a result is kept in memory."""
    values = stage.fused.values
    reasons = []
    export = values.exports.get(var)
    place = plan.outer.get(export.outer) if export is not None else None
    if place is not None and place.kind in ("output", "grad"):
        reasons.append("an output" if place.kind == "output" else "a gradient")
    if export is not None and export.partial:
        reasons.append("summed over the tiles" + (" of an expert" if export.each else ""))
    if any(var == s.experts.offsets for s in plan.staged.stages if s.experts is not None):
        reasons.append("where the rows of the experts start")
    if readers:
        reasons.append("read by " + some(list(dict.fromkeys(readers)), 3))
    return "; ".join(reasons) or "kept"


def _readers(plan: Plan, names: Mapping[int, str]) -> dict[Where, list[str]]:
    """Kernels that read each value from memory; an operand of a product or of attention is marked so."""
    found: dict[Where, list[str]] = {}
    for number, stage in enumerate(plan.stages):
        for launch in stage.launches:
            for index, (slot, argument) in enumerate(zip(launch.kernel.slots, launch.arguments, strict=True)):
                if not slot.written:
                    name = names[id(launch)] + _role(launch, index)
                    found.setdefault(_where(stage, number, argument.var), []).append(name)
    return found


def _role(launch: Launch, slot: int) -> str:
    kernel = launch.kernel
    if isinstance(kernel, AttentionKernel) or (
        isinstance(kernel, ContractKernel) and slot in (kernel.a.slot, kernel.b.slot)
    ):
        return " (as operand)"
    return ""


def _where(stage: StagePlan, number: int, var: Var) -> Where:
    values = stage.fused.values
    if var in values.imports:
        return -1, values.imports[var].outer
    if var in values.exports:
        return -1, values.exports[var].outer
    return number, var
