"""Random fields under random derivatives, against Cauchy's integral formula.

The n-th derivative of an analytic function is n! times a Fourier coefficient of its values on a circle around the point
(a product of circles for mixed derivatives; Lyness and Moler 1967). The reference therefore evaluates nothing but the
field itself, at complex points: no derivative rule takes part in it.
"""

from __future__ import annotations

from math import factorial
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tesserac.ir.evaluate import evaluate
from tests.elaborate.support import compile_source, infer_of

RADIUS, CIRCLE = 0.4, 24
Orders = dict[tuple[int, int], float]
"""A differential operator with constant coefficients: factors by orders in x and y."""

UNARY = ("op.sin({})", "op.tanh(0.5 * {})", "op.exp(0.5 * {})", "op.silu({})", "({}) ** 2", "op.softplus({})")
BINARY = ("({} + {})", "({} * {})", "({} - 0.5 * {})", "{} / (3 + {})")
LAYER = 'op.mlp([{}, {}], hidden=[3], out_dim=1, activation="tanh")'


def fields(depth: int) -> st.SearchStrategy[str]:
    leaves = st.sampled_from(["x", "y", "(0.4 * x + 0.2 * y)"])
    if depth == 0:
        return leaves
    inner = fields(depth - 1)
    return st.one_of(
        st.builds(lambda f, a: f.format(a), st.sampled_from(UNARY), inner),
        st.builds(lambda f, a, b: f.format(a, b), st.sampled_from((*BINARY, LAYER)), inner, inner),
        leaves,
    )


STEPS: list[tuple[str, Orders]] = [
    ('op.grad({}, "x")', {(1, 0): 1}),
    ("op.grad({}, y)", {(0, 1): 1}),
    ('op.div({}, "y")', {(0, 1): 1}),
    ('op.grad({}, "x", order=2)', {(2, 0): 1}),
    ('op.laplacian({}, ["x", y])', {(2, 0): 1, (0, 2): 1}),
    ('op.hessian({}, ["y", "x"])[0][1]', {(1, 1): 1}),
    ('op.curl({}, ["x", "y"])[1]', {(1, 0): -1}),
    ("graph.jvp({}, x, 2.0)", {(1, 0): 2}),
]


def applied(steps: list[int]) -> Orders:
    """The operator that the steps compose to."""
    total: Orders = {(0, 0): 1.0}
    for number in steps:
        product: Orders = {}
        for (i, j), a in total.items():
            for (k, m), b in STEPS[number][1].items():
                product[i + k, j + m] = product.get((i + k, j + m), 0.0) + a * b
        total = product
    return total


def cauchy(function: Any, values: dict[str, Any], x: float, y: float, orders: Orders) -> complex:
    angles = 2 * np.pi * np.arange(CIRCLE) / CIRCLE
    circle = RADIUS * np.exp(1j * angles)
    a, b = np.meshgrid(x + circle, y + circle, indexing="ij")
    u = evaluate(function, {**values, "x": a.reshape(-1, 1), "y": b.reshape(-1, 1)}, dtype=np.complex128)["u"]
    coefficients = np.fft.fft2(u.reshape(CIRCLE, CIRCLE)) / CIRCLE**2
    return sum(
        c * factorial(i) * factorial(j) * coefficients[i, j] / RADIUS ** (i + j) for (i, j), c in orders.items()
    )


@settings(max_examples=40, deadline=None)
@given(
    fields(3),
    st.lists(st.integers(0, len(STEPS) - 1), min_size=1, max_size=3),
    st.tuples(*(st.floats(-0.4, 0.4) for _ in "xy")),
    st.integers(0, 99),
)
def test_derivatives_of_random_fields(field: str, steps: list[int], point: tuple[float, float], seed: int) -> None:
    orders = applied(steps)
    if max(i + j for i, j in orders) > 4:
        steps, orders = steps[:1], applied(steps[:1])
    derivative = "u"
    for number in steps:
        derivative = STEPS[number][0].format(derivative)
    # With x * y every field depends on both coordinates, and no step is refused as a derivative that is zero.
    source = f"@graph.module\ndef net(x, y):\n    u = {field} + x * y\n"
    grid = (("x", f"{CIRCLE**2}x1"), ("y", f"{CIRCLE**2}x1"))
    plain = compile_source(source + "    return u\n", shapes=grid)
    asked = compile_source(source + f"    d = {derivative}\n    return d\n", shapes=(("x", "3x1"), ("y", "3x1")))
    assert plain.program is not None, plain.text
    assert asked.program is not None, asked.text
    function = infer_of(asked)
    rng = np.random.default_rng(seed)
    values = {i.path: rng.uniform(-0.5, 0.5, i.var.type.sizes) for i in infer_of(plain).parameters}
    x, y = (np.array([[p], [0.1], [-0.2]]) for p in point)
    found = evaluate(function, {**values, "x": x, "y": y}, dtype=np.float64)["d"][:, 0]
    for row in range(3):
        wanted = cauchy(infer_of(plain), values, float(x[row, 0]), float(y[row, 0]), orders)
        np.testing.assert_allclose(found[row], wanted.real, rtol=1e-8, atol=1e-8, err_msg=f"{field} | {derivative}")
