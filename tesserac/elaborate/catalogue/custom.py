"""Functions with a derivative rule of the source's own: autodiff.custom_grad."""

from __future__ import annotations

from collections.abc import Sequence

from tesserac.diagnostics import Label
from tesserac.elaborate.calls import Arguments, Site, call
from tesserac.elaborate.catalogue.language import parameters_behind
from tesserac.elaborate.catalogue.registry import surface
from tesserac.elaborate.operands import floating, is_tensor
from tesserac.elaborate.provenance import listed
from tesserac.elaborate.report import Failed
from tesserac.elaborate.values import Builtin, CustomFunction, Function, Layer, Value, describe
from tesserac.ir.program import Var


@surface(
    "custom_grad(f, rule)",
    "f with a derivative rule: rule(*inputs, upstream) gives the cotangents of the inputs; as a decorator with @f.grad",
    family="autodiff",
    space="autodiff",
)
def custom_grad(site: Site, f: Value, rule: Value) -> Value:
    """A function to be called like f."""
    for value in (f, rule):
        if not isinstance(value, Function | Layer | Builtin):
            raise site.fail("T0504", f"autodiff.custom_grad takes functions, not {describe(value)}")
    return CustomFunction(f, rule)


def apply_custom(site: Site, custom: CustomFunction) -> Value:
    """The function's value, whose cotangents will be found by its rule."""
    session, given = site.session, site.arguments
    if custom.rule is None:
        span = custom.function.span if isinstance(custom.function, Function) else None
        raise session.report.fail(
            "T0618",
            f"`{custom.name}` has no derivative rule yet",
            session.span,
            labels=[Label(span, "declared with @autodiff.custom_grad")] if span is not None else (),
            help=[f"write the rule before the first call: @{custom.name}.grad\ndef rule(x, upstream): ..."],
        )
    if given.keywords:
        raise site.fail("T0618", f"`{custom.name}` has a derivative rule, so its arguments are given by position")
    args = list(given.args)
    places = [i for i, a in enumerate(args) if is_tensor(a)]
    if not places:
        raise site.fail("T0618", f"`{custom.name}` is called without a tensor")
    inputs = [floating(session, args[i], f"an input of `{custom.name}`") for i in places]
    for i, x in zip(places, inputs, strict=True):
        args[i] = x
    y = _run(site, custom.function, args)
    if not isinstance(y, Var) or not y.type.dtype.is_differentiable:
        raise site.fail("T0618", f"`{custom.name}` must return one floating-point tensor, not {describe(y)}")
    _check_parameters(site, custom, y, inputs)
    upstream = session.emit("full", value=0.0, shape=y.type.shape, dtype=y.type.dtype)
    session.display[upstream.name] = "upstream"
    found = _run(site, custom.rule, [*args, upstream])
    slopes = list(found) if isinstance(found, tuple | list) else [found]
    if len(slopes) != len(inputs):
        raise _wrong(site, custom, f"returns {len(slopes)} cotangents for {len(inputs)} inputs")
    return session.emit("custom_grad", y, upstream, *_checked(site, custom, slopes, inputs), *inputs)


def _run(site: Site, f: Value, args: Sequence[Value]) -> Value:
    inner = site.arguments
    return call(site.it, f, Arguments(tuple(args), {}, inner.node, inner.frame, None))


def _checked(site: Site, custom: CustomFunction, slopes: Sequence[Value], inputs: Sequence[Var]) -> list[Var]:
    """The rule's results, each of the type of its input."""
    session = site.session
    found = []
    for slope, x in zip(slopes, inputs, strict=True):
        if slope is None:
            found.append(session.emit("full", value=0.0, shape=x.type.shape, dtype=x.type.dtype))
            continue
        var = floating(session, slope, f"a cotangent that the rule of `{custom.name}` returns", x.type.shape)
        if var.type.rank != x.type.rank or var.type.dtype != x.type.dtype:
            text = f"returns {session.type_text(var.type)} for an input {session.type_text(x.type)}"
            raise _wrong(site, custom, text)
        for axis, (a, b) in enumerate(zip(x.type.shape, var.type.shape, strict=True)):
            session.unify(a, b, f"axis {axis} of an input of `{custom.name}` and of its cotangent", (x, var))
        found.append(var)
    return found


def _wrong(site: Site, custom: CustomFunction, text: str) -> Failed:
    span = custom.rule.span if isinstance(custom.rule, Function) else None
    return site.session.report.fail(
        "T0618",
        f"the rule of `{custom.name}` {text}",
        site.session.span,
        labels=[Label(span, "the rule")] if span is not None else (),
        help=["it returns one cotangent per input, of the input's shape and dtype, or None for zero"],
    )


def _check_parameters(site: Site, custom: CustomFunction, y: Var, inputs: Sequence[Var]) -> None:
    """Parameters that only the body uses would get no gradient, silently."""
    session = site.session
    given = {s for x in inputs for s in parameters_behind(session, x)}
    hidden = [s.path for s in parameters_behind(session, y) if s not in given]
    if hidden:
        raise site.fail(
            "T0618",
            f"`{custom.name}` uses {listed(hidden)}, of which its derivative rule knows nothing",
            help=("pass trainable parameters as arguments, and let the rule return their cotangents",),
        )
