"""Remarks on a finished entry: what compiles, and may not be what was meant."""

from __future__ import annotations

import re

from tesserac.elaborate.provenance import listed
from tesserac.elaborate.session import Session
from tesserac.ir.program import Equation, Var


def remark(session: Session, kind: str, label: str) -> None:
    """Notes and warnings about an entry whose equations are complete."""
    _causality(session, kind, label)
    _unused(session)
    _potential(session)
    session.columns.check()


def _causality(session: Session, kind: str, label: str) -> None:
    if session.bidirectional and kind == "step" and re.search(r"LM|gpt|GPT", label):
        session.report.note(
            "T0505",
            f"`{label}` is labelled as a language model, but this attention is not causal: every "
            "position sees the ones after it",
            session.bidirectional[0],
            help=["op.flash_attention(q, k, v, causal=True) hides the future"],
        )


def _unused(session: Session) -> None:
    if session.gradients is None or session.report.has_errors:
        return
    trained = {slot for slot, _ in session.gradients.items}
    for slot in session.slots:
        if slot.scope is not None and slot.scope.layer is None and slot.var is None and slot not in trained:
            session.report.warning("T0312", f"the parameter `{slot.path}` is never used", slot.span)


def _potential(session: Session) -> None:
    """T0617: a sum of du_i/dx_i over fields u_i = dpsi/dx_i that a module returned is the Laplacian of psi.

    Any spelling of the sum counts. Second derivatives that are written as such are left alone: only where the fields
    are outputs of a module is there a vector field whose divergence someone asks for.
    """
    outputs = {var.name for call in session.calls for _, var in call.outputs}
    covered: set[str] = set()
    for equation in reversed(session.builder.equations):
        if equation.op != "add" or equation.result.name in covered:
            continue
        by_potential: dict[str, dict[tuple[str, int], tuple[Var, Equation]]] = {}
        for leaf in _terms(session, equation.result, covered):
            outer = _derivative(session, leaf)
            inner = _derivative(session, outer.operands[0]) if outer is not None else None
            if outer is None or inner is None or outer.operands[0].name not in outputs:
                continue
            if _direction(outer) == _direction(inner):
                by_potential.setdefault(inner.operands[0].name, {})[_direction(inner)] = outer.operands[0], inner
        for found in by_potential.values():
            if len(found) > 1:
                _note_potential(session, equation, list(found.values()))


def _note_potential(session: Session, total: Equation, parts: list[tuple[Var, Equation]]) -> None:
    fields = [session.name_of(field) for field, _ in parts]
    psi = session.name_of(parts[0][1].operands[0])
    by = [session.name_of(inner.operands[1]) for _, inner in parts]
    session.report.note(
        "T0617",
        f"the divergence of {listed(fields)} is the Laplacian of `{psi}`: they are its derivatives by {listed(by)}",
        total.span,
        notes=[
            f"if `{psi}` is meant as a stream function, the usual relation is u = {psi}_{by[1]} and "
            f"v = -{psi}_{by[0]}, whose divergence is zero everywhere"
        ]
        if len(parts) == 2
        else (),
    )


def _terms(session: Session, var: Var, covered: set[str]) -> list[Var]:
    """The terms of a sum; ``covered`` collects the partial sums inside it."""
    found, stack = [], [var]
    while stack:
        current = stack.pop()
        definition = session.definitions.get(current.name)
        if isinstance(definition, Equation) and definition.op == "add":
            covered.add(current.name)
            stack.extend(reversed(definition.operands))
        else:
            found.append(current)
    return found


def _derivative(session: Session, var: Var) -> Equation | None:
    definition = session.definitions.get(var.name)
    return definition if isinstance(definition, Equation) and definition.op == "derivative" else None


def _direction(derivative: Equation) -> tuple[str, int]:
    component = derivative.attr("component")
    return derivative.operands[1].name, component if isinstance(component, int) else 0
