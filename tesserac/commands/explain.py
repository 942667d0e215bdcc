"""`tesserac explain`."""

from __future__ import annotations

import re
from typing import Any

import click

from tesserac.commands.program_options import program_options, read
from tesserac.console import Console

_CODE = re.compile(r"[Tt]\d{1,5}")
_PLACE = re.compile(r"(.+):(\d{1,9})(?::\d+)?", re.DOTALL)


@click.command("explain")
@click.argument("what", metavar="CODE|FILE:LINE")
@program_options
@click.pass_obj
def command(console: Console, /, what: str, **flags: Any) -> None:
    """Explains an error code (T0412), or what became of a source line (examples/gpt.py:12).

    For a line: its equations, their derivatives, and the kernels that compute them, with formula, sizes, work, and
    where they are in the emitted code.
    """
    if _CODE.fullmatch(what):
        console.show(explain_code(what.upper()))
        return
    place = _PLACE.fullmatch(what)
    if place is None:
        raise click.UsageError(f"{what!r} is neither a code like T0412 nor a place like model.py:12.")
    from tesserac.build import progress
    from tesserac.diagnostics import CompileError, Diagnostics
    from tesserac.driver import compile_source
    from tesserac.inspection.lines import known_lines, line_report

    source, line = read(console, place[1], **flags), int(place[2])
    console.stage = "parsing and elaboration"
    project = compile_source(source.text, source.path, source.options, progress(console))
    console.stage = "explaining a line"
    report = list(line_report(project, line))
    if not report:
        known = known_lines(project)
        near = sorted(sorted(known, key=lambda n: abs(n - line))[:5])
        diagnostics = Diagnostics()
        diagnostics.error(
            "T0809",
            f"nothing is computed by line {line} of `{place[1]}`",
            None,
            help=[f"the nearest lines that compute something: {', '.join(map(str, near))}"] if near else [],
        )
        raise CompileError(diagnostics.items)
    lines = source.text.splitlines()
    if line <= len(lines):
        console.show(f"{what}:  {lines[line - 1].strip()}\n")
    console.show("\n".join(report))


def explain_code(code: str) -> str:
    """The catalogue's entry; a usage error names the nearest codes."""
    import difflib

    from tesserac.diagnostics_catalogue import CATALOGUE

    entry = CATALOGUE.get(code)
    if entry is None:
        near = difflib.get_close_matches(code, CATALOGUE, 3)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise click.UsageError(f"There is no code {code}.{hint} docs/errors.md lists all.")
    indented = "\n".join(f"    {line}".rstrip() for line in entry.example.splitlines())
    parts = (f"{entry.code}: {entry.title}", _wrapped(entry.cause), "For example:", indented, _wrapped(entry.fix))
    return "\n\n".join(parts) + "\n"


def _wrapped(text: str) -> str:
    import textwrap

    return "\n".join(textwrap.fill(part, 100) for part in text.splitlines())
