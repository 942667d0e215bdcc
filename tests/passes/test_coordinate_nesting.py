"""Transforms of one another in any order, and coordinates that depend on each other."""

from __future__ import annotations

import numpy as np
import pytest

from tesserac.diagnostics import CompileError
from tesserac.diagnostics_catalogue import CATALOGUE
from tesserac.driver import CompileOptions, check_source
from tesserac.elaborate import Options
from tesserac.ir.verify import verify
from tesserac.passes.differentiate import differentiate
from tests.passes.fields import Field, run, slope, values_for


def test_pushforward_along_weights_commutes_with_derivatives_by_coordinate():
    field = Field()
    b = field.b
    x, y = field.coordinate("x"), field.coordinate("y")
    psi = field.mlp([x, y], [4, 4])
    tangents = [b.constant(0.3 + 0.1 * i, w.type) for i, w in enumerate(field.weights)]
    first = field.d(b.op("pushforward", psi, *field.weights, *tangents), x, x, y)
    second = b.op("pushforward", field.d(psi, x, x, y), *field.weights, *tangents)
    function = differentiate(field.function(first, second, field.d(psi, x, x, y)))
    verify(function)
    values = values_for(function)
    found = run(function, values)
    np.testing.assert_allclose(found["y0"], found["y1"], rtol=1e-10, atol=1e-12)
    moves = {item.path: 0.3 + 0.1 * i for i, item in enumerate(function.parameters)}
    expected = slope(lambda h: run(function, values | {p: values[p] + h * m for p, m in moves.items()})["y2"])
    np.testing.assert_allclose(found["y1"], expected, rtol=1e-8, atol=1e-10)


def test_pushforward_along_a_coordinate_is_its_derivative():
    field = Field()
    b = field.b
    x, y = field.coordinate("x"), field.coordinate("y")
    psi = field.mlp([x, y], [4, 4])
    pushed = b.op("pushforward", field.d(psi, y), x, b.constant(1.0, x.type))
    again = b.op("pushforward", pushed, x, b.constant(1.0, x.type))
    function = differentiate(field.function(pushed, field.d(psi, y, x), again, field.d(psi, x, y, x)))
    found = run(function, values_for(function))
    np.testing.assert_allclose(found["y0"], found["y1"], rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(found["y2"], found["y3"], rtol=1e-11, atol=1e-13)


def test_derivatives_of_the_gradient_of_an_energy_are_forces_and_their_slopes():
    """The gradient of a sum over points by the points themselves is the derivative at every point."""
    field = Field()
    b = field.b
    x, y = field.coordinate("x"), field.coordinate("y")
    psi = field.mlp([x, y], [4, 4])
    energy = b.op("reduce_sum", psi, axes=(0, 1))
    force, other = b.ops("backward", (energy, x, y))
    outputs = (force, field.d(psi, x), field.d(force, y), field.d(other, x), field.d(psi, x, y))
    function = differentiate(field.function(*outputs))
    verify(function)
    found = run(function, values_for(function))
    np.testing.assert_allclose(found["y0"], found["y1"], rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(found["y2"], found["y4"], rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(found["y3"], found["y4"], rtol=1e-11, atol=1e-13)


def test_the_gradient_of_a_gradient_penalty():
    """backward over backward over derivatives: a step of a step."""
    field = Field()
    b = field.b
    x, y = field.coordinate("x"), field.coordinate("y")
    psi = field.mlp([x, y], [3, 3])
    inner = field.mean_square(field.d(psi, x, x), field.d(psi, y))
    gradients = b.ops("backward", (inner, *field.weights))
    outer = b.op("add", field.mean_square(*gradients), inner)
    function = differentiate(field.train(outer))
    verify(function)
    values = values_for(function)
    found = run(function, values)
    for item in function.parameters:
        along = np.cos(1.0 + np.arange(item.var.type.size)).reshape(item.var.type.sizes)
        expected = slope(lambda h, p=item.path, d=along: run(function, values | {p: values[p] + h * d})["loss"])
        assert (found[f"grad:{item.path}"] * along).sum() == pytest.approx(float(expected), rel=1e-7, abs=1e-9)


def test_coordinates_computed_from_one_another():
    """s = x^2 is asked for beside x: derivatives by s hold x fixed, those by x go through s, in the order written."""
    field = Field()
    b, x = field.b, field.coordinate("x")
    s = b.op("square", x, named="s")
    u = b.op("mul", b.op("sin", s), b.op("exp", x))
    outputs = (field.d(u, s), field.d(u, x), field.d(u, s, x), field.d(u, s, s))
    function = differentiate(field.function(*outputs))
    verify(function)
    values = values_for(function)
    found, p = run(function, values), values["x"]
    q = p**2
    np.testing.assert_allclose(found["y0"], np.cos(q) * np.exp(p), rtol=1e-12)
    np.testing.assert_allclose(found["y1"], (np.sin(q) + 2 * p * np.cos(q)) * np.exp(p), rtol=1e-12)
    np.testing.assert_allclose(found["y2"], (np.cos(q) - 2 * p * np.sin(q)) * np.exp(p), rtol=1e-12)
    np.testing.assert_allclose(found["y3"], -np.sin(q) * np.exp(p), rtol=1e-12)


def test_two_fields_and_a_field_of_a_field():
    """v(u(x), y): derivatives go through both networks; each has a covector of its own."""
    field = Field()
    b = field.b
    x, y = field.coordinate("x"), field.coordinate("y")
    u = field.mlp([x, y], [6, 6], name="u")
    v = field.mlp([u, y], [6, 6], name="v")
    w = field.mlp([field.d(v, x), y], [6], name="w")
    residual = (field.d(u, x, x), b.op("mul", field.d(v, x, x), field.d(v, y, y)), field.d(w, x), field.d(w, y, y))
    function = field.train(field.mean_square(*residual))
    values = values_for(function)
    expected = run(differentiate(function, plain=True), values)
    found = run(differentiate(function), values)
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("code", ["T0603", "T0604"])
def test_the_explained_examples_produce_their_codes(code):
    options = CompileOptions(Options(shapes=(("x", "16x1"),)))
    try:
        _, found = check_source(CATALOGUE[code].example, "model.py", options)
    except CompileError as error:
        found = error.diagnostics
    assert code in {d.code for d in found}
