"""`tesserac tune`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tesserac.commands.kernel_options import kernel_options, prepared
from tesserac.console import Console


@click.command("tune")
@click.argument("file")
@click.option("-o", "--output", metavar="FILE", default="tuning.json", show_default=True, help="Where to write.")
@kernel_options
@click.pass_obj
def command(console: Console, /, file: str, output: str, kernel: str | None, **flags: Any) -> int:
    """Tries the schedules of FILE's CUDA kernels and writes the best ones for `tesserac build --tuning`.

    A schedule is a choice of sizes that changes no result: threads of a block, rows or lines that it takes. On this
    machine's GPU; without one, under the emulation of CUDA, for the results alone. Exits with 1 if a result changes.
    """
    from tesserac.verification.tune import tune_program

    source, folder, variables, jobs = prepared(console, file, "tune", **flags)
    return tune_program(source, console, folder, kernel, Path(output), variables, jobs)
