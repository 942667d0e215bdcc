"""Functions with a derivative rule of the source's own."""

from __future__ import annotations

import textwrap

import numpy as np
import pytest

from tesserac.diagnostics import CompileError
from tesserac.diagnostics_catalogue import CATALOGUE
from tesserac.driver import check_source
from tesserac.ir.evaluate import evaluate
from tests.elaborate.support import compile_source, infer_of, train_of

RELU = """
@autodiff.custom_grad
def leaky(x):
    return op.maximum(x, 0.0)

@leaky.grad
def leaky_rule(x, upstream):
    return upstream * op.where(x > 0, 1.0, 0.1)
"""


def test_reverse_mode_uses_the_rule() -> None:
    source = (
        RELU
        + """
@graph.module
def net(x: Tensor[6, 3], W: Tensor[3, 2]):
    return leaky(leaky(x @ W) * 2)

@graph.training_step(module="t")
def step(batch):
    return op.sum(net(batch["x"]))
"""
    )
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(6, 3)), rng.normal(size=(3, 2))
    found = evaluate(train_of(compile_source(source)), {"x": x, "net.W": w}, dtype=np.float64)
    h = x @ w
    slope = np.where(h > 0, 1.0, 0.1)
    outer = np.where(2 * np.maximum(h, 0) > 0, 1.0, 0.1)
    np.testing.assert_allclose(found["loss"], 2 * np.maximum(h, 0).sum())
    np.testing.assert_allclose(found["grad:net.W"], x.T @ (2 * outer * slope), rtol=1e-12)


def test_several_inputs_second_derivatives_and_the_functional_form() -> None:
    """f = x*y with the rule (ct*y + x*x, 3*ct*x): the rule itself is differentiated by the second reverse sweep."""
    source = """
    scaled = autodiff.custom_grad(lambda x, y, s: x * y * s, lambda x, y, s, up: (up * y * x, 3 * up * x))

    @graph.module
    def net(x: Tensor[4], y: Tensor[4]):
        f = lambda a, b: op.sum(scaled(a, b, 2.0))
        gx, gy = autodiff.reverse(f, inputs=(x, y))
        gxx, gxy = autodiff.reverse(lambda a, b: op.sum(op.sin(autodiff.reverse(f, (a, b))[0])), inputs=(x, y))
        return op.sum(scaled(x, y, 2.0)), gx, gy, gxx, gxy
    """
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=4), rng.normal(size=4)
    value, gx, gy, gxx, gxy = evaluate(infer_of(compile_source(source)), {"x": x, "y": y}, dtype=np.float64).values()
    np.testing.assert_allclose(value, 2 * np.sum(x * y))
    np.testing.assert_allclose(gx, y * x)
    np.testing.assert_allclose(gy, 3 * x)
    np.testing.assert_allclose(gxx, np.cos(x * y) * y)
    np.testing.assert_allclose(gxy, np.cos(x * y) * x)


def test_the_gradient_of_a_residual_beside_a_custom_function() -> None:
    """A custom function of values that derivatives by coordinates made, as a clipped residual would be."""
    source = (
        RELU
        + """
@graph.module
def net(x: Tensor[5, 1]):
    u = op.mlp([x], hidden=[4], out_dim=1, activation="tanh")
    return u

@graph.loss
def residual(u):
    return op.mean(leaky(op.grad(u, "x")))
"""
    )
    train = train_of(compile_source(source, entry="residual"))
    rng = np.random.default_rng(2)
    given = {i.path: rng.normal(size=i.var.type.sizes) for i in train.inputs}
    found = evaluate(train, given, dtype=np.float64)
    w1, b1, w2 = (given[f"net.u.{n}"] for n in ("w1", "b1", "w2"))
    slopes = (1 - np.tanh(given["x"] @ w1 + b1) ** 2) * w1[0]
    kept = np.where(slopes @ w2 > 0, 1.0, 0.1) / 5
    np.testing.assert_allclose(found["grad:net.u.w2"], slopes.T @ kept, rtol=1e-12)


BENT = """
@autodiff.custom_grad
def bent(x):
    return op.tanh(x)

@bent.grad
def bent_rule(x, upstream):
    return 1.5 * upstream * (1 - op.tanh(x)**2)
"""
"""The rule says half as much again as the true derivative, so that a result shows which of the two was taken."""


def _bent_field(given: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    """u, u_x, u_xx, u_xy of tanh([x, y] W) V by the rule, which replaces the first derivative of every value."""
    w, v = given["net.W"], given["net.V"]
    t = np.tanh(np.concatenate([given["x"], given["y"]], axis=1) @ w)
    slope, curve = 1.5 * (1 - t * t), 1.5 * -2 * t * (1 - t * t)
    return t @ v, slope * w[0] @ v, curve * w[0] ** 2 @ v, curve * w[0] * w[1] @ v


def test_derivatives_by_coordinates_through_a_rule_and_their_gradient() -> None:
    source = (
        BENT
        + """
@graph.module
def net(x: Tensor[5, 1], y: Tensor[5, 1], W: Tensor[2, 4], V: Tensor[4, 1]):
    u = bent(op.concat([x, y], axis=-1) @ W) @ V
    return u, op.grad(u, "x"), op.laplacian(u, ["x"]), op.grad(op.grad(u, "x"), "y")

@graph.training_step(module="t")
def step(batch):
    u, ux, uxx, uxy = net(batch["x"], batch["y"])
    return graph.backward(op.mean(ux * uxx + u * uxy))
"""
    )
    compiled = compile_source(source)
    infer, train = infer_of(compiled), train_of(compiled)
    rng = np.random.default_rng(3)
    given = {i.path: rng.normal(size=i.var.type.sizes) for i in infer.inputs}
    for found, expected in zip(evaluate(infer, given, dtype=np.float64).values(), _bent_field(given), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)

    def loss(v: np.ndarray) -> float:
        u, ux, uxx, uxy = _bent_field({**given, "net.V": v})
        return float(np.mean(ux * uxx + u * uxy))

    # The loss is quadratic in V, and V lies behind no rule: central differences are exact up to rounding.
    numeric = [(loss(given["net.V"] + d) - loss(given["net.V"] - d)) / 2 for d in np.eye(4)[:, :, None]]
    found = evaluate(train, given, dtype=np.float64)
    np.testing.assert_allclose(found["loss"], loss(given["net.V"]), rtol=1e-12)
    np.testing.assert_allclose(found["grad:net.V"].ravel(), numeric, rtol=1e-10)


def test_forward_mode_transposes_what_rules_are_made_of() -> None:
    """Sums, columns, masks, quotients and products with a matrix between the cotangent and what a rule returns."""
    source = """
    def gate_rule(x, y, w, up):
        half = op.where(x > 0, up, 0.0) / (1 + y**2)
        return half @ op.transpose(w), op.sum(-up * y, axis=-1, keepdims=True), None

    gate = autodiff.custom_grad(lambda x, y, w: (x + y) @ w, gate_rule)
    through = autodiff.custom_grad(lambda x: op.floor(x), lambda x, up: up)

    @graph.module
    def net(x: Tensor[4, 3], y: Tensor[4, 1], dx: Tensor[4, 3], dy: Tensor[4, 1], w: Tensor[3, 3]):
        z, dz = op.jvp(lambda a, b: gate(a, b, w), (x, y), (dx, dy))
        return z, dz, op.jvp(through, x, dx)[1]
    """
    infer = infer_of(compile_source(source))
    rng = np.random.default_rng(4)
    given = {i.path: rng.normal(size=i.var.type.sizes) for i in infer.inputs}
    x, y, dx, dy, w = (given[n] for n in ("x", "y", "dx", "dy", "net.w"))
    z, dz, straight = evaluate(infer, given, dtype=np.float64).values()
    np.testing.assert_allclose(z, (x + y) @ w)
    np.testing.assert_allclose(dz, np.where(x > 0, dx @ w / (1 + y**2), 0.0) - dy * y, rtol=1e-12)
    np.testing.assert_allclose(straight, dx)


@pytest.mark.parametrize(
    ("rule", "op"),
    [
        ("op.clip(up, -1.0, 1.0)", "minimum"),
        ("up * up * x", "mul"),
        ("x * up + 1.0", "add"),
        ("op.where(x > 0, up, 1.0)", "select"),
        ("x / up", "div"),
    ],
)
def test_a_rule_that_is_not_linear_says_nothing_about_forward_mode(rule: str, op: str) -> None:
    source = "from tessera import op, graph, autodiff\n" + "f = autodiff.custom_grad(lambda x: op.tanh(x), "
    source += f"lambda x, up: {rule})\n"
    for use in ('op.grad(f(x), "x")', "op.jvp(f, x, x)[1]"):
        with pytest.raises(CompileError) as caught:
            check_source(source + f"\n@graph.module\ndef net(x: Tensor[4, 1]):\n    return {use}\n", "m.py")
        (error,) = [d for d in caught.value.diagnostics if d.severity == "error"]
        assert error.code == "T0601"
        assert error.span is not None
        assert error.span.line == 2
        assert error.message == (
            "forward mode, which derivatives by coordinates take, does not follow from this derivative rule: "
            f"`{op}` is not linear in the cotangent"
        )


def test_the_example_of_the_explanation_is_refused_with_its_code() -> None:
    with pytest.raises(CompileError) as caught:
        check_source(CATALOGUE["T0601"].example, "m.py")
    assert [d.code for d in caught.value.diagnostics if d.severity == "error"] == ["T0601"]


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        ("", "`f` has no derivative rule yet"),
        ("@f.grad\ndef rule(x, up):\n    return up, up\n", "the rule of `f` returns 2 cotangents for 1 inputs"),
        ("@f.grad\ndef rule(x, up):\n    return op.sum(up)\n", "the rule of `f` returns f32[] for an input f32[4,1]"),
        ("@f.grad\ndef rule(x):\n    return x\n", "`rule` takes at most 1 arguments, and 2 are given"),
    ],
)
def test_a_wrong_rule_is_explained(definition: str, message: str) -> None:
    source = "@autodiff.custom_grad\ndef f(x):\n    return op.tanh(x)\n\n" + definition
    result = compile_source(source + "\n@graph.module\ndef net(x: Tensor[4, 1]):\n    return f(x)\n")
    assert message in result.text
    assert result.program is None


def test_parameters_inside_are_refused() -> None:
    result = compile_source(
        textwrap.dedent("""
        layer = op.linear(1, 1)

        @autodiff.custom_grad
        def f(x):
            return layer(x)

        @f.grad
        def rule(x, up):
            return up

        @graph.module
        def net(x: Tensor[4, 1]):
            return f(x)
        """)
    )
    assert result.codes == ["T0618"]
    assert "`f` uses `net.layer.weight` and `net.layer.bias`, of which its derivative rule knows nothing" in result.text
