"""Calls: compiler functions, layers, inlined user functions, and modules with their implicit parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tesserac.diagnostics import Label
from tesserac.elaborate.annotations import annotate, apply, flagged, type_form
from tesserac.elaborate.compile_time import Refused
from tesserac.elaborate.provenance import enter
from tesserac.elaborate.report import Failed
from tesserac.elaborate.scopes import Frame, Scope
from tesserac.elaborate.session import ModuleCall, ModuleState, Session
from tesserac.elaborate.signatures import BadArguments, bind, parse_signature
from tesserac.elaborate.values import (
    Builtin,
    CustomFunction,
    Function,
    Layer,
    Poison,
    Slot,
    Unsupported,
    Value,
    describe,
)
from tesserac.ir.program import Var
from tesserac.parser import syntax

if TYPE_CHECKING:
    from tesserac.elaborate.interpreter import Interpreter

MAX_DEPTH = 64
"""How deeply calls may nest before recursion is assumed to be endless."""


@dataclass(frozen=True, slots=True, eq=False)
class Arguments:
    """Evaluated arguments with the call they come from; ``hint`` is the variable that takes the result."""

    args: tuple[Value, ...]
    keywords: Mapping[str, Value]
    node: syntax.Call
    frame: Frame
    hint: str | None


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """What the rule of a compiler function may use."""

    it: Interpreter
    session: Session
    arguments: Arguments

    def fail(self, code: str, message: str, *, help: tuple[str, ...] = (), notes: tuple[str, ...] = ()) -> Failed:
        """Reports an error at the call."""
        return self.session.report.fail(code, message, self.session.span, help=help, notes=notes)

    def place(self, label: str, name: str | None) -> Scope:
        """The place of a layer that this call creates; ``name`` is the user's own choice."""
        return self.arguments.frame.place(name or self.arguments.hint or label)


def call(it: Interpreter, function: Value, arguments: Arguments) -> Value:
    """The value of a call."""
    if isinstance(function, Builtin):
        return _builtin(it, function, arguments)
    if isinstance(function, Layer):
        return _layer(it, function, arguments)
    if isinstance(function, Function):
        return invoke(it, function, arguments)
    if isinstance(function, CustomFunction):
        return custom(it, function, arguments)
    if isinstance(function, Unsupported):
        raise unsupported(it, function)
    if isinstance(function, Poison):
        raise Failed
    raise it.report.fail("T0503", f"{describe(function)} cannot be called", arguments.node.span)


def custom(it: Interpreter, function: CustomFunction, arguments: Arguments) -> Value:
    """The value of a function with a derivative rule of its own."""
    from tesserac.elaborate.catalogue.custom import apply_custom

    return apply_custom(Site(it, it.session, arguments), function)


def unsupported(it: Interpreter, what: Unsupported) -> Failed:
    """Reports an op of a later stage."""
    return it.report.fail(
        "T0501", f"{what.name} is not supported yet", it.session.span, notes=[what.what] if what.what else ()
    )


def _builtin(it: Interpreter, function: Builtin, arguments: Arguments) -> Value:
    from tesserac.elaborate.catalogue import Surface

    rule = function.function
    site = Site(it, it.session, arguments)
    if isinstance(rule, Surface):
        values = _bound(it, rule.signature, function.name, arguments)
        session = it.session
        saved, session.stem = session.stem, rule.name
        try:
            return rule.build(site, *values)
        finally:
            session.stem = saved
    try:
        return rule(*arguments.args, **arguments.keywords)
    except Refused as reason:
        raise it.refuse(reason, arguments.node.span) from None
    except TypeError:
        raise it.report.fail("T0504", f"wrong arguments for {function.name}()", arguments.node.span) from None


def _bound(it: Interpreter, signature: str, name: str, arguments: Arguments) -> list[Value]:
    try:
        return bind(parse_signature(signature), arguments.args, arguments.keywords)
    except BadArguments as problem:
        raise it.report.fail(
            "T0504",
            f"{name}: {problem}",
            arguments.node.span,
            notes=[f"its signature is {name}{signature[signature.index('(') :]}"],
        ) from None


def _layer(it: Interpreter, layer: Layer, arguments: Arguments) -> Value:
    if arguments.hint is not None and not layer.scope.named and layer.scope.parent is arguments.frame.scope:
        layer.scope.rename(arguments.hint)
    values = _bound(it, layer.signature, f"the layer made by op.{layer.op}", arguments)
    session = it.session
    saved, session.stem = session.stem, layer.stem
    try:
        return layer.apply(Site(it, session, arguments), *values)
    finally:
        session.stem = saved


# ------------------------------------------------------------------------------------------------ user functions


def invoke(it: Interpreter, function: Function, arguments: Arguments) -> Value:
    """Inlines a user function."""
    caller = arguments.frame
    if caller.depth >= MAX_DEPTH:
        raise it.report.fail(
            "T0209",
            f"calls nest more than {MAX_DEPTH} deep at `{function.name}`",
            arguments.node.span,
            labels=[Label(function.span, f"`{function.name}` is defined here")],
            notes=["functions are inlined at compile time, so recursion must end at a compile-time condition"],
        )
    if function.kind == "step":
        raise it.report.fail(
            "T0305",
            f"`{function.name}` is a training step and cannot be called",
            arguments.node.span,
            help=["call the module, and let every step be an entry of its own"],
        )
    if function.kind == "module":
        return _module(it, function, arguments)
    frame = Frame(
        function.frame, caller.place(function.name.strip("<>")), function.name, caller.owner, depth=caller.depth + 1
    )
    bind_user(it, function, arguments, frame)
    return body(it, function, frame)


def body(it: Interpreter, function: Function, frame: Frame) -> Value:
    """Runs a function's body in a frame whose parameters are bound."""
    from tesserac.elaborate.statements import run

    if not isinstance(function.body, tuple):
        return it.eval(function.body, frame)
    result = run(it, function.body, frame)
    value = None if result is None else result.value
    if isinstance(value, Poison):
        raise Failed
    if function.returns is not None:
        form = type_form(it, function.returns, frame)
        for part in value if isinstance(value, tuple) else (value,):
            apply(it, part, form, function.returns)
    return value


def bind_user(it: Interpreter, function: Function, arguments: Arguments, frame: Frame) -> list[syntax.Param]:
    """Binds arguments to a user function's parameters; returns those left unbound (modules only)."""
    positional = [p for p in function.params if not p.kw_only]
    span = arguments.node.span
    if len(arguments.args) > len(positional):
        raise it.report.fail(
            "T0301",
            f"`{function.name}` takes at most {len(positional)} arguments, and {len(arguments.args)} are given",
            span,
            labels=[Label(function.span, "defined here")],
        )
    given: dict[str, Value] = {p.name: v for p, v in zip(positional, arguments.args, strict=False)}
    for name, value in arguments.keywords.items():
        if name in given or all(p.name != name for p in function.params):
            problem = "is given twice" if name in given else "does not exist"
            raise it.report.fail(
                "T0301",
                f"the argument `{name}` of `{function.name}` {problem}",
                span,
                labels=[Label(function.span, "defined here")],
            )
        given[name] = value
    unbound: list[syntax.Param] = []
    for param in function.params:
        if param.name in given:
            value = given[param.name]
        elif param.default is not None:
            value = it.eval(param.default, function.frame)
        else:
            unbound.append(param)
            continue
        frame.names[param.name] = value
        annotate(it, param, value, frame)
        if function.kind == "module" and isinstance(value, Var | Slot):
            flagged(it, f"{function.label}.{param.name}", value, param)
    if unbound and function.kind != "module":
        listed = ", ".join(f"`{p.name}`" for p in unbound)
        raise it.report.fail(
            "T0302",
            f"`{function.name}` is called without {listed}",
            span,
            labels=[Label(unbound[0].span, "declared here")],
            notes=["only a @graph.module turns the parameters that a call leaves unbound into trainable parameters"],
        )
    return unbound


def _module(it: Interpreter, function: Function, arguments: Arguments) -> Value:
    session = it.session
    state = session.modules.get(function)
    if state is None:
        state = session.modules[function] = ModuleState(Scope(None, ""))
    frame = Frame(function.frame, state.scope, function.name, function.label, depth=arguments.frame.depth + 1)
    outermost = not session.outer
    if outermost:
        session.outer = function.label
    caller = session.running
    try:
        unbound = bind_user(it, function, arguments, frame)
        enter(session, function.label, arguments.node.span, frame.names)
        for param in unbound:
            frame.names[param.name] = _owned(it, function, state, param, frame)
        value = body(it, function, frame)
    finally:
        session.running = caller
        if outermost:
            session.outer = ""
    if outermost:
        session.calls.append(ModuleCall(function.label, named_outputs(function, value, arguments.hint)))
    return value


def _owned(it: Interpreter, function: Function, state: ModuleState, param: syntax.Param, frame: Frame) -> Slot:
    """The trainable parameter behind an unbound module parameter, created once."""
    if param.name not in state.slots:
        state.slots[param.name] = it.session.slot(
            param.name, param.span, scope=state.scope, owner=function.label, aliases=(param.name,)
        )
        annotate(it, param, state.slots[param.name], frame)
    return state.slots[param.name]


def named_outputs(function: Function, value: Value, hint: str | None) -> list[tuple[str, Var]]:
    """Returned tensors by name: the returned variables, else the variable that takes the result, else the module."""
    return [(name, v) for name, v in _named(function, value, hint) if isinstance(v, Var)]


def nested_outputs(session: Session, function: Function, value: Value) -> list[tuple[str, Var]]:
    """The same with parameters and with the tensors inside of lists and dicts: ``h.0``, ``load.tokens``."""
    return [leaf for name, part in _named(function, value, None) for leaf in _leaves(session, name, part)]


def _leaves(session: Session, name: str, value: Value) -> list[tuple[str, Var]]:
    if isinstance(value, tuple | list | dict):
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        return [leaf for key, item in inner for leaf in _leaves(session, f"{name}.{key}", item)]
    if isinstance(value, Slot):
        value = session.materialise(value)
    return [(name, value)] if isinstance(value, Var) else []


def _named(function: Function, value: Value, hint: str | None) -> list[tuple[str, Value]]:
    """What a module returns, part by part."""
    values = (
        list(value) if isinstance(value, tuple | list) else list(value.values()) if isinstance(value, dict) else [value]
    )
    names: list[str] = list(map(str, value)) if isinstance(value, dict) else returned_names(function)
    if len(names) != len(values):
        stem = hint or function.label
        names = [stem] if len(values) == 1 else [f"{stem}.{i}" for i in range(len(values))]
    return list(zip(names, values, strict=True))


def returned_names(function: Function) -> list[str]:
    """Names of the variables in ``return u, v``; empty when it returns an expression."""
    if not isinstance(function.body, tuple) or not function.body:
        return []
    last = function.body[-1]
    if not isinstance(last, syntax.Return) or last.value is None:
        return []
    items = last.value.items if isinstance(last.value, syntax.TupleExpr) else (last.value,)
    names = [i.id for i in items if isinstance(i, syntax.Name)]
    return names if len(names) == len(items) else []
