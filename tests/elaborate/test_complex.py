"""Complex numbers from the source: types, gradients against PyTorch's for every op, layers, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tesserac.ir.evaluate import evaluate
from tesserac.ir.program import Function
from tesserac.ir.types import DType

from .support import Result, compile_source


def program(body: str, signature: str = "z, w, r", loss: str = "op.mean(op.abs(y) ** 2) + op.mean(op.real(y))",
            data: str = '"z": Tensor[4, 3, complex64]') -> Result:
    """A step whose module returns y from data z and parameters of its own."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    text = f"""@graph.module
def net({signature}):
{lines}

@graph.training_step(module="net")
def step(batch: {{{data}}}):
    y = net(batch["z"])
    return {loss}
"""
    return compile_source(text)


def train(result: Result) -> Function:
    assert result.entry.train is not None
    return result.entry.train


def numbers(shape: tuple[int, ...], seed: int, dtype: DType) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, *shape)) * 0.8
    return x + 1j * y if dtype.is_complex else x


PARAMETERS = 'w: Tensor[4, 3, complex64], v: Tensor[3, 3, complex64], r: Tensor[4, 3]'
BODIES = [  # ours, PyTorch's
    ("z * w + 2 * w - w / 3", "z * w + 2 * w - w / 3"),
    ("(z + r) / (w * 0.3 + 2)", "(z + r) / (w * 0.3 + 2)"),
    ("(1 + 2j) * w - 3j + r * 1j", "(1 + 2j) * w - 3j + r * 1j"),
    ("w ** 2 + w ** 3 + w ** 5 + (w + 3) ** -2", "w ** 2 + w ** 3 + w ** 5 + (w + 3) ** -2"),
    ("op.conj(w) * op.real(z) + op.imag(w)", "t.conj(w) * t.real(z) + t.imag(w)"),
    ("op.complex(op.abs(w), op.angle(w + z))", "t.complex(t.abs(w), t.angle(w + z))"),
    # What T0414 suggests for functions of several values.
    ("op.complex(op.log(op.abs(w)), op.angle(w)) * z", "t.log(w) * z"),
    ("op.sqrt(op.abs(w)) * op.exp(0.5j * op.angle(w)) * z", "t.sqrt(w) * z"),
    ("op.complex(r, 0.5) * op.complex(2.0, op.imag(w))",
     "t.complex(r, t.full_like(r, 0.5)) * t.complex(t.full_like(r, 2.0), t.imag(w))"),
    ("op.exp(0.5 * w) - op.reciprocal(w + 3)", "t.exp(0.5 * w) - t.reciprocal(w + 3)"),
    ("z @ v + op.conj(w) @ op.conj(v)", "z @ v + t.conj(w) @ t.conj(v)"),
    ("r @ v - w @ op.real(v)", "r.to(v.dtype) @ v - w @ t.real(v).to(v.dtype)"),
    ("op.einsum('ab,bc,ac->ac', w, v, z)", "t.einsum('ab,bc,ac->ac', w, v, z)"),
    ("op.sum(w, axis=0) * z + op.mean(w)", "t.sum(w, 0) * z + t.mean(w)"),
    ("op.concat([w[:2], op.conj(z[2:])], axis=0).transpose(1, 0)", "t.cat([w[:2], t.conj(z[2:])], 0).T"),
    ("op.pad(w, [(0, 0), (1, 0)])[:, 1:] * w.reshape(3, 4).T.reshape(4, 3)",
     "t.nn.functional.pad(w, (1, 0))[:, 1:] * w.reshape(3, 4).T.reshape(4, 3)"),
    ("op.where(op.real(z) > 0, w, z * r)", "t.where(t.real(z) > 0, w, z * r)"),
    ("op.cumsum(w, axis=1) * op.cast(r, complex64)", "t.cumsum(w, 1) * r"),
    ("op.stop_gradient(w) * w - op.square(w)", "w.detach() * w - t.square(w)"),
    ("op.var(w, axis=1, keepdims=True) + op.norm(w, axis=1, keepdims=True) + z",
     "t.var(w, 1, correction=0, keepdim=True) + t.linalg.norm(w, dim=1, keepdim=True) + z"),
]  # fmt: skip


def check_against_torch(function: Function, expression: str, loss: str) -> None:
    torch: Any = pytest.importorskip("torch")
    values = {i.path: numbers(i.var.type.sizes, n, i.var.type.dtype) for n, i in enumerate(function.inputs)}
    leaves = {path.rpartition(".")[2]: torch.tensor(value, requires_grad=True) for path, value in values.items()}
    y = eval(expression, {"t": torch, **leaves})
    value = eval(loss, {"t": torch, "y": y, **leaves})
    value.backward()
    found = evaluate(function, values, dtype=np.float64)
    assert float(found["loss"]) == pytest.approx(value.item(), rel=1e-12)
    for item in function.parameters:
        want = leaves[item.path.rpartition(".")[2]].grad
        want = np.zeros(item.var.type.sizes) if want is None else want.resolve_conj().numpy()
        np.testing.assert_allclose(found[f"grad:{item.path}"], want, rtol=1e-11, atol=1e-12, err_msg=item.path)


@pytest.mark.parametrize(("ours", "theirs"), BODIES, ids=[b[0][:40] for b in BODIES])
def test_gradients_are_pytorchs(ours: str, theirs: str) -> None:
    result = program(f"return {ours}", f"z, {PARAMETERS}")
    assert not result.codes, result.text
    check_against_torch(train(result), theirs, "t.mean(t.abs(y) ** 2) + t.mean(t.real(y))")


@pytest.mark.parametrize("loss", ["mse", "mae"])
def test_losses_are_pytorchs(loss: str) -> None:
    result = program("return z * w", f"z, {PARAMETERS}", f"op.{loss}(y, batch['t'])",
                     '"z": Tensor[4, 3, complex64], "t": Tensor[4, 3, complex64]')  # fmt: skip
    assert not result.codes, result.text
    torch: Any = pytest.importorskip("torch")
    function = train(result)
    values = {i.path: numbers(i.var.type.sizes, n, i.var.type.dtype) for n, i in enumerate(function.inputs)}
    w = torch.tensor(values["net.w"], requires_grad=True)
    distance = torch.abs(torch.tensor(values["z"]) * w - torch.tensor(values["t"]))
    (distance**2 if loss == "mse" else distance).mean().backward()
    found = evaluate(function, values, dtype=np.float64)
    np.testing.assert_allclose(found["grad:net.w"], w.grad.numpy(), rtol=1e-12, atol=1e-14)


def test_hvp_of_a_complex_program() -> None:
    """Second derivatives, against finite differences of the gradients on real and imaginary parts."""
    result = program("return op.exp(w * z) / (2.0 + op.abs(w @ v)) + op.conj(w) ** 3", f"z, {PARAMETERS}",
                     "op.mean(op.abs(y) ** 2)")  # fmt: skip
    assert not result.codes, result.text
    function = train(result)
    values = {i.path: numbers(i.var.type.sizes, n, i.var.type.dtype) for n, i in enumerate(function.inputs)}
    along = {p: numbers(v.shape, 9, DType.C64 if np.iscomplexobj(v) else DType.F64) for p, v in values.items()
             if p.startswith("net.")}  # fmt: skip

    def at(amount: float) -> dict[str, np.ndarray]:
        return evaluate(function, {p: v + amount * along.get(p, 0.0) for p, v in values.items()}, dtype=np.float64)

    step = 1e-4
    slope = float((at(step)["loss"] - at(-step)["loss"]) / (2 * step))
    found = at(0.0)
    inner = sum(float(np.sum(np.conj(found[f"grad:{p}"]) * v).real) for p, v in along.items())
    assert inner == pytest.approx(slope, rel=1e-6)


def test_a_complex_operand_makes_a_layer_complex() -> None:
    result = program("return op.mlp(z, hidden=[5], out_dim=2, activation='relu') @ W", "z, W: Tensor[2, 2, float32]")
    function = train(result)
    found = {i.path: (i.var.type.dtype, i.init) for i in function.parameters}
    assert {path: dtype for path, (dtype, _) in found.items()} == {
        "net.mlp.w1": DType.C64, "net.mlp.b1": DType.C64, "net.mlp.w2": DType.C64, "net.mlp.b2": DType.C64,
        "net.W": DType.F32,
    }  # fmt: skip
    first = found["net.mlp.w1"][1]
    assert first is not None
    assert first.b == pytest.approx((2 * 3) ** -0.5)
    torch: Any = pytest.importorskip("torch")
    values = {i.path: numbers(i.var.type.sizes, n, i.var.type.dtype) for n, i in enumerate(function.inputs)}
    names = [*(f"net.mlp.{n}" for n in ("w1", "b1", "w2", "b2")), "net.W"]
    w1, b1, w2, b2, last = (torch.tensor(values[name]) for name in names)
    h = torch.tensor(values["z"]) @ w1 + b1
    h = torch.complex(torch.relu(h.real), torch.relu(h.imag))
    y = (h @ w2 + b2) @ last.to(h.dtype)
    loss = torch.mean(torch.abs(y) ** 2) + torch.mean(y.real)
    assert float(evaluate(function, values, dtype=np.float64)["loss"]) == pytest.approx(loss.item(), rel=1e-12)


def test_types() -> None:
    """Data of no declared type is real beside complex numbers, a parameter of no declared type is complex."""
    data = '"z": Tensor[4, 3, complex64], "d": Tensor[4, 3]'
    result = program("return (z @ W + s) @ U", "z, W: Tensor[3, 3, float32], s, U: Tensor[3, 3]",
                     "op.mean(op.abs(y * batch['d']))", data)  # fmt: skip
    kinds = {i.path: i.var.type.dtype for i in train(result).inputs}
    assert kinds == {"z": DType.C64, "d": DType.F32, "net.W": DType.F32, "net.s": DType.C64, "net.U": DType.C64}


REFUSED = [
    ("return op.relu(z)", "T0414", "relu has no meaning for complex elements", "op.complex(op.relu(op.real(x))"),
    ("return op.softmax(z)", "T0414", "softmax has no meaning for complex elements", "op.abs(x)"),
    ("return op.layernorm(z)", "T0414", "layernorm has no meaning", "op.real(x)"),
    ("return op.max(z, 0.0)", "T0414", "maximum has no meaning", "complex numbers have no order"),
    ("return op.max(z)", "T0414", "reduce_max has no meaning", "complex numbers have no order"),
    ("return op.where(z > 0, z, z)", "T0414", "gt has no meaning", "compare op.real(x), op.imag(x) or op.abs(x)"),
    ("return op.where(z == 0, z, z)", "T0414", "eq has no meaning", "op.abs(x)"),
    ("return op.sort(z)", "T0414", "sort has no meaning", "op.abs(x)"),
    ("return op.argmax(z)", "T0414", "argmax has no meaning", "op.abs(x)"),
    ("return z ** 0.5", "T0414", "pow has no meaning", "integer exponent"),
    ("return op.sqrt(z)", "T0414", "sqrt has no meaning", "op.sqrt(op.abs(x)) * op.exp(0.5j * op.angle(x))"),
    ("return op.log(z)", "T0414", "log has no meaning", "op.complex(op.log(op.abs(x)), op.angle(x))"),
    ("return op.prod(z)", "T0414", "reduce_prod has no meaning", "one by one"),
    ("return op.atan2(z, z)", "T0414", "atan2 has no meaning", "op.angle(x)"),
    ("return op.complex(z, z)", "T0414", "complex has no meaning", "op.real(x)"),
    ("return op.cast(z, float32)", "T0403", "would drop the imaginary part", "op.real(x) or op.abs(x)"),
    ("return z + op.iota(3)", "T0407", "needs a cast", "op.cast(x, float32)"),
    ("return op.iota(3) * 2j", "T0407", "i32 elements and a complex number", "op.cast(x, float32)"),
    ("return op.mse(z, op.real(z)) * z", "T0414", "op.mse of complex `z` and real", "op.real(z)"),
    ("return op.mse(op.real(z), z) * z", "T0414", "without op.real", "compare real parts"),
    ("f = op.linear(3, 3)\nreturn f(op.real(z)) * 1j + f(z)", "T0414", "is real, because its layer was applied to",
     "make a second layer"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "code", "message", "help_"), REFUSED, ids=[r[0][:40] for r in REFUSED])
def test_refused(body: str, code: str, message: str, help_: str) -> None:
    result = program(body, "z", "op.mean(op.abs(y))")
    assert result.codes == [code], result.text
    assert message in result.text
    assert help_ in result.text


@pytest.mark.parametrize("loss", ["op.mean(y)", "graph.backward(op.sum(y))"])
def test_a_complex_loss_is_refused(loss: str) -> None:
    result = program("return z * w", "z, w: Tensor[3, complex64]", loss)
    assert result.codes == ["T0307"], result.text
    assert "real floating-point" in result.text
