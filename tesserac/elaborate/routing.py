"""Mixtures of experts: the gate, the choice, the experts on their rows, and what is measured of it.

The gate is one matrix without bias, in float32 (or float64). A token takes the experts with the k largest logits, ties
to the lowest index, weighted by a softmax over those k logits (Shazeer et al. 2017; Mixtral, Jiang et al. 2024), or
the one with the largest weighted by its probability among all (``switch``; Fedus et al. 2021). No token is dropped
unless a capacity is set.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tesserac.diagnostics import Label, Span
from tesserac.elaborate.calls import Arguments, Site, call
from tesserac.elaborate.catalogue.support import constant_like, reciprocal_count, scaled_by
from tesserac.elaborate.merge import Merger, alike, only_multiplied
from tesserac.elaborate.operands import cast
from tesserac.elaborate.row_blocks import Trace, Tracer
from tesserac.elaborate.scopes import Frame, Scope
from tesserac.elaborate.session import Session
from tesserac.elaborate.tensors import product
from tesserac.elaborate.values import Function, Layer, Value, describe
from tesserac.ir.program import Var
from tesserac.ir.types import Dim, DType


@dataclass(frozen=True, slots=True)
class Policy:
    """``op.router("top2")``: how tokens choose; ``k`` experts each, ``capacity_factor`` None for no limit."""

    strategy: str
    k: int
    capacity_factor: float | None


@dataclass(frozen=True, slots=True)
class Route:
    """Where the slots of a choice go: see tesserac.ops.experts."""

    order: Var
    offsets: Var
    inverse: Var
    experts: int
    k: int


@dataclass(frozen=True, slots=True)
class Choice:
    """The experts of every token with their weights; ``logits`` of all experts, ``wanted`` before any limit."""

    route: Route
    gates: Var
    logits: Var
    wanted: Var


# ------------------------------------------------------------------------------------------------ the choice


def tokens_of(session: Session, x: Var) -> Var:
    """x as [tokens, features]."""
    *lead, width = x.type.shape
    if len(lead) == 1:
        return x
    return session.emit("reshape", x, shape=(session.solver.product(tuple(lead)), width))


def gate_logits(session: Session, x: Var, gate: Var) -> Var:
    """Real logits of every expert: of [Re, Im] for complex tokens."""
    if x.type.dtype.is_complex:
        x = session.emit("concat", session.emit("real", x), session.emit("imag", x), axis=1)
    return product(session, cast(session, x, gate.type.dtype), gate)


def choose(session: Session, policy: Policy, logits: Var, experts: int) -> Choice:
    """The experts of every token and their weights."""
    values, indices = session.emit_all("topk", (logits,), {"k": policy.k})
    if policy.strategy == "switch":
        gates = _probability(session, logits, indices)
    else:
        gates = session.emit("softmax", values)
    wanted = indices
    if policy.capacity_factor is not None:
        tokens = session.known(logits.type.shape[0], "capacity_factor")
        capacity = math.ceil(policy.capacity_factor * policy.k * tokens / experts)
        indices = session.emit("limit", indices, gates, experts=experts, capacity=capacity)
    return Choice(route_of(session, indices, experts, policy.k), gates, logits, wanted)


def route_of(session: Session, indices: Var, experts: int, k: int) -> Route:
    """Sorts the slots of a choice by expert."""
    order, offsets, inverse = session.emit_all("route", (indices,), {"experts": experts})
    return Route(order, offsets, inverse, experts, k)


def _probability(session: Session, logits: Var, indices: Var) -> Var:
    """The softmax probability of the chosen expert, [tokens, 1]."""
    every = session.emit("softmax", logits)
    shape = every.type.shape
    column = session.emit("iota", shape=shape, axis=1, dtype=indices.type.dtype)
    chosen = session.emit("eq", column, session.emit("broadcast", indices, shape=shape, axes=(0, 1)))
    picked = session.emit("select", chosen, every, constant_like(session, every, 0.0))
    return session.emit("reshape", session.emit("reduce_sum", picked, axes=(1,)), shape=(shape[0], 1))


# ------------------------------------------------------------------------------------------------ the experts


def applied(site: Site, scope: Scope, index: int, expert: Value) -> Callable[[Var], Value]:
    """The call of one expert. It starts from the same place every time, so that an expert which makes layers of its
    own has the same parameters wherever the mixture is applied."""

    def run(x: Var) -> Value:
        outer = site.arguments.frame
        label = f"experts.{index}"
        frame = Frame(outer, scope.child(label, 0), outer.function, outer.owner, depth=outer.depth + 1)
        return call(site.it, expert, Arguments((x,), {}, site.arguments.node, frame, None))

    return run


def expert_rows(site: Site, scope: Scope, experts: Sequence[Value], rows: Var, route: Route, like: Var,
                partial: bool) -> Var:
    """Every row through the expert that it is sorted to: [rows, ...]; ``partial`` when some rows belong to nobody."""
    session = site.session
    tracer = Tracer(session, like, rows.type.shape[1])
    traces = []
    for index, expert in enumerate(experts):
        run = applied(site, scope, index, expert)
        traces.append(tracer.trace(f"expert {index}", _origin(expert, session.span), run))
    _same_results(session, [(t.name, t.span, t.result) for t in traces])
    total: Var | None = None
    for numbers in _groups(session, tracer, traces):
        whole = len(numbers) == len(traces) and not partial
        chosen = [traces[i] for i in numbers]
        # What other rows hold must reach neither the result nor a gradient, not even as a NaN.
        block = rows if whole or only_multiplied(chosen[0]) else _kept(session, rows, route, numbers)
        merger = Merger(session, tracer, route.offsets, numbers, rows.type.shape[0], whole)
        result = merger.run(chosen, block)
        if not whole and result.name not in merger.zero:
            result = _kept(session, result, route, numbers)
        total = result if total is None else session.emit("add", total, result)
    assert total is not None
    return total


def _kept(session: Session, rows: Var, route: Route, numbers: tuple[int, ...]) -> Var:
    return session.emit("grouped_keep", rows, route.offsets, experts=numbers)


def _origin(expert: Value, default: Span) -> Span:
    return expert.span if isinstance(expert, Layer | Function) else default


def _groups(session: Session, tracer: Tracer, traces: Sequence[Trace]) -> list[tuple[int, ...]]:
    """Numbers of the experts that do the same, by their first."""
    groups: list[list[int]] = []
    for number, trace in enumerate(traces):
        for group in groups:
            if alike(session, tracer, traces[group[0]], trace):
                group.append(number)
                break
        else:
            groups.append([number])
    return [tuple(g) for g in groups]


def _same_results(session: Session, results: Sequence[tuple[str, Span, Var]]) -> None:
    """Requires one shape and element type of all experts' results."""
    name, _, first = results[0]
    for other, place, value in results[1:]:
        sizes = [tuple(map(session.solver.resolve, v.type.shape[1:])) for v in (first, value)]
        known = [tuple(d for d in s if isinstance(d, int)) for s in sizes]
        fits = len(sizes[0]) == len(sizes[1]) and first.type.dtype == value.type.dtype
        if not fits or (sizes[0] != sizes[1] and len(known[0]) == len(known[1]) == len(sizes[0])):
            texts = [_row_text(session, v) for v in (first, value)]
            labels = {span: Label(span, f"{n} yields {t}")
                      for (n, span), t in zip((results[0][:2], (other, place)), texts, strict=True)
                      if span != session.span}
            raise session.report.fail(
                "T0506",
                f"{name} yields {texts[0]}, but {other} yields {texts[1]}",
                session.span,
                labels=tuple(labels.values()),
                help=["the results of all experts are added, so they have one width and one element type"],
            )
        for axis, (a, b) in enumerate(zip(first.type.shape, value.type.shape, strict=True)):
            session.unify(a, b, f"the results of {name} and {other}, axis {axis}", (first, value))


def _row_text(session: Session, value: Var) -> str:
    """``rows of 8 f32``."""
    rest = value.type.shape[1:]
    sizes = "x".join(str(session.solver.resolve(d)) for d in rest)
    return f"rows of {sizes} {value.type.dtype}" if rest else f"single {value.type.dtype} numbers"


def mixed(site: Site, scope: Scope, experts: Sequence[Value], x: Var, choice: Choice, partial: bool) -> Var:
    """Tokens to their experts and back: [tokens, ...]."""
    session, route = site.session, choice.route
    rows = session.emit("dispatch", x, route.order, route.inverse)
    results = expert_rows(site, scope, experts, rows, route, x, partial)
    flat, rest = flattened(session, results)
    gates = cast(session, choice.gates, flat.type.dtype)
    total = session.emit("combine", flat, route.order, route.inverse, gates)
    return total if len(rest) == 1 else session.emit("reshape", total, shape=(x.type.shape[0], *rest))


def flattened(session: Session, rows: Var) -> tuple[Var, tuple[Dim, ...]]:
    """Rows of any shape as a matrix, and that shape."""
    rest = rows.type.shape[1:]
    if len(rest) == 1:
        return rows, rest
    return session.emit("reshape", rows, shape=(rows.type.shape[0], session.solver.product(rest))), rest


def dense(site: Site, scope: Scope, experts: Sequence[Value], x: Var, logits: Var) -> Var:
    """All experts on all tokens, weighted by a softmax over them and added in their order."""
    session, tokens = site.session, x.type.shape[0]
    gates = session.emit("softmax", logits)
    results = []
    for index, expert in enumerate(experts):
        value = applied(site, scope, index, expert)(x)
        if not isinstance(value, Var) or not value.type.rank:
            raise site.fail("T0506", f"expert {index} must yield one tensor of rows, not {describe(value)}")
        session.unify(value.type.shape[0], tokens, f"the rows that expert {index} yields", (value, x))
        results.append((f"expert {index}", _origin(expert, session.span), value))
    _same_results(session, results)
    total: Var | None = None
    for index, (_, _, value) in enumerate(results):
        column = session.emit("slice", gates, starts=(0, index), limits=(tokens, index + 1), strides=(1, 1))
        weight = cast(session, session.emit("reshape", column, shape=(tokens,)), value.type.dtype)
        if value.type.rank > 1:
            weight = session.emit("broadcast", weight, shape=value.type.shape, axes=(0,))
        part = session.emit("mul", weight, value)
        total = part if total is None else session.emit("add", total, part)
    assert total is not None
    return total


# ------------------------------------------------------------------------------------------------ measurements


def measured(session: Session, choice: Choice) -> dict[Value, Value]:
    """``tokens``: slots per expert, as chosen; ``dropped``: share of slots beyond a capacity; the losses.

    ``aux_loss`` is E * sum_e f_e P_e with f_e the share of slots that chose e and P_e its mean probability (Fedus et
    al. 2021, equation 4, without its factor): 1 when balanced. ``z_loss`` is the mean square of the log-sum-exp of the
    logits (Zoph et al. 2022, equation 5).
    """
    logits, route = choice.logits, choice.route
    dtype, (tokens, experts) = logits.type.dtype, logits.type.shape
    slots = session.solver.product((tokens, route.k))
    flat = session.emit("reshape", choice.wanted, shape=(slots,))
    ones = session.emit("full", value=1.0, shape=(slots,), dtype=dtype)
    counts = session.emit("scatter_add", flat, ones, rows=experts)
    share = scaled_by(session, counts, reciprocal_count(session, (slots,), dtype))
    every = session.emit("reduce_sum", session.emit("softmax", logits), axes=(0,))
    mean = scaled_by(session, every, reciprocal_count(session, (tokens,), dtype))
    balance = session.emit("reduce_sum", session.emit("mul", share, mean), axes=(0,))
    size = session.emit("full", value=float(route.experts), shape=(), dtype=dtype)
    squares = session.emit("reduce_sum", session.emit("square", _log_sum(session, logits)), axes=(0,))
    return {
        "tokens": counts,
        "aux_loss": session.emit("mul", size, balance),
        "z_loss": session.emit("mul", reciprocal_count(session, (tokens,), dtype), squares),
        "dropped": _dropped(session, route, slots, dtype),
    }


def _log_sum(session: Session, x: Var) -> Var:
    """log(sum(exp(x))) over the last axis, without overflow."""
    largest = session.emit("stop_gradient", session.emit("reduce_max", x, axes=(1,)))
    lowered = session.emit("sub", x, session.emit("broadcast", largest, shape=x.type.shape, axes=(0,)))
    total = session.emit("reduce_sum", session.emit("exp", lowered), axes=(1,))
    return session.emit("add", session.emit("log", total), largest)


def _dropped(session: Session, route: Route, slots: Dim, dtype: DType) -> Var:
    last = session.emit("slice", route.offsets, starts=(route.experts,), limits=(route.experts + 1,), strides=(1,))
    kept = session.emit("cast", session.emit("reshape", last, shape=()), dtype=dtype)
    share = session.emit("mul", kept, reciprocal_count(session, (slots,), dtype))
    return session.emit("sub", session.emit("full", value=1.0, shape=(), dtype=dtype), share)
