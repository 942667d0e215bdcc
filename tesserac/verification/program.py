"""All kernels of a source: emitted, compiled, run one by one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tesserac.build import progress
from tesserac.codegen.cuda.alone import Alone, alone_kernels
from tesserac.console import Console
from tesserac.driver import compile_source, entry_stems
from tesserac.inspection.stages import unknown
from tesserac.toolchain import find_toolchain
from tesserac.verification.check import Row, measured, table, verify
from tesserac.verification.gpu import opened
from tesserac.verification.library import Kernels, build_library

if TYPE_CHECKING:
    from tesserac.commands.program_options import Source

NO_GPU = "no GPU is used: the kernels run under the emulation of CUDA, whose times mean nothing and are left out"


def verify_program(
    source: Source, console: Console, folder: Path, kernel: str | None, variables: Sequence[str], jobs: int
) -> int:
    """Prints a table per entry; 0, or 1 if a kernel is wrong. ``folder`` is where things are built."""
    find_toolchain()  # before any work is done
    emulate = source.options.emulate
    gpu = opened(emulate)
    console.stage = "parsing and elaboration"
    project = compile_source(source.text, source.path, source.options, progress(console))
    console.diagnostics(d for d in project.warnings if d.severity != "note")
    lines = {source.path: source.text.splitlines()}
    rows: list[Row] = []
    for plans in project.plans:
        label = plans.entry.label
        stem = entry_stems(project.program)[label]
        kernels = alone_kernels(plans, lines)
        chosen = chosen_kernels(kernels, kernel)
        if not chosen:
            continue
        console.stage = "compilation of the emitted code"
        console.say(f"{label}: {len(chosen)} kernels")
        library = build_library(
            folder,
            project.files,
            kernels,
            stem=stem,
            source=source.path,
            emulate=emulate,
            variables=variables,
            jobs=jobs,
        )
        console.stage = "the kernels"
        loaded = Kernels(library, gpu)
        rates = measured(gpu) if gpu else None
        found = list(verify(kernels, loaded, gpu is not None, chosen))
        console.show(table(found, rates))
        for row in (r for r in found if r.note):
            console.show(f"  {row.name}: {row.note}")
        if len(found) < len(chosen):
            console.show(
                f"  behind an error, a device does nothing more: {len(chosen) - len(found)} kernels did not run"
            )
        rows += found
    if not rows and kernel is not None:
        names = [a.function.name for plans in project.plans for a in alone_kernels(plans, lines)]
        raise unknown("kernel", kernel, list(dict.fromkeys(names)))
    wrong = [row.name for row in rows if not row.good]
    verdict = f"all {len(rows)} kernels agree with the evaluator"
    console.show(f"{len(wrong)} of {len(rows)} kernels are wrong" if wrong else verdict)
    if gpu is None:
        console.show(NO_GPU)
    return 1 if wrong else 0


def chosen_kernels(kernels: Sequence[Alone], name: str | None) -> list[int]:
    """Numbers of the kernels called ``name``, or whose names begin so; of all without a name."""
    names = [item.function.name for item in kernels]
    exact = [i for i, n in enumerate(names) if name in (None, n)]
    return exact or [i for i, n in enumerate(names) if n.startswith(f"{name}_")]
