"""Random programs on complex numbers, and the two ways to run them: complex arithmetic of NumPy's, and planes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from hypothesis import strategies as st

import tesserac.ops  # noqa: F401
from tesserac.ir.builder import Builder
from tesserac.ir.program import Function, Initializer, Input, Output, Var
from tesserac.ir.types import DType, TensorType
from tesserac.ops.base import Array
from tesserac.passes.planar import plane_of

N = 6
KIND = TensorType(DType.C64, (N, N))


def values_for(function: Function, seed: int = 0) -> dict[str, Array]:
    """Complex (and real) numbers away from zero for every input."""
    rng = np.random.default_rng(seed)
    values: dict[str, Array] = {}
    for item in function.inputs:
        kind = item.var.type
        size = rng.uniform(0.4, 1.2, kind.sizes)
        turn = np.exp(1j * rng.uniform(-np.pi, np.pi, kind.sizes))
        values[item.path] = size * turn if kind.dtype.is_complex else size * np.sign(turn.real)
    return values


def in_planes(function: Function, values: Mapping[str, Array]) -> dict[str, Array]:
    """The same values as the inputs of the function's planar form."""
    found: dict[str, Array] = {}
    for item in function.inputs:
        value = np.asarray(values[item.path])
        if not item.var.type.dtype.is_complex:
            found[item.path] = value
        elif item.is_parameter:
            found[f"{item.path}:re"], found[f"{item.path}:im"] = value.real, value.imag
        else:
            found[item.path] = np.stack([value.real, value.imag], -1).reshape(*(value.shape or (1,)), 2)
    return found


def from_planes(function: Function, values: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs of the planar form as the function's own."""
    found: dict[str, Array] = {}
    for output in function.outputs:
        kind = output.var.type
        if not kind.dtype.is_complex:
            found[output.name] = values[output.name]
        elif output.name.startswith("grad:"):
            found[output.name] = values[f"{output.name}:re"] + 1j * values[f"{output.name}:im"]
            assert plane_of(f"{output.name}:re") == (output.name, "re")
        else:
            pairs = values[output.name]
            found[output.name] = (pairs[..., 0] + 1j * pairs[..., 1]).reshape(kind.sizes)
    return found


class Generator:
    """Grows one function on N x N complex numbers by drawn steps; values stay of moderate size."""

    def __init__(self, draw: Callable[..., object]) -> None:
        self.draw = draw
        self.b = Builder()
        self.pool: list[Var] = []

    def complex(self) -> Var:
        """One of the complex values so far."""
        return self.pool[int(self.draw(st.integers(0, len(self.pool) - 1)))]  # type: ignore[call-overload]

    def real(self) -> Var:
        """A real value made of a complex one."""
        return self.b.op(str(self.draw(st.sampled_from(["real", "imag", "magnitude"]))), self.complex())

    def as_complex(self, x: Var) -> Var:
        """A real value as a complex one."""
        return self.b.op("cast", x, dtype=DType.C64)

    def shrunk(self, x: Var) -> Var:
        """x / (1 + |x|): of moderate size whatever x is."""
        size = self.b.op("magnitude", x)
        return self.b.op("div", x, self.as_complex(self.b.op("add", size, self.b.constant(1.0, size.type))))

    def step(self) -> Var:
        """One more value."""
        b, x = self.b, self.complex()
        kind = str(self.draw(st.sampled_from([
            "arithmetic", "divide", "contract", "scale", "parts", "view", "sum", "exp", "split", "conj", "select"])))
        if kind == "arithmetic":
            return b.op(str(self.draw(st.sampled_from(["add", "sub", "mul"]))), x, self.complex())
        if kind == "divide":
            moved = b.op("add", self.shrunk(self.complex()), b.constant(2.0, KIND))
            return b.op("reciprocal", moved) if self.draw(st.booleans()) else b.op("div", x, moved)
        if kind == "contract":
            spec = str(self.draw(st.sampled_from(["ab,bc->ac", "ab,cb->ac", "ab,ac->bc", "ab,ba->ab"])))
            other = self.as_complex(self.real()) if self.draw(st.booleans()) else self.complex()
            return b.op("contract", *((x, other) if self.draw(st.booleans()) else (other, x)), spec=spec)
        if kind == "scale":
            return b.op("mul", x, self.as_complex(self.real()))
        if kind == "parts":
            return b.op("complex", self.real(), self.real())
        if kind == "view":
            turned = b.op("transpose", x, perm=(1, 0))
            half = b.op("slice", turned, starts=(0, 1), limits=(N, N), strides=(1, 2))
            return b.op("concat", half, b.op("conj", half), axis=1)
        if kind == "sum":
            total = b.op("reduce_sum", x, axes=(int(self.draw(st.integers(0, 1))),))  # type: ignore[call-overload]
            return b.op("broadcast", total, shape=(N, N), axes=(1,))
        if kind == "exp":
            return b.op("exp", self.shrunk(x))
        if kind == "split":
            return b.op("complex", *(b.op("gelu", b.op(part, x)) for part in ("real", "imag")))
        if kind == "select":
            part = b.op("real", self.pool[0])  # of an input: rounding must not decide
            mask = b.op("gt", part, b.constant(0.0, part.type))
            return b.op("select", mask, x, b.constant(0.5, KIND))
        return b.op("neg", b.op("conj", b.op("square", x)))


@st.composite
def complex_programs(draw: Callable[..., object], steps: int = 6) -> Function:
    """A function with a real loss, a complex output and the gradients of two complex parameters and a real one."""
    g = Generator(draw)
    b = g.b
    x = b.add_input(Input(Var("x", KIND), "x"))
    params = [
        b.add_input(Input(Var(name, KIND.with_dtype(dtype)), name, Initializer("uniform", -1.0, 1.0)))
        for name, dtype in (("w", DType.C64), ("v", DType.C64), ("r", DType.F32))
    ]
    g.pool = [x, params[0], params[1], g.as_complex(params[2])]
    for _ in range(steps):
        g.pool.append(g.shrunk(g.step()))
    last = g.pool[-1]
    for value in g.pool[:-1]:
        last = b.op("add", last, b.op("mul", value, b.constant(0.3, KIND)))
    loss = b.op("reduce_sum", b.op("square", b.op("magnitude", last)), axes=(0, 1))
    gradients = b.ops("backward", (loss, *params))
    outputs = [Output("loss", loss), Output("y", last)]
    outputs += [Output(f"grad:{p.name}", v) for p, v in zip(params, gradients, strict=True)]
    return b.finish("f", outputs)


def complex_net(rows: int, inner: int, columns: int, dtype: DType = DType.C64) -> Function:
    """Mean |split(x w + b)|^2 with the gradients of w and b, and the outputs."""
    b = Builder()
    x = b.add_input(Input(Var("x", TensorType(dtype, (rows, inner))), "x"))
    w, v = (
        b.add_input(Input(Var(n, TensorType(dtype, shape)), n, Initializer("uniform", -1.0, 1.0)))
        for n, shape in (("w", (inner, columns)), ("v", (columns,)))
    )
    y = b.op("contract", x, w, spec="ab,bc->ac")
    y = b.op("add", y, b.op("broadcast", v, shape=y.type.shape, axes=(1,)))
    z = b.op("complex", *(b.op("gelu", b.op(part, y)) for part in ("real", "imag")))
    size = b.op("add", *(b.op("square", b.op(part, z)) for part in ("real", "imag")))
    loss = b.op("reduce_sum", b.op("mul", size, b.constant(1.0 / size.type.size, size.type)), axes=(0, 1))
    grads = b.ops("backward", (loss, w, v))
    outputs = [Output(f"grad:{n}", g) for n, g in zip("wv", grads, strict=True)]
    return b.finish("net", [Output("loss", loss), Output("z", z), *outputs])
