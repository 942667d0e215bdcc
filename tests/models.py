"""Small models as IR that several tests of passes and code generation look at, with source lines for comments."""

from __future__ import annotations

from collections.abc import Sequence

from tesserac.diagnostics import Span
from tesserac.ir.builder import Builder
from tesserac.ir.program import Function, Initializer, Input, Output, Var
from tesserac.ir.types import DType, TensorType


class Model:
    """A function under construction: inputs, parameters, ops at numbered lines of ``model.py``."""

    def __init__(self) -> None:
        self.b = Builder()
        self.parameters: list[Var] = []

    def data(self, name: str, *shape: int) -> Var:
        return self.b.add_input(Input(Var(name, TensorType(DType.F32, shape)), name))

    def labels(self, name: str, *shape: int, bound: int) -> Var:
        return self.b.add_input(Input(Var(name, TensorType(DType.I32, shape)), name, index_bound=bound))

    def weight(self, name: str, *shape: int) -> Var:
        item = Input(Var(name, TensorType(DType.F32, shape)), f"net.{name}", Initializer("uniform", -0.5, 0.5))
        self.parameters.append(self.b.add_input(item))
        return self.parameters[-1]

    def op(self, line: int, name: str, *operands: Var, named: str | None = None, **attrs: object) -> Var:
        with self.b.at(Span.point("model.py", line, 1)):
            return self.b.op(name, *operands, named=named, **attrs)  # type: ignore[arg-type]

    def along_rows(self, line: int, vector: Var, like: Var) -> Var:
        """A vector repeated over the leading axes of ``like``."""
        shape = like.type.sizes
        return self.op(line, "broadcast", vector, shape=shape, axes=(len(shape) - 1,), named=vector.name)

    def linear(self, line: int, x: Var, w: Var, bias: Var | None, named: str) -> Var:
        y = self.op(line, "contract", x, w, spec="abk,kn->abn", named=named)
        return y if bias is None else self.op(line, "add", y, self.along_rows(line, bias, y), named=f"{named}.biased")

    def mean_square(self, line: int, y: Var) -> Var:
        """A loss."""
        square = self.op(line, "square", y)
        total = self.op(line, "reduce_sum", square, axes=tuple(range(y.type.rank)))
        return self.op(line, "mul", total, self.b.scalar(1.0 / y.type.size, DType.F32), named="loss")

    def infer(self, *outputs: Var) -> Function:
        return self.b.finish("model.infer", [Output(f"y{i}", var) for i, var in enumerate(outputs)])

    def train(self, loss: Var, also: Sequence[Output] = ()) -> Function:
        grads = self.b.ops("backward", (loss, *self.parameters))
        paths = [item.path for item in self.b.inputs if item.is_parameter]
        named = [Output(f"grad:{path}", grad) for path, grad in zip(paths, grads, strict=True)]
        return self.b.finish("model.train", [Output("loss", loss), *also, *named])


def softmax() -> Function:
    """Softmax over rows."""
    m = Model()
    return m.infer(m.op(2, "softmax", m.data("x", 16, 5, 40), named="y"))


def layernorm() -> Function:
    """A norm with its gradients."""
    m = Model()
    x, scale, shift = m.data("x", 16, 5, 40), m.weight("scale", 40), m.weight("shift", 40)
    return m.train(m.mean_square(3, m.op(2, "layernorm", x, scale, shift, eps=1e-5, named="norm")))


def bias_gelu() -> Function:
    """A product with its epilogue."""
    m = Model()
    y = m.linear(2, m.data("x", 16, 5, 24), m.weight("w", 24, 40), m.weight("b", 40), "hidden")
    return m.infer(m.op(3, "gelu", y, named="y"))


def embedding() -> Function:
    """A table looked up and its gradient scattered."""
    m = Model()
    table, tokens = m.weight("table", 50, 24), m.labels("tokens", 16, 5, bound=50)
    return m.train(m.mean_square(3, m.op(2, "tanh", m.op(2, "take", table, tokens, named="rows"), named="y")))


def transformer_block() -> Function:
    """A pre-norm block with one attention and one MLP, and all gradients."""
    m = Model()
    x = m.data("x", 16, 8, 32)
    norm = m.op(2, "layernorm", x, m.weight("n1", 32), m.weight("n1b", 32), eps=1e-5, named="norm1")
    qkv = m.linear(3, norm, m.weight("wqkv", 32, 96), None, "qkv")
    parts = [
        m.op(3, "slice", qkv, starts=(0, 0, i * 32), limits=(16, 8, i * 32 + 32), strides=(1, 1, 1), named=name)
        for i, name in enumerate("qkv")
    ]
    with m.b.at(Span.point("model.py", 4, 1)):
        attrs = {"heads": 2, "kv_heads": 2, "causal": True, "scale": 0.25}
        mixed = m.b.ops("attention", tuple(parts), attrs, named="mixed")[0]
    x = m.op(5, "add", x, m.linear(5, mixed, m.weight("wo", 32, 32), None, "project"), named="x1")
    norm = m.op(6, "layernorm", x, m.weight("n2", 32), m.weight("n2b", 32), eps=1e-5, named="norm2")
    hidden = m.op(7, "gelu", m.linear(7, norm, m.weight("w1", 32, 64), m.weight("b1", 64), "up"), named="act")
    x = m.op(8, "add", x, m.linear(8, hidden, m.weight("w2", 64, 32), m.weight("b2", 32), "down"), named="x2")
    return m.train(m.mean_square(9, x))
