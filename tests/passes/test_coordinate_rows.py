"""What differentiation by a coordinate refuses: values whose points are joined. And what it remarks on."""

from __future__ import annotations

import numpy as np
import pytest

from tesserac.diagnostics import CompileError, Span
from tesserac.ir.builder import Builder
from tesserac.ir.program import Input, Var
from tesserac.ir.types import DType, TensorType
from tesserac.passes.differentiate import differentiate
from tesserac.passes.kinks import kink_remarks
from tests.passes.fields import Field, run, slope, values_for


def line(number: int) -> Span:
    return Span("model.py", number, 5, number, 12)


def mean_over_points(b, h):
    total = b.op("reduce_sum", h, axes=(0,))
    return b.op("sub", h, b.op("broadcast", total, shape=h.type.shape, axes=(1,)))


def largest(b, h):
    top = b.op("reduce_max", h, axes=(0,))
    return b.op("mul", h, b.op("broadcast", top, shape=h.type.shape, axes=(1,)))


def softmax_over_points(b, h):
    return b.op("transpose", b.op("softmax", b.op("transpose", h, perm=(1, 0))), perm=(1, 0))


def gram(b, h):
    return b.op("contract", h, b.op("contract", h, h, spec="nk,nj->kj"), spec="nk,kj->nj")


def outer(b, h):
    return b.op("contract", b.op("contract", h, h, spec="nk,mk->nm"), h, spec="nm,mk->nk")


def running(b, h):
    return b.op("cumsum", h, axis=0, reverse=False)


def shifted_rows(b, h):
    n, k = h.type.sizes
    rest = b.op("slice", h, starts=(1, 0), limits=(n, k), strides=(1, 1))
    first = b.op("slice", h, starts=(0, 0), limits=(1, k), strides=(1, 1))
    return b.op("concat", rest, first, axis=0)


def attended(b, h):
    row = b.op("reshape", h, shape=(1, *h.type.sizes))
    attrs = {"heads": 1, "kv_heads": 1, "causal": False, "scale": 1.0}
    return b.op("reshape", b.ops("attention", (row, row, row), attrs)[0], shape=h.type.sizes)


def mixed_up(b, h):
    """Two neighbouring points become one row."""
    n, k = h.type.sizes
    pairs = b.op("reshape", h, shape=(n // 2, 2 * k))
    return b.op("reshape", b.op("softmax", pairs), shape=(n, k))


JOINING = {"reduce_sum": mean_over_points, "reduce_max": largest, "softmax": softmax_over_points, "contract": gram,
           "outer": outer, "cumsum": running, "slice": shifted_rows, "attention": attended, "reshape": mixed_up}


@pytest.mark.parametrize("kind", JOINING)
def test_joined_points_are_an_error_that_names_the_op(kind):
    field = Field(points=4)
    b, x = field.b, field.coordinate("x")
    h = b.op("tanh", field.linear(x, 4, "1"))
    with b.at(line(7)):
        joined = JOINING[kind](b, h)
    psi = field.linear(b.op("tanh", joined), 1, "2")
    with b.at(line(9)):
        slope_x = field.d(psi, x)
    with pytest.raises(CompileError) as found:
        differentiate(field.function(field.d(slope_x, x)))
    (diagnostic,) = found.value.diagnostics
    op = "contract" if kind == "outer" else kind
    assert diagnostic.code == "T0603"
    assert diagnostic.message == f"`{op}` joins different points, so there is no derivative by `x` at each of them"
    assert diagnostic.span == line(9)
    assert diagnostic.labels[1].span == line(7)
    assert diagnostic.help


def test_several_faults_are_reported_together():
    field = Field(points=4)
    b, x, y = field.b, field.coordinate("x"), field.coordinate("y")
    with b.at(line(3)):
        u = mean_over_points(b, b.op("sin", x))
    with b.at(line(4)):
        v = running(b, b.op("cos", y))
    with pytest.raises(CompileError) as found:
        differentiate(field.function(field.d(u, x), field.d(v, y), field.d(v, x)))
    assert [d.labels[1].span.line for d in found.value.diagnostics] == [3, 4]


def test_points_moved_from_the_front_are_an_error():
    field = Field(points=4)
    b, x = field.b, field.coordinate("x", 4)
    with pytest.raises(CompileError, match="the rows of this value are not the points of `x`"):
        differentiate(field.function(field.d(b.op("transpose", b.op("sin", x), perm=(1, 0)), x)))


def test_what_does_not_vary_with_the_coordinate_may_join_points():
    """Statistics of other data, of parameters, and of constants; norms and softmax over features."""
    field = Field(points=4)
    b, x, other = field.b, field.coordinate("x"), field.coordinate("other", 5)
    mean = b.op("reduce_sum", other, axes=(0,))
    h = b.op("tanh", field.linear(x, 5, "1"))
    centred = b.op("add", h, b.op("broadcast", mean, shape=h.type.shape, axes=(1,)))
    frozen = b.op("stop_gradient", b.op("reduce_max", h, axes=(0,)))
    centred = b.op("sub", centred, b.op("broadcast", frozen, shape=h.type.shape, axes=(1,)))
    normed = b.op("layernorm", centred, field.weight("g", 5), field.weight("c", 5))
    psi = field.linear(b.op("softmax", normed), 1, "2")
    field.d(psi, x)
    function = differentiate(field.function(psi, field.d(psi, x), field.d(psi, x, x)))
    values = values_for(function)
    found = run(function, values)
    # The frozen maximum has to stay where it is: the step goes into one point that does not attain it.
    hidden = np.tanh(values["x"] @ values["net.W1"] + values["net.b1"])
    point = next(n for n in range(4) if n not in hidden.argmax(0))
    step = np.zeros((4, 1))
    step[point] = 1.0
    for order in (0, 1):
        expected = slope(lambda h, n=order: run(function, values | {"x": values["x"] + h * step})[f"y{n}"], 1e-3)
        np.testing.assert_allclose(found[f"y{order + 1}"][point], expected[point], rtol=1e-7)


def test_axes_of_points_may_be_merged_and_parted():
    """Coordinates [B, T, 2] through a network that sees [B T, 2]; heads split off the features on the way."""
    b = Builder()
    x = b.add_input(Input(Var("x", TensorType(DType.F64, (2, 3, 2))), "x"))
    w = b.add_input(Input(Var("w", TensorType(DType.F64, (2, 4))), "w"))
    flat = b.op("reshape", x, shape=(6, 2))
    heads = b.op("reshape", b.op("sin", b.op("contract", flat, w, spec="nk,kj->nj")), shape=(2, 3, 2, 2))
    u = b.op("reduce_sum", b.op("square", heads), axes=(2,))
    field = Field()
    field.b = b
    function = differentiate(field.function(u, field.d(field.d(u, x, component=1), x, component=0)))
    values = values_for(function)
    found = run(function, values)
    first = differentiate(field.function(field.d(u, x, component=1)))
    expected = slope(lambda h: run(first, values | {"x": values["x"] + h * np.array([1.0, 0.0])})["y0"])
    np.testing.assert_allclose(found["y1"], expected, rtol=1e-9, atol=1e-12)


def test_kinks_are_remarked_on_under_second_derivatives_only():
    field = Field()
    b, x, y = field.b, field.coordinate("x"), field.coordinate("y")
    z = field.linear(b.op("concat", x, y, axis=1), 4, "1")
    with b.at(line(5)):
        h = b.op("relu", z)
    with b.at(line(6)):
        unrelated = b.op("abs", b.op("stop_gradient", z))
    psi = field.linear(b.op("mul", h, unrelated), 1, "2")
    with b.at(line(8)):
        first = field.d(psi, x)
    assert kink_remarks(field.function(first)) == ()
    with b.at(line(9)):
        second = b.op("derivative", b.op("square", first), y)
    (remark,) = kink_remarks(field.function(second))
    assert (remark.code, remark.severity) == ("T0604", "warning")
    assert remark.message == "the second derivative of `relu` is zero everywhere"
    assert [label.span.line for label in remark.labels] == [5, 9]
