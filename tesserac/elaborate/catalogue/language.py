"""The namespaces graph, optim, numerics: gradients, optimizers, policies."""

from __future__ import annotations

from collections.abc import Iterator

from tesserac.elaborate.calls import Site
from tesserac.elaborate.catalogue.registry import surface
from tesserac.elaborate.catalogue.support import number
from tesserac.elaborate.decorators import note_checkpoint
from tesserac.elaborate.operands import tensor
from tesserac.elaborate.session import Session
from tesserac.elaborate.values import Function, Gradients, Layer, Optimizer, Slot, Value, describe
from tesserac.ir.program import Equation, Var


@surface(
    "backward(loss, wrt=None)",
    "Gradients of a scalar loss for every parameter it depends on, or for those in wrt",
    family="graph",
    space="graph",
)
def backward(site: Site, loss: Value, wrt: Value) -> Value:
    """Gradients keyed by parameter path, in source order."""
    session = site.session
    scalar = tensor(session, loss, "the loss of graph.backward")
    if scalar.type.rank:
        raise site.fail(
            "T0307",
            f"graph.backward needs a scalar loss, not {session.type_text(scalar.type)}",
            help=("reduce it first: op.mean(...) or a loss such as op.mse",),
        )
    if not scalar.type.dtype.is_float:
        raise site.fail(
            "T0307",
            f"graph.backward needs a real floating-point loss, not {scalar.type.dtype}",
            help=("a complex number has no size to make smaller: op.mean(op.abs(x) ** 2), or op.real(loss)",)
            if scalar.type.dtype.is_complex
            else (),
        )
    if session.gradients is not None:
        raise site.fail(
            "T0307", "graph.backward is called twice in one step", help=("add the losses and call it once",)
        )
    return differentiate(session, scalar, None if wrt is None else list(_wanted(site, wrt)))


def differentiate(session: Session, loss: Var, wanted: list[Slot] | None) -> Gradients:
    """Adds the ``backward`` equation."""
    reached = [s for s in parameters_behind(session, loss) if s.var is not None and s.var.type.dtype.is_differentiable]
    if wanted is not None:
        for slot in wanted:
            if slot not in reached:
                raise session.report.fail("T0308", f"the loss does not depend on `{slot.path}`", session.span)
        reached = [s for s in reached if s in wanted]
    if not reached:
        raise session.report.fail(
            "T0308",
            "the loss depends on no trainable parameter",
            session.span,
            help=["parameters are those of layers, and those of a @graph.module that its call leaves unbound"],
        )
    operands = [loss, *(s.var for s in reached if s.var is not None)]
    saved, session.stem = session.stem, "grad"
    results = session.emit_all("backward", operands, {})
    session.stem = saved
    session.gradients = Gradients(loss, tuple(zip(reached, results, strict=True)))
    return session.gradients


def parameters_behind(session: Session, var: Var) -> list[Slot]:
    """Trainable inputs that a value depends on, in source order."""
    found: set[Slot] = set()
    seen: set[str] = set()
    stack = [var]
    while stack:
        current = stack.pop()
        if current.name in seen:
            continue
        seen.add(current.name)
        definition = session.definitions.get(current.name)
        if isinstance(definition, Equation):
            stack.extend(definition.operands)
        elif definition is not None and definition.is_parameter:
            found.add(definition)
    return sorted(found, key=lambda s: s.sequence)


def _wanted(site: Site, wrt: Value) -> Iterator[Slot]:
    if isinstance(wrt, Slot) and wrt.is_parameter:
        yield wrt
    elif isinstance(wrt, Layer):
        yield from wrt.slots.values()
    elif isinstance(wrt, list | tuple):
        for item in wrt:
            yield from _wanted(site, item)
    elif isinstance(wrt, dict):
        yield from _wanted(site, list(wrt.values()))
    else:
        raise site.fail("T0308", f"wrt takes parameters and layers, not {describe(wrt)}")


@surface(
    "checkpoint(f)",
    "f unchanged: results and gradients are the same; intermediates may be recomputed",
    family="graph",
    space="graph",
)
def checkpoint(site: Site, f: Value) -> Value:
    """Marks a function whose intermediates need not be kept; so far a hint that nothing acts on, which a note says."""
    if isinstance(f, Function | Layer):
        note_checkpoint(site.session.report, site.session.span)
        return f
    raise site.fail("T0503", f"graph.checkpoint takes a function or a layer, not {describe(f)}")


# ------------------------------------------------------------------------------------------------ optimizers


def _optimizer(name: str, kind: str, settings: tuple[tuple[str, str], ...], signature: str, doc: str) -> None:
    @surface(signature, doc, family="optim", space="optim")
    def build(site: Site, params: Value, *values: Value) -> Value:
        del params  # an optimizer always owns all parameters that have gradients
        found: list[tuple[str, float]] = []
        for (argument, flag), value in zip(settings, values, strict=True):
            if value is None:
                continue
            if argument == "betas":
                if not isinstance(value, list | tuple) or len(value) != 2:
                    raise site.fail("T0504", f"betas must be a pair of numbers, not {describe(value)}")
                found += [("beta1", number(site, value[0], "beta1")), ("beta2", number(site, value[1], "beta2"))]
            else:
                found.append((flag, number(site, value, argument)))
        for flag, setting in found:
            if setting < 0:
                raise site.fail("T0504", f"{flag} must not be negative")
        return Optimizer(kind, tuple(found))


_optimizer(
    "SGD",
    "sgd",
    (("lr", "lr"), ("momentum", "momentum"), ("weight_decay", "weight_decay")),
    "SGD(params=None, lr=None, momentum=None, weight_decay=None)",
    "Gradient descent, with momentum",
)
_optimizer(
    "Adam",
    "adam",
    (("lr", "lr"), ("betas", ""), ("eps", "eps"), ("weight_decay", "weight_decay")),
    "Adam(params=None, lr=None, betas=None, eps=None, weight_decay=None)",
    "Adam (Kingma and Ba 2015)",
)
_optimizer(
    "AdamW",
    "adamw",
    (("lr", "lr"), ("betas", ""), ("eps", "eps"), ("weight_decay", "weight_decay")),
    "AdamW(params=None, lr=None, betas=None, eps=None, weight_decay=None)",
    "Adam with decoupled weight decay (Loshchilov and Hutter 2019)",
)


@surface("apply(optimizer, grads)", "One optimizer step with these gradients", family="optim", space="optimizer")
def apply(site: Site, optimizer: Value, grads: Value) -> Value:
    """Fixes the optimizer of the entry; the update itself belongs to the built program."""
    session = site.session
    if isinstance(grads, tuple) and grads and isinstance(grads[0], Gradients):
        grads = grads[0]
    if not isinstance(grads, Gradients):
        raise site.fail("T0503", f"an optimizer applies the result of graph.backward, not {describe(grads)}")
    assert isinstance(optimizer, Optimizer)
    if session.optimizer not in (None, optimizer):
        raise site.fail("T0307", "a step applies one optimizer, and this is a second one")
    session.optimizer = optimizer
    return grads


# ------------------------------------------------------------------------------------------------ numerics


def _policy(name: str) -> None:
    @surface(
        f"{name}(policy)",
        "Numerical policy: fp32 and deterministic are what tesserac does; mixed: matrix products read bf16",
        family="numerics",
        space="numerics",
    )
    def build(site: Site, policy: Value) -> Value:
        if policy in ("fp32", "deterministic", "promote"):
            return policy
        if policy == "mixed":
            site.session.mixed = True
            return policy
        if isinstance(policy, str) and policy in ("fp8", "fast", "strict", "downcast", "kahan_sum"):
            raise site.fail("T0501", f"numerics.{name}({policy!r}) is not supported yet")
        raise site.fail("T0504", f"numerics.{name} takes a policy name such as 'fp32', not {describe(policy)}")


_policy("policy")
_policy("profile")
