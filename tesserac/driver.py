"""The compiler as a pure function: source text and options in, a project's files as strings out.

Back ends are imported where they are used: `check` must not pay for the templates.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from tesserac import __version__
from tesserac.diagnostics import CompileError, Diagnostic, Diagnostics, InternalError
from tesserac.elaborate import Options, elaborate
from tesserac.elaborate.options import FP64
from tesserac.ir.program import Entry, Function, Program
from tesserac.ir.types import DType
from tesserac.ir.verify import verify
from tesserac.parser import parse, syntax
from tesserac.passes.kinks import kink_remarks

if TYPE_CHECKING:
    from tesserac.codegen.cpu.project import EntryPlans
    from tesserac.passes.mesh.hardware import Hardware
    from tesserac.passes.mesh.settings import PlanToml
    from tesserac.passes.plan import Plan
    from tesserac.tuning import Tuning

After = Callable[[str, Function], None]
"""Called with the name of every pass and the function it made."""

_TAKEN_STEMS = ("all", "clean", "ptx", "sass", "runtime", "library", "command_line", "main", "std", "tsr")
"""Stems that an entry's files and namespace must not have: make targets, other files, functions and namespaces."""

_TAKEN_FILES = ("all", "clean", "ptx", "sass", "runtime", "Makefile")
"""Names that an executable must not have."""


@dataclass(frozen=True, slots=True)
class CompileOptions:
    """``elaboration``: what decides the program's meaning; ``tile_rows``: rows of a tile (0: do not cut the batch).

    ``reassociate`` reorders matrix chains, which changes rounding. ``target`` is cpu or cuda. ``portable``: the
    binaries hold the kernels for several instruction sets and choose when they start. ``planning``: what plan.toml says
    of programs on a mesh; ``lock``: name and text of a lock file that has the plan; ``hardware``: the machine that
    plans are for, None for the target's usual one; ``tuning``: what CUDA kernels choose.
    """

    elaboration: Options = field(default_factory=Options)
    target: str = "cpu"
    tile_rows: int = 128
    portable: bool = False
    reassociate: bool = False
    emulate: bool = False
    architectures: tuple[str, ...] = ()
    planning: PlanToml | None = None
    lock: tuple[str, str] | None = None
    hardware: Hardware | None = None
    tuning: Tuning | None = None


@dataclass(frozen=True, slots=True)
class Project:
    """An emitted folder: text files by relative path, executables by entry label, the shared library's name.

    ``description`` is what ``model.json`` holds; ``kernels`` maps every entry's label to its emitted kernels.
    """

    files: Mapping[str, str]
    executables: Mapping[str, str]
    library: str
    plans: tuple[EntryPlans, ...]
    program: Program
    warnings: tuple[Diagnostic, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    kernels: Mapping[str, Sequence[Any]] = field(default_factory=dict)


def front_end(text: str, file: str, options: CompileOptions) -> tuple[syntax.Unit, Program, tuple[Diagnostic, ...]]:
    """Parses and elaborates; raises CompileError with everything that was found."""
    diagnostics = Diagnostics()
    unit = parse(text, file, diagnostics)
    program = None
    if unit is not None and not diagnostics.has_errors:
        program = elaborate(unit, options.elaboration, diagnostics)
    diagnostics.raise_if_errors()
    if unit is None or program is None:
        raise InternalError("elaboration gave no program and no error")
    remarks: dict[Diagnostic, None] = {}
    for function in program.functions():
        verify(function)
        remarks.update(dict.fromkeys(kink_remarks(function)))
    return unit, program, (*diagnostics.items, *remarks)


def check_source(
    text: str, file: str, options: CompileOptions = CompileOptions()
) -> tuple[Program, tuple[Diagnostic, ...]]:
    """The program and remarks, after all that finds faults of the user's: parsing, elaboration, differentiation."""
    from tesserac.passes.differentiate import differentiate

    _, program, found = front_end(text, file, options)
    for function in program.functions():
        differentiate(function)
    return program, found


def plan_entry(entry: Entry, options: CompileOptions, after: After | None = None,
               seconds: dict[str, float] | None = None) -> EntryPlans:
    """Optimizes and schedules the functions of an entry; on a mesh, of one of its ranks."""
    from tesserac.codegen.cpu.project import EntryPlans
    from tesserac.codegen.cpu.tables import parameters_of
    from tesserac.passes.pipeline import Trace, optimize, schedule
    from tesserac.passes.tile import Tile

    trace = Trace(after)
    meshed = None
    if entry.mesh is not None:  # planning for a mesh is a third of the compiler, and most programs have none
        from tesserac.passes.mesh.entry import on_mesh
        from tesserac.passes.mesh.hardware import usual
        from tesserac.passes.mesh.planning import settings_of

        start = time.perf_counter()
        hardware = options.hardware or usual(options.target, options.architectures)
        settings = settings_of(options.planning, options.lock)
        meshed = on_mesh(entry, hardware, settings)
        entry = meshed.local
        trace.seconds["mesh"] = time.perf_counter() - start
    table = [parameter.item.path for parameter in parameters_of(entry)]
    whole = options.target == "cuda"  # a GPU's threads share one memory: nothing is gained by cutting into tiles
    # CUDA's products leave a result, they do not add to one.
    tile = Tile(rows=options.tile_rows or 1, enabled=options.tile_rows > 0 and not whole, accumulate=not whole,
                experts=not whole)
    plans: dict[str, Plan] = {}
    for role, function in entry.roles():
        optimized = optimize(function, trace, reorder=options.reassociate, mixed=entry.mixed, whole=whole)
        plans[role] = schedule(optimized, table, tile, trace=trace, filters=not whole, moves=not whole)
    if seconds is not None:
        for name, value in trace.seconds.items():
            seconds[name] = seconds.get(name, 0.0) + value
    return EntryPlans(entry, meshed, **plans)


def compile_source(
    text: str, file: str, options: CompileOptions = CompileOptions(), after: After | None = None
) -> Project:
    """Source text to a project. Raises CompileError (the user's) or InternalError (ours)."""
    start = time.perf_counter()
    unit, program, warnings = front_end(text, file, options)
    front = time.perf_counter() - start
    if not program.entries:
        diagnostics = Diagnostics()
        diagnostics.error("T0301", "nothing in this file can be compiled into a program", None,
                          help=("define an @graph.module, an @graph.training_step or a top-level tensor expression",))
        raise CompileError(diagnostics.items)
    sources = {block.file: text for block in unit.sources}
    project = emit(program, file, sources, options, after)
    seconds = {"parse and elaborate": front, **project.seconds}
    return replace(project, warnings=(*warnings, *project.warnings), seconds=seconds)


@dataclass(slots=True)
class _Named:
    """An entry with the C++ stem of its files and the file name of its executable."""

    entry: Entry
    stem: str
    file: str


def _named(program: Program) -> list[_Named]:
    """Stems and file names: the label itself where it is safe as a file name, else the stem; all different."""
    from tesserac.codegen.names import CppNames, identifier

    stems = CppNames(reserved=_TAKEN_STEMS)
    rows = []
    for entry in program.entries:
        # A keyword gets an underscore at its end, which does not go with what is appended to a stem.
        keyword = identifier(entry.label).endswith("_")
        rows.append(_Named(entry, stems.of(f"{entry.label}_entry" if keyword else entry.label), ""))
    taken = {row.stem for row in rows}
    for row in rows:
        label = row.entry.label
        row.file = label if _is_file_name(label) and label not in taken else row.stem
    return rows


def entry_stems(program: Program) -> dict[str, str]:
    """The C++ identifier that the files of every entry are called by, by label."""
    return {row.entry.label: row.stem for row in _named(program)}


def _is_file_name(label: str) -> bool:
    """Whether a label can be an executable's name that no shell, make or file system misreads."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", label) is not None and label not in _TAKEN_FILES


def unit_name(file: str) -> str:
    """The C++ identifier that names a source's library and description."""
    from tesserac.codegen.names import identifier

    return identifier(file.replace("\\", "/").rsplit("/", 1)[-1].rsplit(".", 1)[0])


def emit(program: Program, file: str, sources: Mapping[str, str], options: CompileOptions = CompileOptions(),
         after: After | None = None) -> Project:
    """A program to a project for the CPU."""
    from tesserac.codegen.cpu.project import render_entry
    from tesserac.codegen.jinja import render_template
    from tesserac.codegen.reference import render_reference_file
    from tesserac.includes import runtime_headers
    from tesserac.inspection.describe import cell, describe_entry, description, readme_entries
    from tesserac.inspection.kernels import emitted_kernels

    _refuse_floats(program, DType.F64 if options.elaboration.precision in FP64 else DType.F32)
    if options.target == "cuda":
        return emit_cuda(program, file, sources, options, after)
    seconds: dict[str, float] = {}
    lines = {name: text.splitlines() for name, text in sources.items()}
    files: dict[str, str] = {}
    described, kernels, plans, named = [], {}, [], _named(program)
    start = time.perf_counter()
    for row in named:
        entry, stem = row.entry, row.stem
        plan = plan_entry(entry, options, after, seconds)
        plans.append(plan)
        files.update(render_entry(plan, stem=stem, source=file, lines=lines))
        references = _references(plan, stem)
        files[f"{stem}.reference.cpp"] = render_reference_file(references, source=file, sources=sources)
        for part in ("main", "dispatch") if options.portable else ("main",):
            files[f"{stem}.{part}.cpp"] = render_template(
                f"project/{part}.cpp.j2", title=entry.label, stem=stem, portable=options.portable)
        kernels[entry.label] = emitted_kernels(plan, f"{stem}.kernels.h", files[f"{stem}.kernels.h"])
        described.append(describe_entry(plan, row.file, kernels[entry.label]))
    unit = unit_name(file)
    library = f"lib{unit}.so"
    rows = [{"stem": r.stem, "file": r.file, "label": r.entry.label} for r in named]
    common: dict[str, Any] = {"entries": rows, "names": [r.file for r in named], "library": library, "title": unit,
                              "version": __version__, "portable": options.portable,
                              "mesh": any(plan.meshed is not None for plan in plans)}
    files["library.cpp"] = render_template("project/library.cpp.j2", **common)
    files["command_line.cpp"] = render_template("project/command_line.cpp.j2")
    files["Makefile"] = render_template("project/Makefile.j2", **common)
    files["model.json"] = description(unit, file, library, described)
    files["README.md"] = render_template("project/README.md.j2", described=readme_entries(described), cell=cell,
                                         source=file.replace("\\", "/").rsplit("/", 1)[-1], **common)
    files.update(runtime_headers(files))
    files["tessera.h"] = files["runtime/tessera.h"]
    seconds["render"] = time.perf_counter() - start - sum(seconds.values())
    return Project(files, {r.entry.label: r.file for r in named}, library, tuple(plans), program,
                   _warnings(plans), seconds, kernels)


def _references(plans: EntryPlans, stem: str) -> list[tuple[str, Function, tuple[str, ...]]]:
    """An entry's functions for the reference program, with the choices that the compiled ones make."""
    if plans.meshed is not None:  # a rank compares its part with the whole program, which chooses by itself
        return [(f"{stem}_{role}", reference_function(function), ()) for role, function in plans.meshed.whole.roles()]
    planned = dict(plans.roles())
    return [(f"{stem}_{role}", reference_function(function), tuple(v.name for v in planned[role].choices))
            for role, function in plans.entry.roles()]


def _refuse_floats(program: Program, main: DType) -> None:
    """T0501 for floats other than ``main``: kernels compute in one type, and 16 bits hold products' operands alone."""
    diagnostics = Diagnostics()
    for entry in program.entries:
        seen: set[str] = set()
        for _, function in entry.roles():
            places = [(f"`{i.path}`", i.var, i.span) for i in function.inputs]
            made = [
                (f"what `{e.op}` gives here", v, e.span)
                for e in function.equations for v in e.results
                if all(o.type.dtype is not v.type.dtype for o in e.operands)  # the first of its type
            ]
            for name, var, span in (*places, *made):
                dtype, where = var.type.dtype, f"{name} {span}"
                if dtype.is_complex and dtype.real is main:
                    continue
                if not dtype.is_differentiable or dtype is main or where in seen:
                    continue
                seen.add(where)
                if dtype in (DType.BF16, DType.F16):
                    what, aid = "16-bit floats in the source are", "leave it fp32 and ask for --precision bf16"
                else:
                    what, aid = f"{dtype} beside {main} is", f"--precision {'fp32' if main is DType.F64 else 'fp64'}"
                    aid += " computes the whole program so; leave the dtype out of the source"
                diagnostics.error("T0501", f"{name} is {dtype}: {what} not supported yet", span, help=[aid])
    diagnostics.raise_if_errors()


def emit_cuda(program: Program, file: str, sources: Mapping[str, str], options: CompileOptions,
              after: After | None = None) -> Project:
    """A program to a project of CUDA sources: for nvcc, or with ``emulate`` for a C++ compiler."""
    from tesserac.codegen.cuda.emulate import ENGINE, emulated_files
    from tesserac.codegen.cuda.project import (  # the seam to the other back end
        entry_files,
        render_cuda_makefile,
        rendered,
    )
    from tesserac.codegen.cuda.steps import CUFFT_HEADER
    from tesserac.codegen.jinja import render_template
    from tesserac.codegen.reference import render_reference_file
    from tesserac.includes import runtime_headers
    from tesserac.inspection.describe import cell, describe_entry, description, readme_entries

    seconds: dict[str, float] = {}
    lines = {name: text.splitlines() for name, text in sources.items()}
    files: dict[str, str] = {}
    plans, described, named, unit = [], [], _named(program), unit_name(file)
    choosing: dict[str, str] = {}
    headers: set[str] = set()
    start = time.perf_counter()
    for row in named:
        plans.append(plan_entry(row.entry, options, after, seconds))
        kernels = rendered(plans[-1], lines, options.tuning.schedules if options.tuning else {})
        files.update(entry_files(kernels, plans[-1], stem=row.stem, source=file))
        headers.update(kernels.headers)
        choosing.update({f.digest: f.name for f in kernels.kernels.functions if f.choices})
        references = _references(plans[-1], row.stem)
        files[f"{row.stem}.reference.cpp"] = render_reference_file(references, source=file, sources=sources)
        files[f"{row.stem}.main.cpp"] = render_template("project/main.cpp.j2", title=row.entry.label, stem=row.stem,
                                                          portable=False)
        described.append(describe_entry(plans[-1], row.file, []))
    rows = [{"stem": r.stem, "file": r.file, "label": r.entry.label} for r in named]
    files["command_line.cpp"] = render_template("project/command_line.cpp.j2")
    files["Makefile"] = render_cuda_makefile(rows, title=unit, architectures=options.architectures,
                                             emulate=options.emulate,
                                             ranks=any(plan.meshed is not None for plan in plans),
                                             cufft=CUFFT_HEADER in headers)
    files["model.json"] = description(unit, file, "", described)
    files["README.md"] = render_template("project/README.cuda.md.j2", title=unit, version=__version__, entries=rows,
                                         cell=cell, described=readme_entries(described), emulate=options.emulate,
                                         source=file.replace("\\", "/").rsplit("/", 1)[-1])
    files.update(runtime_headers(files, ENGINE if options.emulate else ()))
    if options.emulate:
        replaced = emulated_files(files)
        files.update({**replaced, **runtime_headers(replaced)})
    seconds["render"] = time.perf_counter() - start - sum(seconds.values())
    remarks = options.tuning.remarks(choosing, options.architectures).items if options.tuning else ()
    return Project(files, {r.entry.label: r.file for r in named}, "", tuple(plans), program,
                   (*_warnings(plans), *remarks), seconds)


def _warnings(plans: Sequence[EntryPlans]) -> tuple[Diagnostic, ...]:
    """What planning entries for their meshes found."""
    return tuple(warning for plan in plans if plan.meshed is not None for warning in plan.meshed.warnings)


def reference_function(function: Function) -> Function:
    """Primitives only, and differentiated only after that: what the selftest compares with.

    Complex values are pairs of real ones there, too, but products are four plain ones: that the planar pass keeps the
    meaning is what its tests show, against complex arithmetic of NumPy's.
    """
    from tesserac.passes.differentiate import differentiate
    from tesserac.passes.expand import expand
    from tesserac.passes.planar import planar_plainly

    return planar_plainly(differentiate(expand(function), plain=True))
