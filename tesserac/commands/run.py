"""`tesserac run`."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from tesserac.commands.program_options import Source, program_options, read
from tesserac.console import Console


class _Run(click.Command):
    """Flags behind a built program are the program's own, with and without ``--``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Puts ``--`` behind the first argument that is an executable file."""
        for number, word in enumerate(args):
            if word == "--":
                break
            if not word.endswith(".py") and os.path.isfile(word) and os.access(word, os.X_OK):
                args = [*args[: number + 1], "--", *args[number + 1 :]]
                break
        return super().parse_args(ctx, args)


@click.command("run", cls=_Run)
@click.argument("file")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- ARGUMENTS]...")
@program_options
@click.option("-n", "--ranks", type=click.IntRange(1, 4096), default=None, metavar="N",
              help="Start N ranks of the program on this host.")
@click.option("-j", "--jobs", type=click.IntRange(1, 1024), default=None, help="Compilations at a time.")
@click.option("-v", "--verbose", is_flag=True, help="Show the build.")
@click.pass_obj
def command(
    console: Console, /, file: str, arguments: tuple[str, ...], ranks: int | None, jobs: int | None, verbose: bool,
    **flags: Any,
) -> None:
    """Builds FILE into a folder under build/run and runs the program with the ARGUMENTS after `--`.

    Without arguments the program lists its commands. A source with several entries needs --entry. FILE may also be a
    program that is built already: `tesserac run -n 8 out/gpt train ...` starts its ranks on this host.
    """
    if not file.endswith(".py") and os.path.isfile(file) and os.access(file, os.X_OK):
        _start(Path(file).absolute(), arguments, ranks)
    from tesserac.build import Request, build
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
    _start(program, arguments, ranks)


def _start(program: Path, arguments: tuple[str, ...], ranks: int | None) -> NoReturn:
    """Becomes the program, or the launcher of its ranks."""
    from tesserac.build import not_started

    sys.stdout.flush()
    try:
        if ranks is None:
            os.execv(program, [str(program), *arguments])
        from tesserac.launch import launch

        sys.exit(launch(str(program), arguments, ranks))
    except OSError as error:
        raise not_started(program, error) from error


def cache_folder(source: Source) -> Path:
    """``build/run/<stem>-<digest>``: one folder per source path and set of options."""
    key = repr((os.path.abspath(source.path), source.options)).encode("utf-8", "surrogateescape")
    return Path("build") / "run" / f"{source.stem}-{hashlib.sha256(key).hexdigest()[:8]}"
