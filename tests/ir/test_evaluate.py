"""The reference evaluator: precisions, errors, speed."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given

from tesserac.ir.builder import Builder
from tesserac.ir.evaluate import evaluate
from tesserac.ir.program import Function, Output
from tesserac.ir.types import DType
from tesserac.passes.differentiate import differentiate
from tests.ir.models import data, gpt, perceptron
from tests.strategies import inputs_for, programs


def test_missing_and_misshapen_inputs():
    function = perceptron()
    values = inputs_for(function)
    with pytest.raises(ValueError, match="input 'x' must have the shape \\(6, 4\\), not \\(4, 6\\)"):
        evaluate(function, values | {"x": values["x"].T})
    del values["net.w"]
    with pytest.raises(ValueError, match=r"input 'net\.w' is missing"):
        evaluate(function, values)


def test_labels_out_of_range_are_refused():
    function = perceptron()
    with pytest.raises(IndexError, match="outside the 4 classes"):
        evaluate(function, inputs_for(function) | {"labels": np.array([0, 1, 2, 3, 4, 0])})


def test_wide_evaluation_promotes_every_float():
    function = perceptron()
    narrow, wide = (evaluate(function, inputs_for(function), dtype=d) for d in (None, np.float64))
    for name in narrow:
        assert narrow[name].dtype == np.float32
        assert wide[name].dtype == np.float64
        np.testing.assert_allclose(narrow[name], wide[name], rtol=1e-4, atol=1e-6)
    assert any(np.any(narrow[n] != wide[n]) for n in narrow)


def test_bf16_is_rounded_after_every_equation():
    b = Builder()
    x = data(b, "x", 2)
    y = b.op("cast", x, dtype=DType.BF16)
    z = b.op("cast", b.op("add", y, y), dtype=DType.F32)
    function = b.finish("f", [Output("y", b.op("cast", y, dtype=DType.F32)), Output("z", z)])
    found = evaluate(function, {"x": np.array([1.003, 3.0])})
    assert found["y"].tolist() == [1.0, 3.0]
    assert evaluate(function, {"x": np.array([1.003, 3.0])}, dtype=np.float64)["y"][0] == 1.003


def test_random_numbers_are_the_same_in_both_precisions():
    b = Builder()
    u = b.op("random_uniform", shape=(1000,), dtype=DType.F32, stream=3)
    function = b.finish("f", [Output("u", u)])
    narrow, wide = (evaluate(function, {}, dtype=d, seed=11, step=2)["u"] for d in (None, np.float64))
    assert np.array_equal(narrow.astype(np.float64), wide)
    assert not np.array_equal(narrow, evaluate(function, {}, seed=11, step=3)["u"])


@pytest.mark.property
@given(programs())
def test_random_programs_are_tame(function: Function):
    """Both precisions agree, so that emitted single-precision programs can be compared with either."""
    differentiated = differentiate(function)
    narrow, wide = (evaluate(differentiated, inputs_for(function), dtype=d) for d in (None, np.float64))
    for name in narrow:
        scale = max(1e-2, float(np.abs(wide[name]).max(initial=0.0)))
        assert scale < 100
        np.testing.assert_allclose(narrow[name], wide[name], rtol=0, atol=2e-4 * scale)


def test_a_small_gpt_takes_seconds():
    function = gpt(layers=4, width=64, heads=4, vocabulary=65, batch=4, length=64)
    count = sum(item.var.type.size for item in function.parameters)
    assert 200_000 < count < 220_000
    start = time.perf_counter()
    found = evaluate(function, inputs_for(function), dtype=np.float64)
    assert time.perf_counter() - start < 20
    assert all(np.isfinite(v).all() for v in found.values())


def test_gradients_of_a_gpt_with_tied_weights():
    function = gpt(layers=2, width=8, heads=2, vocabulary=7, batch=2, length=5)
    values = inputs_for(function)
    found = evaluate(function, values, dtype=np.float64)
    along = np.random.default_rng(0).normal(size=values["net.table"].shape)
    stepped = evaluate(function, values | {"net.table": values["net.table"] + 1e-30j * along}, dtype=np.complex128)
    slope = float((found["grad:net.table"] * along).sum())
    assert slope == pytest.approx(float(stepped["loss"].imag) * 1e30, rel=1e-9)
