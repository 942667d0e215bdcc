"""Elaboration of a whole unit: options are checked, entries are chosen, each is elaborated on its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tesserac.diagnostics import Diagnostics, Label, some
from tesserac.elaborate.entries import Context, elaborate_entry
from tesserac.elaborate.names import nearest
from tesserac.elaborate.options import BF16, FP32, FP64, Options, parse_shape
from tesserac.elaborate.plan import EntryPlan, UnitPlan
from tesserac.elaborate.report import Report
from tesserac.elaborate.values import Value
from tesserac.foreign import parse_toml
from tesserac.ir.mesh import parse_mesh
from tesserac.ir.program import Program
from tesserac.ir.types import Dim
from tesserac.parser import syntax

Shapes = dict[str, tuple[tuple[Dim, ...], str]]


def elaborate_unit(unit: syntax.Unit, options: Options, diagnostics: Diagnostics) -> Program | None:
    """See `tesserac.elaborate.elaborate`."""
    report = Report(diagnostics)
    plan = UnitPlan(unit)
    options, shapes = _sidecar(options, report)
    for name, text in options.shapes:
        dims = parse_shape(text)
        if dims is None:
            report.error(
                "T0411",
                f"--shape {name}={text} is not a shape",
                None,
                help=["--shape input=4x64x32, --shape input=B,S,D"],
            )
        else:
            shapes[name] = dims, f"--shape {name}={text}"
    literals, sets = _literals(options, plan, report), _sets(options, plan, report)
    _check_options(options, report)
    chosen = _entries(plan, options, report)
    if report.has_errors:
        return None
    context = Context(plan, options, report, shapes, literals, sets, set())
    entries = []
    with _deep_recursion():
        for entry in chosen:
            done = elaborate_entry(context, entry)
            if done is not None:
                entries.append(done)
    unused = [name for name, _ in options.shapes if name not in context.used_flags]
    if unused and not report.has_errors:
        for name in unused:
            report.error(
                "T0411",
                f"--shape {name}=... names nothing in this program",
                None,
                help=nearest(
                    name, [i.path for e in entries for _, f in e.roles() for i in f.inputs]
                ),
            )
    for name, size in options.dims:
        if f"--dim {name}" not in context.used_flags and not report.has_errors:
            report.error("T0411", f"--dim {name}={size}: no annotation or --shape names the dimension `{name}`", None)
    return None if report.has_errors else Program(unit.file, tuple(entries))


@contextmanager
def _deep_recursion() -> Iterator[None]:
    """Room for user calls nested to the limit; their depth is bounded by calls.MAX_DEPTH."""
    saved = sys.getrecursionlimit()
    sys.setrecursionlimit(max(saved, 8000))
    try:
        yield
    finally:
        sys.setrecursionlimit(saved)


def _entries(plan: UnitPlan, options: Options, report: Report) -> list[EntryPlan]:
    """The entries to compile, with unique labels."""
    found = plan.entries()
    if options.entry is not None:
        known = plan.every_entry()
        found = [p for p in known if options.entry in (p.label, p.function.name if p.function else p.label)]
        if not found:
            labels = [p.label for p in known]
            report.error(
                "T0313",
                f"there is no entry `{options.entry}`",
                None,
                notes=[f"entries: {', '.join(labels) or 'none'}"],
                help=nearest(options.entry, labels),
            )
        found = found[:1]
    elif not found:
        report.error(
            "T0313",
            "there is nothing to compile: the source has no module, training step, loss or statement that uses `batch`",
            plan.unit.body[0].span if plan.unit.body else None,
            help=["mark a function with @graph.module or @graph.training_step"],
        )
    seen: dict[str, EntryPlan] = {}
    for entry in found:
        first = seen.setdefault(entry.label, entry)
        if first is not entry:
            report.error(
                "T0313",
                f"two entries are called `{entry.label}`",
                entry.span,
                labels=[Label(first.span, "the first one")],
                help=['give one another label: @graph.training_step(module="...")'],
            )
    return found


def _sidecar(options: Options, report: Report) -> tuple[Options, Shapes]:
    """Shapes and dimensions of model.toml; flags override them."""
    shapes: Shapes = {}
    if options.model_toml is None:
        return options, shapes
    try:
        data = parse_toml(options.model_toml)
    except ValueError as error:
        report.error("T0411", f"model.toml cannot be read: {error}", None)
        return options, shapes
    for name, value in _table(data, "shapes", report).items():
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        dims = parse_shape(text)
        if dims is None:
            report.error(
                "T0411",
                f"model.toml: shapes.{name} is not a shape",
                None,
                help=['input = [4, 64, 32] or input = "B,S,D"'],
            )
        else:
            shapes[name] = dims, f"shapes.{name} in model.toml"
    given = dict(options.dims)
    dims_found = list(options.dims)
    for name, value in _table(data, "dims", report).items():
        if not isinstance(value, int) or isinstance(value, bool):
            report.error("T0411", f"model.toml: dims.{name} is not an integer", None)
        elif name not in given:
            dims_found.append((name, value))
    return Options(
        options.sets,
        options.set_literals,
        options.shapes,
        tuple(dims_found),
        options.mesh,
        options.entry,
        options.loss,
        options.precision,
    ), shapes


def _table(data: dict[str, object], name: str, report: Report) -> dict[str, object]:
    table = data.get(name, {})
    if isinstance(table, dict):
        return table
    report.error("T0411", f"model.toml: `{name}` is not a table", None)
    return {}


def _literals(options: Options, plan: UnitPlan, report: Report) -> dict[int, int]:
    found: dict[int, int] = {}
    known = plan.literals() if options.set_literals else set()
    for old, new in options.set_literals:
        if old not in known:
            report.error("T0211", f"--set-literal {old}={new}: the source has no literal {old}", None,
                         help=[f"integer literals: {some(sorted(known), 12) or 'none'}"])
        found[old] = new
    return found


def _sets(options: Options, plan: UnitPlan, report: Report) -> dict[str, Value]:
    found: dict[str, Value] = {}
    known = plan.constants() if options.sets else set()
    for name, text in options.sets:
        if name not in known:
            report.error(
                "T0211",
                f"--set {name}={text}: the source has no top-level constant `{name}`",
                None,
                help=nearest(name, known) or [f"top-level constants: {some(sorted(known), 12) or 'none'}"],
            )
            continue
        try:
            from ast import literal_eval

            value: Value = literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            value = text
        if not isinstance(value, int | float | str | bool | tuple | list):
            report.error("T0211", f"--set {name}={text}: the value must be a number, string, truth value or list", None)
        found[name] = value
    return found


def _check_options(options: Options, report: Report) -> None:
    for name, size in options.dims:
        if size <= 0 or not name.isidentifier():
            report.error("T0411", f"--dim {name}={size} must name a dimension and a positive size", None)
    if options.precision not in FP32 + FP64 + BF16:
        half = ["fp16 needs its gradients scaled, which is not implemented; bf16 has the range of fp32"]
        report.error("T0501", f"--precision {options.precision} is not supported yet", None,
                     notes=half if options.precision in ("fp16", "f16", "float16", "half") else (),
                     help=["fp32, fp64 and bf16 are"])
    mesh = parse_mesh(options.mesh) if options.mesh not in (None, "none") else None
    if isinstance(mesh, str):
        report.error("T0702", f"--mesh {options.mesh} is not a mesh: {mesh}", None,
                     help=["--mesh none, --mesh tp=2,dp=2"])
