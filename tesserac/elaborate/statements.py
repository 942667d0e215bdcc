"""Execution of statements: assignments bind, loops unroll, conditions choose; a failure poisons the targets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tesserac.elaborate import compile_time, names
from tesserac.elaborate.compile_time import Refused
from tesserac.elaborate.decorators import define
from tesserac.elaborate.report import Failed
from tesserac.elaborate.scopes import Frame
from tesserac.elaborate.values import POISON, Value
from tesserac.parser import syntax

if TYPE_CHECKING:
    from tesserac.elaborate.interpreter import Interpreter


@dataclass(frozen=True, slots=True)
class Returned:
    """A ``return`` was reached."""

    value: Value


def run(it: Interpreter, body: Sequence[syntax.Stmt], frame: Frame) -> Returned | None:
    """Executes statements in order; returns early at a ``return``."""
    for statement in body:
        it.tick(statement.span)
        try:
            result = _execute(it, statement, frame)
        except Failed:
            for name in bound_names((statement,)):
                frame.names[name] = POISON
            if contains_return(statement):
                return Returned(POISON)
            continue
        if result is not None:
            return result
    return None


def _execute(it: Interpreter, node: syntax.Stmt, frame: Frame) -> Returned | None:
    if isinstance(node, syntax.Assign):
        _assign(it, node, frame)
    elif isinstance(node, syntax.Return):
        return Returned(None if node.value is None else it.eval(node.value, frame))
    elif isinstance(node, syntax.If):
        return run(it, node.body if it.truth(node.test, frame) else node.orelse, frame)
    elif isinstance(node, syntax.For):
        return _for(it, node, frame)
    elif isinstance(node, syntax.AugAssign):
        value = it.operate(node.op, it.eval(node.target, frame), it.eval(node.value, frame), node.span)
        it.bind(node.target, value, frame)
    elif isinstance(node, syntax.ExprStmt):
        it.eval(node.value, frame)
    elif isinstance(node, syntax.FunctionDef):
        frame.names[node.name] = define(it, node, frame)
    elif isinstance(node, syntax.Assert):
        _assert(it, node, frame)
    elif isinstance(node, syntax.Import):
        names.import_names(it, node, frame)
    elif isinstance(node, syntax.With):
        for context, _ in node.items:
            names.enter_context(it, context, frame)
        return run(it, node.body, frame)
    return None


def _assign(it: Interpreter, node: syntax.Assign, frame: Frame) -> None:
    from tesserac.elaborate.annotations import apply_annotation

    first = node.targets[0]
    if isinstance(first, syntax.Name) and isinstance(node.value, syntax.Call):
        it.hint = node.value, first.id
    value = it.eval(node.value, frame)
    if node.annotation is not None and isinstance(first, syntax.Name):
        apply_annotation(it, first.id, node.annotation, value, frame)
    for target in node.targets:
        it.bind(target, value, frame)


def _for(it: Interpreter, node: syntax.For, frame: Frame) -> Returned | None:
    value = it.eval(node.iter, frame)
    try:
        sequence = compile_time.items(value)
    except Refused as reason:
        raise it.report.fail(
            "T0205", str(reason), node.iter.span, notes=["loops are unrolled at compile time"]
        ) from None
    for item in list(sequence):
        it.tick(node.span)
        it.bind(node.target, item, frame)
        result = run(it, node.body, frame)
        if result is not None:
            return result
    return None


def _assert(it: Interpreter, node: syntax.Assert, frame: Frame) -> None:
    if it.truth(node.test, frame):
        return
    message = it.eval(node.message, frame) if node.message is not None else None
    raise it.report.fail(
        "T0207", f"assertion failed: {message}" if isinstance(message, str) else "assertion failed", node.span
    )


def bound_names(body: Iterable[syntax.Stmt]) -> Iterator[str]:
    """Names that statements may bind in their own frame."""
    for node in body:
        if isinstance(node, syntax.Assign):
            for target in node.targets:
                yield from target_names(target)
        elif isinstance(node, syntax.AugAssign):
            yield from target_names(node.target)
        elif isinstance(node, syntax.FunctionDef):
            yield node.name
        elif isinstance(node, syntax.If):
            yield from bound_names((*node.body, *node.orelse))
        elif isinstance(node, syntax.For):
            yield from target_names(node.target)
            yield from bound_names(node.body)
        elif isinstance(node, syntax.With):
            yield from bound_names(node.body)
        elif isinstance(node, syntax.Import):
            if node.names:
                yield from (alias or name for name, alias in node.names)
            else:
                yield node.asname or node.module.partition(".")[0]


def target_names(target: syntax.Expr) -> Iterator[str]:
    """Names in an assignment target; an element assignment counts as binding its container."""
    if isinstance(target, syntax.Name):
        yield target.id
    elif isinstance(target, syntax.TupleExpr | syntax.ListExpr):
        for item in target.items:
            yield from target_names(item)
    elif isinstance(target, syntax.Subscript):
        yield from target_names(target.value)


def contains_return(node: syntax.Stmt) -> bool:
    """Whether a ``return`` of the enclosing function is inside."""
    if isinstance(node, syntax.Return):
        return True
    if isinstance(node, syntax.If):
        return any(map(contains_return, (*node.body, *node.orelse)))
    if isinstance(node, syntax.For | syntax.With):
        return any(map(contains_return, node.body))
    return False
