"""Where values come from: which call of which module made them, and what its inputs are.

Every call of a module is an `Instance`. A value belongs to the instance whose body computed it, and its equations say
what it depends on; together they resolve a coordinate that the source gives as a string to one input of one call.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tesserac.diagnostics import Label, Span
from tesserac.elaborate.report import Failed
from tesserac.elaborate.values import Slot, Value
from tesserac.ir.program import Equation, Var

if TYPE_CHECKING:
    from tesserac.elaborate.session import Session


@dataclass(slots=True, eq=False)
class Instance:
    """One call of a module: its data inputs by parameter name, and the call inside which it happened."""

    label: str
    span: Span
    parent: Instance | None
    inputs: dict[str, Var | Slot] = field(default_factory=dict)

    @property
    def listed(self) -> str:
        """``x, y and t``."""
        return listed(self.inputs)


def listed(names: Iterable[str], word: str = "and") -> str:
    """Names as one reads them out."""
    known = [f"`{n}`" for n in names]
    return " ".join((", ".join(known[:-1]), word, known[-1])) if len(known) > 1 else "".join(known) or "nothing"


def variable(value: Var | Slot) -> Var | None:
    """The variable of an input; None when nothing has used it yet."""
    return value.var if isinstance(value, Slot) else value


def enter(session: Session, label: str, span: Span, names: dict[str, Value]) -> None:
    """Opens a call of a module whose inputs are bound in ``names``; it runs until the caller restores ``running``.

    Inputs of one call are independent variables: one that another argument is computed from gets a value of its own.
    """
    inputs = {n: v for n, v in names.items() if isinstance(v, Var | Slot) and not _is_parameter(v)}
    if session.columns.enabled:
        for name, value in list(inputs.items()):
            if any(_shares(session, other, value) for n, other in inputs.items() if n != name):
                own = own_value(session, session.materialise(value) if isinstance(value, Slot) else value)
                names[name] = own
                inputs[name] = own
    session.running = Instance(label, span, session.running, inputs)
    session.instances.append(session.running)


def own_value(session: Session, value: Var) -> Var:
    """The same elements under a name of their own, by which derivatives can be taken."""
    copy = session.emit("reshape", value, shape=value.type.shape)
    session.display[copy.name] = session.name_of(value)
    return copy


def _is_parameter(value: Var | Slot) -> bool:
    return isinstance(value, Slot) and value.is_parameter


def _shares(session: Session, value: Var | Slot, source: Var | Slot) -> bool:
    """Whether an argument is ``source`` or is computed from it."""
    var, wanted = variable(value), variable(source)
    return value is source or (var is not None and wanted is not None and reaches(session, var, wanted))


def reaches(session: Session, value: Var, wanted: Var) -> bool:
    """Whether ``value`` is computed from ``wanted`` (or is it)."""
    stack, seen = [value], {value.name}
    while stack:
        current = stack.pop()
        if current.name == wanted.name:
            return True
        definition = session.definitions.get(current.name)
        if isinstance(definition, Equation):
            fresh = [v for v in definition.operands if v.name not in seen]
            seen.update(v.name for v in fresh)
            stack.extend(fresh)
    return False


def producers(session: Session, value: Var) -> Iterator[list[Instance]]:
    """The module calls that ``value`` comes from, nearest first, as the running call (or the entry) sees them.

    The first list holds the calls whose results ``value`` is computed from directly, the second those that made the
    inputs of the first, and so on. What happens inside a call stays inside: its own calls are not listed.
    """
    here = session.running
    leaves = {v.name for v in map(variable, here.inputs.values()) if v is not None} if here is not None else set()
    seen: set[str] = set()
    known: set[int] = set()
    start: Sequence[Var] = [value]
    while start:
        level: list[Instance] = []
        stack = list(start)
        while stack:
            current = stack.pop()
            if current.name in seen or current.name in leaves:
                continue
            seen.add(current.name)
            made = _child(session.origins.get(current.name), here)
            definition = session.definitions.get(current.name)
            if made is not None:
                if id(made) not in known:
                    known.add(id(made))
                    level.append(made)
            elif current.name in session.vanished:  # a derivative that is zero still comes from somewhere
                stack.append(session.vanished[current.name])
            elif isinstance(definition, Equation):
                stack.extend(definition.operands)
        if level:
            yield sorted(level, key=session.instances.index)
        start = [v for i in level for v in map(variable, i.inputs.values()) if v is not None]


def _child(origin: Instance | None, here: Instance | None) -> Instance | None:
    """The call made by ``here`` inside which ``origin`` lies; None for what ``here`` computed itself or was given."""
    while origin is not None and origin.parent is not here:
        origin = origin.parent
    return origin


def coordinate(session: Session, value: Var, name: str) -> Var | Slot:
    """The input called ``name`` of the module call that ``value`` comes from.

    The nearest call that has such an input decides; then the module that is running; then the data inputs of the
    entry. Two different inputs of that name are an error, and so is none.
    """
    here = session.running
    own = here.inputs.get(name) if here is not None else None
    levels = list(producers(session, value))
    for level in levels:
        found = {_identity(i.inputs[name]): i for i in level if name in i.inputs}
        if found:
            chosen = next(iter(found.values()))
            rivals = list(found.values())[1:]
            if here is not None and own is not None and _identity(own) not in found:
                rivals.append(here)
            if rivals:
                raise _ambiguous(session, value, name, chosen, rivals)
            return chosen.inputs[name]
    if own is not None:
        return own
    if here is None:
        for slot in session.slots:
            data = not slot.is_parameter and slot.name == name
            if data and slot.var is not None and reaches(session, value, slot.var):
                return slot
    raise _unknown(session, value, name, levels)


def _identity(value: Var | Slot) -> str:
    """What two bindings of one tensor have in common, whether or not it was used between them."""
    var = variable(value)
    return f"%{var.name}" if var is not None else value.name


def is_input_of(session: Session, value: Var, candidate: Var) -> bool:
    """Whether ``candidate`` is an input of a call that ``value`` comes from, of the running one, or of the entry."""
    calls = [i for level in producers(session, value) for i in level]
    if session.running is not None:
        calls.append(session.running)
    inputs = [variable(v) for i in calls for v in i.inputs.values()]
    if not calls:
        inputs = [s.var for s in session.slots if not s.is_parameter]
    return any(v is not None and v.name == candidate.name for v in inputs)


def _ambiguous(session: Session, value: Var, name: str, first: Instance, rivals: Sequence[Instance]) -> Failed:
    calls = [first, *rivals]
    own = session.running is not None and session.running in rivals
    labels = [
        Label(span, f"`{name}` of `{i.label}`")
        for span, i in {i.span: i for i in calls}.items()
        if span != session.span
    ]
    return session.report.fail(
        "T0613",
        f"`{session.name_of(value)}` depends on {len(calls)} inputs called `{name}`",
        session.span,
        labels=labels,
        help=[
            f"give the tensor instead of its name: op.grad({session.name_of(value)}, {name})"
            if own
            else "take the derivative of each result before they are combined, or give the tensor instead of its name"
        ],
    )


def _unknown(session: Session, value: Var, name: str, levels: Sequence[Sequence[Instance]]) -> Failed:
    from tesserac.elaborate.names import nearest

    calls = [i for level in levels for i in level]
    if session.running is not None:
        calls.append(session.running)
    text = session.name_of(value)
    elsewhere = [i for i in session.instances if name in i.inputs and i not in calls]
    notes = [f"the inputs of `{i.label}` are {i.listed}" for i in {i.label: i for i in calls}.values()]
    known = [n for i in calls for n in i.inputs]
    if not calls:
        known = [s.name for s in session.slots if not s.is_parameter]
        notes = [f"it is computed from {listed(known)}" if known else "it is computed from no data input"]
    if elsewhere:
        other = elsewhere[0]
        source = f"comes from {listed(i.label for i in calls)}" if calls else "comes from no module"
        return session.report.fail(
            "T0612",
            f"`{name}` is an input of `{other.label}`, and `{text}` {source}",
            session.span,
            labels=[Label(other.span, f"`{other.label}` is called here")] if other.span != session.span else (),
            notes=notes,
            help=["a derivative is taken by an input that the value is computed from", *nearest(name, known)],
        )
    if len(calls) == 1:
        message = f"`{name}` is not an input of `{calls[0].label}`, from which `{text}` comes"
    elif calls:
        message = f"`{name}` is not an input of any module that `{text}` comes from"
    else:
        message = f"`{name}` is not an input that `{text}` is computed from"
    return session.report.fail("T0611", message, session.span, notes=notes, help=nearest(name, known))
