"""`tesserac check`: every error of a source, and what was inferred."""

from __future__ import annotations

from typing import Any

import click

from tesserac.commands.program_options import program_options, read
from tesserac.console import Console

ALWAYS = ("T0510",)
"""Notes shown without -v: choices of the language that change results, and which other libraries make otherwise."""


@click.command("check")
@click.argument("file")
@program_options
@click.option("-v", "--verbose", is_flag=True, help="Also print the shape, dtype and origin of everything inferred.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors and warnings.")
@click.pass_obj
def command(console: Console, /, file: str, verbose: bool, quiet: bool, **flags: Any) -> None:
    """Reads, elaborates, verifies and differentiates FILE, and reports every error found. Writes nothing."""
    import time

    from tesserac.driver import check_source
    from tesserac.inspection.inferred import signature_lines, summary_line

    start = time.perf_counter()
    console.quiet = quiet
    source = read(console, file, **flags)
    console.stage = "checking"
    program, notes = check_source(source.text, source.path, source.options)
    console.diagnostics(d for d in notes if verbose or d.severity != "note" or d.code in ALWAYS)
    if verbose:
        for line in signature_lines(program):
            console.say(line)
    hidden = sum(d.severity == "note" and d.code not in ALWAYS for d in notes)
    more = "" if verbose or not hidden else f"; -v shows {hidden} inferred"
    console.say(f"{file}: ok, {summary_line(program)} ({time.perf_counter() - start:.2f} s{more})")
