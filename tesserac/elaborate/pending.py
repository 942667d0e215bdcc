"""Ops of later stages, found before elaboration, so that one run names all of them."""

from __future__ import annotations

from collections.abc import Sequence

from tesserac.diagnostics import Label, Span
from tesserac.elaborate.catalogue import PENDING
from tesserac.elaborate.decorators import dotted
from tesserac.elaborate.plan import walk
from tesserac.elaborate.report import Report
from tesserac.elaborate.statements import bound_names
from tesserac.parser import syntax

_MANY = 6


def report_pending(body: Sequence[syntax.Stmt], report: Report) -> bool:
    """Reports every call of a documented op that cannot be compiled yet, one error per op; True when there is any.

    A program that needs such an op cannot be elaborated further, and errors about its shapes would only distract.
    """
    own = {name for s in body if not isinstance(s, syntax.Import) for name in bound_names((s,))}
    found: dict[str, list[Span]] = {}
    for node in walk(tuple(body)):
        if isinstance(node, syntax.Call) and isinstance(node.func, syntax.Attribute):
            name = dotted(node.func)
            if name in PENDING and name.partition(".")[0] not in own:
                found.setdefault(name, []).append(node.span)
    for name, spans in found.items():
        spans.sort(key=lambda s: (s.line, s.column))
        others = [Label(s, "here too") for s in spans[1:_MANY]]
        notes = [PENDING[name]] if PENDING[name] else []
        if len(spans) > _MANY:
            notes.append(f"{len(spans) - _MANY} further calls are not shown")
        report.error("T0501", f"{name} is not supported yet", spans[0], labels=others, notes=notes)
    return bool(found)
