"""Small fields over points and independent means to differentiate them, for tests of derivatives by coordinate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from tesserac.ir.builder import Builder
from tesserac.ir.evaluate import evaluate
from tesserac.ir.program import Function, Initializer, Input, Output, Var
from tesserac.ir.types import DType, TensorType
from tesserac.ops.base import Array, spec_of


class Field:
    """A function under construction whose inputs are coordinates of points, in double precision."""

    def __init__(self, points: int = 3, dtype: DType = DType.F64) -> None:
        self.b = Builder()
        self.points = points
        self.dtype = dtype
        self.weights: list[Var] = []

    def coordinate(self, name: str, columns: int | None = 1) -> Var:
        """[points, columns], or [points] for columns None."""
        shape = (self.points,) if columns is None else (self.points, columns)
        return self.b.add_input(Input(Var(name, TensorType(self.dtype, shape)), name))

    def weight(self, name: str, *shape: int) -> Var:
        item = Input(Var(name, TensorType(self.dtype, shape)), f"net.{name}", Initializer("uniform", -0.5, 0.5))
        self.weights.append(self.b.add_input(item))
        return self.weights[-1]

    def linear(self, x: Var, wide: int, name: str) -> Var:
        """x W + b."""
        w, bias = self.weight(f"W{name}", x.type.sizes[-1], wide), self.weight(f"b{name}", wide)
        z = self.b.op("contract", x, w, spec="nk,kj->nj", named=f"q{name}")
        spread = self.b.op("broadcast", bias, shape=z.type.shape, axes=(1,), named=f"c{name}")
        return self.b.op("add", z, spread, named=f"z{name}")

    def mlp(self, inputs: Sequence[Var], hidden: Sequence[int], out: int = 1, act: str = "tanh", name: str = "") -> Var:
        """A perceptron of the joined inputs."""
        h = self.b.op("concat", *inputs, axis=1, named=f"h{name}0") if len(inputs) > 1 else inputs[0]
        for i, wide in enumerate(hidden, 1):
            h = self.b.op(act, self.linear(h, wide, f"{name}{i}"), named=f"h{name}{i}")
        return self.linear(h, out, f"{name}{len(hidden) + 1}")

    def d(self, value: Var, *along: Var, component: int = 0) -> Var:
        """Nested derivatives."""
        for coordinate in along:
            value = self.b.op("derivative", value, coordinate, component=component)
        return value

    def mean_square(self, *values: Var) -> Var:
        """The sum of the mean squares of values."""
        total = self.b.scalar(0.0, self.dtype)
        for value in values:
            square = self.b.op("square", value)
            summed = self.b.op("reduce_sum", square, axes=tuple(range(value.type.rank)))
            mean = self.b.op("mul", summed, self.b.scalar(1.0 / value.type.size, self.dtype))
            total = self.b.op("add", total, mean)
        return total

    def function(self, *outputs: Var) -> Function:
        return self.b.finish("f", [Output(f"y{i}", var) for i, var in enumerate(outputs)])

    def train(self, loss: Var) -> Function:
        """The loss and the gradients of all weights."""
        grads = self.b.ops("backward", (loss, *self.weights))
        paths = [item.path for item in self.b.inputs if item.is_parameter]
        return self.b.finish("f", [Output("loss", loss), *(Output(f"grad:{p}", g)
                                                         for p, g in zip(paths, grads, strict=True))])


def values_for(function: Function, seed: int = 0) -> dict[str, Array]:
    """Numbers for every input: points in (0.2, 1.2), weights of moderate size."""
    rng = np.random.default_rng(seed)
    return {item.path: (rng.uniform(-0.9, 0.9, item.var.type.sizes) if item.is_parameter
                        else rng.uniform(0.2, 1.2, item.var.type.sizes)) for item in function.inputs}


def run(function: Function, values: dict[str, Array]) -> dict[str, Array]:
    return evaluate(function, values, dtype=np.float64)


STEPS = (1e-2, -1e-2, 5e-3, -5e-3, 2.5e-3, -2.5e-3)
"""Where `slope` looks at a function."""


def slope(f: Callable[[float], Array], step: float = STEPS[0]) -> Array:
    """The derivative at 0 by central differences extrapolated twice: error of order step^6."""
    rough = [(f(s) - f(-s)) / (2 * s) for s in (step, step / 2, step / 4)]
    better = [(4 * b - a) / 3 for a, b in pairwise(rough)]
    return (16 * better[1] - better[0]) / 15


def products(function: Function, rows: int, k: int, j: int) -> int:
    """How many products of points by a k x j weight a program has, in whatever direction."""
    flops = spec_of("contract").flops
    assert flops is not None
    return sum(flops([v.type for v in e.operands], [v.type for v in e.results], e.attributes) == 2.0 * rows * k * j
               for e in function.equations if e.op == "contract")
