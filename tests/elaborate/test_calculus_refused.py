"""Derivatives that do not exist point by point, and kinks under derivatives: what `check` says from a source."""

from __future__ import annotations

import textwrap

import pytest

from tesserac.diagnostics import CompileError, render
from tesserac.driver import check_source


def said(body: str) -> str:
    """Everything that `tesserac check -v` says of a module net(x, y)."""
    text = "from tessera import graph, op\n\n\n@graph.module\ndef net(x: Tensor[8, 1], y: Tensor[8, 1]):\n"
    text += textwrap.indent(textwrap.dedent(body).strip(), "    ") + "\n"
    try:
        _, items = check_source(text, "model.py")
    except CompileError as error:
        items = error.diagnostics
    return render(items, {"model.py": text})


@pytest.mark.parametrize(
    ("body", "op"),
    [
        ('u = x - op.mean(x, axis=0, keepdims=True)\nreturn op.grad(u, "x")', "reduce_sum"),
        ('u = op.softmax(op.concat([x, y], axis=1).T).T\nreturn op.grad(u, "x")', "softmax"),
        ('u = op.cumsum(x * y, axis=0)\nreturn op.laplacian(u, ["x", "y"])', "cumsum"),
    ],
)
def test_an_op_that_couples_points_is_named(body: str, op: str) -> None:
    text = said(body)
    assert "error[T0603]" in text, text
    assert f"`{op}`" in text, text


def test_relu_under_a_second_derivative_is_a_warning() -> None:
    text = said('u = op.mlp([x, y], hidden=[4], out_dim=1, activation="relu")\nreturn op.laplacian(u, ["x", "y"])')
    assert "T0604" in text, text
    assert "error" not in text
    smooth = said('u = op.mlp([x, y], hidden=[4], out_dim=1, activation="tanh")\nreturn op.laplacian(u, ["x", "y"])')
    assert "T0604" not in smooth


def test_several_faults_in_one_run() -> None:
    text = said("""
    u = op.mlp([x, y], hidden=[4], out_dim=1)
    a = op.grad(u, "z")
    b = op.div([u, u], ["x"])
    c = op.mse(op.grad(u, "x")[:, 0], u)
    return u
    """)
    assert [code for code in ("T0611", "T0614", "T0403") if f"error[{code}]" in text] == ["T0611", "T0614", "T0403"]


def test_a_choice_under_a_second_derivative_is_told_from_a_kink() -> None:
    text = said('u = op.where(x > 0, op.sin(x * y), x)\nreturn op.laplacian(u, ["x", "y"])')
    assert "warning[T0604]: derivatives of second order see only what `where` chooses" in text, text


@pytest.mark.parametrize(
    ("columns", "code"), [("Tensor[5, 1]", "T0614"), ("Tensor[8, 1]", "T0603")], ids=["other sizes", "equal sizes"]
)
def test_points_that_do_not_lead_are_explained(columns: str, code: str) -> None:
    """A product of two fields over a grid: its second axis has the points of y."""
    head = "from tessera import graph, op\n\nf, g = op.mlp(1, [4], 3), op.mlp(1, [4], 3)\n\n\n@graph.module\n"
    text = f"{head}def net(x: Tensor[8, 1], y: {columns}):\n    u = f(x) @ g(y).T\n    "
    try:
        _, items = check_source(text + 'return op.grad(u, "x"), op.grad(u, "y")\n', "model.py")
    except CompileError as error:
        items = error.diagnostics
    assert [d.code for d in items] == [code]
    assert "transpose the value so that the" in items[0].help[0], items[0]
    check_source(text + 'return op.grad(u, "x"), op.grad(u.T, "y").T\n', "model.py")
