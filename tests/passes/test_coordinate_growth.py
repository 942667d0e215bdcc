"""The cost of higher orders grows polynomially, and closed forms of small fields come out exactly."""

from __future__ import annotations

import time

import numpy as np
import pytest

from tesserac.ir.evaluate import evaluate
from tesserac.ir.program import Function
from tesserac.ops.base import spec_of
from tesserac.passes.differentiate import differentiate
from tesserac.passes.pipeline import optimize
from tesserac.passes.simplify import simplify
from tests.passes.fields import Field, run, values_for
from tests.passes.test_schemes import biharmonic, printed, products


def of_order(order: int, act: str, wide: int = 5) -> Function:
    field = Field()
    x = field.coordinate("x")
    return field.function(field.d(field.mlp([x], (wide, wide), act=act), *[x] * order))


def elementwise(function: Function) -> int:
    return sum(spec_of(e.op).kind == "elementwise" for e in function.equations)


@pytest.mark.parametrize("act", ["tanh", "gelu", "silu", "sin", "softplus"])
def test_one_coordinate_to_order_eight(act):
    """Rows of products grow linearly, elementwise equations quadratically: nested modes double with every order."""
    programs = {n: simplify(differentiate(of_order(n, act), plain=True)) for n in range(1, 9)}
    assert [products(p, 3, 5, 5) for p in programs.values()] == [n + 1 for n in range(1, 9)]
    even = [elementwise(programs[n]) for n in (2, 4, 6, 8)]  # squares make odd orders a little cheaper
    first, second = np.diff(even, 2)
    assert 0 < second <= 1.25 * first, even


def test_every_activation_and_direction_shares_its_slopes():
    """Three second derivatives need no more slopes of an activation than one: tanh stands once per layer."""
    field = Field()
    x, y = field.coordinate("x"), field.coordinate("y")
    psi = field.mlp([x, y], (4, 4))
    function = simplify(differentiate(field.function(*(field.d(psi, *c) for c in ((x, x), (x, y), (y, y))))))
    assert sum(e.op == "tanh" for e in function.equations) == 2


def test_closed_forms_by_computer_algebra():
    sympy = pytest.importorskip("sympy")
    field = Field(points=2)
    b = field.b
    x, y = field.coordinate("x"), field.coordinate("y")
    w1, w2 = field.weight("w1", 2, 3), field.weight("w2", 3, 1)
    joined = b.op("concat", x, y, axis=1)
    h = b.op("tanh", b.op("contract", joined, w1, spec="nk,kj->nj"))
    u = b.op("contract", b.op("mul", h, b.op("exp", h)), w2, spec="nk,kj->nj")
    orders = [(1, 0), (0, 2), (2, 1), (1, 3), (4, 0)]
    function = differentiate(field.function(*(field.d(u, *[x] * i, *[y] * j) for i, j in orders)))
    values = values_for(function)
    found = run(function, values)
    sx, sy = sympy.symbols("x y")
    hidden = [sympy.tanh(float(values["net.w1"][0, k]) * sx + float(values["net.w1"][1, k]) * sy) for k in range(3)]
    expression = sum(float(values["net.w2"][k, 0]) * t * sympy.exp(t) for k, t in enumerate(hidden))
    for number, (i, j) in enumerate(orders):
        derivative = expression.diff(sx, i) if i else expression
        derivative = derivative.diff(sy, j) if j else derivative
        exact = sympy.lambdify((sx, sy), derivative, "numpy")(values["x"], values["y"])
        np.testing.assert_allclose(found[f"y{number}"], exact, rtol=1e-10, atol=1e-12)


def test_first_derivatives_by_complex_steps():
    """At machine precision, without a difference: of the printed loss's parts at every point."""
    field = Field(points=3)
    x, y = field.coordinate("x"), field.coordinate("y")
    psi = field.mlp([x, y], (5, 4))
    third = field.d(psi, x, x, y)
    function = differentiate(field.function(third, field.d(third, y)))
    values = values_for(function)
    stepped = evaluate(function, values | {"y": values["y"] + 1e-30j}, dtype=np.complex128)["y0"].imag * 1e30
    np.testing.assert_allclose(run(function, values)["y1"], stepped, rtol=1e-12, atol=1e-14)


def test_a_deep_network_of_fourth_order_compiles_quickly():
    """Ten layers and a biharmonic loss with its gradient: the passes together take well below a second or two."""
    field = Field(points=64)
    function = field.train(biharmonic(field, (16,) * 10))
    start = time.process_time()
    program = optimize(function)
    assert time.process_time() - start < 4.0  # about 1 s alone; the machine may be busy
    assert len(program.equations) < 5000


def test_equations_grow_with_the_layers_in_proportion():
    counts = []
    for layers in (2, 4, 6):
        field = Field()
        counts.append(len(simplify(differentiate(field.train(printed(field, (6,) * layers)))).equations))
    assert counts[2] - counts[1] == pytest.approx(counts[1] - counts[0], rel=0.05)
