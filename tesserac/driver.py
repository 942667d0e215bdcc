"""The compiler as a pure function: source text and options in, a project's files as strings out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from tesserac import __version__
from tesserac.codegen.cpu.project import EntryPlans, render_entry
from tesserac.codegen.jinja import render_template
from tesserac.codegen.names import CppNames, identifier
from tesserac.codegen.reference import render_reference_file
from tesserac.diagnostics import CompileError, Diagnostic, Diagnostics, InternalError
from tesserac.elaborate import Options, elaborate
from tesserac.ir.program import Entry, Function, Program
from tesserac.ir.verify import verify
from tesserac.parser import parse, syntax
from tesserac.passes.differentiate import differentiate
from tesserac.passes.expand import expand
from tesserac.passes.pipeline import Trace, optimize, schedule
from tesserac.passes.tile import Tile


@dataclass(frozen=True, slots=True)
class CompileOptions:
    """``elaboration``: what decides the program's meaning; ``tile_rows``: rows of a tile (0: do not cut the batch)."""

    elaboration: Options = Options()
    target: str = "cpu"
    tile_rows: int = 128


@dataclass(frozen=True, slots=True)
class Project:
    """An emitted folder: text files by relative path, executables by entry label, the shared library's name."""

    files: Mapping[str, str]
    executables: Mapping[str, str]
    library: str
    plans: tuple[EntryPlans, ...]
    program: Program
    warnings: tuple[Diagnostic, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)


def front_end(text: str, file: str, options: CompileOptions) -> tuple[syntax.Unit, Program, tuple[Diagnostic, ...]]:
    """Parses and elaborates; raises CompileError with everything that was found."""
    diagnostics = Diagnostics()
    unit = parse(text, file, diagnostics)
    program = elaborate(unit, options.elaboration, diagnostics) if unit is not None and not diagnostics.has_errors else None
    diagnostics.raise_if_errors()
    if unit is None or program is None:
        raise InternalError("elaboration gave no program and no error")
    for function in program.functions():
        verify(function)
    return unit, program, tuple(diagnostics.items)


def plan_entry(entry: Entry, options: CompileOptions, after: Callable[[str, Function], None] | None = None,
               seconds: dict[str, float] | None = None) -> EntryPlans:
    """Optimizes and schedules the functions of an entry."""
    trace = Trace(after)
    table = list(dict.fromkeys(i.path for f in (entry.train, entry.infer) if f is not None for i in f.parameters))
    tile = Tile(rows=options.tile_rows or 1, enabled=options.tile_rows > 0)
    plans = []
    for function in (entry.train, entry.infer):
        plans.append(None if function is None else schedule(optimize(function, trace), table, tile, trace=trace))
    if seconds is not None:
        for name, value in trace.seconds.items():
            seconds[name] = seconds.get(name, 0.0) + value
    return EntryPlans(entry, *plans)


def compile_source(text: str, file: str, options: CompileOptions = CompileOptions(),
                   after: Callable[[str, Function], None] | None = None) -> Project:
    """Source text to a project. Raises CompileError (the user's) or InternalError (ours)."""
    unit, program, warnings = front_end(text, file, options)
    if not program.entries:
        diagnostics = Diagnostics()
        diagnostics.error("T0301", "nothing in this file can be compiled into a program", None,
                          help=("define an @graph.module, an @graph.training_step or a top-level tensor expression",))
        raise CompileError(diagnostics.items)
    sources = {block.file: text for block in unit.sources}
    project = emit(program, file, sources, options, after)
    return replace(project, warnings=warnings)


def emit(program: Program, file: str, sources: Mapping[str, str], options: CompileOptions = CompileOptions(),
         after: Callable[[str, Function], None] | None = None) -> Project:
    """A program to a project."""
    seconds: dict[str, float] = {}
    lines = {name: text.splitlines() for name, text in sources.items()}
    stems, files = CppNames(), dict[str, str]()
    executables, rows, plans = dict[str, str](), [], []
    for entry in program.entries:
        stem = stems.of(entry.label)
        plan = plan_entry(entry, options, after, seconds)
        plans.append(plan)
        files.update(render_entry(plan, stem=stem, source=file, lines=lines))
        references = [(f"{stem}_{label}", reference_function(f)) for label, f in (("train", entry.train), ("infer", entry.infer))
                      if f is not None]
        files[f"{stem}.reference.cpp"] = render_reference_file(references, source=file, sources=sources)
        values = {"title": entry.label, "stem": stem}
        files[f"{stem}.main.cpp"] = render_template("project/main.cpp.j2", **values)
        executables[entry.label] = stem
        rows.append({"stem": stem, "file": stem, "label": entry.label})
    unit = identifier(file.replace("\\", "/").rsplit("/", 1)[-1].rsplit(".", 1)[0])
    library = f"lib{unit}.so"
    files["library.cpp"] = render_template("project/library.cpp.j2", entries=rows)
    files["Makefile"] = render_template("project/Makefile.j2", entries=rows, names=[r["file"] for r in rows], library=library,
                                        title=unit, version=__version__)
    return Project(files, executables, library, tuple(plans), program, seconds=seconds)


def reference_function(function: Function) -> Function:
    """Primitives only, and differentiated only after that: what the selftest compares with."""
    return differentiate(expand(function))
