"""Programs whose sizes reach every form of CUDA kernel: warps and blocks per row, four elements at a time,
sums over rows in registers and through memory, tables that rows are added to, tiles with rests, heads wider than a
slice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from tesserac.ir.builder import Builder
from tesserac.ir.program import Function, Initializer, Input, Output, Var
from tesserac.ir.types import DType, TensorType
from tesserac.passes.differentiate import differentiate
from tests.passes.complex_programs import complex_net, values_for

Values = dict[str, NDArray[np.generic]]
Case = tuple[Function, Values]


class Net:
    """A builder with inputs of random values; gradients of everything trainable on request."""

    def __init__(self, seed: int, dtype: DType = DType.F32) -> None:
        self.b, self.dtype, self.rng = Builder(), dtype, np.random.default_rng(seed)
        self.values: Values = {}
        self.trainable: list[Var] = []

    def data(self, name: str, *shape: int) -> Var:
        """A data input."""
        self.values[name] = self.rng.uniform(-1, 1, shape).astype(self.dtype.numpy)
        return self.b.add_input(Input(Var(name, TensorType(self.dtype, shape)), name))

    def ids(self, name: str, bound: int, *shape: int) -> Var:
        """Row numbers or labels."""
        self.values[name] = self.rng.integers(0, bound, shape).astype(np.int32)
        return self.b.add_input(Input(Var(name, TensorType(DType.I32, shape)), name, index_bound=bound))

    def weight(self, name: str, *shape: int) -> Var:
        """A parameter."""
        self.values[name] = self.rng.uniform(-0.5, 0.5, shape).astype(self.dtype.numpy)
        var = self.b.add_input(Input(Var(name, TensorType(self.dtype, shape)), name, Initializer("zeros")))
        self.trainable.append(var)
        return var

    def mean_square(self, x: Var) -> Var:
        """A scalar loss."""
        total = self.b.op("reduce_sum", self.b.op("square", x), axes=tuple(range(x.type.rank)))
        return self.b.op("mul", total, self.b.scalar(1.0 / x.type.size, self.dtype))

    def train(self, loss: Var, extra: Sequence[Var] = ()) -> Case:
        """The loss, gradients of all parameters, and further outputs."""
        grads = self.b.ops("backward", (loss, *self.trainable))
        outputs = [Output("loss", loss), *(Output(f"extra{i}", v) for i, v in enumerate(extra))]
        outputs += [Output(f"grad:{v.name}", g) for v, g in zip(self.trainable, grads, strict=True)]
        return self.b.finish("case.train", outputs), self.values

    def infer(self, *results: Var) -> Case:
        """Plain outputs."""
        return self.b.finish("case.infer", [Output(f"y{i}", v) for i, v in enumerate(results)]), self.values


def norm(width: int, rows: int, dtype: DType = DType.F32) -> Case:
    """A layer norm between two bias additions: row sums, kept columns, sums over rows."""
    n = Net(width, dtype)
    x, gain, bias, shift = (
        n.data("x", 3, rows, width),
        n.weight("gain", width),
        n.weight("bias", width),
        n.weight("shift", width),
    )
    whole = x.type.shape
    y = n.b.op("add", x, n.b.op("broadcast", shift, shape=whole, axes=(2,)))
    z = n.b.op("layernorm", y, gain, bias, eps=1e-3)
    return n.train(n.mean_square(n.b.op("gelu", z)))


def embedding(rows: int, vocabulary: int, width: int) -> Case:
    """A table read by row number; its gradient collects rows, that of the positions sums over the batch."""
    n = Net(rows)
    ids, table, positions = (
        n.ids("ids", vocabulary, 4, rows),
        n.weight("table", vocabulary, width),
        n.weight("positions", rows, width),
    )
    labels, out = n.ids("labels", vocabulary, 4, rows), n.weight("out", width, vocabulary)
    x = n.b.op("add", n.b.op("take", table, ids), n.b.op("broadcast", positions, shape=(4, rows, width), axes=(1, 2)))
    logits = n.b.op("contract", n.b.op("rmsnorm", x, n.weight("gain", width), eps=1e-3), out, spec="abk,kn->abn")
    return n.train(n.b.op("cross_entropy", logits, labels, ignore_index=1))


def attention(
    batch: int, queries: int, keys: int, heads: int, groups: int, width: int, causal: bool, dtype: DType = DType.F32
) -> Case:
    """Attention and its gradients."""
    n = Net(queries + width, dtype)
    q, k, v = (
        n.weight("q", batch, queries, heads * width),
        n.weight("k", batch, keys, groups * width),
        n.weight("v", batch, keys, groups * width),
    )
    mix = n.data("mix", batch, queries, heads * width)
    o, lse = n.b.ops("attention", (q, k, v), {"heads": heads, "kv_heads": groups, "causal": causal, "scale": 0.7})
    return n.train(n.mean_square(n.b.op("add", n.b.op("mul", o, mix), n.b.op("tanh", o))), [lse])


def products(m: int, n_: int, k: int, activation: str) -> Case:
    """A bias and an activation behind a product; in its gradients products with a transposed operand."""
    n = Net(m)
    x, w, bias, v = n.data("x", 2, m, k), n.weight("w", k, n_), n.weight("bias", n_), n.weight("v", n_, 3)
    y = n.b.op("contract", x, w, spec="amk,kn->amn")
    y = n.b.op(activation, n.b.op("add", y, n.b.op("broadcast", bias, shape=(2, m, n_), axes=(2,))))
    return n.train(n.mean_square(n.b.op("contract", y, v, spec="amk,kn->amn")))


def batched(spec: str, left: tuple[int, ...], right: tuple[int, ...]) -> Case:
    """A product with outer loops."""
    n = Net(len(spec))
    y = n.b.op("contract", n.data("x", *left), n.data("w", *right), spec=spec)
    return n.infer(y, n.b.op("sin", y))


def epilogue(m: int, n_: int, activation: str) -> Case:
    """An epilogue that a product can take along."""
    n = Net(m)
    y = n.b.op("contract", n.data("x", m, 24), n.data("w", 24, n_), spec="mk,kn->mn")
    biased = n.b.op("add", y, n.b.op("broadcast", n.data("bias", n_), shape=(m, n_), axes=(1,)))
    return n.infer(n.b.op(activation, biased) if activation else biased)


def moved(*shape: int) -> Case:
    """Axes in another order, a sum of everything, extremes and pieces."""
    n = Net(sum(shape))
    x = n.data("x", *shape)
    order = (*range(1, len(shape)), 0)
    turned = n.b.op("transpose", x, perm=order)
    cut = n.b.op("slice", turned, starts=(1,) * len(shape), limits=turned.type.shape, strides=(2,) * len(shape))
    return n.infer(
        turned,
        n.b.op("reduce_max", x, axes=(0,)),
        n.b.op("reduce_min", x, axes=tuple(range(len(shape)))),
        n.b.op("exp", cut),
        n.b.op("reduce_sum", x, axes=(0, len(shape) - 1)),
        n.b.op("reduce_sum", x, axes=(len(shape) - 2,)),
    )


def pointwise(*shape: int) -> Case:
    """Four elements at a time where the last axis allows it; random bits by index."""
    n = Net(sum(shape))
    x, y = n.data("x", *shape), n.data("y", *shape)
    noise = n.b.op("random_normal", shape=shape, dtype=DType.F32, stream=11)
    keep = n.b.op("lt", n.b.op("random_uniform", shape=shape, dtype=DType.F32, stream=12), n.b.constant(0.5, x.type))
    place = n.b.op("cast", n.b.op("iota", shape=shape, axis=len(shape) - 1, dtype=DType.I32), dtype=DType.F32)
    mixed = n.b.op("add", n.b.op("mul", x, noise), n.b.op("mul", place, y))
    return n.infer(n.b.op("select", keep, mixed, n.b.op("relu", y)), n.b.op("cast", keep, dtype=DType.I32), keep)


def parts() -> Case:
    """Random numbers of a part of a larger tensor: where it begins is known at run time."""
    n = Net(29)
    row, column = (n.b.add_input(Input(Var(name, TensorType(DType.I32)), name)) for name in ("row", "column"))
    n.values |= {"row": np.array(2, np.int32), "column": np.array(5, np.int32)}
    x = n.data("x", 4, 6, 7)
    where = {"dtype": DType.F32, "whole": (8, 6, 15), "dims": (0, 2)}
    (noise,) = n.b.ops("random_normal_part", (row, column), {"shape": x.type.shape, "stream": 11, **where})
    (chance,) = n.b.ops("random_uniform_part", (row, column), {"shape": x.type.shape, "stream": 12, **where})
    rows = {"shape": (4, 1), "dtype": DType.F32, "stream": 13, "whole": (8, 3), "dims": (1,)}
    (thin,) = n.b.ops("random_uniform_part", (n.b.scalar(2, DType.I32),), rows)
    return n.infer(n.b.op("mul", n.b.op("exp", x), noise), chance, thin)


def late_queries(width: int = 6) -> Case:
    """Attention of queries that are a part of more, beginning where a number says; some keys are seen by none."""
    n = Net(31)
    first = n.b.add_input(Input(Var("first", TensorType(DType.I32)), "first"))
    n.values["first"] = np.array(35, np.int32)
    q, k, v = n.weight("q", 2, 40, 2 * width), n.weight("k", 2, 160, width), n.weight("v", 2, 160, width)
    attrs = {"heads": 2, "kv_heads": 1, "causal": True, "scale": 0.7}
    out, _ = n.b.ops("attention", (q, k, v, first), attrs)
    return n.train(n.mean_square(n.b.op("mul", out, n.data("x", 2, 40, 2 * width))))


def lines() -> Case:
    """Functions along an axis."""
    n = Net(5)
    x = n.data("x", 3, 40, 5)
    top, places = n.b.ops("topk", (x,), {"k": 2})
    return n.infer(
        n.b.op("cumsum", x, axis=1, reverse=True), n.b.op("sort", x), top, places, n.b.op("argmax", x, axis=1)
    )


def hostile() -> Case:
    """Names of the source that emitted code uses itself, or that mean something to C++ or CUDA."""
    n = Net(3)
    words = (
        "exp",
        "c",
        "row",
        "threadIdx",
        "block_sum",
        "tsr_gelu",
        "lane",
        "float4",
        "__global__",
        "w",
        "g",
        "stream",
        "at",
        "*/",
        "\\",
        "α",
        "Parameters",
    )
    weights = [n.weight(word, 6) for word in words]
    total = n.data("kTrain", 5, 6)
    for word, weight in zip(words, weights, strict=True):
        total = n.b.op("add", total, n.b.op("broadcast", weight, shape=(5, 6), axes=(1,)), named=word)
    return n.train(n.mean_square(n.b.op("softmax", n.b.op("gelu", total, named="terms"), named="out")))


def complex_numbers(rows: int, inner: int, columns: int) -> Case:
    """A layer on complex numbers with its gradients: planes of parameters, interleaved arrays."""
    function = differentiate(complex_net(rows, inner, columns))
    return function, values_for(function)


CASES: dict[str, Callable[[], Case]] = {
    "complex": lambda: complex_numbers(6, 7, 5),
    "complex_three_products": lambda: complex_numbers(40, 264, 256),
    "norm_short": lambda: norm(6, 9),
    "norm_warp": lambda: norm(72, 40),
    "norm_warp_whole": lambda: norm(128, 33),
    "norm_block": lambda: norm(600, 5),
    "norm_long": lambda: norm(5000, 2),
    "norm_double": lambda: norm(96, 12, DType.F64),
    "embedding": lambda: embedding(50, 19, 24),
    "embedding_wide": lambda: embedding(9, 300, 136),
    "attention": lambda: attention(2, 40, 40, 4, 4, 8, True),
    "attention_groups": lambda: attention(2, 33, 70, 4, 2, 40, True),
    "attention_full": lambda: attention(1, 65, 20, 2, 1, 5, False),
    "attention_wide": lambda: attention(1, 34, 36, 1, 1, 200, True),
    "attention_double": lambda: attention(1, 35, 35, 2, 2, 40, True, DType.F64),
    "products": lambda: products(70, 66, 35, "gelu"),
    "products_small": lambda: products(3, 1, 5, "silu"),
    "batched": lambda: batched("abmk,abkn->abmn", (2, 3, 20, 7), (2, 3, 7, 9)),
    "batched_swap": lambda: batched("ambk,abkn->abmn", (2, 20, 3, 7), (2, 3, 7, 9)),
    "batched_out": lambda: batched("abmk,abkn->ambn", (2, 3, 20, 7), (2, 3, 7, 9)),
    "rows_of_b": lambda: batched("mk,nk->mn", (20, 33), (40, 33)),
    "bias": lambda: epilogue(70, 80, ""),
    "bias_relu": lambda: epilogue(5, 80, "relu"),
    "bias_gelu": lambda: epilogue(70, 9, "gelu_tanh"),
    "moved": lambda: moved(37, 45),
    "moved_deep": lambda: moved(3, 34, 5, 40),
    "moved_long": lambda: moved(3, 700, 9),
    "pointwise_four": lambda: pointwise(3, 5, 264),
    "pointwise_one": lambda: pointwise(7, 11),
    "parts": parts,
    "late_queries": late_queries,
    "lines": lines,
    "hostile": hostile,
}
