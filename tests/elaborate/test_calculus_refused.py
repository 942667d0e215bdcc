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
