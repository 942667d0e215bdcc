"""Every way in which every op says that it can be cut, checked by running it so: values, gradients, linearity."""

from __future__ import annotations

import numpy as np
import pytest

from tesserac.ir.builder import Builder
from tesserac.ir.evaluate import evaluate
from tesserac.ir.program import Equation, Function, Input, Output, Var
from tesserac.ops.base import Array, all_specs
from tesserac.passes.differentiate import differentiate, expand_derivatives
from tesserac.passes.linearize import expanded
from tesserac.passes.mesh.partition import AxisAssignment, partition
from tesserac.passes.mesh.placements import Placement
from tesserac.passes.mesh.simulate import simulate
from tesserac.passes.mesh.strategy import Strategy, factor_rules, strategies
from tests.mesh.drawing import difference, mesh_of
from tests.ops.support import Case, cases

CASES = [c for c in cases() if c.spec.kind not in ("transform", "collective", "rank", "layout")]
SIZES = (2, 3, 4)


def one_op(case: Case) -> tuple[Function, Equation]:
    """The op on its sample, and gradients of the sum of what it makes, weighted by irregular numbers."""
    b = Builder()
    operands = [b.add_input(Input(Var(f"x{i}", t), f"x{i}")) for i, t in enumerate(case.types)]
    results = b.ops(case.spec.name, operands, case.attrs)
    equation = b.equations[-1]
    outputs = [Output(f"y{i}", v) for i, v in enumerate(results)]
    wrt = [v for v in operands if v.type.dtype.is_differentiable]
    active = [v for v in results if v.type.dtype.is_differentiable and case.spec.name not in ("floor", "sign")]
    if wrt and case.spec.differentiable and (case.spec.jvp or case.spec.vjp or case.spec.expand):
        for k, value in enumerate(active[:1]):
            ct = b.add_input(Input(Var(f"ct{k}", value.type), f"ct{k}"))
            product = b.op("mul", value, b.op("conj", ct) if value.type.dtype.is_complex else ct)
            total = b.op("reduce_sum", product, axes=tuple(range(value.type.rank))) if value.type.rank else product
            loss = b.op("real", total) if total.type.dtype.is_complex else total
            grads = b.ops("backward", (loss, *wrt))
            outputs += [Output(f"grad:{v.name}", g) for v, g in zip(wrt, grads, strict=True)]
    return b.finish("op", outputs), equation


def values_of(case: Case, function: Function) -> dict[str, Array]:
    rng = np.random.default_rng(3)
    values: dict[str, Array] = {f"x{i}": a for i, a in enumerate(case.sample.arrays)}
    for item in function.inputs:
        if item.path not in values:
            shape = item.var.type.sizes
            values[item.path] = rng.normal(size=shape) + (1j * rng.normal(size=shape)
                                                          if item.var.type.dtype.is_complex else 0)
    return values


def natural(strategy: Strategy, at: int) -> Placement:
    """Inputs lie cut where the strategy wants them cut, so that the op itself is what is tested."""
    return strategy.operands[at] if strategy.operands[at].is_cut else Placement("R")


def run(function: Function, equation: Equation, strategy: Strategy, size: int, inputs: dict[str, Array]):
    others = [strategies(e, size)[0] for e in function.equations]
    chosen = tuple(strategy if e == equation else s for e, s in zip(function.equations, others, strict=True))
    lies = {f"x{i}": natural(strategy, i) for i in range(len(equation.operands))}
    sharded = partition(function, mesh_of(f"tp={size}"), {"tp": AxisAssignment(chosen, lies)})
    return simulate(sharded, inputs)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_every_strategy_computes_the_same(case: Case):
    function, equation = one_op(case)
    inputs = values_of(case, function)
    function = expand_derivatives(function)
    expected = evaluate(differentiate(function), inputs, dtype=np.float64)
    for size in SIZES:
        for strategy in strategies(equation, size):
            found = run(function, equation, strategy, size, inputs)
            for name, value in expected.items():
                assert difference(found[name], value) < 1e-10, (size, str(strategy), name)


@pytest.mark.parametrize("case", [c for c in CASES if c.spec.linear], ids=lambda c: c.id)
def test_terms_pass_through_what_is_linear(case: Case):
    """f(a x + b y) = a f(x) + b f(y) in every group of operands that the op says it is jointly linear in."""
    _, equation = one_op(case)
    for group in case.spec.linear(equation):
        rng = np.random.default_rng(1)
        x, y = ({i: noise(case.sample.arrays[i], rng) for i in group} for _ in range(2))
        mixed = {i: 0.7 * x[i] - 1.3 * y[i] for i in group}
        one, two, both = (case.spec.evaluate([given.get(i, a) for i, a in enumerate(case.sample.arrays)], case.attrs)
                          for given in (x, y, mixed))
        for a, b, c in zip(one, two, both, strict=True):
            np.testing.assert_allclose(c, 0.7 * a - 1.3 * b, rtol=1e-10, atol=1e-12)


def noise(like: Array, rng: np.random.Generator) -> Array:
    """Random numbers of the same kind and shape."""
    found = rng.normal(size=np.shape(like))
    return found + 1j * rng.normal(size=np.shape(like)) if np.iscomplexobj(like) else np.asarray(found)


def test_every_op_has_a_rule():
    """An op without one would be repeated on every rank: then that is meant, and said."""
    silent = {spec.name for spec in all_specs() if spec.factors is None and spec.mesh is None
              and spec.kind not in ("transform", "collective", "rank")}
    assert not silent


def test_blocked_axes_of_composites_can_be_cut_by_their_parts():
    """softmax, norms and losses run over a cut last axis; attention over cut queries."""
    names = {"softmax", "log_softmax", "layernorm", "rmsnorm", "cross_entropy", "cross_entropy_soft"}
    found = {}
    for case in CASES:
        _, equation = one_op(case)
        for size in (2, 4):
            found.setdefault(case.spec.name, set()).update(s.name for s in strategies(equation, size) if s.cuts)
    for name in names:
        assert any(n.startswith("stat") for n in found[name]), name
    assert {"b", "s", "h", "r"} <= found["attention"]


def test_rules_of_a_mesh_fit_their_types():
    for case in CASES:
        _, equation = one_op(case)
        for factors in factor_rules(equation, 2):
            for var, row in zip((*equation.operands, *equation.results), (*factors.operands, *factors.results),
                                strict=True):
                assert len(row) == var.type.rank, case.id


def test_an_expansion_returns_what_the_op_does():
    """What strategies of composites rely on: as many parts, whatever the sizes."""
    for case in CASES:
        if case.spec.expand is None:
            continue
        _, equation = one_op(case)
        b = Builder()
        b.reserve(v.name for v in equation.operands)
        _, results = expanded(b, equation)
        assert [v.type for v in results] == [v.type for v in equation.results], case.id
