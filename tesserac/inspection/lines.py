"""``explain FILE:LINE``: what became of a source line, from its equations to the emitted kernels."""

from __future__ import annotations

from collections.abc import Iterator

from tesserac.codegen.comments import quantity, sizes
from tesserac.driver import Project
from tesserac.inspection.fusion import fused_equations
from tesserac.inspection.kernels import EmittedKernel
from tesserac.ir.program import Equation, Function
from tesserac.ir.text import print_equation
from tesserac.passes.differentiate import differentiate

SHOWN = 12
"""Equations of a line that are listed per function; an unrolled loop repeats the rest."""


def known_lines(project: Project) -> list[int]:
    """Lines of the source that have equations or inputs, in order."""
    found: set[int] = set()
    for function in project.program.functions():
        found.update(e.span.line for e in function.equations)
        found.update(i.span.line for i in function.inputs if i.span.file != "<none>")
    return sorted(found)


def line_report(project: Project, line: int) -> Iterator[str]:
    """Inputs, equations, derivative equations and kernels of one line."""
    for plans in project.plans:
        entry = plans.entry
        for role, function in entry.roles():
            yield from _function(f"{entry.label} {role}", function, line)
        found = [k for k in project.kernels[entry.label] if line in kernel_lines(k)]
        if found:
            yield f"\n{entry.label}: {'1 kernel computes' if len(found) == 1 else f'{len(found)} kernels compute'} it"
        for kernel in found:
            yield from _kernel(kernel, line)


def kernel_lines(kernel: EmittedKernel) -> set[int]:
    """Source lines of everything a kernel computes, inlined values included."""
    lines = {span.line for span in kernel.spans}
    for use in kernel.uses:
        lines.update(e.span.line for e in fused_equations(use.stage, use.launch))
    return lines


def _function(title: str, function: Function, line: int) -> Iterator[str]:
    for item in function.inputs:
        if item.span.line == line and item.span.file != "<none>":
            yield f"{title}: {'parameter' if item.is_parameter else 'input'} {item.path} {item.var.type}"
    here = [e for e in function.equations if e.span.line == line]
    if here:
        yield f"{title}: {len(here)} equation{'s' if len(here) > 1 else ''}"
        yield from _equations(here)
    if any(e.op == "backward" for e in function.equations):
        made = {v.name for e in function.equations for v in e.results}
        derived = [
            e for e in differentiate(function).equations if e.span.line == line and e.results[0].name not in made
        ]
        if derived:
            yield f"  and {len(derived)} of its derivative (`inspect --stage ad` shows them simplified)"
            yield from _equations(derived)


def _equations(equations: list[Equation]) -> Iterator[str]:
    for equation in equations[:SHOWN]:
        yield f"    {print_equation(equation).split('   # ')[0]}"
    if len(equations) > SHOWN:
        yield f"    ... and {len(equations) - SHOWN} more"


def _kernel(kernel: EmittedKernel, line: int) -> Iterator[str]:
    roles = dict.fromkeys(use.role for use in kernel.uses)
    yield f"  {kernel.name}   {kernel.file}:{kernel.first}"
    launch = kernel.launch
    for formula in launch.origin.formulas[:6]:
        yield f"      {formula}"
    inlined = [e.results[0].name for e in fused_equations(kernel.uses[0].stage, launch) if e.span.line == line]
    if inlined:
        yield f"      of this line: {', '.join(inlined[:8])}{' ...' if len(inlined) > 8 else ''}"
    yield (
        f"      {sizes(launch.kernel)}; {quantity(launch.flops, 'FLOP')} and {quantity(launch.bytes, 'B')} "
        f"per call; {kernel.calls} call{'' if kernel.calls == 1 else 's'} in {' and '.join(roles)}"
    )
