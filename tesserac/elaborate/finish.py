"""From a session to functions: sizes for every symbol, readable names, the equations that the outputs need."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tesserac.diagnostics import Label
from tesserac.elaborate.operands import VIEWS
from tesserac.elaborate.report import Failed
from tesserac.elaborate.session import Session
from tesserac.elaborate.values import Gradients, Slot
from tesserac.ir.dims import ShapeError
from tesserac.ir.mesh import Pinned
from tesserac.ir.program import Attr, Entry, Equation, Function, Initializer, Input, OptimizerSpec, Output, Var
from tesserac.ir.types import Dim, TensorType

_ORDINAL = re.compile(r"\.\d+$")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an entry yields: gradients and metrics (train), predictions (infer)."""

    gradients: Gradients | None
    metrics: list[tuple[str, Var]]
    predictions: list[tuple[str, Var]]


def finish(session: Session, wanted: Wanted, label: str) -> Entry | None:
    """The entry, or None after reporting dimensions that nothing settles."""
    try:
        _settle(session)
    except ShapeError as error:
        session.shape_failure(error, ())
        return None
    except Failed:
        return None
    roots = [v for _, v in wanted.predictions] + [v for _, v in wanted.metrics]
    if wanted.gradients is not None:
        roots += [wanted.gradients.loss, *(v for _, v in wanted.gradients.items)]
    used = _needed(session.builder.equations, roots, {})
    if not _all_known(session, used):
        return None
    writer = Writer(session, used)
    train = infer = validate = None
    if wanted.gradients is not None:
        scalars = [("loss", wanted.gradients.loss), *wanted.metrics]
        outputs = scalars + [(f"grad:{writer.paths[slot]}", var) for slot, var in wanted.gradients.items]
        train = writer.function(f"{label}.train", outputs, {})
        if not _needed(session.builder.equations, [v for _, v in scalars], {}).isdisjoint(session.dropped):
            validate = writer.function(f"{label}.validate", scalars, session.dropped)
    if wanted.predictions:
        infer = writer.function(f"{label}.infer", wanted.predictions, session.dropped)
    if not all(_in_range(session, f) for f in (train, infer, validate) if f is not None):
        return None
    optimizer = None if session.optimizer is None else OptimizerSpec(session.optimizer.kind, session.optimizer.settings)
    return Entry(label, train, infer, optimizer, session.mixed, validate, session.mesh, writer.pins())


# ------------------------------------------------------------------------------------------------ sizes


_LARGEST = 1 << 50
"""Bytes of a tensor: a mesh of ten thousand devices holds no more, and sums of such numbers fit 64 bits."""


def _in_range(session: Session, function: Function) -> bool:
    """Whether every tensor can be counted in bytes; T0415 for the first that cannot, inputs before all others."""
    for name, var, span in (
        *((f"`{i.path}`", i.var, i.span) for i in function.inputs),
        *((f"what `{e.op}` gives here", v, e.span) for e in function.equations for v in e.results),
    ):
        if var.type.bytes > _LARGEST:
            size = f"{var.type} takes more than {_LARGEST:,} bytes"
            session.report.error("T0415", f"{name} is too large: {size}", span, help=["make a dimension smaller"])
            return False
    return True


def _settle(session: Session) -> None:
    """Solves all constraints, then applies the default widths of projections that stayed open."""
    solver = session.solver
    solver.propagate()
    progress = True
    while progress:
        progress = False
        for symbol, default in session.defaults:
            size = solver.size(default)
            if size is not None and solver.size(symbol) is None:
                name = solver.resolve(symbol)
                solver.fix(str(name), size, None, "the default width of a projection")
                holders = _holders(session, str(name))
                session.report.note(
                    "T0410",
                    f"the width of {', '.join(h.path for h in holders) or name} is taken to be its input's, {size}",
                    holders[0].span if holders else None,
                    help=[session.flag_for(symbol)] if holders else (),
                )
                progress = True
                solver.propagate()


def _holders(session: Session, name: str) -> list[Slot]:
    """Inputs one of whose open dimensions has just been settled under this symbol."""
    found = []
    for slot in session.slots:
        if slot.var is not None and any(
            session.solver.root(d) == session.solver.root(name) for d in slot.var.type.shape if isinstance(d, str)
        ):
            found.append(slot)
    return found


def _all_known(session: Session, used: set[str]) -> bool:
    """Reports every class of dimensions without a size, once."""
    known = True
    reported: set[Dim] = set()
    for slot in session.slots:
        if slot.var is None or slot.var.name not in used:
            continue
        for axis, dim in enumerate(slot.var.type.shape):
            found = session.solver.resolve(dim)
            if isinstance(found, int) and found > 0:
                continue
            known = False
            if isinstance(found, int):
                session.report.error("T0403", f"dimension {axis} of `{slot.path}` comes out as {found}", slot.span)
                continue
            if found in reported:
                continue
            reported.add(found)
            _unresolved(session, slot, axis, dim, found)
    return known


def _unresolved(session: Session, slot: Slot, axis: int, dim: Dim, found: str) -> None:
    others = [s for s in _holders(session, found) if s is not slot and session.solver.root(found) == found]
    what = "parameter" if slot.is_parameter else "input"
    shape = (
        ", ".join(
            f"{d}" if isinstance(session.solver.resolve(d), int) else "?"
            for d in (session.solver.resolve(d) for d in slot.var.type.shape)
        )
        if slot.var is not None
        else ""
    )
    if isinstance(dim, str) and dim.isidentifier() and axis not in slot.symbols:
        flag = f"--dim {dim}=SIZE"
        name = f"dimension {axis} (`{dim}`)"
    else:
        flag = f"--shape {slot.path}=" + "x".join(
            "SIZE" if i == axis else "_" for i in range(len(slot.var.type.shape if slot.var else ()))
        )
        name = f"dimension {axis}"
    session.report.error(
        "T0402",
        f"{name} of {what} `{slot.path}` is not settled by anything in the program",
        slot.span,
        labels=[Label(slot.span, f"its shape is [{shape}]")],
        notes=[f"the same dimension occurs in {', '.join(o.path for o in others)}"] if others else (),
        help=[f"give it on the command line: {flag}, with a number for SIZE"],
    )


# ------------------------------------------------------------------------------------------------ functions


def _needed(equations: Sequence[Equation], roots: Sequence[Var], replaced: dict[str, Var]) -> set[str]:
    """Names of the variables that the roots depend on."""
    needed = {_target(v, replaced).name for v in roots}
    for equation in reversed(equations):
        if any(r.name in needed for r in equation.results):
            needed.update(_target(v, replaced).name for v in equation.operands)
            needed.update(r.name for r in equation.results)
    return needed


def _target(var: Var, replaced: dict[str, Var]) -> Var:
    while var.name in replaced:
        var = replaced[var.name]
    return var


class Writer:
    """Rewrites a session's variables with sizes and final names; shared by train and infer, so that names agree."""

    def __init__(self, session: Session, used: set[str]) -> None:
        self.session = session
        self.equations = session.builder.equations
        slots = [s for s in session.slots if s.var is not None and s.var.name in used]
        slots.sort(key=lambda s: (not s.is_parameter, s.sequence))
        self.paths = _unique_paths(slots)
        self._slots = slots
        self._names: dict[str, int] = {}
        self._vars: dict[str, Var] = {}
        self._types: dict[TensorType, TensorType] = {}
        for slot in slots:
            assert slot.var is not None
            path = self.paths[slot]
            self._define(slot.var, path.partition(".")[2] or path if slot.is_parameter else path)
        for equation in self.equations:
            for result in equation.results:
                if result.name in used:
                    self._define(result, session.display.get(result.name, _ORDINAL.sub("", result.name)))
        if session.gradients is not None:
            for slot, var in session.gradients.items:
                if var.name in used and slot.var is not None:
                    self._define(var, f"grad.{self._vars[slot.var.name].name}")

    def function(self, name: str, outputs: Sequence[tuple[str, Var]], replaced: dict[str, Var]) -> Function:
        """The part of the session that these outputs need."""
        needed = _needed(self.equations, [v for _, v in outputs], replaced)
        body = []
        for equation in self.equations:
            if any(r.name in needed for r in equation.results) and not any(
                r.name in replaced for r in equation.results
            ):
                body.append(self._equation(equation, replaced))
        bounds = _index_bounds(body)
        inputs = [
            self._input(s, bounds)
            for s in self._slots
            if s.var is not None and (s.is_parameter or s.var.name in needed)
        ]
        results = [Output(n, self._vars[_target(v, replaced).name]) for n, v in _unique_outputs(outputs)]
        return Function(name, tuple(inputs), tuple(body), tuple(results))

    def pins(self) -> tuple[Pinned, ...]:
        """What the source pins, under final names; without a name where nothing uses the value."""
        pinned = ((x.var if isinstance(x, Slot) else x, found) for x, found in self.session.pins)
        return tuple(found if v is None or v.name not in self._vars else replace(found, value=self._vars[v.name].name)
                     for v, found in pinned)

    def _define(self, var: Var, stem: str) -> None:
        count = self._names.get(stem, 0)
        while (name := stem if count == 0 else f"{stem}.{count}") in self._names and count:
            count += 1
        self._names[stem] = count + 1
        self._names.setdefault(name, 1)
        self._vars[var.name] = Var(name, self._type(var.type))

    def _type(self, type_: TensorType) -> TensorType:
        found = self._types.get(type_)
        if found is None:
            found = self._types[type_] = type_.with_shape(tuple(self.session.solver.resolve(d) for d in type_.shape))
        return found

    def _equation(self, equation: Equation, replaced: dict[str, Var]) -> Equation:
        operands = tuple(self._vars[_target(v, replaced).name] for v in equation.operands)
        results = tuple(self._vars[v.name] for v in equation.results)
        attrs = tuple((key, self._attr(key, value)) for key, value in equation.attrs)
        first = equation.results[0].name
        if first in self.session.deferred:
            attrs = _replace(attrs, "value", self.session.deferred[first]())
        if first in self.session.unscaled:
            heads = dict(attrs)["heads"]
            assert isinstance(heads, int)
            attrs = _replace(attrs, "scale", 1.0 / math.sqrt(operands[0].type.sizes[-1] // heads))
        return Equation(equation.op, operands, results, attrs, equation.span)

    def _attr(self, key: str, value: Attr) -> Attr:
        resolve = self.session.solver.resolve
        if isinstance(value, tuple):
            return tuple(resolve(v) if isinstance(v, str) else v for v in value)
        return resolve(value) if key == "rows" and isinstance(value, str) else value

    def _input(self, slot: Slot, bounds: dict[str, tuple[int, int | None]]) -> Input:
        assert slot.var is not None
        var = self._vars[slot.var.name]
        path = self.paths[slot]
        if slot.is_parameter:
            first = (slot.init or default_init)(var.type.sizes)
            if var.type.dtype.is_complex:
                first = complex_init(first)
            return Input(var, path, first, var.type.rank >= 2, span=slot.span)
        bound, ignore = bounds.get(var.name, (0, None))
        return Input(var, path, index_bound=bound, ignore_index=ignore, span=slot.span)


def _replace(attrs: tuple[tuple[str, Attr], ...], name: str, value: float) -> tuple[tuple[str, Attr], ...]:
    return tuple((key, value if key == name else old) for key, old in attrs)


def complex_init(real: Initializer) -> Initializer:
    """First values of both parts of a complex parameter: the real one's distribution made narrower by sqrt(2).

    That keeps the mean of |w|^2. Constants stay real numbers.
    """
    if real.kind not in ("uniform", "normal"):
        return real
    factor = math.sqrt(0.5)
    return Initializer(real.kind, real.a * factor, real.b * factor)


def default_init(shape: tuple[int, ...]) -> Initializer:
    """First values of a module's own parameter: U(+-1/sqrt(fan_in)) for matrices, zeros for vectors and scalars."""
    if len(shape) < 2:
        return Initializer("zeros")
    bound = 1.0 / math.sqrt(shape[-2])
    return Initializer("uniform", -bound, bound)


def _unique_paths(slots: Sequence[Slot]) -> dict[Slot, str]:
    paths: dict[Slot, str] = {}
    taken: set[str] = set()
    for slot in slots:
        path, count = slot.path, 0
        while path in taken:
            count += 1
            path = f"{slot.path}.{count}"
        taken.add(path)
        paths[slot] = path
    return paths


def _unique_outputs(outputs: Sequence[tuple[str, Var]]) -> list[tuple[str, Var]]:
    taken: dict[str, int] = {}
    found = []
    for name, var in outputs:
        count = taken.get(name, 0)
        taken[name] = count + 1
        found.append((name if count == 0 else f"{name}.{count}", var))
    return found


def _index_bounds(body: Sequence[Equation]) -> dict[str, tuple[int, int | None]]:
    """Valid ids of every integer input, from the tables and losses that its elements reach through views."""
    sources: dict[str, frozenset[str]] = {}
    bounds: dict[str, tuple[int, int | None]] = {}

    def source(var: Var) -> frozenset[str]:
        return sources.get(var.name, frozenset((var.name,)))

    for equation in body:
        if equation.op in VIEWS or equation.op == "cast":
            if all(v.type.dtype.is_integer for v in (*equation.operands, *equation.results)):
                sources[equation.result.name] = frozenset().union(*map(source, equation.operands))
            continue
        if equation.op not in ("take", "cross_entropy"):
            continue
        table, ids = equation.operands
        size = table.type.sizes[0 if equation.op == "take" else -1]
        given = equation.attributes.get("ignore_index")
        ignore = given if isinstance(given, int) else None
        for name in source(ids):
            bound, allowed = bounds.get(name, (size, ignore))
            # A value that one use ignores is still out of range for another use.
            bounds[name] = min(bound, size), allowed if allowed == ignore else None
    return bounds
