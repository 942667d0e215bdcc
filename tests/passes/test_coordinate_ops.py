"""Every op of the catalogue under derivatives by a coordinate, on the samples of its OpSpec, to order four."""

from __future__ import annotations

import numpy as np
import pytest

from tesserac.ir.dims import STATIC
from tesserac.ir.program import Input, Output, Var
from tesserac.ir.types import DType, TensorType
from tesserac.ir.verify import verify
from tesserac.ops.base import Array
from tesserac.passes.differentiate import differentiate
from tesserac.passes.simplify import simplify
from tests.ops.support import Case, cases, operands, weights_like
from tests.passes.fields import STEPS, Field, run, slope

EXCLUDED = ("transform", "random", "layout", "source")
FEWER = {"attention": 2, "attention_grad": 1, "cross_entropy": 3, "cross_entropy_soft": 3}
"""Orders of ops that expand into many primitives; all others go to order four."""


def _is_real(case: Case) -> bool:
    """Whether operands and results are real, at least one of the former is floating, and the op has a derivative."""
    types = (*case.types, *case.spec.infer(case.types, case.attrs, STATIC))
    return bool(case.floating) and case.spec.differentiable and not any(t.dtype.is_complex for t in types)


CASES = [c for c in cases() if c.spec.kind not in EXCLUDED and c.spec.name != "stop_gradient" and _is_real(c)]


def along_a_curve(case: Case) -> tuple[Field, Var, list[Var], dict[str, Array]]:
    """The op of operands that bend with a number s, through the sample at s = 0; and what the operands bend along."""
    field = Field()
    b = field.b
    s = b.add_input(Input(Var("s", TensorType(DType.F64, ())), "s"))
    bend = b.op("add", b.op("sin", s), b.op("square", s))
    moved, pushes = [], {}
    for position, x in enumerate(operands(b, case.sample.arrays)):
        if position in case.floating:
            push = b.add_input(Input(Var(f"p{position}", x.type), f"p{position}"))
            pushes[push.name] = 0.02 * weights_like(x.type, 1.3 + 0.7 * position)
            x = b.op("add", x, b.op("mul", push, b.op("broadcast", bend, shape=x.type.shape, axes=())))
        moved.append(x)
    results = b.ops(case.spec.name, moved, case.attrs)
    return field, s, [v for v in results if v.type.dtype.is_differentiable], pushes


@pytest.mark.parametrize("case", CASES, ids=[c.id for c in CASES])
def test_every_op_to_order_four(case: Case):
    field, s, results, pushes = along_a_curve(case)
    orders, chains = FEWER.get(case.spec.name, 4), []
    for value in results:
        chain = [value]
        for _ in range(orders):
            chain.append(field.d(chain[-1], s))
        chains.append(chain)
    outputs = [Output(f"{i}.{n}", v) for i, chain in enumerate(chains) for n, v in enumerate(chain)]
    function = differentiate(field.b.finish("f", outputs))
    verify(function)
    values = {"s": np.array(0.3), **pushes, **{f"x{i}": a for i, a in enumerate(case.sample.arrays)}}
    found = run(function, values)
    simplified = run(simplify(function), values)
    steps = {h: run(function, values | {"s": values["s"] + h}) for h in STEPS}
    for i in range(len(chains)):
        for n in range(orders):
            expected = slope(lambda h, key=f"{i}.{n}": steps[h][key])
            size = max(1.0, float(np.abs(expected).max(initial=0.0)))
            np.testing.assert_allclose(found[f"{i}.{n + 1}"], expected, rtol=1e-7, atol=1e-9 * size)
            np.testing.assert_allclose(simplified[f"{i}.{n + 1}"], found[f"{i}.{n + 1}"], rtol=1e-9, atol=1e-11 * size)
