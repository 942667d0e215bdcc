"""@graph.loss: which module it belongs to, its parameters and results; the entries of the chapter's listing."""

from __future__ import annotations

import textwrap

import numpy as np
import pytest

from tesserac.ir.evaluate import evaluate
from tests.elaborate.support import EXAMPLES, compile_source, infer_of, paths, train_of

LISTING2 = (EXAMPLES / "chapter6" / "listing2.py").read_text()
FLAG = (("x", "5x1"),)
NET = """
@graph.module
def net(x: Tensor[5, 1], y: Tensor[5, 1]):
    u = op.mlp([x, y], hidden=[4], out_dim=1, activation="tanh")
    v = u * x
    return u, v
"""
OPEN = NET.replace(": Tensor[5, 1]", "")


# ------------------------------------------------------------------------------------------------ the listing


def test_the_printed_listing_has_the_fields_and_the_loss() -> None:
    result = compile_source(LISTING2, header=False, shapes=(("x", "6x1"),), set_literals=((256, 8),))
    assert result.program is not None, result.text
    fields, loss = result.program.entries
    assert (fields.label, loss.label) == ("ns_pinn", "ns_loss")
    assert fields.train is None
    assert loss.train is not None
    for function in (fields.infer, loss.infer):
        assert function is not None
        assert [o.name for o in function.outputs] == ["u", "v", "p"]
    assert [(i.path, i.var.type.sizes) for i in loss.train.data] == [("x", (6, 1)), ("y", (6, 1)), ("t", (6, 1))]
    assert paths(loss.train) == [f"ns_pinn.psi.{n}" for n in ("w1", "b1", "w2", "b2", "w3", "b3")]
    assert loss.train.parameters[2].var.type.sizes == (8, 8)


def test_the_printed_loss_is_what_it_says() -> None:
    """Against the loss formed from central differences of psi in double precision."""
    result = compile_source(LISTING2, header=False, shapes=FLAG, set_literals=((256, 6),), entry="ns_loss")
    train = train_of(result)
    rng = np.random.default_rng(4)
    given = {i.path: rng.normal(size=i.var.type.sizes) for i in train.inputs}
    w1, b1, w2, b2, w3, b3 = (given[f"ns_pinn.psi.{n}"] for n in ("w1", "b1", "w2", "b2", "w3", "b3"))
    erf = np.vectorize(__import__("math").erf)

    def psi(p: np.ndarray) -> np.ndarray:
        for w, b in ((w1, b1), (w2, b2)):
            h = p @ w + b
            p = 0.5 * h * (1 + erf(h / np.sqrt(2)))
        return p @ w3 + b3

    point = np.concatenate([given[n] for n in "xyt"], axis=1)

    def d(*axes: int, h: float = 1e-3) -> np.ndarray:
        def slope(f, axis):
            e = h * np.eye(3)[axis]
            return lambda q: (8 * (f(q + e) - f(q - e)) - (f(q + 2 * e) - f(q - 2 * e))) / (12 * h)

        f = psi
        for axis in axes:
            f = slope(f, axis)
        return f(point)

    continuity = d(0, 0) + d(1, 1)
    momentum = d(0, 2) + d(0) * d(0, 0) + d(1) * d(0, 1) + d(2, 0)
    found = evaluate(train, given, dtype=np.float64)
    np.testing.assert_allclose(found["loss"], np.mean(continuity**2) + np.mean(momentum**2), rtol=1e-6)
    h = 1e-5
    moved = [
        evaluate(train, {**given, "ns_pinn.psi.w2": w2 + s * np.eye(6)}, dtype=np.float64)["loss"] for s in (h, -h)
    ]
    slope = (moved[0] - moved[1]) / (2 * h)
    np.testing.assert_allclose(np.trace(found["grad:ns_pinn.psi.w2"]), slope, rtol=1e-6)


def test_the_listing_is_remarked_on_and_the_usual_stream_function_is_not() -> None:
    result = compile_source(LISTING2, header=False, shapes=FLAG)
    assert textwrap.dedent("""\
    note[T0617]: the divergence of `u` and `v` is the Laplacian of `psi`: they are its derivatives by `x` and `y`
      --> model.py:11:18
       |
    11 |     continuity = op.div(u, "x") + op.div(v, "y")
       |                  ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
       |
       = note: if `psi` is meant as a stream function, the usual relation is u = psi_y and v = -psi_x, whose divergence is zero everywhere
    """) in result.text  # noqa: E501
    usual = LISTING2.replace("u = op.grad(psi, x)\n    v = op.grad(psi, y)", "u, v = op.curl(psi, [x, y])")
    assert "T0617" not in compile_source(usual, header=False, shapes=FLAG).text
    spelled = LISTING2.replace('op.div(u, "x") + op.div(v, "y")', 'op.grad(v, "y") + 0.5 + op.grad(u, "x")')
    assert "T0617" in compile_source(spelled, header=False, shapes=FLAG).text
    second = 'op.grad(op.grad(u, "x"), "x") + op.grad(op.grad(u, "y"), "y")'
    diffusion = LISTING2.replace('op.div(u, "x") + op.div(v, "y")', second)
    assert "T0617" not in compile_source(diffusion, header=False, shapes=FLAG).text


def test_coordinates_given_as_vectors() -> None:
    result = compile_source(LISTING2, header=False, shapes=(("x", "5"),), entry="ns_loss")
    assert [i.var.type.sizes for i in train_of(result).data] == [(5,)] * 3
    assert [o.var.type.sizes for o in infer_of(result).outputs] == [(5, 1)] * 3
    given = {i.path: np.linspace(-1, 1, i.var.type.size).reshape(i.var.type.sizes) for i in train_of(result).inputs}
    columns = {k: v[:, None] if k in "xyt" else v for k, v in given.items()}
    twin = compile_source(LISTING2, header=False, shapes=FLAG, entry="ns_loss")
    found, wanted = (evaluate(train_of(r), g, dtype=np.float64) for r, g in ((result, given), (twin, columns)))
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-12)


def test_double_precision_reaches_every_value() -> None:
    train = train_of(compile_source(LISTING2, header=False, shapes=FLAG, entry="ns_loss", precision="fp64"))
    assert {str(v.type.dtype) for v in train.variables()} == {"f64"}
    typed = NET.replace("x: Tensor[5, 1]", "x: Tensor[5, 1, fp64]").replace("y: Tensor[5, 1]", "y")
    annotated = compile_source(typed + '@graph.loss\ndef fit(u):\n    return op.mse(op.laplacian(u, ["x", "y"]), 1)\n')
    assert annotated.program is not None, annotated.text
    for function in annotated.program.functions():
        assert {str(v.type.dtype) for v in function.variables()} == {"f64"}


def test_a_loss_from_the_command_line_on_a_field_of_derivatives() -> None:
    result = compile_source(LISTING2, header=False, shapes=FLAG, entry="ns_pinn", loss="mse:u,target")
    assert [i.path for i in train_of(result).data] == ["x", "y", "t", "target"]
    assert train_of(result).data[-1].var.type.sizes == (5, 1)


# ------------------------------------------------------------------------------------------------ attachment


def loss_of(loss: str, source: str = NET, **options):
    return compile_source(source + textwrap.dedent(loss), **{"entry": "fit", **options})


def test_parameters_are_bound_by_name_in_any_order_to_outputs_and_inputs() -> None:
    result = loss_of("""
    @graph.loss
    def fit(v, x, u):
        return op.mean(v - x * u + 1) + op.mse(op.grad(u, "x"), op.grad(u, x))
    """)
    assert result.program is not None, result.text
    train = train_of(result)
    given = {i.path: np.random.default_rng(0).normal(size=i.var.type.sizes) for i in train.inputs}
    assert [i.path for i in train.data] == ["x", "y"]
    np.testing.assert_allclose(evaluate(train, given, dtype=np.float64)["loss"], 1.0)


def test_data_of_the_loss_and_points_of_a_boundary() -> None:
    result = loss_of(
        """
        @graph.loss(module="net")
        def fit(u, u_seen, xb: Tensor[3, 1], yb, weight=10.0):
            ub, _ = net(xb, yb)
            edge = op.mse(op.grad(ub, "y"), 0)
            data = op.mse(u, u_seen)
            return data + weight * edge, {"data": data, "edge": edge}
        """,
        OPEN,
        shapes=FLAG,
    )
    train = train_of(result)
    assert {i.path: i.var.type.sizes for i in train.data} == {
        "x": (5, 1), "y": (5, 1), "u_seen": (5, 1), "xb": (3, 1), "yb": (3, 1),
    }  # fmt: skip
    assert [o.name for o in train.outputs[:3]] == ["loss", "data", "edge"]
    given = {i.path: np.random.default_rng(1).normal(size=i.var.type.sizes) for i in train.inputs}
    found = evaluate(train, given, dtype=np.float64)
    np.testing.assert_allclose(found["loss"], found["data"] + 10 * found["edge"])
    assert [o.name for o in infer_of(result).outputs] == ["u", "v"]


def test_by_position_with_a_note_where_no_name_fits() -> None:
    result = loss_of("@graph.loss\ndef fit(a, b):\n    return op.mse(a, 0) + op.mse(b, 1)\n")
    assert result.program is not None
    assert "the loss `fit` takes the outputs of `net` in their order: `a` is `u`, `b` is `v`\n" in result.text


def test_a_loss_called_in_a_step_uses_that_call() -> None:
    source = (
        OPEN
        + """
@graph.loss
def fit(u):
    return op.mse(op.grad(u, "x"), 0)

@graph.training_step(module="both")
def step(batch):
    u, _ = net(batch["x"], batch["y"])
    w, _ = net(batch["xb"], batch["yb"])
    return fit(u) + fit(w)
"""
    )
    result = compile_source(source, shapes=(("x", "5x1"), ("xb", "3x1")))
    assert [i.var.type.sizes for i in train_of(result).data] == [(5, 1), (5, 1), (3, 1), (3, 1)]


TWINS = NET + NET.replace("def net", "def twin")


@pytest.mark.parametrize(
    ("source", "loss", "message"),
    [
        (TWINS, "@graph.loss\ndef fit(u, v):\n    return op.mse(u, v)\n",
         "2 modules return what the loss `fit` takes (u, v)"),
        (NET, "@graph.loss\ndef fit(u, v, w):\n    return op.mse(u, v)\n",
         "no module returns what the loss `fit` takes (u, v, w)"),
        (NET, '@graph.loss(module="other")\ndef fit(u):\n    return op.mse(u, 0)\n',
         "@graph.loss names the module `other`, which does not exist"),
        (NET, '@graph.loss(module="net")\ndef fit(w):\n    return op.mse(w, 0)\n',
         "the loss `fit` takes `w`, and `net` returns `u` and `v`"),
    ],
)  # fmt: skip
def test_a_loss_that_matches_no_module_or_two(source: str, loss: str, message: str) -> None:
    result = loss_of(loss, source)
    assert result.codes == ["T0310"]
    assert message in result.text


def test_two_candidates_are_both_shown() -> None:
    result = loss_of("@graph.loss\ndef fit(u, v):\n    return op.mse(u, v)\n", TWINS)
    assert result.text == textwrap.dedent("""\
    error[T0310]: 2 modules return what the loss `fit` takes (u, v)
      --> model.py:15:1
       |
     4 | def net(x: Tensor[5, 1], y: Tensor[5, 1]):
       | ------------------------------------------ `net` returns u, v
    ...
    10 | def twin(x: Tensor[5, 1], y: Tensor[5, 1]):
       | ------------------------------------------- `twin` returns u, v
    ...
    15 | def fit(u, v):
       | ^^^^^^^^^^^^^^
       |
       = help: name it: @graph.loss(module="..."); parameters that it does not return are then inputs of the loss
    """)


def test_losses_do_not_broadcast() -> None:
    result = loss_of("@graph.loss\ndef fit(u):\n    return op.mse(op.grad(u, 'x')[:, 0], u)\n")
    assert result.codes == ["T0403"]
    assert "op.mse: f32[5] and f32[5,1] have different ranks" in result.text
    assert "losses do not broadcast: a [N] beside a [N,1] would compare every pair" in result.text
    sizes = loss_of("@graph.loss\ndef fit(u):\n    return op.mse(op.concat([u, u], axis=1), u)\n")
    assert sizes.codes == ["T0403"]
    assert "op.mse: axis 1: 2 and 1 differ" in sizes.text


def test_a_loss_returns_a_scalar_or_a_scalar_and_metrics() -> None:
    for value in ("u", '{"a": op.mean(u)}', "op.mean(u), op.mean(u)"):
        result = loss_of(f"@graph.loss\ndef fit(u):\n    return {value}\n")
        assert result.codes in (["T0305"], ["T0307"]), result.text
