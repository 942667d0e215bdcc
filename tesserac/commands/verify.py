"""`tesserac verify`."""

from __future__ import annotations

from typing import Any

import click

from tesserac.commands.kernel_options import kernel_options, prepared
from tesserac.console import Console


@click.command("verify")
@click.argument("file")
@kernel_options
@click.pass_obj
def command(console: Console, /, file: str, kernel: str | None, **flags: Any) -> int:
    """Runs every kernel of FILE alone, on the evaluator's own values, and compares what it writes with the evaluator.

    On this machine's GPU; without one, under the emulation of CUDA, where times mean nothing. Exits with 1 if a kernel
    is wrong. Large programs take small sizes: --set, --dim.
    """
    from tesserac.verification.program import verify_program

    source, folder, variables, jobs = prepared(console, file, "verify", **flags)
    return verify_program(source, console, folder, kernel, variables, jobs)
