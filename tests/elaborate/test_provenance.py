"""A coordinate given as a string is an input of the module call that computed the value."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
import pytest

from tesserac.ir.evaluate import evaluate
from tests.elaborate.support import Result, compile_source, infer_of, train_of

NET = """
@graph.module
def net(x, y):
    u = op.sin(x) * op.exp(y)
    return u
"""


def outputs(source: str, given: dict[str, Any], **options: Any) -> dict[str, Any]:
    result = compile_source(source, **options)
    assert result.program is not None, result.text
    return evaluate(infer_of(result), given, dtype=np.float64)


def column(*values: float) -> Any:
    return np.array(values)[:, None]


X, Y = column(0.3, -1.2, 2.0), column(0.1, 0.4, -0.7)


def test_the_nearest_call_decides_and_composition_goes_through() -> None:
    source = (
        NET
        + """
@graph.module
def scaled(x: Tensor[3, 1], s: Tensor[3, 1]):
    w = net(2 * x, s)
    by_name = op.grad(w, "y")
    by_tensor = op.grad(w, x)
    return w, by_name, by_tensor

w, by_name, by_tensor = scaled(batch["a"], batch["b"])
outer = op.grad(w, "x")
key = op.grad(w * batch["a"], "a")
out = op.concat([by_name, by_tensor, outer, key], axis=1)
"""
    )
    found = outputs(source, {"a": X, "b": Y})["out"]
    wave = np.sin(2 * X) * np.exp(Y)
    slope = 2 * np.cos(2 * X) * np.exp(Y)
    np.testing.assert_allclose(found, np.concatenate([wave, slope, slope, slope * X + wave], axis=1), rtol=1e-12)


def test_inputs_of_one_call_are_independent_of_each_other() -> None:
    source = (
        NET
        + """
@graph.module
def twice(z: Tensor[3, 1]):
    same = net(z, z)
    curve = net(z, z * z)
    return op.grad(same, "x"), op.grad(same, "y"), op.grad(same, z), op.grad(curve, "x"), op.grad(curve, "z")
"""
    )
    a, b, c, d, e = outputs(source, {"z": X}).values()
    exp, sin, cos = np.exp(X), np.sin(X), np.cos(X)
    np.testing.assert_allclose(a, cos * exp, rtol=1e-12)
    np.testing.assert_allclose(b, sin * exp, rtol=1e-12)
    np.testing.assert_allclose(c, (sin + cos) * exp, rtol=1e-12)
    curve = np.exp(X * X)
    np.testing.assert_allclose(d, cos * curve, rtol=1e-12)
    np.testing.assert_allclose(e, (cos + 2 * X * sin) * curve, rtol=1e-12)


def test_functions_are_transparent_and_names_reach_through_modules() -> None:
    source = (
        NET
        + """
@graph.module
def square(w):
    return w * w

def slope(f, name):
    return op.grad(f, name)

@graph.module
def both(x: Tensor[3, 1], y: Tensor[3, 1]):
    u = net(x, y)
    shift = lambda f: f + x
    return slope(u, "x"), slope(square(u), "x"), slope(square(u), "w"), slope(shift(u), "x")
"""
    )
    a, b, c, d = outputs(source, {"x": X, "y": Y}).values()
    u, ux = np.sin(X) * np.exp(Y), np.cos(X) * np.exp(Y)
    for found, wanted in ((a, ux), (b, 2 * u * ux), (c, 2 * u), (d, ux + 1)):
        np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_batch_keys_serve_where_no_module_runs() -> None:
    source = """
    field = op.mlp(2, [4], 1, "tanh")
    u = field([batch["x"], batch["t"]])
    ut = op.grad(u, "t")
    """
    infer = infer_of(compile_source(source, shapes=(("x", "5x1"),)))
    assert [(i.path, i.var.type.sizes) for i in infer.data] == [("x", (5, 1)), ("t", (5, 1))]
    assert [o.name for o in infer.outputs] == ["ut"]


STEP = """
@graph.module
def net(x, t):
    u = op.mlp([x, t], hidden=[5], out_dim=1, activation="tanh")
    return u

@graph.training_step(module="heat")
def step(batch):
    u = net(batch["x"], batch["t"])
    residual = op.mse(op.grad(u, "t") - op.grad(op.grad(u, "x"), "x"), 0)
    ub = net(batch["xb"], batch["tb"])
    boundary = op.mse(op.grad(ub, "x"), batch["flux"])
    start = op.mse(net(batch["x0"], 0 * batch["x0"]), op.sin(batch["x0"]))
    loss = residual + 10 * boundary + start
    return loss, {"residual": residual, "boundary": boundary, "start": start}
"""


def test_residual_boundary_and_initial_points_have_sizes_of_their_own() -> None:
    result = compile_source(STEP, shapes=(("x", "12x1"), ("xb", "6x1"), ("x0", "4x1")))
    train = train_of(result)
    assert {i.path: i.var.type.sizes for i in train.data} == {
        "x": (12, 1), "t": (12, 1), "xb": (6, 1), "tb": (6, 1), "flux": (6, 1), "x0": (4, 1),
    }  # fmt: skip
    assert [o.name for o in train.outputs[:4]] == ["loss", "residual", "boundary", "start"]
    assert [o.name for o in infer_of(result).outputs] == ["u"]
    rng = np.random.default_rng(0)
    given = {i.path: rng.normal(size=i.var.type.sizes) for i in train.inputs}
    found = evaluate(train, given, dtype=np.float64)
    w1, b1, w2, b2 = (given[f"net.u.{n}"] for n in ("w1", "b1", "w2", "b2"))

    def parts(x: Any, t: Any) -> tuple[Any, ...]:
        a = np.tanh(np.concatenate([x, t], axis=1) @ w1 + b1)
        slope = 1 - a * a
        return a @ w2 + b2, (slope * w1[0]) @ w2, (slope * w1[1]) @ w2, (-2 * a * slope * w1[0] ** 2) @ w2

    _, _, ut, uxx = parts(given["x"], given["t"])
    _, flux, _, _ = parts(given["xb"], given["tb"])
    start = parts(given["x0"], 0 * given["x0"])[0] - np.sin(given["x0"])
    terms = [np.mean((ut - uxx) ** 2), np.mean((flux - given["flux"]) ** 2), np.mean(start**2)]
    np.testing.assert_allclose([found[n] for n in ("residual", "boundary", "start")], terms, rtol=1e-10)
    np.testing.assert_allclose(found["loss"], terms[0] + 10 * terms[1] + terms[2], rtol=1e-10)
    h = 1e-6
    moved = {**given, "net.u.w1": w1 + h * np.eye(2, 5)}
    slope = (evaluate(train, moved, dtype=np.float64)["loss"] - found["loss"]) / h
    np.testing.assert_allclose(np.sum(found["grad:net.u.w1"] * np.eye(2, 5)), slope, rtol=1e-3)


def test_one_flag_settles_the_shapes_of_all_coordinates_and_a_note_says_so() -> None:
    source = "@graph.module\ndef net(x, t, k):\n    return op.grad(op.mlp([x, t, k], hidden=4, out_dim=1), 't')\n"
    result = compile_source(source, shapes=(("x", "9x1"),))
    assert [i.var.type.sizes for i in infer_of(result).data] == [(9, 1)] * 3
    assert result.text.startswith("note[T0412]: the shapes of `t` and `k` are taken to be [9, 1]\n")
    other = compile_source(source, shapes=(("k", "9x2"),))
    assert [i.var.type.sizes for i in infer_of(other).data] == [(9, 1), (9, 1), (9, 2)]
    vectors = compile_source(
        "@graph.module\ndef net(x, t):\n    return op.grad(x * op.sin(t), 't')\n", shapes=(("x", "9"),)
    )
    assert [i.var.type.sizes for i in infer_of(vectors).data] == [(9,), (9,)]


def test_a_module_whose_derivatives_another_entry_takes() -> None:
    source = """
    from tessera.op import laplacian, mlp, mse

    @graph.module
    def net(x, y):
        u = mlp([x, y], hidden=4, out_dim=1)
        return u

    @graph.loss
    def fit(u):
        return mse(laplacian(u, ["x", "y"]), 1)
    """
    result = compile_source(source, shapes=(("y", "6x1"),))
    assert result.program is not None, result.text
    assert [[i.var.type.sizes for i in f.data] for f in result.program.functions()] == [[(6, 1), (6, 1)]] * 3


def test_an_input_that_is_no_coordinate_needs_its_shape() -> None:
    result = compile_source(
        """
        @graph.module
        def net(x: Tensor[4, 1]):
            return op.grad(op.sin(x), "x")

        @graph.module
        def other(z):
            return op.tanh(z) + 1
        """
    )
    assert result.codes == ["T0401"]
    assert "the shape of input `z` is not known here" in result.text


# ------------------------------------------------------------------------------------------------ refusals


def refused(source: str, **options: Any) -> str:
    result: Result = compile_source(textwrap.dedent(source), **options)
    assert result.program is None
    return result.text


def test_an_unknown_coordinate_lists_the_known_ones() -> None:
    text = refused("""
    @graph.module
    def net(x: Tensor[4, 1], time: Tensor[4, 1]):
        u = op.mlp([x, time], hidden=[8], out_dim=1)
        return u

    @graph.loss
    def heat(u):
        return op.mse(op.grad(u, "tim") - op.grad(u, "q"), 0)
    """)
    assert text == textwrap.dedent("""\
    error[T0611]: `tim` is not an input of `net`, from which `u` comes
      --> model.py:10:19
       |
    10 |     return op.mse(op.grad(u, "tim") - op.grad(u, "q"), 0)
       |                   ^^^^^^^^^^^^^^^^^
       |
       = note: the inputs of `net` are `x` and `time`
       = help: did you mean `time`?
    """)


ACROSS = """
@graph.module
def flow(x: Tensor[4, 1]):
    u = op.mlp([x], hidden=[8], out_dim=1)
    return u

@graph.module
def heat(s: Tensor[4, 1]):
    q = op.mlp([s], hidden=[8], out_dim=1)
    return q

@graph.training_step(module="both")
def step(batch):
    u, q = flow(batch["x"]), heat(batch["s"])
    return op.mse({}, 0) + op.mse(q, 0)
"""


def test_a_derivative_across_modules() -> None:
    text = refused(ACROSS.replace("{}", 'op.grad(u, "s")'))
    assert text == textwrap.dedent("""\
    error[T0612]: `s` is an input of `heat`, and `u` comes from `flow`
      --> model.py:16:19
       |
    15 |     u, q = flow(batch["x"]), heat(batch["s"])
       |                              ---------------- `heat` is called here
    16 |     return op.mse(op.grad(u, "s"), 0) + op.mse(q, 0)
       |                   ^^^^^^^^^^^^^^^
       |
       = note: the inputs of `flow` are `x`
       = help: a derivative is taken by an input that the value is computed from
    """)
    text = refused(ACROSS.replace("{}", 'op.grad(u, batch["s"])'))
    assert text == textwrap.dedent("""\
    error[T0612]: `u` is not computed from `s`
      --> model.py:16:19
       |
    15 |     u, q = flow(batch["x"]), heat(batch["s"])
       |                              ---------------- it is an input of `heat`, called here
    16 |     return op.mse(op.grad(u, batch["s"]), 0) + op.mse(q, 0)
       |                   ^^^^^^^^^^^^^^^^^^^^^^
       |
       = help: a derivative is taken by a tensor that the value is computed from
    """)


def test_an_ambiguous_name_shows_both_calls() -> None:
    text = refused(
        NET
        + """
    @graph.training_step(module="t")
    def step(batch: {"a": Tensor[4, 1], "b": Tensor[4, 1]}):
        w = op.linear(1, 1)
        near = net(batch["a"], batch["a"])
        both = w(near) + net(batch["b"], batch["a"])
        return op.mse(op.grad(both, "x"), 0)
    """.replace("\n    ", "\n")
    )
    assert text == textwrap.dedent("""\
    error[T0613]: `both` depends on 2 inputs called `x`
      --> model.py:13:19
       |
    11 |     near = net(batch["a"], batch["a"])
       |            --------------------------- `x` of `net`
    12 |     both = w(near) + net(batch["b"], batch["a"])
       |                      --------------------------- `x` of `net`
    13 |     return op.mse(op.grad(both, "x"), 0)
       |                   ^^^^^^^^^^^^^^^^^^
       |
       = help: take the derivative of each result before they are combined, or give the tensor instead of its name
    """)
    own = "\n@graph.module\ndef scaled(x: Tensor[4, 1]):\n    u = net(2 * x, x)\n    return op.grad(u, 'x')"
    text = refused(NET + own)
    assert "error[T0613]: `u` depends on 2 inputs called `x`" in text
    assert "= help: give the tensor instead of its name: op.grad(u, x)" in text


def test_a_parameter_is_no_coordinate() -> None:
    text = refused("""
    @graph.module
    def net(x: Tensor[4, 1], W: Tensor[1, 3]):
        return op.grad(x @ W, W)

    @graph.training_step(module="t")
    def step(batch):
        return op.mean(net(batch["x"]))
    """)
    assert "error[T0614]: op.grad: `net.W` is a trainable parameter, not a coordinate with a row per point" in text


def test_a_derivative_that_is_zero_is_a_warning_and_zero() -> None:
    source = """
    @graph.module
    def net(x: Tensor[4, 1], t: Tensor[4, 1]):
        u = op.sin(x)
        return u + 1 + op.grad(op.grad(u, "t"), "x")
    """
    result = compile_source(source)
    assert result.text == textwrap.dedent("""\
    warning[T0615]: `u` does not depend on `t`, so this derivative is zero
     --> model.py:6:28
      |
    6 |     return u + 1 + op.grad(op.grad(u, "t"), "x")
      |                            ^^^^^^^^^^^^^^^
    """)
    x = column(0.1, 0.2, 0.3, 0.4)
    (found,) = evaluate(infer_of(result), {"x": x, "t": x}, dtype=np.float64).values()
    np.testing.assert_allclose(found, np.sin(x) + 1)


@pytest.mark.parametrize(
    ("expression", "code", "message"),
    [
        ("op.grad(u)", "T0504", "op.grad needs the coordinates to differentiate by"),
        ("op.laplacian(u)", "T0504", "op.laplacian needs the coordinates to differentiate by"),
        ("op.grad(u, 'x', wrt='y')", "T0504", "op.grad is given its coordinates twice"),
        ("op.grad(u, axis=0)", "T0504", "as the name of an input or as a tensor, not the integer 0"),
        ("op.grad(u, 'x', order=0)", "T0504", "order must be an integer of at least 1"),
        ("op.grad(u, 'x', order=1000000)", "T0504", "derivatives are taken up to order 16"),
        ("op.laplacian(op.sum(op.tanh(q), axis=1), q)", "T0614", "`q` has 100 columns, and a coordinate"),
        ("op.grad(u, [])", "T0504", "op.grad needs the coordinates to differentiate by"),
        ("op.grad(2.0, 'x')", "T0503", "op.grad differentiates a tensor, not the number 2.0"),
        ("op.div([u, u, u], ['x', 'y'])", "T0614", "op.div: a field of 3 components and 2 coordinates"),
        ("op.curl(u, ['x'])", "T0614", "op.curl takes two or three coordinates, not 1"),
        ("op.div([u], [z])", "T0614", "op.div: `z` has 2 columns beside one component of the field"),
        ("op.grad(op.mean(u, axis=0), z)", "T0614", "a derivative is taken at every point"),
        ("op.grad(u, 2 * x)", "T0612", "`u` is not computed from"),
        ("op.div(1, 2)", "T0503", "op.div needs at least one tensor"),
        ("op.jvp(3, x)", "T0504", "op.jvp takes a function first, not the integer 3"),
        ("op.jvp(op.tanh, x, (x, y))[1]", "T0616", "op.jvp: 2 tangents for 1 inputs"),
        ("op.jvp(op.tanh, x, z)[1]", "T0403", "op.jvp: axis 1 of an input and its tangent: 1 and 2 differ"),
        ("op.vjp(op.tanh, x, u[:, 0])[1]", "T0616", "op.vjp: a cotangent f32[4] for an output f32[4,1]"),
        ("autodiff.reverse(op.tanh, x)", "T0616", "autodiff.reverse needs a function that returns a scalar"),
        ("op.grad(op.cast(u, int32), x)", "T0405", "the operand of op.grad needs floating-point elements"),
    ],
)
def test_misuse_is_explained(expression: str, code: str, message: str) -> None:
    text = refused(f"""
    @graph.module
    def net(x: Tensor[4, 1], y: Tensor[4, 1], z: Tensor[4, 2], q: Tensor[4, 100]):
        u = op.sin(x) * op.exp(y) + op.sum(z, axis=1, keepdims=True)
        return {expression}
    """)
    assert f"error[{code}]" in text, text
    assert message in text, text
