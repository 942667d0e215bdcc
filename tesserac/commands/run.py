"""`tesserac run`."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import click

from tesserac.commands.program_options import Source, program_options, read
from tesserac.console import Console


@click.command("run")
@click.argument("file")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- ARGUMENTS]...")
@program_options
@click.option("-j", "--jobs", type=click.IntRange(1, 1024), default=None, help="Compilations at a time.")
@click.option("-v", "--verbose", is_flag=True, help="Show the build.")
@click.pass_obj
def command(
    console: Console, /, file: str, arguments: tuple[str, ...], jobs: int | None, verbose: bool, **flags: Any
) -> None:
    """Builds FILE into a folder under build/run and runs the program with the ARGUMENTS after `--`.

    Without arguments the program lists its commands. A source with several entries needs --entry.
    """
    from tesserac.build import Request, build, not_started
    from tesserac.diagnostics import CompileError, Diagnostics
    from tesserac.summary import print_summary

    console.quiet = not verbose
    source = read(console, file, **flags)
    sources, kinds = frozenset(("cpp",)), frozenset(("cpp", "exe"))
    result = build(Request(source, cache_folder(source), sources, jobs or 0, verbose), console)
    if len(result.executables) != 1:
        diagnostics = Diagnostics()
        labels = [entry["label"] for entry in result.model["entries"]]
        diagnostics.error(
            "T0808",
            f"`{file}` has {len(labels)} entries, and `run` runs one",
            None,
            notes=[f"entries: {', '.join(labels)}"],
            help=[f"--entry {labels[0]}"],
        )
        raise CompileError(diagnostics.items)
    result = build(Request(source, cache_folder(source), kinds, jobs or 0, verbose), console)
    if verbose:
        print_summary(console, result, kinds)
    program = (result.folder / result.executables[0]).absolute()
    sys.stdout.flush()
    try:
        os.execv(program, [str(program), *arguments])
    except OSError as error:
        raise not_started(program, error) from error


def cache_folder(source: Source) -> Path:
    """``build/run/<stem>-<digest>``: one folder per source path and set of options."""
    key = repr((os.path.abspath(source.path), source.options)).encode("utf-8", "surrogateescape")
    return Path("build") / "run" / f"{source.stem}-{hashlib.sha256(key).hexdigest()[:8]}"
