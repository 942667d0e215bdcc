"""What ``tesserac plan`` does: reads settings, plans every entry, gathers text, data, remarks and refusals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tesserac.diagnostics import CompileError, Diagnostic, Diagnostics
from tesserac.driver import front_end
from tesserac.inspection.mesh_plan import plan_text, summary_text
from tesserac.ir.program import Entry
from tesserac.parser import read_source
from tesserac.passes.mesh.advice import LARGE, advice, refused, too_large
from tesserac.passes.mesh.entry import plans_of
from tesserac.passes.mesh.expect import compare
from tesserac.passes.mesh.hardware import load
from tesserac.passes.mesh.lock import lock_text
from tesserac.passes.mesh.pins import without_effect
from tesserac.passes.mesh.planning import Planned, settings_of
from tesserac.passes.mesh.reasons import reasons
from tesserac.passes.mesh.report import described_plan
from tesserac.passes.mesh.settings import PlanToml, read_settings
from tesserac.replacing import replace_text

if TYPE_CHECKING:
    from tesserac.commands.program_options import Source


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """The command's own flags."""

    hw: str = "cpu-local"
    settings: str | None = None
    lock: str | None = None
    write_lock: str | None = None
    expect: str | None = None
    shard: str = "explain"
    deny_replicated: float | None = None
    max_collective_bytes: float | None = None
    memory: float | None = None
    infer: bool = False
    as_json: bool = False


@dataclass(slots=True)
class PlanReport:
    """Text and data of all entries; ``notes`` are warnings, ``errors`` what was refused."""

    text: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    notes: list[Diagnostic] = field(default_factory=list)
    errors: list[Diagnostic] = field(default_factory=list)


def plan_report(source: Source, options: PlanOptions) -> PlanReport:
    """Plans every entry of a source that has a mesh. CompileError T0705 where none has."""
    toml = _settings(source, options)
    compile_options = source.options
    if toml.mesh is not None and compile_options.elaboration.mesh is None:
        compile_options = replace(compile_options, elaboration=replace(compile_options.elaboration, mesh=toml.mesh))
    hardware = load(options.hw)
    unit, program, _ = front_end(source.text, source.path, compile_options)
    texts = {block.file: source.text.splitlines() for block in unit.sources}
    planned = [(entry, role) for entry in program.entries if entry.mesh is not None
               for role in _roles(entry, options.infer)]
    if not planned:
        _fail("no entry of this source has a mesh of several devices",
              "--mesh dp=2,tp=2, or dist.Mesh(...) in the source")
    if len(planned) > 1 and (options.lock or options.write_lock):
        _fail("a lock file holds one plan, and this source has several entries",
              "choose one of them: --entry " + planned[0][0].label)
    if (options.lock or options.write_lock) and any(role == "infer" and entry.train for entry, role in planned):
        _fail("a lock file holds the plan of the training step, around which inference is planned", "leave out --infer")
    lock = (options.lock, read_source(Path(options.lock))) if options.lock else None
    settings = settings_of(toml, lock, options.memory)
    report = PlanReport(data={"file": source.path, "entries": []})
    parts = []
    for entry, role in planned:
        found = next(found for made, found in plans_of(entry, hardware, settings) if made == role)
        report.notes += without_effect(entry)
        parts.append(_entry(found, entry, role, texts, options, report))
        if options.write_lock:
            _write(Path(options.write_lock), lock_text(found.function, found.mesh, hardware, found.found))
    report.text = "\n\n".join(parts)
    return report


def _entry(found: Planned, entry: Entry, role: str, texts: dict[str, list[str]], options: PlanOptions,
           report: PlanReport) -> str:
    """One entry's text; its data, warnings and errors go into the report."""
    data = described_plan(found, entry.label, role)
    warnings = advice(found, options.deny_replicated or LARGE)
    data["warnings"] = [{"code": d.code, "message": d.message, "at": str(d.span) if d.span else None} for d in warnings]
    denied = "T0711" if options.deny_replicated is not None else ""  # what is refused needs no warning
    report.notes += [warning for warning in warnings if warning.code != denied]
    report.notes += _roles_of_nothing(found)
    (report.errors if found.settings.memory is not None else report.notes).extend(too_large(found))
    report.errors += refused(found, options.deny_replicated, options.max_collective_bytes, options.shard == "strict")
    why = [] if options.shard == "auto" else reasons(found)
    data["why"] = why
    text = summary_text(found, data) if options.shard == "auto" else plan_text(found, data, texts, why)
    if options.expect is not None:
        comparison = compare(found, options.expect)
        data["expected"] = {"template": comparison.name, "same": comparison.same, "lines": comparison.lines()}
        text = "\n".join([text, *comparison.lines()])
        if not comparison.same:
            report.errors.append(Diagnostic(
                "T0709", "error", f"the collectives of {entry.label} are not those of {comparison.name}", None,
                help=("the table above says which differ", "`why` in the report says what the search preferred")))
    report.data["entries"].append(data)
    return text


def _roles_of_nothing(found: Planned) -> list[Diagnostic]:
    """Roles in plan.toml whose axis this mesh does not have: of another mesh, or misspelt."""
    return [Diagnostic("T0705", "warning", f"plan.toml gives a role to axis {axis}, and the mesh is {found.mesh}", None,
                       help=("nothing follows from it here",))
            for axis in found.settings.roles if axis not in found.mesh.axes]


def _roles(entry: Entry, infer: bool) -> Sequence[str]:
    """What is planned of an entry: training if it trains, unless inference is asked for."""
    found = dict(entry.roles())
    role = "infer" if infer or "train" not in found else "train"
    return [role] if role in found else []


def _settings(source: Source, options: PlanOptions) -> PlanToml:
    if options.settings is None:
        return source.options.planning or PlanToml()
    return read_settings(read_source(Path(options.settings)), options.settings)


def _write(path: Path, text: str) -> None:
    try:
        replace_text(path, text)
    except OSError as error:
        _fail(f"--write-lock {path} cannot be written: {error.strerror}", "another path, in a folder that exists")


def _fail(message: str, help_: str) -> None:
    bag = Diagnostics()
    bag.error("T0705", message, None, help=[help_])
    raise CompileError(bag.items)
