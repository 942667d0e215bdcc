"""Random functions made of what the simplifier rewrites: constants, views, pads, reductions and contractions.

Values stay free of branches on computed numbers, so that two correct evaluations agree to rounding.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st

import tesserac.ops  # noqa: F401
from tesserac.diagnostics import Span
from tesserac.ir.builder import Builder
from tesserac.ir.program import Function, Input, Output, Var
from tesserac.ir.types import DType, TensorType
from tesserac.ops.base import Array, spec_of

Draw = Callable[[st.SearchStrategy], object]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
_SPAN = Span.point("random.py", 1, 1)


def evaluate(function: Function, seed: int = 0) -> tuple[list[Array], float]:
    """The outputs on random float64 inputs (equal seeds: equal inputs), and the largest magnitude met on the way."""
    rng = np.random.default_rng(seed)
    values: dict[str, Array] = {}
    for item in function.inputs:
        shape = item.var.type.sizes
        if item.var.type.dtype.is_float:
            values[item.var.name] = rng.uniform(0.25, 1.5, shape) * rng.choice([-1.0, 1.0], shape)
        elif item.var.type.dtype is DType.BOOL:
            values[item.var.name] = rng.integers(0, 2, shape).astype(bool)
        else:
            values[item.var.name] = rng.integers(0, max(item.index_bound, 2), shape)
    largest = 1.0
    for equation in function.equations:
        arrays = [values[var.name] for var in equation.operands]
        attrs = {key: DType.F64 if value is DType.F32 else value for key, value in equation.attrs}
        for var, array in zip(equation.results, spec_of(equation.op).evaluate(arrays, attrs), strict=True):
            assert array.shape == var.type.sizes, equation
            values[var.name] = array
            if array.size and array.dtype.kind == "f" and np.isfinite(array).all():
                largest = max(largest, float(np.abs(array).max()))
    return [values[output.var.name] for output in function.outputs], largest


class Generator:
    """Grows one function by drawn steps."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.builder = Builder()
        self.pool: list[Var] = []

    def pick(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def choose(self, items):
        return items[self.pick(0, len(items) - 1)]

    def any_value(self) -> Var:
        return self.pool[-1 - self.pick(0, len(self.pool) - 1)]  # hypothesis leans to small numbers: recent values

    def like(self, var: Var) -> Var:
        """Another value of the same type: from the pool, a constant, or a repeated scalar."""
        same = [other for other in self.pool if other.type == var.type]
        kind = self.pick(0, 3)
        if kind == 0:
            return self.builder.constant(self.choose([0.0, 1.0, -1.0, 2.0, 0.5, 3.0]), var.type)
        scalars = [other for other in self.pool if other.type.rank == 0]
        if kind == 1 and scalars and var.type.rank:
            return self.builder.op("broadcast", self.choose(scalars), shape=var.type.shape, axes=())
        return self.choose(same)

    def step(self) -> Var:
        x = self.any_value()
        return getattr(self, self.choose(STEPS))(x)

    def unary(self, x: Var) -> Var:
        return self.builder.op(self.choose(["neg", "neg", "tanh", "abs", "square", "relu", "stop_gradient", "sin"]), x)

    def binary(self, x: Var) -> Var:
        pair = [x, self.like(x)]
        if self.pick(0, 1):
            pair.reverse()
        return self.builder.op(self.choose(["add", "sub", "mul", "add", "mul", "maximum"]), *pair)

    def divide(self, x: Var) -> Var:
        if self.pick(0, 1):
            return self.builder.op("div", x, self.builder.constant(self.choose([1.0, -1.0, 2.0, 3.0]), x.type))
        square = self.builder.op("square", self.like(x))
        return self.builder.op("div", x, self.builder.op("add", square, self.builder.constant(1.0, x.type)))

    def power(self, x: Var) -> Var:
        return self.builder.op("pow", x, self.builder.constant(self.choose([0.0, 1.0, 2.0, 3.0]), x.type))

    def broadcast(self, x: Var) -> Var:
        shape, axes = list(x.type.sizes), []
        result: list[int] = []
        for size in shape:
            if len(result) - len(axes) < 2 and self.pick(0, 2) == 0:
                result.append(self.pick(1, 3))
            axes.append(len(result))
            result.append(self.pick(1, 3) if size == 1 and self.pick(0, 1) else size)
        if self.pick(0, 2) == 0:
            result.append(self.pick(1, 3))
        if len(result) > 4:
            return x
        return self.builder.op("broadcast", x, shape=tuple(result), axes=tuple(axes))

    def reshape(self, x: Var) -> Var:
        shape = list(x.type.sizes)
        choice = self.pick(0, 3)
        if choice == 0 and len(shape) < 4:
            shape.insert(self.pick(0, len(shape)), 1)
        elif choice == 1:
            shape = [n for n in shape if n != 1]
        elif choice == 2 and len(shape) > 1:
            at = self.pick(0, len(shape) - 2)
            shape[at:at + 2] = [shape[at] * shape[at + 1]]
        else:
            shape = [m for n in shape for m in ((2, n // 2) if n % 2 == 0 and n > 2 else (n,))]
        return self.builder.op("reshape", x, shape=tuple(shape))

    def transpose(self, x: Var) -> Var:
        return self.builder.op("transpose", x, perm=tuple(self.draw(st.permutations(range(x.type.rank)))))

    def slice(self, x: Var) -> Var:
        starts, limits, strides = [], [], []
        for size in x.type.sizes:
            start = self.pick(0, size - 1)
            limit = self.pick(start + 1, size)
            starts.append(start)
            limits.append(limit)
            strides.append(self.choose([1, 1, 2]))
        return self.builder.op("slice", x, starts=tuple(starts), limits=tuple(limits), strides=tuple(strides))

    def split_and_join(self, x: Var) -> Var:
        """Slices along an axis, changed or not, and put back by pads and sums or by a concat."""
        if not x.type.rank:
            return x
        axis = self.pick(0, x.type.rank - 1)
        size = x.type.sizes[axis]
        cuts = sorted({0, size, self.pick(0, size), self.pick(0, size)})
        parts = []
        for begin, end in itertools.pairwise(cuts):
            bounds = [(begin, end) if i == axis else (0, n) for i, n in enumerate(x.type.sizes)]
            part = self.builder.op("slice", x, starts=tuple(b[0] for b in bounds), limits=tuple(b[1] for b in bounds),
                                   strides=(1,) * x.type.rank)
            if self.pick(0, 1):
                part = self.unary(part)
            parts.append((begin, end, part))
        if self.pick(0, 1):
            return self.builder.op("concat", *(part for _, _, part in parts), axis=axis)
        total: Var | None = None
        for begin, end, part in self.draw(st.permutations(parts)):
            low = tuple(begin if i == axis else 0 for i in range(x.type.rank))
            high = tuple(size - end if i == axis else 0 for i in range(x.type.rank))
            padded = self.builder.op("pad", part, low=low, high=high)
            total = padded if total is None else self.builder.op("add", total, padded)
        assert total is not None
        return total

    def concat(self, x: Var) -> Var:
        if not x.type.rank or x.type.size > 100:
            return x
        return self.builder.op("concat", x, self.like(x), axis=self.pick(0, x.type.rank - 1))

    def pad(self, x: Var) -> Var:
        if x.type.size > 100:
            return x
        low, high = (tuple(self.pick(0, 1) for _ in range(x.type.rank)) for _ in range(2))
        return self.builder.op("pad", x, low=low, high=high, value=self.choose([0.0, 0.0, 2.0]))

    def reduce(self, x: Var) -> Var:
        axes = tuple(axis for axis in range(x.type.rank) if self.pick(0, 1))
        return self.builder.op(self.choose(["reduce_sum", "reduce_sum", "reduce_max", "reduce_min"]), x, axes=axes)

    def select(self, x: Var) -> Var:
        source = self.choose([v for v in self.pool if v.type == x.type])
        zero = self.builder.constant(0.0, x.type)
        mask = self.builder.op("gt", self.builder.op("square", source), self.builder.op("neg", self.builder.constant(
            1.0, x.type)) if self.pick(0, 1) else zero)
        return self.builder.op("select", mask, x, self.like(x))

    def contract(self, x: Var) -> Var:
        y = self.any_value()
        first = LETTERS[:x.type.rank]
        sizes = dict(zip(first, x.type.sizes, strict=True))
        second = ""
        for size in y.type.sizes:
            shared = [c for c in first if sizes[c] == size and c not in second]
            letter = self.choose(shared) if shared and self.pick(0, 3) else LETTERS[10 + len(second)]
            sizes[letter] = size
            second += letter
        result = [c for c in dict.fromkeys(first + second) if self.pick(0, 1)]
        result = list(self.draw(st.permutations(result)))[:4]
        return self.builder.op("contract", x, y, spec=f"{first},{second}->{''.join(result)}")

    def product_of_columns(self, x: Var) -> Var:
        """A contraction written as the sum of a product of repeated values."""
        y = self.any_value()
        if not x.type.rank or x.type.rank > 2 or y.type.rank > 2 or x.type.sizes[-1] not in y.type.sizes:
            return x
        at = y.type.sizes.index(x.type.sizes[-1])
        rows, k = x.type.sizes[:-1], x.type.sizes[-1]
        columns = tuple(n for i, n in enumerate(y.type.sizes) if i != at)
        y = self.builder.op("transpose", y, perm=(at, *(i for i in range(y.type.rank) if i != at)))
        shape = (*rows, k, *columns)
        a = self.builder.op("broadcast", x, shape=shape, axes=tuple(range(len(rows) + 1)))
        b = self.builder.op("broadcast", y, shape=shape, axes=tuple(range(len(rows), len(shape))))
        return self.builder.op("reduce_sum", self.builder.op("mul", a, b), axes=(len(rows),))


STEPS = ["unary", "binary", "binary", "binary", "divide", "power", "broadcast", "broadcast", "reshape", "reshape",
         "transpose", "transpose", "slice", "split_and_join", "split_and_join", "concat", "pad", "reduce", "reduce",
         "select", "contract", "contract", "contract", "product_of_columns"]


@st.composite
def functions(draw: Draw, most: int = 14) -> Function:
    """A function of up to ``most`` drawn steps on one to three float64 inputs."""
    g = Generator(draw)
    for i in range(g.pick(1, 3)):
        shape = tuple(g.choose([2, 3, 4, 1]) for _ in range(g.choose([2, 3, 1, 0])))
        g.pool.append(g.builder.add_input(Input(Var(f"x{i}", TensorType(DType.F64, shape)), f"x{i}", span=_SPAN)))
    for _ in range(g.pick(1, most)):
        value = g.step()
        if value.type.rank <= 4 and value.type.size <= 400:
            g.pool.append(value)
    outputs = [g.pool[-1], *(g.any_value() for _ in range(g.pick(0, 2)))]
    return g.builder.finish("f", [Output(f"o{i}", var) for i, var in enumerate(outputs)])
