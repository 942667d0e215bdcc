"""Mixtures of experts on a mesh, as processes: rows travel to their experts' ranks and back, and none is dropped."""

from __future__ import annotations

import numpy as np

from tests.comm.projects import build, losses, run, slow

MIXTURE = """
from tessera import graph, op

T, D, E = 16, 8, 4

experts = [op.mlp(D, [12], D) for _ in range(E)]
router = op.router(experts, strategy="top2")

@graph.module
def moe(x: Tensor[T, D]):
    return x + router(x)

@graph.training_step(module="moe")
def step(batch):
    loss = op.mse(moe(batch["x"]), batch["y"])
    return graph.backward(loss), {"loss": loss}
"""
DATA = ("--data", "x=normal", "--data", "y=normal", "--optimizer", "momentum", "--lr", "0.05", "--steps", "20")


@slow
def test_experts_on_two_ranks_train_as_on_one() -> None:
    alone, spread = build(MIXTURE, "none"), build(MIXTURE, "ep=2")
    kernels = (spread.parent / f"{spread.name}.kernels.h").read_text()
    assert kernels.count("exchange::exchange_rows(") == 2  # there and back; x needs no gradient
    assert run(spread, 2, "selftest").splitlines()[-1] == "selftest: ok"
    expected, found = (losses(run(p, n, "train", *DATA)) for p, n in ((alone, 1), (spread, 2)))
    assert len(found) == 20
    np.testing.assert_allclose(found, expected, rtol=1e-6)
