"""Derivatives by coordinate against differences, complex steps and closed forms, in double precision."""

from __future__ import annotations

from math import factorial

import numpy as np
import pytest

from tesserac.ir.program import Output
from tesserac.ir.verify import verify
from tesserac.passes.differentiate import differentiate
from tesserac.passes.simplify import simplify
from tests.passes.fields import Field, run, slope, values_for

SMOOTH = ("tanh", "gelu", "gelu_tanh", "silu", "softplus", "sigmoid", "sin", "cos", "exp", "erf")


@pytest.mark.parametrize("act", SMOOTH)
def test_every_order_is_the_slope_of_the_one_before(act):
    field = Field()
    x, y, t = (field.coordinate(n) for n in "xyt")
    chain = [field.mlp([x, y, t], [4, 4], act=act)]
    along = [x, y, x, t, y]
    for coordinate in along:
        chain.append(field.d(chain[-1], coordinate))
    function = differentiate(field.function(*chain))
    verify(function)
    values = values_for(function)
    found = run(function, values)
    simplified = run(simplify(function), values)
    for order, coordinate in enumerate(along):
        path = coordinate.name
        expected = slope(lambda h, p=path, n=order: run(function, values | {p: values[p] + h})[f"y{n}"])
        np.testing.assert_allclose(found[f"y{order + 1}"], expected, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(simplified[f"y{order + 1}"], expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("op", "derivative"), [
    ("exp", lambda x, n: np.exp(x)),
    ("sin", lambda x, n: np.sin(x + n * np.pi / 2)),
    ("log", lambda x, n: (-1.0) ** (n - 1) * factorial(n - 1) / x**n),
    ("reciprocal", lambda x, n: (-1.0) ** n * factorial(n) / x ** (n + 1)),
    ("sqrt", lambda x, n: np.prod([0.5 - k for k in range(n)]) * x ** (0.5 - n)),
    ("rsqrt", lambda x, n: np.prod([-0.5 - k for k in range(n)]) * x ** (-0.5 - n)),
])
def test_closed_forms_to_order_six(op, derivative):
    field = Field()
    x = field.coordinate("x")
    chain = [field.b.op(op, x)]
    for _ in range(6):
        chain.append(field.d(chain[-1], x))
    function = differentiate(field.function(*chain))
    values = values_for(function)
    found = run(function, values)
    for order in range(1, 7):
        np.testing.assert_allclose(found[f"y{order}"], derivative(values["x"], order), rtol=1e-10)


def test_polynomials_and_quotients_are_exact():
    """x^3 y / (x + y) and x^2.5 y^2, whose derivatives are written out by hand."""
    field = Field()
    b, x, y = field.b, field.coordinate("x"), field.coordinate("y")
    cube = b.op("mul", x, b.op("square", x))
    quotient = b.op("div", b.op("mul", cube, y), b.op("add", x, y))
    power = b.op("mul", b.op("pow", x, b.constant(2.5, x.type)), b.op("square", y))
    fourth = field.d(cube, x, x, x, x)
    function = differentiate(field.function(field.d(quotient, x, y), field.d(power, x, x, y), fourth))
    values = values_for(function)
    found, (p, q) = run(function, values), (values["x"], values["y"])
    s = p + q
    # d/dy (x^3 y / s) = x^4 / s^2, and d/dx of that.
    np.testing.assert_allclose(found["y0"], 4 * p**3 / s**2 - 2 * p**4 / s**3, rtol=1e-12)
    np.testing.assert_allclose(found["y1"], 2.5 * 1.5 * p**0.5 * 2 * q, rtol=1e-12)
    assert not found["y2"].any()


def test_mixed_derivatives_commute_and_are_computed_once():
    field = Field()
    x, y = field.coordinate("x"), field.coordinate("y")
    psi = field.mlp([x, y], [4, 4])
    orders = [(x, x, y), (x, y, x), (y, x, x)]
    function = simplify(differentiate(field.function(*(field.d(psi, *order) for order in orders))))
    assert len({o.var.name for o in function.outputs}) == 1
    alone = simplify(differentiate(field.b.finish("f", [Output("y", field.d(psi, x, x, y))])))
    assert len(function.equations) == len(alone.equations)


def test_derivatives_of_expressions_of_derivatives():
    """The vorticity form: d/dx (u u_x + v) with u = psi_y, v = -psi_x, against differences."""
    field = Field()
    b, x, y = field.b, field.coordinate("x"), field.coordinate("y")
    psi = field.mlp([x, y], [5, 4])
    u, v = field.d(psi, y), b.op("neg", field.d(psi, x))
    inner = b.op("add", b.op("mul", u, field.d(u, x)), b.op("exp", v))
    function = differentiate(field.function(inner, field.d(inner, x), field.d(inner, x, y)))
    verify(function)
    values = values_for(function)
    found = run(function, values)
    for order, path in enumerate("xy"):
        expected = slope(lambda h, p=path, n=order: run(function, values | {p: values[p] + h})[f"y{n}"])
        np.testing.assert_allclose(found[f"y{order + 1}"], expected, rtol=1e-9, atol=1e-10)


def test_components_of_a_vector_coordinate():
    field = Field()
    x = field.coordinate("x", 3)
    psi = field.mlp([x], [4, 4])
    pairs = [(0, 1), (1, 0), (2, 2)]
    seconds = [field.d(field.d(psi, x, component=i), x, component=j) for i, j in pairs]
    firsts = [field.d(psi, x, component=i) for i in range(3)]
    function = differentiate(field.function(*seconds, *firsts))
    values = values_for(function)
    found = run(function, values)
    np.testing.assert_allclose(found["y0"], found["y1"], rtol=0, atol=0)
    for k, (i, j) in enumerate(pairs):
        step = np.eye(3)[j]
        expected = slope(lambda h, s=step, n=3 + i: run(function, values | {"x": values["x"] + h * s})[f"y{n}"])
        np.testing.assert_allclose(found[f"y{k}"], expected, rtol=1e-9, atol=1e-11)


def test_coordinates_of_rank_one_and_values_on_the_way():
    """x of shape [N], and a derivative by a value that is itself computed."""
    field = Field()
    b, x = field.b, field.coordinate("x", None)
    scaled = b.op("mul", x, b.constant(3.0, x.type), named="s")
    y = b.op("sin", b.op("square", scaled))
    function = differentiate(field.function(field.d(y, scaled, scaled), field.d(y, x, x), field.d(y, x, scaled)))
    values = values_for(function)
    found, s = run(function, values), 3 * values["x"]
    second = 2 * np.cos(s**2) - 4 * s**2 * np.sin(s**2)
    np.testing.assert_allclose(found["y0"], second, rtol=1e-12)
    np.testing.assert_allclose(found["y1"], 9 * second, rtol=1e-12)
    np.testing.assert_allclose(found["y2"], 3 * second, rtol=1e-12)


def test_gradients_of_a_loss_of_derivatives():
    field = Field()
    b = field.b
    x, y, t = (field.coordinate(n) for n in "xyt")
    psi = field.mlp([x, y, t], [4, 4])
    u, v = field.d(psi, x), field.d(psi, y)
    momentum = b.op("add", field.d(u, t), b.op("add", b.op("mul", u, field.d(u, x)), b.op("mul", v, field.d(u, y))))
    function = differentiate(field.train(field.mean_square(momentum, b.op("add", field.d(u, x), field.d(v, y)))))
    verify(function)
    values = values_for(function)
    found = run(function, values)
    for item in function.parameters:
        along = np.cos(1.0 + np.arange(item.var.type.size)).reshape(item.var.type.sizes)
        expected = slope(lambda h, p=item.path, d=along: run(function, values | {p: values[p] + h * d})["loss"])
        assert (found[f"grad:{item.path}"] * along).sum() == pytest.approx(float(expected), rel=1e-9, abs=1e-11)


def test_hessian_vector_product_is_a_pushforward_of_a_gradient():
    field = Field()
    x, y = field.coordinate("x"), field.coordinate("y")
    psi = field.mlp([x, y], [4])
    loss = field.mean_square(field.d(psi, x, x), psi)
    gradients = field.b.ops("backward", (loss, *field.weights))
    tangents = [field.b.constant(0.3 + 0.1 * i, w.type) for i, w in enumerate(field.weights)]
    products = [field.b.op("pushforward", g, *field.weights, *tangents) for g in gradients]
    function = differentiate(field.function(*gradients, *products))
    verify(function)
    values = values_for(function)
    found = run(function, values)
    paths = [item.path for item in function.parameters]

    def stepped(h):
        moved = {p: values[p] + h * (0.3 + 0.1 * i) for i, p in enumerate(paths)}
        return run(function, values | moved)

    for i in range(len(paths)):
        expected = slope(lambda h, n=i: stepped(h)[f"y{n}"])
        np.testing.assert_allclose(found[f"y{len(paths) + i}"], expected, rtol=1e-8, atol=1e-10)


def test_pullback_is_the_transpose_of_pushforward():
    field = Field()
    x, y = field.coordinate("x"), field.coordinate("y")
    psi = field.mlp([x, y], [4], out=2)
    tx, ty, ct = field.coordinate("tx"), field.coordinate("ty"), field.coordinate("ct", 2)
    pushed = field.b.op("pushforward", psi, x, y, tx, ty)
    pulled = field.b.ops("pullback", (psi, ct, x, y))
    function = differentiate(field.function(pushed, *pulled, psi))
    verify(function)
    values = values_for(function)
    found = run(function, values)
    expected = slope(lambda h: run(function, values | {p: values[p] + h * values[f"t{p}"] for p in "xy"})["y3"])
    np.testing.assert_allclose(found["y0"], expected, rtol=1e-9, atol=1e-11)
    forward = (found["y0"] * values["ct"]).sum()
    assert forward == pytest.approx((found["y1"] * values["tx"]).sum() + (found["y2"] * values["ty"]).sum(), rel=1e-12)


def test_no_dependence_is_zero():
    field = Field()
    x, y = field.coordinate("x"), field.coordinate("y")
    u = field.b.op("sin", x)
    stopped = field.b.op("stop_gradient", u)
    function = differentiate(field.function(field.d(u, y), field.d(stopped, x), field.d(field.b.op("floor", x), x),
                                            field.b.op("pushforward", u, y, y)))
    verify(function)
    assert not any(value.any() for value in run(function, values_for(function)).values())
