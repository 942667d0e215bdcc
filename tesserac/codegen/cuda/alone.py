"""Every kernel of an entry as a function of its own: what `tesserac verify` compiles and calls one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tesserac import __version__
from tesserac.codegen.comments import short_name
from tesserac.codegen.cpu.project import EntryPlans
from tesserac.codegen.cuda.kernels import KernelFunction
from tesserac.codegen.cuda.project import rendered
from tesserac.codegen.cuda.schedule import Schedule
from tesserac.codegen.cuda.steps import pointer_type, wrapped_call
from tesserac.codegen.jinja import render_template
from tesserac.codegen.records import Launch
from tesserac.ir.program import Var
from tesserac.passes.plan import Plan, StagePlan


@dataclass(frozen=True)
class Alone:
    """A kernel with the first launch that uses it: ``label`` names the function of the entry, ``plan`` is its plan.

    ``together``: the launches, with the numbers of their kernels, that fill the same buffers as this one, in order.
    """

    number: int
    function: KernelFunction
    launch: Launch
    together: tuple[tuple[int, Launch], ...]
    label: str
    plan: Plan
    stage: StagePlan


def alone_kernels(
    plans: EntryPlans, lines: Mapping[str, list[str]], schedules: Mapping[str, Schedule] = {}
) -> list[Alone]:
    """The kernels of an entry in the order in which they are emitted."""
    kernels = rendered(plans, lines, schedules).kernels
    numbers = {function.name: number for number, function in enumerate(kernels.functions)}
    found: dict[int, Alone] = {}
    for label, plan in plans.roles():
        for stage in plan.stages:
            launches = [(numbers[kernels.function(launch).name], launch) for launch in stage.launches]
            for number, launch in launches:
                if number not in found:
                    wanted = written(launch)
                    together = tuple((n, other) for n, other in launches if wanted & written(other))
                    found[number] = Alone(number, kernels.functions[number], launch, together, label, plan, stage)
    return [found[number] for number in range(len(kernels.functions))]


def written(launch: Launch) -> frozenset[Var]:
    """The owners of the buffers that a launch writes."""
    pairs = zip(launch.kernel.slots, launch.arguments, strict=True)
    return frozenset(argument.var for slot, argument in pairs if slot.written)


def render_alone(kernels: Sequence[Alone], *, stem: str, source: str, title: str) -> str:
    """``{stem}.alone.cu``: one function per kernel, over pointers to its slots, and the interface that calls them."""
    rows = []
    for item in kernels:
        slots = item.launch.kernel.slots
        pointers = [f"static_cast<{pointer_type(slot)}>(slots[{i}])" for i, slot in enumerate(slots)]
        steps = [wrapped_call(step.format(*pointers)) for step in item.function.emitted.steps]
        rows.append({"name": item.function.name, "steps": steps})
    return render_template(
        "cuda/alone.cu.j2",
        title=title,
        version=__version__,
        source=short_name(source),
        stem=stem,
        space=stem,
        kernels=rows,
    )
