"""The emitted kernels of an entry: where their text is, which launches they carry out and what they cost."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from tesserac.codegen.cpu.project import EntryPlans
from tesserac.codegen.records import Kernel, Launch
from tesserac.diagnostics import InternalError, Span
from tesserac.passes.plan import Plan, StagePlan

_DEFINITION = re.compile(r"^static (?:inline )?void (\w+)\(", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Use:
    """One launch of a kernel: in which function and stage, and how often it runs per call (once per tile)."""

    role: str
    stage: StagePlan
    launch: Launch
    times: int


@dataclass(slots=True)
class EmittedKernel:
    """A kernel function of the file ``file``, lines ``first`` to ``last``; ``text`` includes its comment."""

    name: str
    file: str
    first: int
    last: int
    text: str
    uses: list[Use] = field(default_factory=list)

    @property
    def launch(self) -> Launch:
        """The launch that the comment above the kernel describes."""
        return self.uses[0].launch

    @property
    def spans(self) -> tuple[Span, ...]:
        """Source places of all its launches, in order of first use."""
        return tuple(dict.fromkeys(s for use in self.uses for s in use.launch.origin.spans))

    @property
    def calls(self) -> int:
        """Calls per run of all functions."""
        return sum(use.times for use in self.uses)


def launches(plan: Plan, role: str) -> Iterator[Use]:
    """Every launch of a planned function in order."""
    for stage in plan.stages:
        for launch in stage.launches:
            yield Use(role, stage, launch, stage.fused.values.stage.calls)


def emitted_kernels(plans: EntryPlans, file: str, text: str) -> list[EmittedKernel]:
    """The kernels of an entry in the order of ``file``, whose text is ``text``.

    Equal kernels share a function, which is emitted at its first launch: that order is how launches are found again.
    """
    functions = _functions(file, text)
    known: dict[tuple[Kernel, bool], EmittedKernel] = {}
    for role, plan in plans.roles():
        for use in launches(plan, role):
            blank = tuple(replace(slot, name="") for slot in use.launch.kernel.slots)
            key = replace(use.launch.kernel, slots=blank), use.stage.fused.values.stage.tiles is None
            if key not in known:
                if len(known) == len(functions):
                    raise InternalError(f"{file} has {len(functions)} kernels, the plan has more")
                known[key] = functions[len(known)]
            known[key].uses.append(use)
    if len(known) != len(functions):
        raise InternalError(f"{file} has {len(functions)} kernels, the plan has {len(known)}")
    return functions


def _functions(file: str, text: str) -> list[EmittedKernel]:
    """Kernel functions of an emitted header: comment, signature, body up to the closing brace in column 1."""
    lines = text.splitlines()
    found = []
    for match in _DEFINITION.finditer(text):
        number = text.count("\n", 0, match.start())
        first = number
        while first > 0 and lines[first - 1].startswith(("//", "template")):
            first -= 1
        last = number
        while not lines[last].startswith("}") and not (last == number and lines[last].endswith("}")):
            last += 1
        found.append(EmittedKernel(match[1], file, first + 1, last + 1, "\n".join(lines[first : last + 1]) + "\n"))
    return found
