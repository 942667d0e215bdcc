"""`tesserac inspect`."""

from __future__ import annotations

from typing import Any

import click

from tesserac.commands.program_options import program_options, read
from tesserac.console import Console

STAGES = ("ast", "graph", "ad", "fuse", "plan", "source")


@click.command("inspect")
@click.argument("file")
@click.option("--stage", type=click.Choice(STAGES), default="graph", show_default=True, help="What to show.")
@click.option("--kernel", metavar="NAME", help="With --stage source: this kernel alone.")
@click.option("--target", type=click.Choice(["cpu", "cuda"]), default="cpu", help="Of --stage source  [default: cpu]")
@click.option("--resources", is_flag=True, help="With --target cuda: registers, shared memory and spills (needs nvcc).")
@click.option("--arch", metavar="sm_80,...", help="With --resources: for these GPUs  [default: sm_80,sm_90a]")
@program_options
@click.pass_obj
def command(
    console: Console,
    /,
    file: str,
    stage: str,
    kernel: str | None,
    target: str,
    resources: bool,
    arch: str | None,
    **flags: Any,
) -> None:
    """Shows the program of FILE at one stage of the compiler.

    ast: the syntax tree; graph: the elaborated program; ad: with its gradients; fuse: which equations became which
    kernel; plan: where every buffer lies, and for how long; source: the emitted code.
    """
    if kernel is not None and stage != "source":
        raise click.BadOptionUsage("kernel", "--kernel goes with --stage source.")
    if target == "cuda" and stage != "source":
        raise click.BadOptionUsage("target", "--target cuda goes with --stage source.")
    if (resources or arch) and target != "cuda":
        raise click.BadOptionUsage("resources", "--resources and --arch go with --target cuda.")
    source = read(console, file, **flags)
    if target == "cuda":
        from tesserac.inspection.report import cuda_text
        from tesserac.nvcc import architectures

        names = architectures(arch)
        if isinstance(names, str):
            raise click.BadOptionUsage("arch", names)
        console.show(cuda_text(source, console, kernel, resources, names))
        return
    if stage == "ast":
        from tesserac.diagnostics import Diagnostics, InternalError
        from tesserac.inspection.stages import ast_text
        from tesserac.parser import parse

        diagnostics = Diagnostics()
        unit = parse(source.text, source.path, diagnostics)
        diagnostics.raise_if_errors()
        if unit is None:
            raise InternalError("no syntax tree and no error")
        console.show(ast_text(unit))
        return
    from tesserac.inspection.report import stage_text

    console.show(stage_text(source, console, stage, kernel))
