"""What a training step or a loss returns: gradients, metrics, and what `infer` yields beside them."""

from __future__ import annotations

from collections.abc import Mapping

from tesserac.diagnostics import Span
from tesserac.elaborate.catalogue.language import differentiate
from tesserac.elaborate.finish import Wanted
from tesserac.elaborate.interpreter import Interpreter
from tesserac.elaborate.session import Session
from tesserac.elaborate.values import Function, Gradients, Poison, Slot, Value, describe
from tesserac.ir.program import Var
from tesserac.parser import syntax

MAX_ELEMENTS = 64
"""Longest vector that may be a metric."""


def returned(it: Interpreter, value: Value, function: Function) -> Wanted:
    """The entry that a step or a loss makes: it returns gradients, (gradients, metrics), a loss or (loss, metrics)."""
    session = it.session
    span = return_span(function)
    what = f"the {function.kind} `{function.name}`"
    parts = list(value) if isinstance(value, tuple) else [value]
    metrics: dict[Value, Value] = {}
    losses: list[Value] = []
    for part in parts:
        if isinstance(part, dict):
            metrics.update(part)
        elif not isinstance(part, Gradients) and part is not None:
            losses.append(part)
    gradients = session.gradients
    if gradients is None:
        if len(losses) != 1 or not isinstance(losses[0], Var | Slot):
            raise session.report.fail(
                "T0305",
                f"{what} returns {describe(value)}, from which there is nothing to train",
                span,
                help=[
                    'return the loss, or (loss, {"metric": value})'
                    if function.kind == "loss"
                    else 'return graph.backward(loss), or (grads, {"loss": loss}), or the loss itself'
                ],
            )
        with it.at(span):
            gradients = backward(session, losses[0])
    elif any(part is not gradients.loss for part in losses):
        raise session.report.fail(
            "T0305",
            f"{what} returns {describe(losses[0])} beside its gradients",
            span,
            help=["return grads, (grads, metrics) or the loss; metrics are a dict of scalars"],
        )
    return Wanted(gradients, _metrics(session, metrics, gradients.loss, span), predicted(session, gradients.loss))


def backward(session: Session, loss: Value) -> Gradients:
    """The gradients of a scalar for every parameter it depends on."""
    scalar = loss if isinstance(loss, Var) else session.materialise(loss) if isinstance(loss, Slot) else None
    if scalar is None or scalar.type.rank or not scalar.type.dtype.is_float:
        raise session.report.fail(
            "T0307",
            f"the loss must be a real floating-point scalar, not {describe(loss)}",
            session.span,
            help=["reduce it first: op.mean(...) or a loss such as op.mse"],
        )
    return differentiate(session, scalar, None)


def _metrics(session: Session, metrics: Mapping[Value, Value], loss: Var, span: Span) -> list[tuple[str, Var]]:
    found: list[tuple[str, Var]] = []
    for name, value in metrics.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = session.emit("full", value=float(value), shape=(), dtype=session.float)
        if not isinstance(name, str) or not name or not all(c.isalnum() or c in "_.-/" for c in name):
            session.report.error(
                "T0305", "a metric's name is a string of letters, digits, `_`, `.`, `/` and `-`", span
            )
        elif isinstance(value, Var) and not value.type.rank and not value.type.dtype.is_complex:
            if value is not loss or name != "loss":
                found.append((name if name != "loss" else "metric.loss", value))
        elif isinstance(value, Var) and _is_short_vector(session, value):
            found += [(f"{name}.{i}", part) for i, part in enumerate(_elements(session, value))]
        elif not isinstance(value, Poison):
            session.report.error(
                "T0305",
                f"the metric `{name}` must be a real scalar, not {describe(value)}",
                span,
                notes=[f"a vector of up to {MAX_ELEMENTS} elements is reported element by element"]
                if isinstance(value, Var) and value.type.rank == 1
                else (),
                help=["reduce it: op.mean(x)"],
            )
    return found


def _is_short_vector(session: Session, value: Var) -> bool:
    size = session.solver.size(value.type.shape[0]) if value.type.rank == 1 else None
    return size is not None and 0 < size <= MAX_ELEMENTS and not value.type.dtype.is_complex


def _elements(session: Session, value: Var) -> list[Var]:
    size = session.known(value.type.shape[0], "a metric")
    parts = [session.emit("slice", value, starts=(i,), limits=(i + 1,), strides=(1,)) for i in range(size)]
    return [session.emit("reshape", part, shape=()) for part in parts]


def predicted(session: Session, loss: Var) -> list[tuple[str, Var]]:
    """What ``infer`` yields: the outputs of the modules that ran, else what the losses compare."""
    outputs: dict[str, Var] = {}
    modules: set[str] = set()
    for call in session.calls:
        if call.module not in modules and not any(v is loss for _, v in call.outputs):
            modules.add(call.module)
            for name, var in call.outputs:
                outputs.setdefault(name if name not in outputs else f"{call.module}.{name}", var)
    if not outputs:
        for var in session.predictions:
            outputs.setdefault(session.display.get(var.name, "output"), var)
    return list(outputs.items())


def return_span(function: Function) -> Span:
    """The last ``return`` of a function, or the function."""
    statements = function.body if isinstance(function.body, tuple) else ()
    for statement in reversed(statements):
        if isinstance(statement, syntax.Return):
            return statement.span
    return function.span
