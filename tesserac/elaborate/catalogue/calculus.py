"""Vector calculus by coordinates: grad, div, laplacian, biharmonic, curl, hessian."""

from __future__ import annotations

from collections.abc import Callable

from tesserac.elaborate.calls import Site
from tesserac.elaborate.catalogue.registry import surface
from tesserac.elaborate.catalogue.support import integer
from tesserac.elaborate.coordinates import (
    MAX_ORDER,
    Direction,
    constant,
    directions,
    field,
    fields,
    gradient,
    partial,
    points,
    stack,
    total,
)
from tesserac.elaborate.operands import is_number, is_tensor
from tesserac.elaborate.provenance import is_input_of, reaches
from tesserac.elaborate.tensors import arithmetic
from tesserac.elaborate.values import Slot, Value
from tesserac.ir.program import Var

_CALCULUS = "calculus"


def _chosen(site: Site, op: str, *spellings: Value) -> Value:
    """The one coordinate argument among its spellings (positional, wrt=, axis=)."""
    given = [s for s in spellings if s is not None]
    if len(given) > 1:
        raise site.fail("T0504", f"{op} is given its coordinates twice", help=("wrt= and axis= mean the same",))
    return given[0] if given else None


def _each(u: Value, build: Callable[[Value], Value]) -> Value:
    """``build`` of a field, or of every field in a list."""
    return [build(item) for item in u] if isinstance(u, list | tuple) else build(u)


# ------------------------------------------------------------------------------------------------ first order


@surface(
    "grad(u, x=None, *, wrt=None, axis=None, order=1)",
    "Derivative of u at every point by a coordinate, given as a tensor or as the name of an input; for a coordinate "
    "[N,d] all d of them",
    family=_CALCULUS,
)
def grad(site: Site, u: Value, x: Value, wrt: Value, axis: Value, order: Value) -> Value:
    """du/dx of u's shape; [N,d] (or [N,m,d]) for a coordinate [N,d]; the gradient of x's shape if u is a scalar."""
    given = _chosen(site, "op.grad", x, wrt, axis)
    times = integer(site, order, "order")
    if times > MAX_ORDER:
        raise site.fail("T0504", f"order is {times}, and derivatives are taken up to order {MAX_ORDER}")

    def by(value: Value, wanted: Value) -> Value:
        result = value
        for _ in range(times):
            result = _gradient(site, field(site, result, "op.grad"), wanted)
        return result

    if isinstance(given, list | tuple) and given:
        return _each(u, lambda value: [by(value, item) for item in given])
    return _each(u, lambda value: by(value, given))


def _gradient(site: Site, u: Var, given: Value) -> Var:
    where = directions(site, u, given, "op.grad")
    found = where[0].var
    if not u.type.rank and isinstance(found, Var) and found.type.rank:
        return gradient(site, u, where[0], "op.grad")
    return stack(site.session, [partial(site, u, d, "op.grad") for d in where], points(u, where[0]))


@surface(
    "div(a, b=None, *, wrt=None, axis=None)",
    'a / b of tensors and numbers; op.div(u, "x") is du/dx; op.div([u, v], ["x", "y"]) is the divergence',
    family=_CALCULUS,
)
def div(site: Site, a: Value, b: Value, wrt: Value, axis: Value) -> Value:
    """Quotient, derivative or divergence: what the second argument is decides."""
    by = _chosen(site, "op.div", wrt, axis)
    if by is None and (is_tensor(b) or is_number(b)) and not isinstance(a, list | tuple):
        if not is_tensor(a) and not is_tensor(b):
            raise site.fail("T0503", "op.div needs at least one tensor", help=("numbers divide with `/`",))
        _note_quotient(site, a, b)
        return arithmetic(site.session, "/", a, b)
    given = _chosen(site, "op.div", b, by)
    if isinstance(a, list | tuple) and isinstance(given, list | tuple) and 0 < len(a) == len(given):
        parts = [field(site, f, "op.div") for f in a]
        where = [_single(site, f, g) for f, g in zip(parts, given, strict=True)]
    else:
        first = field(site, a[0] if isinstance(a, list | tuple) and a else a, "op.div")
        where = directions(site, first, given, "op.div")
        parts = fields(site, a, len(where), "op.div")
    return total(site.session, [partial(site, f, d, "op.div") for f, d in zip(parts, where, strict=True)])


def _note_quotient(site: Site, a: Value, b: Value) -> None:
    """T0619: the divisor is a coordinate of the dividend, so that du/dx may have been meant."""
    session = site.session
    u, x = (v.var if isinstance(v, Slot) else v for v in (a, b))
    if not isinstance(u, Var) or not isinstance(x, Var) or u.name == x.name:
        return
    if reaches(session, u, x) and is_input_of(session, u, x):
        session.report.note(
            "T0619",
            f"op.div of two tensors is their quotient: `{session.name_of(u)}` divided by `{session.name_of(x)}`",
            session.span,
            help=[f"the derivative is op.grad({session.name_of(u)}, {session.name_of(x)})"],
        )


def _single(site: Site, u: Var, given: Value) -> Direction:
    """The coordinate that belongs to one component of a field."""
    where = directions(site, u, given, "op.div")
    if len(where) != 1:
        raise site.fail(
            "T0614",
            f"op.div: `{where[0].given}` has {len(where)} columns beside one component of the field",
            help=('one coordinate per component, as in op.div([u, v], ["x", "y"])',),
        )
    return where[0]


# ------------------------------------------------------------------------------------------------ second order and more


@surface(
    "laplacian(u, x=None, *, wrt=None, axis=None)",
    "Sum of the second derivatives of u by each of the coordinates",
    family=_CALCULUS,
)
def laplacian(site: Site, u: Value, x: Value, wrt: Value, axis: Value) -> Value:
    """Sum over i of d2u/dx_i2, of u's shape."""
    given = _chosen(site, "op.laplacian", x, wrt, axis)

    def build(value: Value) -> Var:
        f = field(site, value, "op.laplacian")
        where = directions(site, f, given, "op.laplacian")
        return total(site.session, [_nested(site, f, (d, d), "op.laplacian") for d in where])

    return _each(u, build)


@surface(
    "biharmonic(u, x=None, *, wrt=None, axis=None)",
    "The Laplacian of the Laplacian of u by the coordinates",
    family=_CALCULUS,
)
def biharmonic(site: Site, u: Value, x: Value, wrt: Value, axis: Value) -> Value:
    """Sum over i and j of d4u/dx_i2 dx_j2, of u's shape; each mixed derivative is asked for once."""
    given = _chosen(site, "op.biharmonic", x, wrt, axis)

    def build(value: Value) -> Var:
        session = site.session
        f = field(site, value, "op.biharmonic")
        where = directions(site, f, given, "op.biharmonic")
        pure = [_nested(site, f, (d, d, d, d), "op.biharmonic") for d in where]
        pairs = [(a, b) for i, a in enumerate(where) for b in where[i + 1 :]]
        mixed = [_nested(site, f, (a, a, b, b), "op.biharmonic") for a, b in pairs]
        if not mixed:
            return total(session, pure)
        both = total(session, mixed)
        return total(session, [*pure, session.emit("mul", constant(session, both, 2.0), both)])

    return _each(u, build)


@surface(
    "hessian(u, x=None, *, wrt=None, axis=None)",
    "Second derivatives of u: rows of a list for a list of coordinates, a tensor [N,d,d] for a coordinate [N,d]",
    family=_CALCULUS,
)
def hessian(site: Site, u: Value, x: Value, wrt: Value, axis: Value) -> Value:
    """H[i][j] = d2u/dx_i dx_j; symmetric, and each pair is asked for once."""
    given = _chosen(site, "op.hessian", x, wrt, axis)

    def build(value: Value) -> Value:
        session = site.session
        f = field(site, value, "op.hessian")
        where = directions(site, f, given, "op.hessian")
        upper = {
            (i, j): _nested(site, f, (a, where[j]), "op.hessian")
            for i, a in enumerate(where)
            for j in range(i, len(where))
        }
        rows = [[upper[min(i, j), max(i, j)] for j in range(len(where))] for i in range(len(where))]
        if isinstance(given, list | tuple):
            return rows
        if len(where) == 1:
            return rows[0][0]
        onto = points(f, where[0])
        columns = [stack(session, row, onto) for row in rows]
        shape = columns[0].type.shape
        lifted = [session.emit("reshape", c, shape=(*shape[:-1], 1, shape[-1])) for c in columns]
        return session.emit("concat", *lifted, axis=len(shape) - 1)

    return _each(u, build)


@surface(
    "curl(u, x=None, *, wrt=None, axis=None)",
    "Curl of a field of two components (a scalar) or three (a field); of a scalar in the plane: [du/dy, -du/dx]",
    family=_CALCULUS,
)
def curl(site: Site, u: Value, x: Value, wrt: Value, axis: Value) -> Value:
    """dv/dx - du/dy in the plane; in space a list of three, or [N,3] for a tensor [N,3]."""
    session = site.session
    given = _chosen(site, "op.curl", x, wrt, axis)
    first = field(site, u[0] if isinstance(u, list | tuple) and u else u, "op.curl")
    where = directions(site, first, given, "op.curl")

    def d(f: Var, axis: int) -> Var:
        return partial(site, f, where[axis], "op.curl")

    if len(where) == 2 and not isinstance(u, list | tuple) and _is_scalar(site, first):
        parts = [d(first, 1), session.emit("neg", d(first, 0))]
        return parts if isinstance(given, list | tuple) else stack(session, parts, points(first, where[0]))
    if len(where) not in (2, 3):
        raise site.fail("T0614", f"op.curl takes two or three coordinates, not {len(where)}")
    f = fields(site, u, len(where), "op.curl")
    if len(where) == 2:
        return session.emit("sub", d(f[1], 0), d(f[0], 1))
    parts = [session.emit("sub", d(f[b], a), d(f[a], b)) for a, b in ((1, 2), (2, 0), (0, 1))]
    return parts if isinstance(u, list | tuple) else stack(session, parts, points(first, where[0]))


def _is_scalar(site: Site, u: Var) -> bool:
    return u.type.rank < 2 or site.session.solver.is_one(u.type.shape[-1])


def _nested(site: Site, u: Var, where: tuple[Direction, ...], op: str) -> Var:
    for direction in where:
        u = partial(site, u, direction, op)
    return u
