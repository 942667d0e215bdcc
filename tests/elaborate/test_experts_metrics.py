"""Capacity, and what a mixture measures of itself."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tesserac.ir.evaluate import evaluate
from tests.elaborate.mixtures import mixture_source, mlp, softmax, values_for
from tests.elaborate.support import compile_source, infer_of, train_of


def test_capacity_drops_the_least_wanted() -> None:
    source = mixture_source(8, extra=", capacity_factor=0.5").replace("return router(x)", """
        y, m = router(x, metrics=True)
        return y, m["tokens"], m["dropped"]""")
    function = infer_of(compile_source(source))
    p = values_for(function, 11)
    y, tokens, dropped = evaluate(function, p, dtype=np.float64).values()
    logits = p["x"] @ p["net.router.gate"]
    order = np.argsort(-logits, axis=1, kind="stable")[:, :2]
    gates = softmax(np.take_along_axis(logits, order, 1))
    capacity = math.ceil(0.5 * 2 * 8 / 4)
    kept = np.zeros((8, 4))
    for e in range(4):
        slots = sorted((-gates[t, j], 2 * t + j, t) for t in range(8) for j in range(2) if order[t, j] == e)
        for weight, _, t in slots[:capacity]:
            kept[t, e] = -weight
    expected = sum(kept[:, e: e + 1] * mlp(p, f"net.experts.{e}")(p["x"]) for e in range(4))
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-13)
    np.testing.assert_array_equal(tokens, np.bincount(order.reshape(-1), minlength=4))
    assert dropped == pytest.approx(1 - (kept > 0).sum() / 16)
    assert 0 < dropped < 1


def test_metrics_are_what_the_papers_define() -> None:
    source = mixture_source(8).replace("return router(x)", """
        y, m = router(x, metrics=True)
        return y, m["tokens"], m["aux_loss"], m["z_loss"], m["dropped"]""")
    function = infer_of(compile_source(source))
    p = values_for(function, 11)
    _, tokens, aux, z, dropped = evaluate(function, p, dtype=np.float64).values()
    logits = p["x"] @ p["net.router.gate"]
    chosen = np.argsort(-logits, axis=1, kind="stable")[:, :2]
    counts = np.bincount(chosen.reshape(-1), minlength=4)
    np.testing.assert_array_equal(tokens, counts)
    assert aux == pytest.approx(4 * float((counts / 16 * softmax(logits).mean(0)).sum()), rel=1e-7)
    assert z == pytest.approx(float((np.log(np.exp(logits).sum(-1)) ** 2).mean()), rel=1e-7)
    assert dropped == 0


def test_metrics_are_balanced_at_one() -> None:
    source = mixture_source(8, experts=8, width=8, extra=', "switch"').replace(
        "return router(x)", 'return router(x, metrics=True)[1]["aux_loss"]')
    function = infer_of(compile_source(source))
    p = values_for(function, x=np.eye(8), **{"net.router.gate": np.eye(8)})
    (aux,) = evaluate(function, p, dtype=np.float64).values()
    assert aux == pytest.approx(1.0)


def test_load_is_a_metric_of_a_step_and_no_part_of_its_loss() -> None:
    source = """
router = op.router([op.mlp(6, [5], 6) for _ in range(3)])
@graph.module
def net(x):
    return router(x, metrics=True)
@graph.training_step(module="t")
def step(batch: {"x": Tensor[9, 6]}):
    y, load = net(batch["x"])
    loss = op.mean(y * y)
    return graph.backward(loss), {"tokens": load["tokens"], "aux": load["aux_loss"]}
"""
    function = train_of(compile_source(source))
    plain = train_of(compile_source(source.replace(', {"tokens": load["tokens"], "aux": load["aux_loss"]}', "")))
    assert [o.name for o in function.outputs][:5] == ["loss", "tokens.0", "tokens.1", "tokens.2", "aux"]
    p = values_for(function)
    with_metrics, without = evaluate(function, p, dtype=np.float64), evaluate(plain, p, dtype=np.float64)
    assert sum(with_metrics[f"tokens.{e}"] for e in range(3)) == 18
    for name, value in without.items():
        np.testing.assert_array_equal(with_metrics[name], value)
