"""Reverse mode over whole programs: values, names, spans, orders."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from tesserac.ir.builder import Builder
from tesserac.ir.evaluate import evaluate
from tesserac.ir.program import Function, Output
from tesserac.ir.text import print_function
from tesserac.ir.types import DType, TensorType
from tesserac.ir.verify import verify
from tesserac.passes.differentiate import differentiate
from tesserac.passes.expand import expand
from tests.ir.models import at, data, gpt, parameter, perceptron
from tests.strategies import inputs_for, programs

GOLDEN = '''\
  %a: f32[6,4] = contract %x, %w {spec="bi,ij->bj"}   # model.py:3
  %h: f32[6,4] = tanh %a   # model.py:3
  %logits: f32[6,4] = contract %h, %w {spec="bi,ij->bj"}   # model.py:4
  %loss: f32[] = reduce_sum %logits {axes=[0, 1]}   # model.py:5
  %d_loss: f32[] = full {dtype=f32, shape=[], value=1.0}   # model.py:6
  %d_logits: f32[6,4] = broadcast %d_loss {axes=[], shape=[6, 4]}   # model.py:5
  %d_w_from_logits: f32[4,4] = contract %h, %d_logits {spec="bi,bj->ij"}   # model.py:4
  %d_h: f32[6,4] = contract %d_logits, %w {spec="bj,ij->bi"}   # model.py:4
  %h_square: f32[6,4] = square %h   # model.py:3
  %h_one: f32[6,4] = full {dtype=f32, shape=[6, 4], value=1.0}   # model.py:3
  %h_sub: f32[6,4] = sub %h_one, %h_square   # model.py:3
  %d_a: f32[6,4] = mul %d_h, %h_sub   # model.py:3
  %d_w_from_a: f32[4,4] = contract %x, %d_a {spec="bi,bj->ij"}   # model.py:3
  %d_w: f32[4,4] = add %d_w_from_logits, %d_w_from_a   # model.py:3
'''


def test_golden_names_and_lines():
    b = Builder()
    x, w = data(b, "x", 6, 4), parameter(b, "w", 4, 4)
    with b.at(at(3)):
        h = b.op("tanh", b.op("contract", x, w, spec="bi,ij->bj", named="a"), named="h")
    with b.at(at(4)):
        logits = b.op("contract", h, w, spec="bi,ij->bj", named="logits")
    with b.at(at(5)):
        loss = b.op("reduce_sum", logits, axes=(0, 1), named="loss")
    with b.at(at(6)):
        grad = b.op("backward", loss, w)
    text = print_function(differentiate(b.finish("f", [Output("loss", loss), Output("grad:net.w", grad)])))
    assert GOLDEN in text
    assert '"grad:net.w": %d_w)' in text


def slope_by_step(function: Function, values, path: str, along) -> float:
    stepped = evaluate(function, values | {path: values[path] + 1e-30j * along}, dtype=np.complex128)
    return float(stepped["loss"].imag) * 1e30


@pytest.mark.property
@given(programs(train=True))
def test_random_programs_against_complex_steps(function: Function):
    differentiated = differentiate(function)
    verify(differentiated)
    values = inputs_for(function)
    found = evaluate(differentiated, values, dtype=np.float64)
    for item in function.parameters:
        along = np.cos(1.0 + np.arange(item.var.type.size)).reshape(item.var.type.sizes)
        slope = float((found[f"grad:{item.path}"] * along).sum())
        assert slope == pytest.approx(slope_by_step(differentiated, values, item.path, along), rel=1e-8, abs=1e-10)


@pytest.mark.property
@given(programs(train=True, smooth=True))
def test_random_programs_against_finite_differences(function: Function):
    differentiated = differentiate(function)
    values = {k: v.astype(np.float64) if v.dtype == np.float32 else v for k, v in inputs_for(function).items()}
    found = evaluate(differentiated, values, dtype=np.float64)

    def loss(path, along, step):
        return float(evaluate(differentiated, values | {path: values[path] + step * along}, dtype=np.float64)["loss"])

    for item in function.parameters:
        along = np.cos(1.0 + np.arange(item.var.type.size)).reshape(item.var.type.sizes)
        slopes = [(loss(item.path, along, s) - loss(item.path, along, -s)) / (2 * s) for s in (1e-3, 2e-3)]
        expected = (4 * slopes[0] - slopes[1]) / 3
        assert float((found[f"grad:{item.path}"] * along).sum()) == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.property
@given(programs(train=True))
def test_expanding_before_or_after_gives_the_same(function: Function):
    values = inputs_for(function)
    forms = (differentiate(function), expand(differentiate(function)), differentiate(expand(function)))
    first, *others = (evaluate(f, values, dtype=np.float64) for f in forms)
    for other in others:
        for name in first:
            np.testing.assert_allclose(other[name], first[name], rtol=1e-9, atol=1e-11)


def test_chosen_ops_are_expanded():
    function = differentiate(gpt(layers=1, width=4, heads=2, vocabulary=5, batch=1, length=3))
    some = expand(function, {"layernorm", "cross_entropy"})
    verify(some)
    left = {e.op for e in some.equations}
    assert {"attention", "attention_grad", "gelu"} <= left
    assert not left & {"layernorm", "cross_entropy"}
    assert {v.name for v in function.variables()} <= {v.name for v in some.variables()}


def test_expansion_and_gradient_share_their_statistics():
    """Both emit mean and 1/std of a layernorm in the same form, so that equal equations can be merged."""
    function = expand(differentiate(gpt(layers=1, width=4, heads=2, vocabulary=5, batch=1, length=3)))
    seen: dict[tuple[object, ...], str] = {}
    alias: dict[str, str] = {}
    shared = []
    for equation in function.equations:
        key = (equation.op, tuple(alias.get(v.name, v.name) for v in equation.operands), equation.attrs)
        if key in seen and len(equation.results) == 1:
            alias[equation.result.name] = seen[key]
            shared.append(equation.op)
        else:
            seen[key] = equation.results[0].name
    # Two norms recompute sum, square, sum, rsqrt; the loss recomputes max, exp and sum.
    assert shared.count("rsqrt") == 2
    assert shared.count("exp") >= 1
    assert shared.count("reduce_max") >= 1


def scalar_chain(order: int, op: str, start: float) -> float:
    """The order-th derivative of op(x)^2 + x op(x) at a point."""
    b = Builder()
    x = data(b, "x")
    y = b.op(op, x)
    value = b.op("add", b.op("square", y), b.op("mul", x, y))
    for _ in range(order):
        value = b.op("backward", value, x)
    function = differentiate(b.finish("f", [Output("y", value)]))
    verify(function)
    return float(evaluate(function, {"x": np.array(start)}, dtype=np.float64)["y"])


@pytest.mark.parametrize("op", ["exp", "tanh", "gelu", "gelu_tanh", "silu", "sin"])
def test_derivatives_of_derivatives(op):
    step = 1e-3
    for order in (1, 2, 3, 4):
        values = [scalar_chain(order - 1, op, 0.3 + s * step) for s in (1, -1, 2, -2)]
        slopes = (values[0] - values[1]) / (2 * step), (values[2] - values[3]) / (4 * step)
        assert scalar_chain(order, op, 0.3) == pytest.approx((4 * slopes[0] - slopes[1]) / 3, rel=1e-7, abs=1e-8)


def test_hessian_of_a_network_is_symmetric():
    b = Builder()
    x, w, v = data(b, "x", 3, 4), parameter(b, "w", 4, 4), parameter(b, "v", 4)
    q = b.op("contract", x, w, spec="bi,ij->bj")
    q = b.op("reshape", q, shape=(1, 3, 4))
    o, lse = b.ops("attention", (q, q, q), {"heads": 2, "kv_heads": 2, "causal": True, "scale": 0.7})
    n = b.op("layernorm", o, v, v)
    loss = b.op("add", b.op("reduce_sum", b.op("sin", n), axes=(0, 1, 2)), b.op("reduce_sum", lse, axes=(0, 1, 2)))
    gw, gv = b.ops("backward", (loss, w, v))
    dot = b.op("add", b.op("reduce_sum", b.op("mul", gw, data(b, "tw", 4, 4)), axes=(0, 1)),
               b.op("contract", gv, data(b, "tv", 4), spec="i,i->"))
    hw, hv = b.ops("backward", (dot, w, v))
    function = differentiate(b.finish("f", [Output("hw", hw), Output("hv", hv)]))
    verify(function)
    rng = np.random.default_rng(1)
    base = {"x": rng.normal(size=(3, 4)), "net.w": rng.normal(size=(4, 4)), "net.v": rng.normal(size=4)}
    s, t = ({"tw": rng.normal(size=(4, 4)), "tv": rng.normal(size=4)} for _ in range(2))

    def product(along, other):
        found = evaluate(function, base | along, dtype=np.float64)
        return float((found["hw"] * other["tw"]).sum() + (found["hv"] * other["tv"]).sum())

    assert product(s, t) == pytest.approx(product(t, s), rel=1e-11)
    assert abs(product(s, t)) > 1e-3


def test_unused_parameters_get_zeros():
    b = Builder()
    w, unused = parameter(b, "w", 3), parameter(b, "unused", 2, 2)
    loss = b.op("reduce_sum", b.op("square", w), axes=(0,))
    dw, du = b.ops("backward", (loss, w, unused))
    function = differentiate(b.finish("f", [Output("dw", dw), Output("du", du)]))
    found = evaluate(function, {"net.w": np.arange(3.0), "net.unused": np.ones((2, 2))})
    assert found["dw"].tolist() == [0.0, 2.0, 4.0]
    assert found["du"].tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_the_same_parameter_may_be_asked_for_twice_and_intermediate_values_too():
    b = Builder()
    w = parameter(b, "w", 3)
    h = b.op("square", w, named="h")
    loss = b.op("reduce_sum", b.op("mul", h, h), axes=(0,))
    first, second, middle = b.ops("backward", (loss, w, w, h))
    function = differentiate(b.finish("f", [Output("a", first), Output("b", second), Output("c", middle)]))
    verify(function)
    found = evaluate(function, {"net.w": np.array([1.0, 2.0, 3.0])})
    assert found["a"].tolist() == found["b"].tolist() == [4.0, 32.0, 108.0]
    assert found["c"].tolist() == [2.0, 8.0, 18.0]


def test_the_loss_itself_may_be_a_parameter():
    b = Builder()
    w = parameter(b, "w")
    function = differentiate(b.finish("f", [Output("g", b.op("backward", w, w))]))
    assert evaluate(function, {"net.w": np.array(3.0)})["g"] == 1.0


def test_only_values_on_the_way_are_touched():
    b = Builder()
    x, w = data(b, "x", 3, 3), parameter(b, "w", 3)
    side = b.op("exp", b.op("exp", x, named="far"), named="near")
    y = b.op("mul", b.op("broadcast", w, shape=(3, 3), axes=(1,)), side)
    loss = b.op("reduce_sum", y, axes=(0, 1), named="loss")
    function = differentiate(b.finish("f", [Output("g", b.op("backward", loss, w))]))
    names = {v.name for v in function.variables()}
    assert not names & {"d_x", "d_far", "d_near"}


def test_stop_gradient_cuts_and_integers_carry_nothing():
    b = Builder()
    w, index = parameter(b, "w", 4), data(b, "i", 3, dtype=DType.I32)
    rows = b.op("take", w, index)
    loss = b.op("reduce_sum", b.op("mul", rows, b.op("stop_gradient", rows)), axes=(0,))
    function = differentiate(b.finish("f", [Output("g", b.op("backward", loss, w))]))
    found = evaluate(function, {"net.w": np.array([1.0, 2.0, 3.0, 4.0]), "i": np.array([1, 1, 3])})
    assert found["g"].tolist() == [0.0, 4.0, 0.0, 4.0]


def test_functions_without_backward_are_left_alone():
    b = Builder()
    function = b.finish("f", [Output("y", b.op("exp", data(b, "x", 3)))])
    assert differentiate(function) is function


def test_names_are_unique_and_original_names_stay():
    function = perceptron()
    done = differentiate(function)
    names = [v.name for v in done.variables()]
    assert len(names) == len(set(names))
    kept = [v.name for e in function.equations if e.op != "backward" for v in e.results]
    assert set(kept) <= set(names)
    assert {"d_h", "d_logits", "d_w", "d_v"} <= set(names)


def test_expansions_keep_the_source_line_and_are_named_after_their_result():
    b = Builder()
    x, gain = data(b, "x", 2, 4), parameter(b, "gain", 4)
    with b.at(at(17)):
        y = b.op("rmsnorm", x, gain, named="y")
    function = expand(b.finish("f", [Output("y", y)]))
    assert {e.span.line for e in function.equations} == {17}
    assert function.outputs[0].var.name == function.equations[-1].result.name == "y"
    assert {"y_mean_square", "y_rstd", "y_unit"} <= {v.name for v in function.variables()}


def test_ties_share_the_derivative_of_a_maximum_and_pairs_give_it_to_the_first():
    b = Builder()
    x = data(b, "x", 4)
    loss = b.op("reduce_max", x, axes=(0,))
    first, second = data(b, "first"), data(b, "second")
    pair = b.ops("backward", (b.op("maximum", first, second), first, second))
    outputs = [Output("tied", b.op("backward", loss, x)), Output("first", pair[0]), Output("second", pair[1])]
    function = differentiate(b.finish("f", outputs))
    found = evaluate(function, {"x": np.array([1.0, 3.0, 3.0, 0.0]), "first": np.array(2.0), "second": np.array(2.0)})
    assert found["tied"].tolist() == [0.0, 0.5, 0.5, 0.0]
    assert (found["first"], found["second"]) == (1.0, 0.0)


def test_zeros_do_no_harm():
    """Derivatives at 0 of x^2, 0^y, a product with a zero in it, and of relu, are finite and exact."""
    b = Builder()
    x = data(b, "x", 3)
    two = b.constant(2.0, x.type)
    power = b.op("reduce_sum", b.op("pow", x, two), axes=(0,))
    product = b.op("reduce_prod", x, axes=(0,))
    relu = b.op("reduce_sum", b.op("relu", x), axes=(0,))
    outputs = [Output(n, b.op("backward", v, x)) for n, v in (("power", power), ("product", product), ("relu", relu))]
    found = evaluate(differentiate(b.finish("f", outputs)), {"x": np.array([0.0, 2.0, 3.0])})
    assert found["power"].tolist() == [0.0, 4.0, 6.0]
    assert found["product"].tolist() == [6.0, 0.0, 0.0]
    assert found["relu"].tolist() == [0.0, 1.0, 1.0]


def test_a_batch_with_nothing_to_predict_moves_nothing():
    function = perceptron()
    found = evaluate(function, inputs_for(function) | {"labels": np.full(6, -100)})
    assert found["loss"] == 0.0
    assert not found["grad:net.w"].any()


def test_names_do_not_clash_with_the_users():
    b = Builder()
    w = parameter(b, "w", 3)
    mine = b.op("square", w, named="d_w")
    loss = b.op("reduce_sum", mine, axes=(0,))
    function = differentiate(b.finish("f", [Output("mine", mine), Output("g", b.op("backward", loss, w))]))
    verify(function)
    assert [o.var.name for o in function.outputs] == ["d_w", "d_w.1"]
    assert function.outputs[1].var.type == TensorType(DType.F32, (3,))
