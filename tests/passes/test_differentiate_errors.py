"""What differentiation says instead of returning a silent zero or a wrong gradient."""

from __future__ import annotations

import numpy as np
import pytest

from tesserac.diagnostics import CompileError, InternalError
from tesserac.diagnostics_catalogue import CATALOGUE
from tesserac.driver import CompileOptions, front_end
from tesserac.elaborate import Options
from tesserac.ir.builder import Builder
from tesserac.ir.evaluate import evaluate
from tesserac.ir.program import Function, Output
from tesserac.ir.types import DType
from tesserac.ops import base
from tesserac.passes.differentiate import differentiate
from tests.ir.models import at, data, parameter


def blocked(op: str) -> Function:
    b = Builder()
    gate, w = parameter(b, "gate", 3), parameter(b, "w", 3)
    with b.at(at(12)):
        if op == "argmax":
            mask = b.op("cast", b.op("argmax", gate, axis=0), dtype=DType.F32)
            mask = b.op("broadcast", mask, shape=(3,), axes=())
        elif op == "gt":
            mask = b.op("cast", b.op("gt", gate, w), dtype=DType.F32)
        else:
            mask = b.op(op, gate)
    with b.at(at(13)):
        loss = b.op("reduce_sum", b.op("mul", mask, w), axes=(0,))
    with b.at(at(14)):
        grads = b.ops("backward", (loss, w, gate))
    return b.finish("f", [Output("dw", grads[0]), Output("dgate", grads[1])])


@pytest.mark.parametrize("op", ["floor", "sign", "argmax", "gt"])
def test_a_gradient_that_vanishes_everywhere_is_an_error(op):
    with pytest.raises(CompileError) as found:
        differentiate(blocked(op))
    (diagnostic,) = found.value.diagnostics
    assert diagnostic.code == "T0602"
    assert diagnostic.message == "the gradient of net.gate is zero everywhere"
    assert diagnostic.labels[1].text == f"`{op}` has the derivative 0, and nothing bypasses it"
    assert diagnostic.labels[1].span.line == 12
    assert diagnostic.span.line == 14


def test_every_loss_of_a_function_is_checked():
    b = Builder()
    w, gate = parameter(b, "w", 3), parameter(b, "gate", 3)
    good = b.op("backward", b.op("reduce_sum", b.op("square", w), axes=(0,)), w)
    bad = b.op("backward", b.op("reduce_sum", b.op("sign", gate), axes=(0,)), gate)
    with pytest.raises(CompileError, match="T0602"):
        differentiate(b.finish("f", [Output("good", good), Output("bad", bad)]))


def test_second_derivatives_may_vanish():
    b = Builder()
    w = parameter(b, "w", 3)
    slope = b.op("backward", b.op("reduce_sum", b.op("relu", w), axes=(0,)), w)
    bend = b.op("backward", b.op("reduce_sum", slope, axes=(0,)), w)
    function = differentiate(b.finish("f", [Output("slope", slope), Output("bend", bend)]))
    found = evaluate(function, {"net.w": np.array([-1.0, 2.0, 3.0])})
    assert found["slope"].tolist() == [0.0, 1.0, 1.0]
    assert found["bend"].tolist() == [0.0, 0.0, 0.0]


def test_stop_gradient_is_a_way_to_ask_for_zeros():
    found = evaluate(differentiate(blocked("stop_gradient")), {"net.gate": np.ones(3), "net.w": np.ones(3)})
    assert found["dgate"].tolist() == [0.0, 0.0, 0.0]
    assert found["dw"].tolist() == [1.0, 1.0, 1.0]


@pytest.fixture
def opaque(monkeypatch):
    """An op without derivative rules."""
    spec = base.OpSpec("opaque", "for this test", "elementwise", 1, lambda t, a, d: (t[0],), lambda a, at: (a[0],))
    monkeypatch.setitem(base._REGISTRY, "opaque", spec)


def test_an_op_without_rule_is_named_with_its_line(opaque):
    b = Builder()
    w, x = parameter(b, "w", 3), data(b, "x", 3)
    with b.at(at(21)):
        y = b.op("add", b.op("opaque", b.op("exp", w)), b.op("opaque", x))
    loss = b.op("reduce_sum", y, axes=(0,))
    with pytest.raises(CompileError) as found:
        differentiate(b.finish("f", [Output("g", b.op("backward", loss, w))]))
    (diagnostic,) = found.value.diagnostics
    assert (diagnostic.code, diagnostic.message) == ("T0601", "`opaque` has no derivative rule")
    assert diagnostic.span.line == 21
    assert diagnostic.labels[0].text == "the loss depends on net.w through it"


def test_an_op_without_rule_elsewhere_does_no_harm(opaque):
    b = Builder()
    w, x = parameter(b, "w", 3), data(b, "x", 3)
    loss = b.op("reduce_sum", b.op("mul", w, b.op("opaque", x)), axes=(0,))
    function = differentiate(b.finish("f", [Output("g", b.op("backward", loss, w))]))
    assert evaluate(function, {"net.w": np.ones(3), "x": np.arange(3.0)})["g"].tolist() == [0.0, 1.0, 2.0]


def test_a_rule_that_is_not_linear_is_a_compiler_fault(monkeypatch):
    def jvp(b, e, tangents):
        return (b.op("exp", tangents[0]),)

    spec = base.OpSpec("crooked", "for this test", "elementwise", 1, lambda t, a, d: (t[0],), lambda a, at: (a[0],),
                       jvp=jvp)
    monkeypatch.setitem(base._REGISTRY, "crooked", spec)
    b = Builder()
    w = parameter(b, "w", 3)
    loss = b.op("reduce_sum", b.op("crooked", w), axes=(0,))
    with pytest.raises(InternalError, match="emitted exp on a tangent, but it has no transpose rule"):
        differentiate(b.finish("f", [Output("g", b.op("backward", loss, w))]))


def test_the_example_of_t0602_produces_it():
    options = Options(shapes=(("input", "4x3"), ("target", "4x3"), ("gate", "3")))
    _, program, _ = front_end(CATALOGUE["T0602"].example, "model.py", CompileOptions(options))
    (entry,) = program.entries
    assert entry.train is not None
    with pytest.raises(CompileError) as found:
        differentiate(entry.train)
    (diagnostic,) = found.value.diagnostics
    assert diagnostic.code == "T0602"
    assert diagnostic.message == "the gradient of model.gate is zero everywhere"
    assert [label.span.line for label in diagnostic.labels] == [11, 5]
