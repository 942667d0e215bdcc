"""Random well-typed programs: small shapes, tame numbers, optionally a scalar loss and its gradients.

``programs()`` draws a function over the OpSpecs; ``inputs_for`` makes values for it. Every intermediate value
stays of order one: powers, divisions and logarithms only see operands that were made positive first, sums
are scaled by their length, and jumps are taken of inputs only, so that results compare between precisions.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from tesserac.diagnostics import Span
from tesserac.ir.builder import Builder
from tesserac.ir.program import Function, Initializer, Input, Output, Var
from tesserac.ir.types import DType, TensorType

Draw = Callable[[st.SearchStrategy], object]
FLOAT = DType.F32
SIZES = st.sampled_from((1, 2, 3, 4, 5, 7, 8))
UNARY = ("neg", "sin", "cos", "tanh", "erf", "gelu", "gelu_tanh", "silu", "sigmoid", "softplus", "square")
KINKED = ("abs", "relu")
ROWS = ("layernorm", "rmsnorm", "softmax", "log_softmax")


class _Maker:
    """Grows one function from a pool of values."""

    def __init__(self, draw: Draw, smooth: bool) -> None:
        self.draw = draw
        self.smooth = smooth
        self.b = Builder()
        self.pool: list[Var] = []
        self.count = 0

    def pick(self, choices) -> object:
        return self.draw(st.sampled_from(list(choices)))

    def new_input(self, shape: tuple[int, ...], trainable: bool) -> Var:
        kind = "w" if trainable else "x"
        self.count += 1
        name = f"{kind}{self.count}"
        init = Initializer("uniform", -0.5, 0.5) if trainable else None
        var = self.b.add_input(Input(Var(name, TensorType(FLOAT, shape)), f"net.{name}" if trainable else name, init))
        self.pool.append(var)
        return var

    def new_labels(self, shape: tuple[int, ...], bound: int) -> Var:
        self.count += 1
        name = f"labels{self.count}"
        return self.b.add_input(Input(Var(name, TensorType(DType.I32, shape)), name, index_bound=bound))

    def value(self, least_rank: int = 0) -> Var:
        fitting = [v for v in self.pool if v.type.rank >= least_rank]
        if not fitting:
            return self.new_input(tuple(self.draw(SIZES) for _ in range(max(least_rank, 1))), trainable=False)
        # Recent values more often, so that programs become deep.
        return fitting[-1 - min(int(self.draw(st.integers(0, 5))), len(fitting) - 1)]

    def like(self, t: TensorType) -> Var:
        fitting = [v for v in self.pool if v.type == t]
        return self.pick(fitting) if fitting else self.new_input(t.sizes, trainable=bool(self.draw(st.booleans())))

    def tamed(self, x: Var) -> Var:
        """x squeezed into [-1, 1]."""
        return self.b.op("tanh", x)

    def positive(self, x: Var) -> Var:
        """A value in about [0.5, 2.5] that depends on x."""
        return self.b.op("add", self.b.op("sigmoid", x), self.b.constant(0.7, x.type))

    def grow(self) -> None:
        rough = () if self.smooth else (self.kink, self.jump, self.choice, self.extreme, self.masked, self.order)
        step = self.pick((self.unary, self.binary, self.positive_op, self.row, self.product, self.product, self.view,
                          self.view, self.total, self.multiplied, self.lookup, self.attend, self.running, self.random,
                          *rough))
        line = len(self.b.equations) + 1
        with self.b.at(Span.point("random.py", line, 1)):
            made = step()
        self.pool.append(made)

    def unary(self) -> Var:
        y = self.b.op(str(self.pick(UNARY)), self.value())
        return self.tamed(y) if self.draw(st.booleans()) else y

    def kink(self) -> Var:
        return self.b.op(str(self.pick(KINKED)), self.value())

    def raw(self) -> Var:
        """An input. Jumps are taken of inputs only: rounding cannot move those across the jump."""
        inputs = [item.var for item in self.b.inputs if item.var.type.dtype is FLOAT and item.var.type.rank]
        return self.pick(inputs) if inputs else self.new_input((3, 4), trainable=False)

    def jump(self) -> Var:
        x = self.raw()
        kind = str(self.pick(("sign", "floor", "argmax", "lt", "ge", "ne")))
        if kind in ("sign", "floor"):
            return self.b.op(kind, x)
        if kind == "argmax":
            place = self.b.op("cast", self.b.op("argmax", x, axis=x.type.rank - 1), dtype=FLOAT)
            return self.b.op("mul", place, self.b.constant(1.0 / x.type.sizes[-1], place.type))
        return self.b.op("cast", self.b.op(kind, x, self.b.constant(0.125, x.type)), dtype=FLOAT)

    def binary(self) -> Var:
        x = self.value()
        return self.tamed(self.b.op(str(self.pick(("add", "sub", "mul"))), x, self.like(x.type)))

    def positive_op(self) -> Var:
        x = self.positive(self.value())
        name = self.pick(("exp", "log", "sqrt", "rsqrt", "reciprocal", "div", "pow"))
        if name == "exp":
            return self.b.op("exp", self.b.op("neg", x))
        return self.b.op(str(name), x, *([self.positive(self.like(x.type))] if name in ("div", "pow") else []))

    def row(self) -> Var:
        x = self.value(1)
        name = str(self.pick(ROWS))
        width = x.type.shape[-1:]
        vectors = {"layernorm": 2, "rmsnorm": 1}.get(name, 0)
        # Rows of nearly equal elements would make the norms' derivatives arbitrarily large.
        attrs = {"eps": 0.1} if vectors else {}
        return self.b.op(name, x, *(self.like(TensorType(FLOAT, width)) for _ in range(vectors)), **attrs)

    def product(self) -> Var:
        x = self.value(1)
        letters = "abcde"[: x.type.rank]
        n = int(self.draw(SIZES))
        width = x.type.sizes[-1]
        w = self.new_input((width, n), trainable=True) if self.draw(st.booleans()) else self.like(
            TensorType(FLOAT, (width, n)))
        y = self.b.op("contract", x, w, spec=f"{letters},{letters[-1]}z->{letters[:-1]}z")
        return self.tamed(y) if width > 4 else y

    def view(self) -> Var:
        x = self.value(1)
        shape, rank = x.type.sizes, x.type.rank
        kind = self.pick(("transpose", "reshape", "slice", "pad", "concat", "broadcast"))
        axis = int(self.draw(st.integers(0, rank - 1)))
        if kind == "transpose":
            return self.b.op("transpose", x, perm=tuple(self.draw(st.permutations(range(rank)))))
        if kind == "reshape":
            return self.b.op("reshape", x, shape=self.pick(((x.type.size,), (1, *shape), (*shape[:-1], 1, shape[-1]))))
        if kind == "slice":
            starts = [int(self.draw(st.integers(0, n - 1))) for n in shape]
            strides = tuple(int(self.draw(st.sampled_from((1, 1, 2)))) for _ in shape)
            return self.b.op("slice", x, starts=tuple(starts), limits=shape, strides=strides)
        if kind == "pad":
            low = tuple(int(i == axis) for i in range(rank))
            return self.b.op("pad", x, low=low, high=tuple(2 * v for v in low), value=0.25)
        if kind == "concat":
            return self.b.op("concat", x, self.like(x.type), axis=axis)
        if rank > 3 or x.type.size > 400:
            return self.b.op("neg", x)
        new = int(self.draw(SIZES))
        return self.b.op("broadcast", x, shape=(*shape[:axis], new, *shape[axis:]),
                         axes=tuple(i if i < axis else i + 1 for i in range(rank)))

    def total(self) -> Var:
        x = self.value(1)
        axes = tuple(sorted(self.draw(st.sets(st.integers(0, x.type.rank - 1), min_size=1))))
        count = math.prod(x.type.sizes[a] for a in axes)
        y = self.b.op("reduce_sum", x, axes=axes)
        return self.b.op("mul", y, self.b.constant(1.0 / count, y.type))

    def running(self) -> Var:
        x = self.value(1)
        axis = int(self.draw(st.integers(0, x.type.rank - 1)))
        return self.tamed(self.b.op("cumsum", x, axis=axis, reverse=bool(self.draw(st.booleans()))))

    def lookup(self) -> Var:
        table = self.value(1)
        shape = tuple(int(self.draw(SIZES)) for _ in range(int(self.draw(st.integers(1, 2)))))
        if table.type.rank + len(shape) > 5 or table.type.size * math.prod(shape) > 2000:
            return self.unary()
        return self.b.op("take", table, self.new_labels(shape, table.type.sizes[0]))

    def attend(self) -> Var:
        groups, repeat, width = int(self.pick((1, 2))), int(self.pick((1, 2))), int(self.pick((1, 2, 3)))
        batch, rows, extra = int(self.pick((1, 2))), int(self.draw(SIZES)), int(self.pick((0, 0, 2)))
        q = self.like(TensorType(FLOAT, (batch, rows, groups * repeat * width)))
        k, v = (self.like(TensorType(FLOAT, (batch, rows + extra, groups * width))) for _ in range(2))
        attrs = {"heads": groups * repeat, "kv_heads": groups, "causal": bool(self.draw(st.booleans())), "scale": 0.5}
        return self.b.ops("attention", (q, k, v), attrs)[0]

    def random(self) -> Var:
        x = self.value()
        kind = str(self.pick(("random_uniform", "random_normal")))
        noise = self.b.op(kind, shape=x.type.shape, dtype=FLOAT, stream=len(self.b.equations))
        return self.b.op("mul", x, noise)

    def multiplied(self) -> Var:
        x = self.value(1)
        axis = int(self.draw(st.integers(0, x.type.rank - 1)))
        return self.tamed(self.b.op("reduce_prod", self.positive(x), axes=(axis,)))

    def choice(self) -> Var:
        x = self.value()
        return self.b.op(str(self.pick(("maximum", "minimum"))), x, self.like(x.type))

    def extreme(self) -> Var:
        x = self.value(1)
        axis = int(self.draw(st.integers(0, x.type.rank - 1)))
        return self.b.op(str(self.pick(("reduce_max", "reduce_min"))), x, axes=(axis,))

    def masked(self) -> Var:
        x = self.value(1)
        y = self.like(x.type)
        axis = int(self.draw(st.integers(0, x.type.rank - 1)))
        place = self.b.op("iota", shape=x.type.shape, axis=axis, dtype=DType.I32)
        bound = self.b.constant(int(self.draw(st.integers(0, x.type.sizes[axis]))), place.type)
        mask = self.b.op(str(self.pick(("lt", "le", "gt", "ge", "eq", "ne"))), place, bound)
        if self.draw(st.booleans()):
            mask = self.b.op("logical_not", mask)
        if self.draw(st.booleans()):
            noise = self.b.op("random_uniform", shape=x.type.shape, dtype=FLOAT, stream=len(self.b.equations))
            kept = self.b.op("lt", noise, self.b.constant(0.5, noise.type))
            mask = self.b.op(str(self.pick(("logical_and", "logical_or"))), mask, kept)
        return self.b.op("select", mask, self.b.op("neg", x), y)

    def order(self) -> Var:
        x = self.value(1)
        if self.draw(st.booleans()):
            return self.b.op("sort", x)
        return self.b.ops("topk", (x,), {"k": int(self.draw(st.integers(1, x.type.sizes[-1])))})[0]

    def loss(self) -> Var:
        """A scalar over several of the latest values."""
        kind = self.pick(("hard", "soft", "squares"))
        if kind == "hard":
            logits = self.value(1)
            labels = self.new_labels(logits.type.sizes[:-1], logits.type.sizes[-1])
            ignored = int(self.draw(st.integers(-1, logits.type.sizes[-1] - 1)))
            return self.b.op("cross_entropy", logits, labels, ignore_index=ignored, named="loss")
        if kind == "soft":
            logits = self.value(1)
            weights = self.b.op("softmax", self.like(logits.type))
            return self.b.op("cross_entropy_soft", logits, weights, named="loss")
        total = self.b.scalar(0.0, FLOAT)
        for value in self.pool[-3:]:
            square = self.b.op("square", self.tamed(value))
            mean = self.b.op("reduce_sum", square, axes=tuple(range(value.type.rank))) if value.type.rank else square
            total = self.b.op("add", total, self.b.op("mul", mean, self.b.scalar(1.0 / value.type.size, FLOAT)))
        return total


@st.composite
def programs(draw: Draw, *, steps: int = 8, train: bool | None = None, smooth: bool = False) -> Function:
    """A random function of up to ``steps`` operations, in single precision.

    ``train`` True ends in a loss and a ``backward`` equation for all parameters, False in plain outputs, None in
    either; ``smooth`` leaves out ops with kinks and jumps, for comparison with finite differences.
    """
    maker = _Maker(draw, smooth)
    for _ in range(int(draw(st.integers(1, 2)))):
        shape = tuple(int(draw(SIZES)) for _ in range(int(draw(st.integers(1, 3)))))
        maker.new_input(shape, trainable=bool(draw(st.booleans())))
    for _ in range(int(draw(st.integers(min(3, steps), steps)))):
        maker.grow()
    wanted = bool(draw(st.booleans())) if train is None else train
    if not wanted:
        middle = maker.pool[len(maker.pool) // 2]
        return maker.b.finish("random.infer", [Output("y", maker.pool[-1]), Output("z", middle)])
    loss = maker.loss()
    parameters = [item for item in maker.b.inputs if item.is_parameter]
    # Rounding alone may hide a parameter (T0602), which is an error of the source, not a program to compile.
    for item in parameters:
        bridge = maker.b.op("square", maker.b.op("sin", item.var))
        total = maker.b.op("reduce_sum", bridge, axes=tuple(range(item.var.type.rank)))
        loss = maker.b.op("add", loss, maker.b.op("mul", total, maker.b.scalar(0.1 / item.var.type.size, FLOAT)))
    grads = maker.b.ops("backward", (loss, *(item.var for item in parameters)))
    outputs = [Output("loss", loss)]
    outputs += [Output(f"grad:{item.path}", grad) for item, grad in zip(parameters, grads, strict=True)]
    return maker.b.finish("random.train", outputs)


def inputs_for(function: Function, seed: int = 0) -> dict[str, NDArray[np.generic]]:
    """Values of order one for every input, integers within their bound."""
    rng = np.random.default_rng(seed)
    values: dict[str, NDArray[np.generic]] = {}
    for item in function.inputs:
        shape = item.var.type.sizes
        if item.var.type.dtype.is_integer:
            values[item.path] = rng.integers(0, max(item.index_bound, 1), shape).astype(item.var.type.dtype.numpy)
        else:
            values[item.path] = rng.uniform(-1.0, 1.0, shape).astype(np.float32)
    return values
