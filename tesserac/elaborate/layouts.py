"""Layouts of tensors on a mesh as the source writes them, and the pins that they become.

A layout is what ``P("dp", None)`` gives, a tuple with the axes of every dimension; or what ``ShardSpec(...)`` gives, a
dictionary of axes by dimension; or ``Replicated``, the axes along which a tensor is whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tesserac.diagnostics import Span
from tesserac.elaborate.session import Session
from tesserac.elaborate.values import Slot, Value, describe
from tesserac.ir.mesh import CLOSED, OPEN, Pinned
from tesserac.ir.program import Var

NAMED_DIMS = {"row": 0, "batch": 0, "experts": 0, "expert": 0, "col": -1, "channel": -1, "head": -1, "heads": -1}
"""Dimensions that have a name in ShardSpec: the first or the last one, which holds a product's columns, thus heads."""


@dataclass(frozen=True, slots=True)
class Replicated:
    """Whole along mesh axes, or along all of them (None); nothing is said of the others."""

    axes: tuple[str, ...] | None = None


def pin(session: Session, x: Var | Slot, layout: Value, span: Span | None = None) -> None:
    """Remembers where a tensor is to lie; an error for a layout that does not fit it or the mesh."""
    shape = x.type.shape if isinstance(x, Var) else x.shape
    rank = len(shape) if shape is not None else None
    span = span or session.span
    if layout == Replicated():
        layout = () if rank is None else (None,) * rank
    if isinstance(layout, Replicated):
        assert layout.axes is not None
        axes = _known(session, layout.axes, span)
        _remember(session, x, Pinned("", ((OPEN,),) * (rank or 0), span, whole=axes))
        return
    dims = _dims(session, layout, rank, span)
    _remember(session, x, Pinned("", tuple(dims), span))


def pin_terms(session: Session, x: Var, axes: Sequence[str]) -> None:
    """Remembers that a tensor is to be left as terms of a sum along axes."""
    known = _known(session, axes, session.span)
    _remember(session, x, Pinned("", ((OPEN,),) * x.type.rank, session.span, terms=known))


def pin_like(session: Session, x: Slot, other: Var) -> None:
    """Remembers that a tensor is to lie as another one, as far as that is pinned."""
    session.pins += [(x, replace(pinned, span=session.span)) for y, pinned in session.pins
                     if (y.var if isinstance(y, Slot) else y) == other and not pinned.terms]


def axes_of(session: Session, value: Value, what: str) -> tuple[str, ...]:
    """Names of mesh axes: one, or several in a tuple."""
    names = tuple(value) if isinstance(value, tuple | list) else (value,)
    if not names or not all(isinstance(name, str) for name in names):
        raise session.report.fail("T0504", f"{what} takes names of mesh axes, not {describe(value)}", session.span)
    return tuple(map(str, names))


def _dims(session: Session, layout: Value, rank: int | None, span: Span) -> list[tuple[str, ...]]:
    """The axes that cut every dimension."""
    given: Mapping[object, Value]
    if isinstance(layout, tuple | list):
        given = dict(enumerate(_widened(session, tuple(layout), rank, span)))
    elif isinstance(layout, dict):
        given = layout
    else:
        raise session.report.fail("T0504", f"a layout is P(...), a ShardSpec or Replicate(), not {describe(layout)}",
                                  span)
    last = rank if rank is not None else len(given)
    dims: list[tuple[str, ...]] = [(CLOSED,)] * last
    for dim, value in given.items():
        if value is None or value == Replicated():
            continue
        at = dim + last if isinstance(dim, int) and dim < 0 else dim
        if not isinstance(at, int) or not 0 <= at < last:
            raise session.report.fail("T0706", f"this tensor has {last} dimensions, and dimension {dim} is pinned",
                                      span)
        if value is ...:
            value = OPEN
        dims[at] = _known(session, axes_of(session, value, "a layout"), span)
    twice = [a for i, dim in enumerate(dims) for a in dim if any(a in other for other in dims[:i]) and a not in "-?"]
    if twice:
        raise session.report.fail("T0706", f"the axis {twice[0]!r} cuts two dimensions of one tensor", span)
    return dims


def _widened(session: Session, layout: tuple[Value, ...], rank: int | None, span: Span) -> tuple[Value, ...]:
    """A layout whose last entry is ``...`` leaves all further dimensions open."""
    if layout[-1:] == (...,) and rank is not None:
        layout = (*layout[:-1], *(OPEN for _ in range(rank - len(layout) + 1)))
    if rank is not None and len(layout) > rank:
        raise session.report.fail("T0706", f"this tensor has {rank} dimensions, and the layout has {len(layout)}", span)
    return layout


def _known(session: Session, axes: Sequence[str], span: Span) -> tuple[str, ...]:
    """The axes; an error for one that no mesh of the unit has."""
    known = {a for mesh in (*session.meshes, session.given_mesh) if mesh is not None for a in mesh.axes}
    unknown = [a for a in axes if a != OPEN and a not in known]
    if unknown and known:
        raise session.report.fail("T0706", f"there is no mesh axis {unknown[0]!r}", span,
                                  help=(f"the axes are {', '.join(sorted(known))}",))
    return tuple(axes)


def _remember(session: Session, x: Var | Slot, pinned: Pinned) -> None:
    """Keeps what is about the axes that the mesh has; on one device a layout means nothing."""
    if session.mesh is None:
        return
    there = {*session.mesh.axes, OPEN, CLOSED}
    dims = tuple(tuple(a for a in dim if a in there) or (CLOSED,) for dim in pinned.dims)
    terms, whole = (tuple(a for a in axes if a in there) for axes in (pinned.terms, pinned.whole))
    if (pinned.terms and not terms) or (pinned.whole and not whole):
        return
    session.pins.append((x, Pinned("", dims, pinned.span, terms, whole)))

