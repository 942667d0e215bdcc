"""``def`` statements: what decorators make of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tesserac.elaborate.scopes import Frame
from tesserac.elaborate.values import Builtin, CustomFunction, Function, Unsupported, Value
from tesserac.parser import syntax

if TYPE_CHECKING:
    from tesserac.diagnostics import Span
    from tesserac.elaborate.interpreter import Interpreter
    from tesserac.elaborate.report import Report

ENTRY_DECORATORS = {"graph.module": "module", "graph.training_step": "step", "graph.loss": "loss"}
"""Decorators that make entries or parts of them."""

_PLAIN = frozenset({"graph.checkpoint", "ts.check_shapes", "tessera.check_shapes"})


def note_checkpoint(report: Report, span: Span) -> None:
    """T0314: the function marked at ``span`` is compiled as if it were not."""
    report.note(
        "T0314",
        "graph.checkpoint does not change the program yet: nothing is recomputed",
        span,
        notes=["only the intermediates of the tile in flight are kept, so memory does not grow with the batch"],
    )


def dotted(node: syntax.Expr) -> str:
    """``graph.module`` of a decorator, called or not; empty when it is something else."""
    if isinstance(node, syntax.Call):
        return dotted(node.func)
    if isinstance(node, syntax.Attribute):
        inner = dotted(node.value)
        name = f"{inner}.{node.attr}" if inner else ""
        return name.removeprefix("ts.").removeprefix("tessera.") if name.count(".") > 1 else name
    return node.id if isinstance(node, syntax.Name) else ""


def kind_of(node: syntax.FunctionDef) -> str:
    """module, step, loss or plain, from the decorators' spelling alone."""
    for decorator in node.decorators:
        kind = ENTRY_DECORATORS.get(dotted(decorator))
        if kind is not None:
            return kind
    return "plain"


def label_of(node: syntax.FunctionDef) -> str:
    """The name a decorator gives (``@graph.module("net")``, ``module="TransformerLM"``), else the function's own."""
    for decorator in node.decorators:
        kind = ENTRY_DECORATORS.get(dotted(decorator))
        if kind in ("module", "step") and isinstance(decorator, syntax.Call):
            values = [*decorator.args, *(k.value for k in decorator.keywords if k.name in ("module", "name"))]
            for value in values:
                if isinstance(value, syntax.String):
                    return value.value
    return node.name


def define(it: Interpreter, node: syntax.FunctionDef, frame: Frame) -> Value:
    """The function that a ``def`` makes."""
    kind, attach = "plain", ""
    custom = False
    rule_of: CustomFunction | None = None
    for decorator in node.decorators:
        name = dotted(decorator)
        if name in ENTRY_DECORATORS:
            kind = ENTRY_DECORATORS[name]
            if isinstance(decorator, syntax.Call):
                attach = _argument(it, decorator, name, frame)
        elif name in _PLAIN:
            if name == "graph.checkpoint":
                note_checkpoint(it.report, decorator.span)
        else:
            node_of = decorator.func if isinstance(decorator, syntax.Call) else decorator
            rule_of = _ruled(it, node_of, frame) or rule_of
            if rule_of is not None:
                continue
            value = it.eval(node_of, frame)
            if isinstance(value, Unsupported):
                raise it.report.fail(
                    "T0501",
                    f"@{value.name} is not supported yet",
                    decorator.span,
                    notes=[value.what] if value.what else (),
                )
            if isinstance(value, Builtin) and value.name == "autodiff.custom_grad":
                custom = True
            elif not (isinstance(value, Builtin) and value.name.startswith("schedule.")):
                raise it.report.fail(
                    "T0303",
                    f"@{name or '...'} is not a decorator that Tessera knows",
                    decorator.span,
                    help=["@graph.module, @graph.training_step and @graph.loss make entries"],
                )
    label = label_of(node) if kind in ("module", "step") else node.name
    function = Function(node.name, node.params, node.body, frame, node.span, kind, label, attach, node.returns)
    if rule_of is not None:
        rule_of.rule = function
    return CustomFunction(function) if custom else function


def _ruled(it: Interpreter, node: syntax.Expr, frame: Frame) -> CustomFunction | None:
    """The function whose derivative rule ``@f.grad`` defines."""
    if isinstance(node, syntax.Attribute) and node.attr == "grad" and isinstance(node.value, syntax.Name):
        value = it.eval(node.value, frame)
        if isinstance(value, CustomFunction):
            return value
    return None


def _argument(it: Interpreter, decorator: syntax.Call, name: str, frame: Frame) -> str:
    """The module that ``@graph.loss(module=...)`` names; checks the decorator's arguments."""
    values = [(k.name, k.value) for k in decorator.keywords] + [("module", a) for a in decorator.args]
    found = ""
    for key, node in values:
        if key not in ("module", "name"):
            raise it.report.fail(
                "T0303", f"@{name} has no argument `{key}`", decorator.span, help=['write module="label"']
            )
        value = it.eval(node, frame)
        if isinstance(value, Function):
            found = value.label
        elif isinstance(value, str) and value and len(value) <= 100 and all(c.isalnum() or c in "_-." for c in value):
            found = value
        else:
            raise it.report.fail("T0303", f"@{name} takes a label of letters, digits, `_`, `-` and `.`", node.span)
    return found
