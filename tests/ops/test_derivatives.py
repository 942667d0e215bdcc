"""Derivative rules of every op, to order 3, against finite differences and complex steps in double precision."""

from __future__ import annotations

import numpy as np
import pytest

from tesserac.ir.builder import Builder
from tesserac.ir.evaluate import evaluate
from tesserac.ir.program import Output
from tesserac.ir.verify import verify
from tesserac.passes.differentiate import differentiate
from tesserac.passes.expand import expand
from tesserac.passes.linearize import linearize, push_forward
from tesserac.passes.transpose import transpose
from tests.ops.support import Case, cases, dot, fed, operands, scalar_function, type_of, weighted_sum, weights_like

SMOOTHABLE = [c for c in cases() if c.floating and c.spec.kind != "transform" and c.spec.differentiable]
CONSTANT = {"floor", "sign", "lt", "le", "gt", "ge", "eq", "ne", "argmax", "limit", "stop_gradient"}


def differentiable(case: Case) -> bool:
    return case.spec.name not in CONSTANT and not (case.spec.name == "cast" and case.number == 2)


DIFFERENTIABLE = [c for c in SMOOTHABLE if differentiable(c)]
STEPPED = [c for c in DIFFERENTIABLE if not c.is_complex]  # complex steps go through programs of real numbers


def directions(case: Case) -> dict[str, np.ndarray]:
    return {f"x{i}": weights_like(case.types[i], 2.0 + i) for i in case.floating}


def directional(values: dict[str, np.ndarray], case: Case, along: dict[str, np.ndarray]) -> float:
    return sum(dot(values[f"d{i}"], along[f"x{i}"]) for i in case.floating)


def moved(inputs, along, amount):
    return {k: v + amount * along[k] if k in along else v for k, v in inputs.items()}


def finite_difference(function, inputs, along) -> float:
    """Central difference of `loss`, extrapolated once (error of order step^4)."""
    def slope(step):
        up, down = (evaluate(function, moved(inputs, along, s))["loss"] for s in (step, -step))
        return float(up - down) / (2 * step)

    return (4 * slope(1e-3) - slope(2e-3)) / 3


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("case", DIFFERENTIABLE, ids=lambda c: c.id)
def test_gradients_against_finite_differences(case: Case, order: int):
    function = differentiate(scalar_function(case, order))
    verify(function)
    inputs, along = fed(case.sample.arrays), directions(case)
    found = directional(evaluate(function, inputs), case, along)
    expected = finite_difference(function, inputs, along)
    assert found == pytest.approx(expected, rel=2e-7, abs=2e-7)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("case", STEPPED, ids=lambda c: c.id)
def test_gradients_against_complex_steps(case: Case, order: int):
    function = differentiate(scalar_function(case, order))
    inputs, along = fed(case.sample.arrays), directions(case)
    found = directional(evaluate(function, inputs), case, along)
    stepped = evaluate(function, moved(inputs, along, 1e-30j), dtype=np.complex128)["loss"]
    assert found == pytest.approx(float(stepped.imag) / 1e-30, rel=1e-11, abs=1e-11)


@pytest.mark.parametrize("case", DIFFERENTIABLE, ids=lambda c: c.id)
def test_expanded_programs_have_the_same_gradients(case: Case):
    function = scalar_function(case, 2)
    inputs = fed(case.sample.arrays)
    whole = evaluate(differentiate(function), inputs)
    primitive = evaluate(expand(differentiate(expand(function))), inputs)
    for name in whole:
        np.testing.assert_allclose(primitive[name], whole[name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("case", [c for c in SMOOTHABLE if not c.is_complex], ids=lambda c: c.id)
def test_forward_mode_against_complex_steps(case: Case):
    b = Builder()
    xs = operands(b, case.sample.arrays)
    mark = len(b.equations)
    results = b.ops(case.spec.name, xs, dict(case.sample.attrs))
    block = tuple(b.equations[mark:])
    along = directions(case)
    speeds = [along[f"x{i}"] for i in case.floating]
    tangents = operands(b, speeds, "t")
    known = push_forward(b, block, {xs[i].name: t for i, t in zip(case.floating, tangents, strict=True)})
    outputs = [Output(f"t{k}", known[v.name]) for k, v in enumerate(results) if v.name in known]
    values = [Output(f"y{k}", v) for k, v in enumerate(results)]
    function = b.finish("f", [*outputs, *values])
    verify(function)
    inputs = fed(case.sample.arrays)
    found = evaluate(function, inputs | fed(speeds, "t"))
    stepped = evaluate(function, moved(inputs, along, 1e-30j) | fed(speeds, "t"), dtype=np.complex128)
    for k, var in enumerate(results):
        if not var.type.dtype.is_differentiable:
            assert f"t{k}" not in found
            continue
        slope = np.imag(stepped[f"y{k}"]) / 1e-30
        if case.spec.name == "stop_gradient":
            slope = slope * 0
        np.testing.assert_allclose(found.get(f"t{k}", 0 * slope), slope, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("case", [c for c in DIFFERENTIABLE if c.is_complex], ids=lambda c: c.id)
def test_forward_mode_against_differences(case: Case):
    b = Builder()
    xs = operands(b, case.sample.arrays)
    mark = len(b.equations)
    results = b.ops(case.spec.name, xs, dict(case.sample.attrs))
    block = tuple(b.equations[mark:])
    along = directions(case)
    speeds = [along[f"x{i}"] for i in case.floating]
    tangents = operands(b, speeds, "t")
    known = push_forward(b, block, {xs[i].name: t for i, t in zip(case.floating, tangents, strict=True)})
    values = [Output(f"y{k}", v) for k, v in enumerate(results)]
    function = b.finish("f", [*values, *(Output(f"t{k}", known[v.name]) for k, v in enumerate(results))])
    verify(function)

    def at(amount: float) -> dict[str, np.ndarray]:
        return evaluate(function, moved(fed(case.sample.arrays), along, amount) | fed(speeds, "t"))

    def slope(name: str, step: float) -> np.ndarray:
        return (at(step)[name] - at(-step)[name]) / (2 * step)

    for k in range(len(results)):
        expected = (4 * slope(f"y{k}", 1e-3) - slope(f"y{k}", 2e-3)) / 3
        np.testing.assert_allclose(at(0.0)[f"t{k}"], expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("case", [c for c in DIFFERENTIABLE if c.spec.jvp], ids=lambda c: c.id)
def test_transposes_by_the_dot_product(case: Case):
    """<A t, c> = <t, A' c> for the linearisation A of every op with a jvp rule."""
    b = Builder()
    xs = operands(b, case.sample.arrays)
    mark = len(b.equations)
    b.ops(case.spec.name, xs, dict(case.sample.attrs))
    (equation,) = b.equations[mark:]
    linear = linearize(b, equation, [i in case.floating for i in range(len(xs))])
    arrays = [weights_like(v.type, 0.2 + i) for i, v in enumerate(v for v in linear.inputs if v is not None)]
    given = operands(b, arrays, "t")
    rename = {t.name: g for t, g in zip((v for v in linear.inputs if v is not None), given, strict=True)}
    for item in linear.equations:
        replaced = tuple(rename.get(v.name, v) for v in item.operands)
        made = b.ops(item.op, replaced, item.attributes)
        rename.update((old.name, new) for old, new in zip(item.results, made, strict=True))
    forward = [None if v is None else rename[v.name] for v in linear.outputs]
    back_arrays = [weights_like(v.type, 5.0 + i) for i, v in enumerate(v for v in forward if v is not None)]
    cotangents = iter(operands(b, back_arrays, "c"))
    seeds = [None if v is None else next(cotangents) for v in forward]
    back = transpose(b, linear, seeds)
    outputs = [Output(f"f{i}", v) for i, v in enumerate(forward) if v is not None]
    outputs += [Output(f"b{i}", v) for i, v in enumerate(back) if v is not None]
    function = b.finish("dot", outputs)
    verify(function)
    found = evaluate(function, fed(case.sample.arrays) | fed(arrays, "t") | fed(back_arrays, "c"))
    forward_dot = sum(dot(found[f"f{i}"], a) for i, a in
                      zip((i for i, v in enumerate(forward) if v is not None), back_arrays, strict=True))
    live = [i for i, v in enumerate(linear.inputs) if v is not None]
    back_dot = sum(dot(found[f"b{i}"], a) for i, a in zip(live, arrays, strict=True) if f"b{i}" in found)
    assert forward_dot == pytest.approx(back_dot, rel=1e-12, abs=1e-12)
    assert abs(forward_dot) > 1e-6


@pytest.mark.parametrize("case", [c for c in SMOOTHABLE if c.spec.name in CONSTANT - {"stop_gradient"}],
                         ids=lambda c: c.id)
def test_piecewise_constant_ops_have_no_tangent(case: Case):
    b = Builder()
    xs = operands(b, case.sample.arrays)
    mark = len(b.equations)
    b.ops(case.spec.name, xs, dict(case.sample.attrs))
    known = push_forward(b, tuple(b.equations[mark:]), {v.name: v for v in xs})
    assert set(known) == {v.name for v in xs}


def test_integer_operands_get_no_gradient():
    for case in DIFFERENTIABLE:
        assert all(not type_of(case.sample.arrays[i]).dtype.is_integer for i in case.floating)


def test_weighted_sum_sees_every_element():
    b = Builder()
    (x,) = operands(b, [np.zeros((2, 3))])
    function = b.finish("f", [Output("loss", weighted_sum(b, [x]))])
    for index in np.ndindex(2, 3):
        bump = np.zeros((2, 3))
        bump[index] = 1.0
        assert abs(evaluate(function, {"x0": bump})["loss"]) > 1e-3
