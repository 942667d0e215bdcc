"""Random fields and random residuals: whatever way is chosen, loss and gradients are those of plain Taylor mode.

Plain Taylor mode itself is compared with differences of the loss along all weights at once.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tesserac.ir.program import Function, Var
from tesserac.ir.verify import verify
from tesserac.passes.decision import collapsed_where_cheaper
from tesserac.passes.differentiate import differentiate
from tesserac.passes.simplify import simplify
from tests.passes.fields import Field, run, slope, values_for

ELEMENTWISE = ("tanh", "sin", "gelu", "sigmoid", "exp", "softplus", "square", "neg")
SEEDS = range(24)


class Draw:
    """A field drawn from a seed: a graph of layers, products, norms and gates; then a residual of its derivatives."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.field = Field(points=2)
        self.b = self.field.b
        self.wide = int(self.rng.integers(3, 6))
        vector = self.rng.random() < 0.3
        x = self.field.coordinate("x", 3 if vector else 1)
        others = [] if vector else [self.field.coordinate(n) for n in "yt"[: self.rng.integers(3)]]
        self.coordinates = [(x, i) for i in range(3)] if vector else [(c, 0) for c in (x, *others)]
        inputs = list(dict.fromkeys(c for c, _ in self.coordinates))
        joined = self.b.op("concat", *inputs, axis=1) if len(inputs) > 1 else inputs[0]
        self.values = [self.linear(joined, self.wide)]
        self.layers = 1

    def pick(self, options):
        return options[int(self.rng.integers(len(options)))]

    def linear(self, x: Var, wide: int) -> Var:
        self.layers = getattr(self, "layers", 0) + 1
        return self.field.linear(x, wide, str(self.layers))

    def grow(self) -> None:
        b, x, kind = self.b, self.pick(self.values[-3:]), self.rng.random()
        if kind < 0.45:
            y = b.op(self.pick(ELEMENTWISE[:6]), x)
        elif kind < 0.7:
            y = self.linear(b.op(self.pick(ELEMENTWISE[:4]), x), self.wide)
        elif kind < 0.85:
            y = b.op(self.pick(("mul", "add", "sub")), b.op("tanh", x), self.pick(self.values))
        elif kind < 0.93:
            y = b.op("softmax", x)
        else:
            y = b.op("div", x, b.op("add", b.op("square", x), b.constant(1.5, x.type)))
        self.values.append(y)

    def derivative(self, value: Var, order: int) -> Var:
        for _ in range(order):
            coordinate, component = self.pick(self.coordinates)
            value = self.field.d(value, coordinate, component=component)
        return value

    def residual(self) -> Function:
        b = self.b
        for _ in range(int(self.rng.integers(3, 7))):
            self.grow()
        columns = int(self.rng.integers(1, 6))
        u = self.linear(b.op("tanh", self.values[-1]), columns)
        if columns == 1 and self.rng.random() < 0.3:
            u = b.op("mul", u, b.op("sin", b.op("add", u, b.constant(0.3, u.type))))
        terms = [self.derivative(u, int(self.rng.integers(1, 4))) for _ in range(int(self.rng.integers(1, 5)))]
        total = terms[0]
        for term in terms[1:]:
            kind = self.rng.random()
            scaled = b.op("mul", term, b.constant(float(self.rng.uniform(0.2, 2.0)), term.type))
            total = b.op("add", total, scaled) if kind < 0.75 else b.op("mul", total, term) if kind < 0.85 else b.op(
                "sub", total, term)
        if self.rng.random() < 0.3:
            total = self.derivative(total, 1)
        return self.field.train(self.field.mean_square(total, terms[0]) if self.rng.random() < 0.5
                                else self.field.mean_square(total))


@pytest.mark.property
@pytest.mark.parametrize("seed", SEEDS)
def test_random_fields(seed: int):
    function = Draw(seed).residual()
    plain, chosen = differentiate(function, plain=True), differentiate(function)
    verify(chosen)
    values = {k: v * (0.5 if k.startswith("net.") else 1.0) for k, v in values_for(function, seed).items()}
    expected = run(plain, values)
    for program in (chosen, simplify(chosen)):
        found = run(program, values)
        for key, value in expected.items():
            np.testing.assert_allclose(found[key], value, rtol=1e-7, atol=1e-8 * max(1.0, np.abs(value).max()))
    moves = {i.path: np.cos(1.0 + np.arange(i.var.type.size)).reshape(i.var.type.sizes) for i in function.parameters}
    along = sum(float((expected[f"grad:{p}"] * m).sum()) for p, m in moves.items())
    steps = slope(lambda h: run(plain, values | {p: values[p] + h * m for p, m in moves.items()})["loss"], 1e-3)
    assert along == pytest.approx(float(steps), rel=1e-5, abs=1e-7)


def test_the_random_fields_take_every_way():
    ways: Counter[str] = Counter()
    for seed in SEEDS:
        function = Draw(seed).residual()
        if any(e.op == "combination" for e in collapsed_where_cheaper(function).equations):
            ways["collapsed"] += 1
        elif len(differentiate(function).equations) != len(differentiate(function, plain=True).equations):
            ways["covector"] += 1
        else:
            ways["taylor"] += 1
    assert set(ways) == {"collapsed", "covector", "taylor"}
