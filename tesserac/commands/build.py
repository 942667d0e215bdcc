"""`tesserac build`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from tesserac.commands.program_options import program_options, read
from tesserac.console import Console
from tesserac.parser import read_source


@click.command("build")
@click.argument("file")
@click.option("-o", "--output", metavar="DIR", help="Output folder  [default: build/<name of the source>]")
@click.option(
    "--emit", metavar="KIND,...", help="What to produce: ast, ir, cpp, cuda, ptx, sass, exe, lib"
)
@click.option(
    "--target", type=click.Choice(["cpu", "cuda"]), default=None, help="What to emit code for  [default: cpu]"
)
@program_options
@click.option("--emulate", is_flag=True, help="With --target cuda: for this processor, under an emulation of CUDA.")
@click.option("--arch", metavar="sm_80,...", help="With --target cuda: GPUs to compile for  [default: this machine's]")
@click.option("--plan", "lock", metavar="FILE", help="Take the plan for the mesh from a lock file of `tesserac plan`.")
@click.option("--tuning", metavar="FILE", help="With --target cuda: schedules of kernels that `tesserac tune` found.")
@click.option("--hw", metavar="NAME|FILE", help="The machine that plans for a mesh are for  [default: by target]")
@click.option("--portable", is_flag=True, help="Kernels for several instruction sets in one binary.")
@click.option("--reassociate", is_flag=True, help="Reorder chains of products where that saves work; changes rounding.")
@click.option("--print-after", metavar="PASS|all", help="Print the program after a pass.")
@click.option("--stop-after", metavar="PASS", help="Print the program after a pass and stop; write nothing.")
@click.option("--time-passes", is_flag=True, help="Say how long every pass took.")
@click.option(
    "-j",
    "--jobs",
    type=click.IntRange(1, 1024),
    default=None,
    help="Compilations at a time  [default: one per processor]",
)
@click.option("-v", "--verbose", is_flag=True, help="Also print remarks, every command of make and all timings.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors and warnings.")
@click.pass_obj
def command(
    console: Console,
    /,
    file: str,
    output: str | None,
    emit: str | None,
    target: str | None,
    emulate: bool,
    arch: str | None,
    lock: str | None,
    hw: str | None,
    tuning: str | None,
    portable: bool,
    reassociate: bool,
    print_after: str | None,
    stop_after: str | None,
    time_passes: bool,
    jobs: int | None,
    verbose: bool,
    quiet: bool,
    **flags: Any,
) -> None:
    """Compiles FILE into a folder that `make` builds, and builds it.

    The folder needs neither tesserac nor Python. Only what has changed is written and compiled again.
    """
    from tesserac.build import CUDA_KINDS, Request, build, check_target, parse_emit
    from tesserac.nvcc import architectures
    from tesserac.summary import print_summary, print_times
    from tesserac.tuning import load_tuning

    if target is None:
        target = "cuda" if emulate or arch or tuning or CUDA_KINDS & set((emit or "").split(",")) else "cpu"
    if target == "cpu" and (emulate or arch or tuning):
        raise click.BadOptionUsage("target", "--emulate, --arch and --tuning go with --target cuda.")
    archs = architectures(arch)
    if isinstance(archs, str):
        raise click.BadOptionUsage("arch", archs)
    kinds = parse_emit(emit, target)
    if isinstance(kinds, str):
        raise click.BadOptionUsage("emit", kinds)
    console.quiet = quiet
    source = read(console, file, **flags)
    options = replace(source.options, target=target, portable=portable, reassociate=reassociate)
    if hw is not None:
        from tesserac.passes.mesh.hardware import load

        if lock is not None:
            raise click.BadOptionUsage("hw", "--hw decides how plans are found, and --plan has one: give one of them.")
        options = replace(options, hardware=load(hw))
    if lock is not None:
        options = replace(options, lock=(lock, read_source(Path(lock))))
        source = replace(source, sidecars=(*source.sidecars, Path(lock)))
    if tuning is not None:
        options = replace(options, tuning=load_tuning(tuning))
        source = replace(source, sidecars=(*source.sidecars, Path(tuning)))
    source = replace(source, options=replace(options, emulate=emulate, architectures=archs))
    if print_after or stop_after:
        from tesserac.inspection.stages import print_passes

        print_passes(source, console, print_after, stop_after)
        if stop_after:
            return
    check_target(kinds, target, emulate)
    folder = Path(output) if output else Path("build") / source.stem
    result = build(Request(source, folder, kinds, jobs or 0, verbose, time_passes), console)
    if time_passes:
        print_times(console, result)
    print_summary(console, result, kinds)
