"""Derivatives by coordinates: what a coordinate may be, and the equations of one partial derivative.

A coordinate holds one row of numbers per point: [N, d], or [N] for a single one. It is given as a tensor or as the
name of an input; `tesserac.elaborate.provenance` finds the input. Several coordinates, or the columns of one, are
*directions*; every op of the family is a combination of derivatives by directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tesserac.diagnostics import Label
from tesserac.elaborate.calls import Site
from tesserac.elaborate.operands import floating, is_number
from tesserac.elaborate.provenance import coordinate, is_input_of, producers, reaches, variable
from tesserac.elaborate.report import Failed
from tesserac.elaborate.session import Session
from tesserac.elaborate.values import Slot, Value, describe
from tesserac.ir.program import Var
from tesserac.ops.transform import point_rank

MAX_COLUMNS = 64
"""Every column is a direction of its own, with equations of its own."""

MAX_ORDER = 16
"""The highest order that one call may ask for."""


@dataclass(frozen=True, slots=True)
class Direction:
    """One column of a coordinate; ``given`` is how the source spelled the coordinate."""

    var: Var | Slot
    component: int = 0
    given: str = ""


def coordinate_of(site: Site, u: Var, given: Value, op: str) -> Var | Slot:
    """The tensor that a coordinate of ``u``, given as a name or a tensor, stands for."""
    session = site.session
    if isinstance(given, str):
        found = coordinate(session, u, given)
        if isinstance(found, Slot) and found.var is None:
            return found
    elif isinstance(given, Var | Slot):
        found = given
    else:
        whole = isinstance(given, int) and not isinstance(given, bool)
        raise site.fail(
            "T0504",
            f"{op} takes a coordinate as the name of an input or as a tensor, not {describe(given)}",
            help=("an axis number would mean differences on a grid of samples, which are not derivatives",)
            if whole
            else ('for example op.grad(u, "x")',),
        )
    return floating(session, found, f"the coordinate of {op}")


def directions(site: Site, u: Var, given: Value, op: str) -> list[Direction]:
    """The directions that one coordinate, or a list of them, offers to ``u``."""
    if isinstance(given, list | tuple) and given:
        return [d for item in given for d in directions(site, u, item, op)]
    if given is None or isinstance(given, list | tuple):
        raise unnamed(site, u, op)
    found = coordinate_of(site, u, given, op)
    text = given if isinstance(given, str) else site.session.name_of(found) if isinstance(found, Var) else found.path
    return [Direction(found, i, text) for i in range(columns(site, found))]


def unnamed(site: Site, u: Var, op: str) -> Failed:
    """The error of a call that names no coordinates."""
    calls = [i for level in producers(site.session, u) for i in level]
    if site.session.running is not None:
        calls.append(site.session.running)
    names = [n for i in calls for n in i.inputs]
    example = ", ".join(f'"{n}"' for n in dict.fromkeys(names[:2])) or '"x"'
    return site.fail(
        "T0504",
        f"{op} needs the coordinates to differentiate by",
        notes=tuple(f"the inputs of `{i.label}` are {i.listed}" for i in {i.label: i for i in calls}.values()),
        help=(f"{op}(u, [{example}])",),
    )


def columns(site: Site, found: Var | Slot) -> int:
    """How many directions a coordinate has: the columns of [N, d], 1 for [N] and for a scalar."""
    if isinstance(found, Slot):
        return 1
    session = site.session
    if found.type.rank < 2 or session.solver.is_one(found.type.shape[-1]):
        return 1
    count = session.known(found.type.shape[-1], f"the derivative by `{session.name_of(found)}`")
    if count > MAX_COLUMNS:
        raise site.fail(
            "T0614",
            f"`{session.name_of(found)}` has {count} columns, and a coordinate has at most {MAX_COLUMNS}",
            help=("op.vjp(f, x, cotangent) differentiates by any number of elements at once",),
        )
    return count


def partial(site: Site, u: Var, direction: Direction, op: str) -> Var:
    """The derivative of every element of ``u`` by one direction, of ``u``'s shape."""
    session = site.session
    found = direction.var
    if isinstance(found, Slot) or not reaches(session, u, found):
        return _zero(site, u, direction)
    session.columns.coordinates[found.name] = found
    if not found.type.rank:
        return session.emit("pushforward", u, found, constant(session, found, 1.0))
    source = session.definitions.get(found.name)
    if isinstance(source, Slot) and source.is_parameter:
        raise site.fail(
            "T0614",
            f"{op}: `{source.path}` is a trainable parameter, not a coordinate with a row per point",
            help=("graph.backward gives the gradients of a loss; op.vjp and op.jvp differentiate by any tensor",),
        )
    _points_in_front(site, u, found, op)
    if u.type.dtype.is_complex and not found.type.dtype.is_complex:
        parts = [session.emit("derivative", session.emit(part, u), found, component=direction.component)
                 for part in ("real", "imag")]
        return session.emit("complex", *parts)
    return session.emit("derivative", u, found, component=direction.component)


def _points_in_front(site: Site, u: Var, found: Var, op: str) -> None:
    """T0614 unless the axes that number the points of a coordinate may be the leading ones of a value."""
    session = site.session
    points = point_rank(found.type)
    sizes = [(session.solver.size(a), session.solver.size(b))
             for a, b in zip(u.type.shape[:points], found.type.shape, strict=False)]
    if u.type.rank >= points and all(a == b or a is None or b is None for a, b in sizes):
        return
    value, name = session.name_of(u), session.name_of(found)
    moved = points == 1 and found.type.shape[0] in u.type.shape[1:]
    raise site.fail(
        "T0614",
        f"{op}: `{value}` is {session.type_text(u.type)}, and the coordinate `{name}` is "
        f"{session.type_text(found.type)}",
        notes=("a derivative is taken at every point: both have the axes of the points in front",),
        help=(f"transpose the value so that the points of `{name}` come first, as in {op}({value}.T, ...).T",)
        if moved else (),
    )


def gradient(site: Site, u: Var, direction: Direction, op: str) -> Var:
    """The gradient of a scalar by a whole tensor, of that tensor's shape."""
    session = site.session
    found = direction.var
    if isinstance(found, Slot) or not reaches(session, u, found):
        zero = _zero(site, u, direction)
        return zero if isinstance(found, Slot) else constant(session, found, 0.0)
    session.columns.coordinates[found.name] = found
    return session.emit_all("pullback", (u, constant(session, u, 1.0), found), {})[0]


def _zero(site: Site, u: Var, direction: Direction) -> Var:
    """The derivative by an input that the value does not depend on: zero, with a warning, or an error."""
    session = site.session
    found = direction.var
    text, name = session.name_of(u), direction.given
    if isinstance(found, Var) and not is_input_of(session, u, found):
        other = next((i for i in session.instances if found in map(variable, i.inputs.values())), None)
        own = session.definitions.get(found.name)
        label = None
        if other is not None and other.span != session.span:
            label = Label(other.span, f"it is an input of `{other.label}`, called here")
        elif own is not None and own.span != session.span:
            label = Label(own.span, f"`{name}` is made here")
        raise session.report.fail(
            "T0612",
            f"`{text}` is not computed from `{name}`",
            session.span,
            labels=[label] if label is not None else (),
            help=["a derivative is taken by a tensor that the value is computed from"],
        )
    if u.name not in session.vanished:
        session.report.warning(
            "T0615", f"`{text}` does not depend on `{name}`, so this derivative is zero", session.span
        )
    zero = constant(session, u, 0.0)
    session.vanished[zero.name] = u
    return zero


def constant(session: Session, like: Var, value: float) -> Var:
    """A tensor of ``like``'s type filled with a number."""
    return session.emit("full", value=value, shape=like.type.shape, dtype=like.type.dtype)


def field(site: Site, value: Value, op: str) -> Var:
    """What is differentiated: a tensor of floats."""
    if is_number(value):
        raise site.fail("T0503", f"{op} differentiates a tensor, not {describe(value)}")
    return floating(site.session, value, f"the operand of {op}")


def points(u: Var, direction: Direction) -> int:
    """How many leading axes of ``u`` number the points of a coordinate."""
    return point_rank(direction.var.type) if isinstance(direction.var, Var) else max(u.type.rank - 1, 0)


def component(site: Site, u: Var, index: int) -> Var:
    """Column ``index`` of a field [N, d], as [N, 1]."""
    shape = u.type.shape
    starts = (0,) * (len(shape) - 1)
    return site.session.emit(
        "slice",
        u,
        starts=(*starts, index),
        limits=(*shape[:-1], index + 1),
        strides=(1,) * len(shape),
    )


def fields(site: Site, value: Value, count: int, op: str) -> list[Var]:
    """The ``count`` components of a vector field, given as a list or as the columns of a tensor."""
    if isinstance(value, list | tuple):
        found = [field(site, v, op) for v in value]
    else:
        u = field(site, value, op)
        wide = u.type.rank >= 2 and not site.session.solver.is_one(u.type.shape[-1])
        number = site.session.known(u.type.shape[-1], f"the components of the field in {op}") if wide else 1
        found = [u] if number == 1 else [component(site, u, i) for i in range(number)]
    if len(found) != count:
        raise site.fail(
            "T0614",
            f"{op}: a field of {len(found)} component{'s' if len(found) != 1 else ''} and {count} coordinates",
            help=(f'one coordinate per component, as in {op}([u, v], ["x", "y"])',),
        )
    return found


def total(session: Session, terms: Sequence[Var]) -> Var:
    """The sum of tensors of one shape."""
    value = terms[0]
    for term in terms[1:]:
        value = session.emit("add", value, term)
    return value


def stack(session: Session, parts: Sequence[Var], onto: int) -> Var:
    """Parts side by side along a last axis: in place of a last axis of size 1 beyond ``onto`` axes, else a new one."""
    if len(parts) == 1:
        return parts[0]
    shape = parts[0].type.shape
    if not (len(shape) > onto and session.solver.is_one(shape[-1])):
        parts = [session.emit("reshape", p, shape=(*shape, 1)) for p in parts]
    return session.emit("concat", *parts, axis=parts[0].type.rank - 1)
