"""`tesserac verify`."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from tesserac.commands.program_options import program_options, read
from tesserac.console import Console


@click.command("verify")
@click.argument("file")
@click.option("--target", type=click.Choice(["cuda"]), required=True, help="What the kernels are emitted for.")
@click.option("--kernel", metavar="NAME", help="This kernel, or those whose names begin so, alone.")
@click.option("--emulate", is_flag=True, help="On this processor, even where there is a GPU.")
@click.option("--arch", metavar="sm_80,...", help="GPUs to compile for  [default: this machine's]")
@program_options
@click.option("-j", "--jobs", type=click.IntRange(1, 1024), default=None, help="Compilations at a time.")
@click.pass_obj
def command(
    console: Console,
    /,
    file: str,
    target: str,
    kernel: str | None,
    emulate: bool,
    arch: str | None,
    jobs: int | None,
    **flags: Any,
) -> int:
    """Runs every kernel of FILE alone, on the evaluator's own values, and compares what it writes with the evaluator.

    On this machine's GPU; without one, under the emulation of CUDA, where times mean nothing. Exits with 1 if a kernel
    is wrong. Large programs take small sizes: --set, --dim.
    """
    from tesserac.build import processors
    from tesserac.nvcc import architectures, find_nvcc, locate
    from tesserac.verification.library import has_device
    from tesserac.verification.program import verify_program

    names = architectures(arch)
    if isinstance(names, str):
        raise click.BadOptionUsage("arch", names)
    on_device = not emulate and has_device()
    if on_device and locate() is None:
        find_nvcc()  # says what is missing
    source = read(console, file, **flags)
    options = replace(source.options, target="cuda", emulate=not on_device, architectures=names)
    source = replace(source, options=options)
    variables = find_nvcc(names).variables if on_device else []
    folder = Path("build") / "verify" / f"{source.stem}-{_digest(os.path.abspath(file), options)}"
    return verify_program(source, console, folder, kernel, variables, jobs or processors())


def _digest(path: str, options: object) -> str:
    return hashlib.sha256(repr((path, options)).encode("utf-8", "surrogateescape")).hexdigest()[:8]
