"""Derivatives of functions in given directions: jvp, vjp, hvp, and forward and reverse mode by name.

The function is called on copies of its inputs, so that a tensor it closes over counts as a constant even where it is
one of the inputs, as in JAX. Seeds are the values the source gives; nothing is a function at run time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tesserac.elaborate.calls import Arguments, Site, call
from tesserac.elaborate.catalogue.calculus import grad
from tesserac.elaborate.catalogue.registry import Surface, surface
from tesserac.elaborate.coordinates import component, constant, directions, field, partial, total
from tesserac.elaborate.operands import floating, is_tensor
from tesserac.elaborate.provenance import own_value, reaches
from tesserac.elaborate.tensors import arithmetic
from tesserac.elaborate.values import Builtin, CustomFunction, Function, Layer, Value, describe
from tesserac.ir.program import Var

_FAMILY = "calculus"


def _function(site: Site, value: Value, op: str) -> Value:
    if isinstance(value, Function | Layer | Builtin | CustomFunction):
        return value
    raise site.fail("T0504", f"{op} takes a function first, not {describe(value)}")


def _sequence(value: Value) -> list[Value]:
    """Several inputs, or a single one."""
    return list(value) if isinstance(value, list | tuple) else [value]


def _others(inputs: Value) -> list[Value]:
    """Further arguments, held constant."""
    return [] if inputs is None else _sequence(inputs)


def _apply(site: Site, f: Value, args: Sequence[Value]) -> Value:
    inner = site.arguments
    return call(site.it, f, Arguments(tuple(args), {}, inner.node, inner.frame, None))


def _inputs(site: Site, values: Value, op: str) -> list[Var]:
    """Copies of the inputs, to differentiate by."""
    given = _sequence(values)
    if not given:
        raise site.fail("T0504", f"{op} needs at least one input")
    found = [own_value(site.session, floating(site.session, v, f"an input of {op}")) for v in given]
    site.session.columns.coordinates.update((v.name, v) for v in found)
    return found


def _seeds(site: Site, given: Value, like: Sequence[Var], what: str, op: str) -> list[Var]:
    """Tangents or cotangents, one per tensor of ``like``; ones where none are given."""
    if given is None:
        return [constant(site.session, v, 1.0) for v in like]
    values = _sequence(given)
    if len(values) != len(like):
        raise site.fail("T0616", f"{op}: {len(values)} {what}s for {len(like)} {_words(what)}s")
    return [_seed(site, v, x, what, op) for v, x in zip(values, like, strict=True)]


def _words(what: str) -> str:
    return "output" if what == "cotangent" else "input"


def _seed(site: Site, value: Value, like: Var, what: str, op: str) -> Var:
    session = site.session
    if isinstance(value, int | float) and not isinstance(value, bool):
        return constant(session, like, float(value))
    seed = floating(session, value, f"a {what} of {op}", like.type.shape)
    if seed.type.rank != like.type.rank or seed.type.dtype != like.type.dtype:
        raise site.fail(
            "T0616",
            f"{op}: a {what} {session.type_text(seed.type)} for an {_words(what)} {session.type_text(like.type)}",
            notes=(f"every {what} has the type of its {_words(what)}",),
        )
    for axis, (a, b) in enumerate(zip(like.type.shape, seed.type.shape, strict=True)):
        session.unify(a, b, f"{op}: axis {axis} of an {_words(what)} and its {what}", (like, seed))
    return seed


def _map(site: Site, value: Value, build: Callable[[Var], Value], op: str) -> Value:
    """``build`` of every tensor that a function returned."""
    if isinstance(value, list | tuple):
        parts = [_map(site, item, build, op) for item in value]
        return parts if isinstance(value, list) else tuple(parts)
    if isinstance(value, dict):
        return {key: _map(site, item, build, op) for key, item in value.items()}
    return build(floating(site.session, value, f"what the function given to {op} returns"))


def _outputs(site: Site, value: Value, op: str) -> list[Var]:
    found: list[Var] = []
    _map(site, value, found.append, op)
    return found


def _one_or_all(values: Sequence[Value], given: Value) -> Value:
    """A single result for a single input, else one per input."""
    return values[0] if len(values) == 1 and not isinstance(given, tuple | list) else tuple(values)


def _push(site: Site, y: Var, inputs: Sequence[Var], tangents: Sequence[Var]) -> Var:
    session = site.session
    pairs = [(x, t) for x, t in zip(inputs, tangents, strict=True) if reaches(session, y, x)]
    if not pairs:
        return constant(session, y, 0.0)
    return session.emit("pushforward", y, *(x for x, _ in pairs), *(t for _, t in pairs))


def _pull(site: Site, outputs: Sequence[Var], cotangents: Sequence[Var], inputs: Sequence[Var]) -> list[Var]:
    """Cotangents of the inputs: the sum over the outputs."""
    session = site.session
    sums: list[Var | None] = [None] * len(inputs)
    for y, seed in zip(outputs, cotangents, strict=True):
        reached = [i for i, x in enumerate(inputs) if reaches(session, y, x)]
        if not reached:
            continue
        results = session.emit_all("pullback", (y, seed, *(inputs[i] for i in reached)), {})
        for i, part in zip(reached, results, strict=True):
            known = sums[i]
            sums[i] = part if known is None else total(session, (known, part))
    return [constant(session, x, 0.0) if s is None else s for s, x in zip(sums, inputs, strict=True)]


def _scalar(site: Site, value: Value, op: str) -> Var:
    """What a function must return to have a gradient."""
    y = floating(site.session, value, f"what the function given to {op} returns")
    if y.type.rank:
        raise site.fail(
            "T0616",
            f"{op} needs a function that returns a scalar, not {site.session.type_text(y.type)}",
            help=("reduce it, as in op.sum(y), or give a cotangent to op.vjp",),
        )
    return y


# ------------------------------------------------------------------------------------------------ forward mode


def _forward(site: Site, f: Value, inputs: Value, tangents: Value, op: str) -> Value:
    x = _inputs(site, inputs, op)
    seeds = _seeds(site, tangents, x, "tangent", op)
    y = _apply(site, _function(site, f, op), x)
    return y, _map(site, y, lambda part: _push(site, part, x, seeds), op)


@surface(
    "jvp(f, primals, tangents=None)",
    "(f(primals), its directional derivative along the tangents); tangents are ones unless given",
    family=_FAMILY,
)
def jvp(site: Site, f: Value, primals: Value, tangents: Value) -> Value:
    """Forward mode. With a tensor first: its derivative along a direction of the coordinate."""
    if is_tensor(f):
        return _along(site, f, primals, tangents, "op.jvp")
    return _forward(site, f, primals, tangents, "op.jvp")


@surface(
    "forward(f, inputs, tangents=None)",
    "(f(inputs), its directional derivative along the tangents): forward mode",
    family="graph",
    space="graph",
)
def forward(site: Site, f: Value, inputs: Value, tangents: Value) -> Value:
    """The same as op.jvp."""
    return _forward(site, f, inputs, tangents, "graph.forward")


@surface(
    "forward(f, x, tangents=None)", "(f(x), its derivative at x): forward mode", family="autodiff", space="autodiff"
)
def autodiff_forward(site: Site, f: Value, x: Value, tangents: Value) -> Value:
    """The derivative by a number or elementwise: the tangent is one unless given."""
    return _forward(site, f, x, tangents, "autodiff.forward")


@surface(
    "jvp(f, wrt=None, dir=None, *, inputs=None)",
    'Directional derivative of f(wrt, *inputs) along dir; of a tensor, graph.jvp(u, wrt="x") is op.grad(u, "x")',
    family="graph",
    space="graph",
)
def graph_jvp(site: Site, f: Value, wrt: Value, dir: Value, inputs: Value) -> Value:
    """The derivative alone, without the value."""
    if is_tensor(f):
        return _along(site, f, wrt, dir, "graph.jvp")
    x = _inputs(site, wrt, "graph.jvp")
    seeds = _seeds(site, dir, x, "tangent", "graph.jvp")
    y = _apply(site, _function(site, f, "graph.jvp"), [*_as_given(x, wrt), *_others(inputs)])
    return _map(site, y, lambda part: _push(site, part, x, seeds), "graph.jvp")


def _as_given(x: Sequence[Var], given: Value) -> list[Value]:
    """Inputs as one argument of the function: a list stays a list."""
    return [list(x)] if isinstance(given, list | tuple) else [x[0]]


def _along(site: Site, u: Value, wrt: Value, direction: Value, op: str) -> Var:
    """The derivative of a tensor by a coordinate, along a direction that is constant where it is taken."""
    session = site.session
    value = field(site, u, op)
    where = directions(site, value, wrt, op)
    slopes = [partial(site, value, d, op) for d in where]
    if direction is None:
        return total(session, slopes)
    like = floating(session, where[0].var, f"the coordinate of {op}")
    seed = session.emit("stop_gradient", _seed(site, direction, like, "tangent", op))
    weights = [seed] if len(where) == 1 else [component(site, seed, i) for i in range(len(where))]
    return total(session, [arithmetic(session, "*", s, w) for s, w in zip(slopes, weights, strict=True)])


# ------------------------------------------------------------------------------------------------ reverse mode


@surface(
    "vjp(f, primals, cotangent=None)",
    "(f(primals), cotangents of the primals), or without a cotangent (f(primals), a function of it)",
    family=_FAMILY,
)
def vjp(site: Site, f: Value, primals: Value, cotangent: Value) -> Value:
    """Reverse mode with a seed."""
    x = _inputs(site, primals, "op.vjp")
    y = _apply(site, _function(site, f, "op.vjp"), x)
    outputs = _outputs(site, y, "op.vjp")

    def pull(inner: Site, seed: Value) -> Value:
        seeds = _seeds(inner, seed, outputs, "cotangent", "op.vjp")
        return _one_or_all(_pull(inner, outputs, seeds, x), primals)

    if cotangent is not None:
        return y, pull(site, cotangent)
    return y, Builtin("the pullback", Surface("vjp", "vjp(cotangent)", "", _FAMILY, pull))


@surface(
    "reverse(f, inputs=None)",
    "Gradient of a scalar function at its inputs: reverse mode; without inputs the gradient function",
    family="autodiff",
    space="autodiff",
)
def reverse(site: Site, f: Value, inputs: Value) -> Value:
    """One gradient for one input, a tuple for several."""
    function = _function(site, f, "autodiff.reverse")

    def gradients(inner: Site, given: Value) -> Value:
        x = _inputs(inner, given, "autodiff.reverse")
        y = _scalar(inner, _apply(inner, function, x), "autodiff.reverse")
        found = _pull(inner, [y], [constant(inner.session, y, 1.0)], x)
        return found[0] if len(found) == 1 else tuple(found)

    if inputs is not None:
        return gradients(site, inputs)
    name = getattr(function, "name", "f")
    return Builtin(f"the gradient of {name}", Surface("reverse", "reverse(*inputs)", "", "autodiff", gradients))


@surface(
    "hvp(f, wrt=None, dir=None, *, inputs=None)",
    "Hessian of the scalar f(wrt, *inputs) times dir; of a tensor, its Hessian at every point by the coordinate wrt",
    family="graph",
    space="graph",
)
def hvp(site: Site, f: Value, wrt: Value, dir: Value, inputs: Value) -> Value:
    """Forward over reverse (Pearlmutter 1994): the directional derivative of the gradient."""
    session = site.session
    if is_tensor(f) and field(site, f, "graph.hvp").type.rank:
        value = field(site, f, "graph.hvp")
        return grad(site, _along(site, value, wrt, dir, "graph.hvp"), wrt, None, None, 1)
    if is_tensor(f):
        y = field(site, f, "graph.hvp")
        x = [floating(session, v, "an input of graph.hvp") for v in _sequence(wrt)]
    else:
        x = _inputs(site, wrt, "graph.hvp")
        arguments = [*_as_given(x, wrt), *_others(inputs)]
        y = _scalar(site, _apply(site, _function(site, f, "graph.hvp"), arguments), "graph.hvp")
    seeds = _seeds(site, dir, x, "tangent", "graph.hvp")
    gradients = _pull(site, [y], [constant(session, y, 1.0)], x)
    return _one_or_all([_push(site, g, x, seeds) for g in gradients], wrt)
