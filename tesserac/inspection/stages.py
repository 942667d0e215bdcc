"""The program as text at the stages before kernels exist: syntax tree, graph, and after every pass."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from tesserac.codegen.comments import short_name
from tesserac.console import Console
from tesserac.diagnostics import CompileError, Diagnostics
from tesserac.driver import front_end
from tesserac.ir.program import Function, Program
from tesserac.ir.text import print_function, print_program
from tesserac.parser import dump, syntax
from tesserac.passes.pipeline import Trace, optimize, steps

if TYPE_CHECKING:
    from tesserac.commands.program_options import Source

PASSES = ("elaborate", *(step.name for step in steps(reorder=True, mixed=True, whole=True)))
"""Names for ``--print-after`` and ``--stop-after``, in order."""


def ast_text(unit: syntax.Unit) -> str:
    """The syntax tree with positions."""
    return dump(unit).replace(f"Unit {unit.file}\n", f"Unit {short_name(unit.file)}\n", 1)


def graph_text(program: Program) -> str:
    """The elaborated program, with file names but no folders."""
    return _short(print_program(program), program.file)


def function_text(function: Function, file: str) -> str:
    """One function, with file names but no folders."""
    return _short(print_function(function), file)


def print_passes(source: Source, console: Console, print_after: str | None, stop_after: str | None) -> None:
    """Prints every function after one pass or ``all``; up to the pass ``stop_after``, whose result is printed, too."""
    for name in (print_after, stop_after):
        if name is not None and name not in PASSES and not (name == "all" and name == print_after):
            raise unknown("pass", name, [*PASSES, *(["all"] if name == print_after else [])])
    console.stage = "elaboration"
    _, program, _ = front_end(source.text, source.path, source.options)
    wanted = set(PASSES) if print_after == "all" else {print_after, stop_after}
    last = stop_after or (print_after if print_after != "all" else None)

    def show(name: str, function: Function) -> None:
        console.stage = f"what follows pass `{name}`"
        if name in wanted:
            console.show(f"# after {name}\n{function_text(function, program.file)}")

    for entry in program.entries:
        for _, function in entry.roles():
            show("elaborate", function)
            if last != "elaborate":
                whole = source.options.target == "cuda"
                optimize(function, Trace(show), last, source.options.reassociate, entry.mixed, whole)


def unknown(what: str, name: str, known: list[str]) -> CompileError:
    """T0809: nothing of this name; the nearest ones and all others."""
    diagnostics = Diagnostics()
    near = difflib.get_close_matches(name, known, 3)
    diagnostics.error(
        "T0809",
        f"there is no {what} `{name}`",
        None,
        notes=[f"known: {', '.join(known) or 'none'}"],
        help=[f"did you mean {' or '.join(f'`{n}`' for n in near)}?"] if near else [],
    )
    return CompileError(diagnostics.items)


def _short(text: str, file: str) -> str:
    short = short_name(file)
    return (
        text
        if short == file
        else text.replace(f"# {file}:", f"# {short}:").replace(f'program "{file}"', f'program "{short}"')
    )
