"""Mixtures of experts: op.router, op.moe and its other names, op.recursive_mixture, op.recursive, and their parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast as as_type

from tesserac.diagnostics import Label
from tesserac.elaborate.calls import Site
from tesserac.elaborate.catalogue.registry import surface
from tesserac.elaborate.catalogue.support import boolean, choice, initialiser, integer, make_layer, number
from tesserac.elaborate.operands import cast, floating, indices, is_tensor
from tesserac.elaborate.routing import (
    Choice,
    Policy,
    Route,
    applied,
    choose,
    dense,
    expert_rows,
    flattened,
    gate_logits,
    measured,
    mixed,
    route_of,
    tokens_of,
)
from tesserac.elaborate.values import Builtin, Function, Layer, Value, describe
from tesserac.ir.mesh import Mesh
from tesserac.ir.program import Var

STRATEGIES = {"top2": 2, "topk": 2, "switch": 1}
"""How many experts a token takes by default, by name of the strategy."""

_DENSE = "dense"


def _policy(site: Site, strategy: Value, k: Value, capacity_factor: Value, dense_too: bool = False) -> Policy:
    if isinstance(strategy, Policy):
        if k is not None or capacity_factor is not None:
            extra = "k" if k is not None else "capacity_factor"
            raise site.fail("T0504", f"a policy of op.router says how tokens choose, and {extra} is given beside it",
                            help=(f"give {extra} to the op.router that makes the policy",))
        return strategy
    names = (*STRATEGIES, _DENSE) if dense_too else tuple(STRATEGIES)
    name = choice(site, strategy, "strategy", names)
    count = STRATEGIES.get(name, 0) if k is None else integer(site, k, "k")
    if k is not None and name != "topk" and count != STRATEGIES.get(name):
        raise site.fail("T0504", f"strategy {name!r} does not take k={count}", help=(f'strategy="topk", k={count}',))
    if capacity_factor is None:
        return Policy(name, count, None)
    factor = number(site, capacity_factor, "capacity_factor")
    if factor <= 0 or name == _DENSE:
        raise site.fail("T0504", f"capacity_factor={factor} does not fit strategy {name!r}: it is positive, and "
                        f"limits how many of k*T/E tokens an expert takes")
    return Policy(name, count, factor)


def _experts(site: Site, value: Value, what: str) -> list[Value]:
    """A list of callables."""
    if not isinstance(value, list | tuple):
        raise site.fail("T0504", f"{what} takes a list of experts, not {describe(value)}")
    if not value:
        raise site.fail("T0504", f"{what} needs at least one expert, and the list is empty")
    for index, item in enumerate(value):
        if not isinstance(item, Layer | Function | Builtin):
            raise site.fail(
                "T0503",
                f"expert {index} must be a layer or a function of one tensor, not {describe(item)}",
                help=("for example [op.mlp(64, [256], 64) for _ in range(8)]",),
            )
    return list(value)


def _fits(site: Site, policy: Policy, experts: Sequence[Value]) -> None:
    if policy.k > len(experts):
        there = "there is 1" if len(experts) == 1 else f"there are {len(experts)}"
        raise site.fail(
            "T0504",
            f"strategy {policy.strategy!r} with k={policy.k} takes {policy.k} experts per token, and {there}",
            help=(f'strategy="topk", k={len(experts)}, or more experts',),
        )


def _mixture(site: Site, experts: list[Value], policy: Policy, depth: int, op: str, name: Value) -> Layer:
    """The layer with a gate that applies experts; ``depth`` times in a row, with the same parameters."""
    _fits(site, policy, experts)
    features = site.session.solver.symbol("the gate's rows")
    columns = len(experts)
    parameters = {"gate": ((features, columns), initialiser(site, None, features, columns))}

    def apply(inner: Site, x: Value, metrics: Value = False) -> Value:
        session = inner.session
        operand = floating(session, x, f"the operand of a layer made by op.{op}")
        if not operand.type.rank:
            raise inner.fail("T0404", f"a layer made by op.{op} needs at least one axis, which holds the features")
        wants = boolean(inner, metrics, "metrics")
        _check_width(inner, experts, operand)
        tokens = tokens_of(session, operand)
        gate = session.materialise(layer.slots["gate"])
        picked: Choice | None = None
        for level in range(depth):
            if level:
                what = f"what the experts yield and what they take again, as depth is {depth}"
                session.unify(tokens.type.shape[-1], operand.type.shape[-1], what, (tokens, operand))
            logits = gate_logits(session, tokens, gate)
            if policy.strategy == _DENSE:
                tokens = dense(inner, layer.scope, experts, tokens, logits)
            else:
                picked = choose(session, policy, logits, columns)
                tokens = mixed(inner, layer.scope, experts, tokens, picked, policy.capacity_factor is not None)
        result = tokens
        if operand.type.rank != 2:
            result = session.emit("reshape", tokens, shape=(*operand.type.shape[:-1], *tokens.type.shape[1:]))
        return (result, measured(session, as_type(Choice, picked))) if wants else result

    signature = "layer(x, *, metrics=False)" if policy.strategy != _DENSE and depth == 1 else "layer(x)"
    key = (columns, policy.strategy, policy.k, policy.capacity_factor, depth)
    layer = make_layer(site, op, key, parameters, apply, signature, name)
    return layer


def _check_width(site: Site, experts: Sequence[Value], x: Var) -> None:
    """Compares the features with what experts were made for, before the gate takes its size from them."""
    for index, expert in enumerate(experts):
        if isinstance(expert, Layer) and expert.op in ("mlp", "linear", "layernorm", "rmsnorm"):
            width = expert.sizes[0]
            if isinstance(width, int | str):
                what = f"the last axis of the operand and the input of expert {index}"
                made = Label(expert.span, f"expert {index} takes rows of {site.session.solver.resolve(width)}")
                site.session.unify(x.type.shape[-1], width, what, (x,), labels=(made,))


@surface(
    "router(experts=None, strategy='top2', *, policy=None, k=None, capacity_factor=None, name=None)",
    "A layer that sends every token to its best experts (top2, topk with k, switch) and adds their weighted results; "
    "with a strategy first, the policy of an op.moe",
    family="experts",
)
def router(
    site: Site, experts: Value, strategy: Value, policy: Value, k: Value, capacity_factor: Value, name: Value
) -> Value:
    """A layer, or a policy."""
    if policy is not None or isinstance(experts, str):
        if (policy is not None and experts is not None) or strategy != "top2":
            raise site.fail("T0504", "op.router takes a list of experts with a strategy, or a policy alone",
                            help=('op.router(experts, strategy="switch") is a layer, op.router("switch") a policy',))
        return _policy(site, experts if policy is None else policy, k, capacity_factor)
    chosen = _policy(site, strategy, k, capacity_factor)
    return _mixture(site, _experts(site, experts, "op.router"), chosen, 1, "router", name)


@surface(
    "moe(x, experts=None, *, router='top2', k=None, capacity_factor=None, metrics=False, mesh=None, name=None)",
    "A mixture of experts applied at once, with a gate of its own; op.moe(experts) makes the layer",
    family="experts",
    aliases=("mixture_of_experts", "moe_layer"),
)
def moe(
    site: Site,
    x: Value,
    experts: Value,
    router: Value,
    k: Value,
    capacity_factor: Value,
    metrics: Value,
    mesh: Value,
    name: Value,
) -> Value:
    """Makes the layer of op.router; applies it when tokens are given."""
    if mesh is not None and not isinstance(mesh, Mesh):
        raise site.fail("T0504", f"mesh must be a dist.Mesh, not {describe(mesh)}")
    if isinstance(router, Layer):
        raise site.fail(
            "T0504",
            "router takes a strategy or a policy, and this layer has its experts already",
            help=("apply the layer itself: router(x)", 'or op.router("top2") without experts'),
        )
    policy = _policy(site, router, k, capacity_factor)
    factory = experts is None and not is_tensor(x)
    layer = _mixture(site, _experts(site, x if factory else experts, "op.moe"), policy, 1, "moe", name)
    return layer if factory else layer.apply(site, x, metrics)


@surface(
    "recursive_mixture(experts, depth, strategy='dense', *, k=None, capacity_factor=None, name=None)",
    "A layer that applies a mixture of experts depth times, with one gate and the same experts every time; "
    "dense weighs all of them",
    family="experts",
)
def recursive_mixture(
    site: Site, experts: Value, depth: Value, strategy: Value, k: Value, capacity_factor: Value, name: Value
) -> Value:
    """z <- sum_i gate_i(z) expert_i(z), depth times."""
    policy = _policy(site, strategy, k, capacity_factor, dense_too=True)
    given = _experts(site, experts, "op.recursive_mixture")
    return _mixture(site, given, policy, integer(site, depth, "depth"), "recursive_mixture", name)


@surface(
    "recursive(fn, depth)",
    "A layer that applies a function depth times to its own result, with the same parameters every time",
    family="experts",
)
def recursive(site: Site, fn: Value, depth: Value) -> Value:
    """fn(fn(...(x)))."""
    if not isinstance(fn, Layer | Function | Builtin):
        raise site.fail("T0503", f"op.recursive takes a layer or a function of one tensor, not {describe(fn)}")
    times = integer(site, depth, "depth")

    def apply(inner: Site, x: Value) -> Value:
        value: Value = floating(inner.session, x, "the operand of a layer made by op.recursive")
        for _ in range(times):
            value = applied(inner, layer.scope, 0, fn)(as_type(Var, value))
            if not isinstance(value, Var):
                raise inner.fail("T0506", f"op.recursive takes a function that yields a tensor, not {describe(value)}")
        return value

    layer = make_layer(site, "recursive", (times,), {}, apply)
    return layer


# ------------------------------------------------------------------------------------------------ parts


@surface(
    "moe_route(indices, experts)",
    "Where the rows of a choice [tokens, k] of expert numbers go: sorted by expert, then by token",
    family="experts",
)
def moe_route(site: Site, indices_: Value, experts: Value) -> Value:
    """A route for op.moe_dispatch and op.moe_combine."""
    chosen = indices(site.session, indices_, "the indices of op.moe_route")
    if chosen.type.rank != 2:
        raise site.fail("T0404", f"op.moe_route takes indices [tokens, k], not {site.session.type_text(chosen.type)}")
    k = site.session.known(chosen.type.shape[1], "the number of experts per token")
    return route_of(site.session, chosen, integer(site, experts, "experts"), k)


def _route(site: Site, value: Value) -> Route:
    if isinstance(value, Route):
        return value
    raise site.fail("T0504", f"route must come from op.moe_route(indices, experts), not be {describe(value)}")


def _matrix(site: Site, value: Value, what: str) -> Var:
    var = floating(site.session, value, what)
    if var.type.rank != 2:
        raise site.fail("T0404", f"{what} must be a matrix, not {site.session.type_text(var.type)}")
    return var


@surface("moe_dispatch(x, route)", "The rows of [tokens, features] in the order of a route: [tokens*k, features]",
         family="experts")
def moe_dispatch(site: Site, x: Value, route: Value) -> Value:
    """Tokens sorted by expert."""
    where = _route(site, route)
    return site.session.emit("dispatch", _matrix(site, x, "the operand of op.moe_dispatch"), where.order, where.inverse)


@surface("moe_experts(rows, experts, route)", "Each of the rows of op.moe_dispatch through its expert",
         family="experts")
def moe_experts(site: Site, rows: Value, experts: Value, route: Value) -> Value:
    """Experts on sorted rows."""
    where, given = _route(site, route), _experts(site, experts, "op.moe_experts")
    _same_count(site, given, where)
    matrix = _matrix(site, rows, "the rows of op.moe_experts")
    scope = site.place("moe_experts", None)
    return expert_rows(site, scope, given, matrix, where, matrix, False)


@surface("moe_combine(partials, route, gates=None, *, reduce='sum')",
         "The rows of a route back at their tokens, times gates [tokens, k] if given, added in order", family="experts")
def moe_combine(site: Site, partials: Value, route: Value, gates: Value, reduce: Value) -> Value:
    """Sum over each token's experts."""
    choice(site, reduce, "reduce", ("sum",))
    where, session = _route(site, route), site.session
    rows = floating(session, partials, "the rows of op.moe_combine")
    if not rows.type.rank:
        raise site.fail("T0404", "op.moe_combine takes rows, not a number")
    flat, rest = flattened(session, rows)
    given = [] if gates is None else [cast(session, _matrix(site, gates, "the gates"), flat.type.dtype)]
    total = session.emit("combine", flat, where.order, where.inverse, *given)
    return total if len(rest) == 1 else session.emit("reshape", total, shape=(where.inverse.type.shape[0], *rest))


@surface("moe_apply(x, experts, indices, gates)",
         "sum_j gates[t, j] * expert[indices[t, j]](x[t]) for a choice and gates of your own", family="experts")
def moe_apply(site: Site, x: Value, experts: Value, indices_: Value, gates: Value) -> Value:
    """Dispatch, experts, combine."""
    session, given = site.session, _experts(site, experts, "op.moe_apply")
    operand = floating(session, x, "the operand of op.moe_apply")
    chosen = indices(session, indices_, "the indices of op.moe_apply")
    weights = floating(session, gates, "the gates of op.moe_apply")
    if operand.type.rank < 2 or chosen.type.rank != operand.type.rank or weights.type.rank != operand.type.rank:
        raise site.fail("T0404", "op.moe_apply takes x [..., features], indices and gates [..., k] of one rank")
    k = session.known(chosen.type.shape[-1], "the number of experts per token")
    route = route_of(session, tokens_of(session, chosen), len(given), k)
    picked = Choice(route, tokens_of(session, weights), weights, chosen)
    result = mixed(site, site.place("moe_apply", None), given, tokens_of(session, operand), picked, False)
    if operand.type.rank == 2:
        return result
    return session.emit("reshape", result, shape=(*operand.type.shape[:-1], *result.type.shape[1:]))


def _same_count(site: Site, experts: Sequence[Value], route: Route) -> None:
    if len(experts) != route.experts:
        raise site.fail("T0504", f"{len(experts)} experts for a route among {route.experts}")
