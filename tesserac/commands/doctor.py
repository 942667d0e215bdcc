"""`tesserac doctor`."""

from __future__ import annotations

import click

from tesserac.console import Console


@click.command("doctor")
@click.pass_context
def command(ctx: click.Context, /) -> int:
    """Says which tools were found, what is missing for what, and the command that brings it.

    Exits with status 4 when emitted projects cannot be compiled on this machine.
    """
    from tesserac.doctor import findings, report

    console = ctx.obj
    assert isinstance(console, Console)
    found = findings()
    console.show(report(found))
    return 4 if any(f.required and not f.ok for f in found) else 0
