"""The text of every ``inspect --stage``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tesserac.build import progress
from tesserac.console import Console
from tesserac.driver import Project, compile_source, front_end
from tesserac.inspection.derivatives import derivative_lines
from tesserac.inspection.fusion import fusion_lines
from tesserac.inspection.memory import memory_lines
from tesserac.inspection.products import product_lines
from tesserac.inspection.stages import function_text, graph_text, unknown
from tesserac.ir.program import Function
from tesserac.passes.pipeline import optimize

if TYPE_CHECKING:
    from tesserac.commands.program_options import Source


def stage_text(source: Source, console: Console, stage: str, kernel: str | None = None) -> str:
    """``stage`` is graph, ad, fuse, plan or source; ``kernel`` selects one of the latter (T0809 when unknown)."""
    console.stage = "parsing and elaboration"
    if stage in ("graph", "ad"):
        _, program, _ = front_end(source.text, source.path, source.options)
        if stage == "graph":
            return graph_text(program)
        console.stage = "differentiation"
        return "\n".join(_differentiated(f, program.file) for f in program.functions())
    project = compile_source(source.text, source.path, source.options, progress(console))
    console.stage = f"inspect --stage {stage}"
    if stage == "source":
        return _source(project, kernel)
    lines = [
        line
        for plans in project.plans
        for line in (
            fusion_lines(plans, list(project.kernels[plans.entry.label])) if stage == "fuse" else memory_lines(plans)
        )
    ]
    return "\n".join(lines)


def _differentiated(function: Function, file: str) -> str:
    """The function with its derivatives, below what was decided about those by coordinate and complex products."""
    head = "".join(f"# {line}\n" for line in (*derivative_lines(function), *product_lines(function)))
    return head + function_text(optimize(function, stop_after="simplify"), file)


def cuda_text(
    source: Source, console: Console, kernel: str | None, resources: bool, architectures: tuple[str, ...]
) -> str:
    """The emitted CUDA, or one kernel of it, with its use of a GPU on request."""
    from tesserac.inspection.resources import cuda_source

    console.stage = "parsing and elaboration"
    options = replace(source.options, target="cuda")
    project = compile_source(source.text, source.path, options, progress(console))
    console.stage = "inspect --stage source"
    return cuda_source(project, kernel, resources, architectures)


def _source(project: Project, kernel: str | None) -> str:
    if kernel is None:
        own = {name: text for name, text in project.files.items() if name.endswith((".kernels.h", ".program.cpp"))}
        return "\n".join(f"// ==== {name} ====\n{text}" for name, text in own.items())
    kernels = [k for found in project.kernels.values() for k in found]
    chosen = [k for k in kernels if k.name == kernel]
    if not chosen:
        raise unknown("kernel", kernel, list(dict.fromkeys(k.name for k in kernels)))
    return "\n".join(f"// {k.file}:{k.first}\n{k.text}" for k in chosen)
