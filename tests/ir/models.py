"""Hand-built functions that several tests use."""

from __future__ import annotations

from tesserac.diagnostics import Span
from tesserac.ir.builder import Builder
from tesserac.ir.program import Entry, Function, Initializer, Input, OptimizerSpec, Output, Program, Var
from tesserac.ir.types import DType, TensorType

F = DType.F32


def at(line: int) -> Span:
    return Span.point("model.py", line, 1)


def parameter(b: Builder, name: str, *shape: int) -> Var:
    """A trainable input."""
    init = Initializer("uniform", -0.1, 0.1) if len(shape) > 1 else Initializer("ones")
    return b.add_input(Input(Var(name, TensorType(F, shape)), f"net.{name}", init, decay=len(shape) > 1, span=at(2)))


def data(b: Builder, name: str, *shape: int, dtype: DType = F, bound: int = 0) -> Var:
    """An input of the caller's."""
    return b.add_input(Input(Var(name, TensorType(dtype, shape)), name, index_bound=bound,
                             ignore_index=-100 if bound else None, span=at(1)))


def perceptron() -> Function:
    """Two layers and a cross entropy; the first weight is used twice."""
    b = Builder()
    x, labels = data(b, "x", 6, 4), data(b, "labels", 6, dtype=DType.I32, bound=4)
    w, v = parameter(b, "w", 4, 4), parameter(b, "v", 4)
    with b.at(at(3)):
        h = b.op("tanh", b.op("contract", x, w, spec="bi,ij->bj", named="a"), named="h")
    with b.at(at(4)):
        g = b.op("mul", h, b.op("broadcast", v, shape=(6, 4), axes=(1,)), named="g")
    with b.at(at(5)):
        logits = b.op("contract", g, w, spec="bi,ij->bj", named="logits")
    with b.at(at(6)):
        loss = b.op("cross_entropy", logits, labels, named="loss")
    with b.at(at(7)):
        dw, dv = b.ops("backward", (loss, w, v), named="grad")
    return b.finish("net.train", [Output("loss", loss), Output("grad:net.w", dw), Output("grad:net.v", dv)])


def gpt(layers: int, width: int, heads: int, vocabulary: int, batch: int, length: int) -> Function:
    """A pre-norm GPT with learned positions and tied output."""
    b = Builder()
    tokens = data(b, "tokens", batch, length, dtype=DType.I32, bound=vocabulary)
    labels = data(b, "labels", batch, length, dtype=DType.I32, bound=vocabulary)
    table, places = parameter(b, "table", vocabulary, width), parameter(b, "places", length, width)
    wrt = [table, places]
    shape = (batch, length, width)
    h = b.op("add", b.op("take", table, tokens), b.op("broadcast", places, shape=shape, axes=(1, 2)), named="h")
    for layer in range(layers):
        def p(name: str, *sizes: int, layer: int = layer) -> Var:
            wrt.append(parameter(b, f"layer{layer}.{name}", *sizes))
            return wrt[-1]

        n = b.op("layernorm", h, p("gain1", width), p("bias1", width), named="n")
        q, k, v = (b.op("contract", n, p(name, width, width), spec="bsd,dn->bsn", named=name) for name in "qkv")
        o = b.ops("attention", (q, k, v), {"heads": heads, "kv_heads": heads, "causal": True,
                                           "scale": (width // heads) ** -0.5}, named="o")[0]
        h = b.op("add", h, b.op("contract", o, p("proj", width, width), spec="bsd,dn->bsn"), named="h")
        n = b.op("layernorm", h, p("gain2", width), p("bias2", width), named="n")
        up = b.op("gelu", b.op("contract", n, p("up", width, 4 * width), spec="bsd,dn->bsn"), named="up")
        h = b.op("add", h, b.op("contract", up, p("down", 4 * width, width), spec="bsd,dn->bsn"), named="h")
    logits = b.op("contract", h, table, spec="bsd,vd->bsv", named="logits")
    loss = b.op("cross_entropy", logits, labels, named="loss")
    grads = b.ops("backward", (loss, *wrt), named="grad")
    paths = {item.var.name: item.path for item in b.inputs}
    outputs = [Output(f"grad:{paths[v.name]}", g) for v, g in zip(wrt, grads, strict=True)]
    return b.finish("gpt.train", [Output("loss", loss), *outputs])


def unit(function: Function) -> Program:
    """A compilation unit around a training function."""
    optimizer = OptimizerSpec("adamw", (("lr", 3e-4), ("weight_decay", 0.0)))
    odd = Entry("odd label!", None, function, validate=function)
    return Program("model.py", (Entry("net", function, None, optimizer), odd))
