"""Linearisation: tangent equations of a piece of program, from the jvp rules of its ops.

``linearize`` takes one equation apart into primal values that its derivative needs and equations that are
linear in the tangents; the transpose pass turns the latter around for reverse mode. ``push_forward`` runs
the tangents of many equations along with them, which is forward mode.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tesserac.diagnostics import CompileError, Diagnostics, InternalError, Label
from tesserac.ir.builder import Builder
from tesserac.ir.program import Equation, Var
from tesserac.ops.base import spec_of


@dataclass(frozen=True, slots=True)
class Linear:
    """Equations linear in ``inputs`` (tangents of operands, None for those held fixed), and tangents of the results.

    Any other operand of the equations is a primal value that exists already.
    """

    inputs: tuple[Var | None, ...]
    equations: tuple[Equation, ...]
    outputs: tuple[Var | None, ...]


def linearize(b: Builder, equation: Equation, active: Sequence[bool]) -> Linear:
    """Linearises an equation whose op has a jvp rule at its operands.

    Primal helper values are added to the builder, which must hold the equation itself already; the linear
    equations are returned and not added.
    """
    rule = spec_of(equation.op).jvp
    if rule is None:
        raise InternalError(f"{equation.op} has no jvp rule")
    by_name: dict[str, Var] = {}
    for operand, flag in zip(equation.operands, active, strict=True):
        if flag and operand.name not in by_name:
            by_name[operand.name] = Var(b.fresh(f"t_{operand.name}"), operand.type)
    inputs = tuple(by_name[v.name] if flag else None for v, flag in zip(equation.operands, active, strict=True))
    mark = len(b.equations)
    outputs = rule(b, equation, inputs)
    emitted = b.equations[mark:]
    del b.equations[mark:]
    linear: list[Equation] = []
    tangents = {v.name for v in by_name.values()}
    for item in emitted:
        if any(v.name in tangents for v in item.operands):
            linear.append(item)
            tangents.update(v.name for v in item.results)
        else:
            b.append(item)
    # A tangent that ended up independent of the inputs is a constant, and the only linear constant is zero.
    results = tuple(t if t is not None and t.name in tangents else None for t in outputs)
    return Linear(inputs, tuple(linear), results)


def expanded(b: Builder, equation: Equation) -> tuple[tuple[Equation, ...], tuple[Var, ...]]:
    """Adds the primitives of a fused op; returns them and the variables that stand for its results."""
    rule = spec_of(equation.op).expand
    if rule is None:
        raise InternalError(f"{equation.op} has no expansion")
    mark = len(b.equations)
    results = rule(b, equation)
    return tuple(b.equations[mark:]), results


def push_forward(b: Builder, equations: Iterable[Equation], tangents: Mapping[str, Var]) -> dict[str, Var]:
    """Adds the tangents of equations that the builder holds already; returns all tangents by primal name.

    ``tangents`` are those of the variables that the equations start from; a variable missing from the result
    has the tangent zero. An op without a derivative rule raises CompileError T0601.
    """
    known = dict(tangents)
    for equation in equations:
        given = [known.get(v.name) if v.type.dtype.is_differentiable else None for v in equation.operands]
        if any(t is not None for t in given):
            with b.at(equation.span, prefix="t_"):
                outputs = _tangents(b, equation, given)
            known.update((v.name, t) for v, t in zip(equation.results, outputs, strict=True) if t is not None)
    return known


def _tangents(b: Builder, equation: Equation, given: Sequence[Var | None]) -> tuple[Var | None, ...]:
    spec = spec_of(equation.op)
    if spec.jvp is not None:
        return spec.jvp(b, equation, given)
    if spec.expand is None:
        raise no_rule(equation)
    block, results = expanded(b, equation)
    start = {v.name: t for v, t in zip(equation.operands, given, strict=True) if t is not None}
    known = push_forward(b, block, start)
    return tuple(known.get(v.name) for v in results)


def no_rule(equation: Equation, path: str | None = None) -> CompileError:
    """The diagnostic for an op without a derivative, on the path from ``path`` to the loss."""
    bag = Diagnostics()
    reach = f"the loss depends on {path} through it" if path else "a derivative was asked for through it"
    only = " for forward mode, which derivatives by coordinates take" if spec_of(equation.op).vjp is not None else ""
    bag.error("T0601", f"`{equation.op}` has no derivative rule{only}", equation.span,
              labels=(Label(equation.span, reach),),
              help=("wrap its operand in op.stop_gradient(...) if it is meant to be a constant there",))
    return CompileError(bag.items)
