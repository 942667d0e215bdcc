"""Mixtures of experts as IR functions: what tests of passes and of emitted code run on."""

from __future__ import annotations

from dataclasses import dataclass

from tesserac.ir.builder import Builder
from tesserac.ir.program import Function, Initializer, Input, Output, Var
from tesserac.ir.types import DType, TensorType


@dataclass(frozen=True)
class Mixture:
    """``tokens`` rows of ``width``, ``choices`` of ``experts``, each width -> hidden -> width with gelu_tanh.

    Experts listed in ``linear`` are one matrix instead. ``capacity``: rows an expert takes. ``indices`` as data instead
    of a router: any routing can be asked for. ``deep``: other layers before and after it, and a residual around it.
    """

    tokens: int = 12
    width: int = 6
    hidden: int = 10
    experts: int = 4
    choices: int = 2
    linear: tuple[int, ...] = ()
    capacity: int | None = None
    indices: bool = False
    deep: bool = False
    gradients: bool = True
    dtype: DType = DType.F32


def mixture(case: Mixture, name: str = "moe") -> Function:
    """The training step (loss, output, gradients) of a mixture, or its forward function."""
    b = Builder()
    kind = TensorType(case.dtype, (case.tokens, case.width))
    x = b.add_input(Input(Var("x", kind), "x"))
    target = b.add_input(Input(Var("target", kind), "target")) if case.gradients else x
    layer = _Layer(b, case)
    h = x
    if case.deep:
        h = b.op("tanh", b.op("contract", x, layer.parameter("first", case.width, case.width), spec="td,de->te"))
    y = layer.mixed(h, *layer.route(h))
    if case.deep:
        last = layer.parameter("last", case.width, case.width)
        y = b.op("contract", b.op("add", y, h), last, spec="td,de->te")
    if not case.gradients:
        return b.finish(name, [Output("y", y)])
    total = b.op("reduce_sum", b.op("square", b.op("sub", y, target)), axes=(0, 1))
    loss = b.op("mul", total, b.constant(1.0 / y.type.size, total.type), named="loss")
    grads = b.ops("backward", (loss, *layer.parameters))
    named = zip(layer.parameters, grads, strict=True)
    return b.finish(name, [Output("loss", loss), *(Output(f"grad:{p.name}", g) for p, g in named)])


class _Layer:
    """A router and experts under construction."""

    def __init__(self, b: Builder, case: Mixture) -> None:
        self.b, self.case = b, case
        self.parameters: list[Var] = []

    def parameter(self, path: str, *shape: int) -> Var:
        var = Var(path, TensorType(self.case.dtype, shape))
        made = self.b.add_input(Input(var, path, Initializer("uniform", -0.7, 0.7)))
        self.parameters.append(made)
        return made

    def each(self, name: str, group: tuple[int, ...], *shape: int) -> list[Var]:
        return [self.parameter(f"experts.{e}.{name}", *shape) for e in group]

    def route(self, h: Var) -> tuple[Var, Var]:
        """Indices of the experts, and gates."""
        b, case = self.b, self.case
        if case.indices:
            kind = TensorType(DType.I32, (case.tokens, case.choices))
            indices = b.add_input(Input(Var("indices", kind), "indices", index_bound=case.experts))
            scores = self.parameter("gates", case.width, case.choices)
            values = b.op("contract", h, scores, spec="td,de->te")
        else:
            scores = b.op("contract", h, self.parameter("router", case.width, case.experts), spec="td,de->te")
            values, indices = b.ops("topk", (scores,), {"k": case.choices})
        gates = b.op("softmax", values, named="gates")
        if case.capacity is not None:
            indices = b.op("limit", indices, gates, experts=case.experts, capacity=case.capacity)
        return indices, gates

    def mixed(self, h: Var, indices: Var, gates: Var) -> Var:
        """The experts' rows, combined."""
        b, case = self.b, self.case
        order, offsets, inverse = b.ops("route", (indices,), {"experts": case.experts})
        rows = b.op("dispatch", h, order, inverse)
        ids = tuple(e for e in range(case.experts) if e not in case.linear)
        parts = [(ids, self.mlp(rows, offsets, ids))] if ids else []
        if case.linear:
            w = self.each("w", case.linear, case.width, case.width)
            part = b.op("grouped_contract", rows, offsets, *w, experts=case.linear, named="linear")
            parts.append((case.linear, part))
        ys = parts[0][1]
        if len(parts) > 1:
            first, second = (b.op("grouped_keep", part, offsets, experts=group) for group, part in parts)
            ys = b.op("add", first, second, named="ys")
        return b.op("combine", ys, order, inverse, gates, named="mixed")

    def mlp(self, rows: Var, offsets: Var, ids: tuple[int, ...]) -> Var:
        """Two products with biases and an activation between."""
        b, case = self.b, self.case
        count = rows.type.sizes[0]
        w1 = self.each("w1", ids, case.width, case.hidden)
        b1 = self.each("b1", ids, case.hidden)
        w2 = self.each("w2", ids, case.hidden, case.width)
        b2 = self.each("b2", ids, case.width)
        pre = b.op("grouped_contract", rows, offsets, *w1, experts=ids, named="pre")
        pre = b.op("add", pre, b.op("grouped_rows", offsets, *b1, experts=ids, rows=count), named="pre")
        hidden = b.op("gelu_tanh", pre, named="hidden")
        out = b.op("grouped_contract", hidden, offsets, *w2, experts=ids, named="ys")
        return b.op("add", out, b.op("grouped_rows", offsets, *b2, experts=ids, rows=count), named="ys")
