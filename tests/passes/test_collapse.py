"""Combinations of highest derivatives as one channel: Laplacians, and sums whose weights vary from point to point."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tesserac.inspection.derivatives import derivative_lines
from tesserac.ir.program import Var
from tesserac.ir.verify import verify
from tesserac.passes.decision import collapsed_where_cheaper, decide, decisions
from tesserac.passes.differentiate import differentiate
from tesserac.passes.simplify import simplify
from tesserac.passes.spaces import independent
from tests.passes.fields import Field, products, run, slope, values_for

WIDE = (7, 9)


def primitive(field: Field, hidden: tuple[int, ...] = WIDE, act: str = "tanh") -> Var:
    """Velocities and pressure of a steady flow as three columns: the Laplacian of all of them is one channel."""
    b, n = field.b, field.points
    x, y = field.coordinate("x"), field.coordinate("y")
    out = field.mlp([x, y], hidden, out=3, act=act)
    u, v, p = (b.op("slice", out, starts=(0, i), limits=(n, i + 1), strides=(1, 1)) for i in range(3))

    def momentum(w: Var, along: Var) -> Var:
        carried = b.op("add", b.op("mul", u, field.d(w, x)), b.op("mul", v, field.d(w, y)))
        laplacian = b.op("add", field.d(w, x, x), field.d(w, y, y))
        viscous = b.op("mul", laplacian, b.constant(0.01, w.type))
        return b.op("sub", b.op("add", carried, field.d(p, along)), viscous)

    return field.mean_square(momentum(u, x), momentum(v, y), b.op("add", field.d(u, x), field.d(v, y)))


def vector_laplacian(field: Field, hidden: tuple[int, ...] = WIDE, act: str = "tanh") -> Var:
    b, x, y = field.b, field.coordinate("x"), field.coordinate("y")
    u = field.mlp([x, y], hidden, out=3, act=act)
    twice = b.op("mul", field.d(u, x, x), b.constant(2.0, u.type))
    return field.mean_square(b.op("sub", b.op("add", twice, field.d(u, y, y)), field.d(u, x)))


def vector_biharmonic(field: Field, hidden: tuple[int, ...] = WIDE, act: str = "tanh") -> Var:
    """Nested Laplacians of many columns, through a fused norm."""
    b, x, y = field.b, field.coordinate("x"), field.coordinate("y")
    h = b.op("layernorm", field.mlp([x, y], hidden, out=6, act=act), field.weight("gain", 6), field.weight("bias", 6))
    u = field.linear(h, 6, "last")
    laplacian = b.op("add", field.d(u, x, x), field.d(u, y, y))
    return field.mean_square(b.op("add", field.d(laplacian, x, x), field.d(laplacian, y, y)))


def diffusivities(field: Field, hidden: tuple[int, ...] = WIDE, act: str = "tanh") -> Var:
    """k (k^2 u_xx + m u_yy - k m u_xy + m k u_xy / 2) of three columns, with k(x) and m(y) repeated over them."""
    b, x, y = field.b, field.coordinate("x"), field.coordinate("y")
    u = field.mlp([x, y], hidden, out=3, act=act)
    k, m = (b.op("broadcast", b.op("exp", v), shape=u.type.shape, axes=(0, 1)) for v in (x, y))
    mixed = b.op("mul", b.op("mul", field.d(u, x, y), k), m)
    total = b.op("add", b.op("mul", k, b.op("mul", k, field.d(u, x, x))), b.op("mul", field.d(u, y, y), m))
    again = b.op("mul", b.op("mul", field.d(u, x, y), m), k)
    total = b.op("add", b.op("sub", total, mixed), b.op("mul", again, b.constant(0.5, again.type)))
    return field.mean_square(b.op("add", b.op("mul", total, k), field.d(u, x)))


def carried(field: Field, hidden: tuple[int, ...] = WIDE, act: str = "tanh") -> Var:
    """Weights that the network computes itself: w_x u_xx + w u_yy of two columns, and a multiple of it."""
    b, n = field.b, field.points
    x, y = field.coordinate("x"), field.coordinate("y")
    out = field.mlp([x, y], hidden, out=2, act=act)
    u, w = (b.op("slice", out, starts=(0, i), limits=(n, i + 1), strides=(1, 1)) for i in range(2))
    speed = field.d(w, x)
    left, right = (b.op("add", b.op("mul", speed, field.d(f, x, x)), b.op("mul", field.d(f, y, y), w)) for f in (u, w))
    return field.mean_square(left, right, b.op("mul", b.op("sin", x), left))


COLLAPSED: dict[str, Callable[..., Var]] = {f.__name__: f for f in (
    primitive, vector_laplacian, vector_biharmonic, diffusivities, carried)}


@pytest.mark.parametrize("act", ["tanh", "gelu"])
@pytest.mark.parametrize("name", COLLAPSED)
def test_collapsed_combinations_give_the_same(name, act):
    field = Field(points=3)
    function = field.train(COLLAPSED[name](field, act=act))
    assert any(e.op == "combination" for e in collapsed_where_cheaper(function).equations)
    chosen = differentiate(function)
    verify(chosen)
    values = values_for(function)
    expected = run(differentiate(function, plain=True), values)
    for program in (chosen, simplify(chosen)):
        found = run(program, values)
        for key, value in expected.items():
            np.testing.assert_allclose(found[key], value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "rows"), [("primitive", 12), ("vector_laplacian", 12), ("diffusivities", 12)])
def test_rows_of_collapsed_combinations(name, rows):
    field = Field(points=3)
    function = field.train(COLLAPSED[name](field, (11, 13)))
    assert products(simplify(differentiate(function)), 3, 11, 13) == rows
    other = collapsed_where_cheaper(function)
    assert decide(other, independent(other)[0]).work.rows == rows


def test_the_explanation_of_collapsed_combinations():
    field = Field(points=64)
    lines = derivative_lines(field.train(vector_laplacian(field, (64, 64))))
    rows = {line[:24].strip(): int(line[24:30]) for line in lines if line.startswith("    ")}
    assert rows == {"Taylor": 15, "collapsed Taylor": 12, "forward over reverse": 36}
    (taken,) = (line for line in lines if line.endswith("<- taken"))
    assert "collapsed Taylor" in taken


def test_varying_weights_against_a_closed_form():
    """x u_xx + sin(y) u_yy of u = tanh([x y] W + b) V + c by hand, and the loss's gradient by central differences."""
    field = Field(points=4)
    b, x, y = field.b, field.coordinate("x"), field.coordinate("y")
    u = field.mlp([x, y], (7,), out=3)
    k, m = (b.op("broadcast", v, shape=u.type.shape, axes=(0, 1)) for v in (x, b.op("sin", y)))
    residual = b.op("add", b.op("mul", k, field.d(u, x, x)), b.op("mul", m, field.d(u, y, y)))
    other = field.mlp([x, y], (11, 13), out=3, name="wide")  # so that there are products to save
    rest = b.op("add", b.op("mul", k, field.d(other, x, x)), b.op("mul", m, field.d(other, y, y)))
    function = field.train(field.mean_square(residual))
    weighed = collapsed_where_cheaper(field.train(field.mean_square(residual, rest)))
    assert sum(e.op == "combination" and bool(e.attr("factors")) for e in weighed.equations) == 2
    values = values_for(function)

    def loss(change: str = "", along: np.ndarray | float = 0.0) -> float:
        v = {key: value + along if key == f"net.{change}" else value for key, value in values.items()}
        t = np.tanh(np.hstack([v["x"], v["y"]]) @ v["net.W1"] + v["net.b1"])
        curve = -2 * t * (1 - t * t)
        xx, yy = (curve * v["net.W1"][i] ** 2 @ v["net.W2"] for i in range(2))
        return float(np.mean((v["x"] * xx + np.sin(v["y"]) * yy) ** 2))

    found = run(differentiate(function), values)
    np.testing.assert_allclose(found["loss"], loss(), rtol=1e-12)
    for name in ("W1", "b1", "W2"):
        along = np.random.default_rng(1).normal(size=values[f"net.{name}"].shape)
        numeric = slope(lambda s, name=name, along=along: loss(name, s * along), 1e-2)
        np.testing.assert_allclose(np.sum(found[f"grad:net.{name}"] * along), numeric, rtol=1e-8)


@pytest.mark.parametrize("varying", [False, True])
def test_combinations_over_batches_of_two_sizes(varying):
    """Points inside and, fewer of them, on a boundary: their coordinates are independent, their combinations apart."""
    field, residuals = Field(), []
    for place, points in (("inside", 5), ("edge", 3)):
        field.points, b = points, field.b
        x, y = field.coordinate(f"x_{place}"), field.coordinate(f"y_{place}")
        u = field.mlp([x, y], (11, 13), out=3, name=place)
        bent = field.d(u, x, x)
        if varying:
            bent = b.op("mul", b.op("broadcast", b.op("exp", x), shape=u.type.shape, axes=(0, 1)), bent)
        residuals.append(b.op("add", bent, field.d(u, y, y)))
    function = field.train(field.mean_square(*residuals))
    weighed = collapsed_where_cheaper(function)
    assert sum(e.op == "combination" for e in weighed.equations) == 2
    assert [d.work.rows for d in decisions(weighed, independent(weighed)[0])] == [12, 12]
    values = values_for(function)
    expected = run(differentiate(function, plain=True), values)
    for key, value in run(differentiate(function), values).items():
        np.testing.assert_allclose(value, expected[key], rtol=1e-9, atol=1e-10)
