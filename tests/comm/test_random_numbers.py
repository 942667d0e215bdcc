"""Random numbers on a mesh: a rank draws those that its part of the whole tensor has on one device."""

from __future__ import annotations

import numpy as np

from tests.comm.projects import build, losses, run, slow
from tests.comm.test_programs import DATA, GPT

NET = """
from tessera import graph, op

@graph.module
def net(x: Tensor[8, 6], W: Tensor[6, 12], V: Tensor[12, 4]):
    h = op.dropout(op.relu(x @ W), 0.3)
    return (h + 0.1 * op.random_normal(8, 12)) @ V

@graph.training_step(module="net")
def step(batch):
    loss = op.mse(net(batch["x"]), batch["y"])
    return graph.backward(loss), {"loss": loss}
"""


def test_parts_of_random_tensors() -> None:
    """Hidden values are cut by both axes: rows by dp, columns by tp."""
    alone, cut = build(NET, "none"), build(NET, "tp=2,dp=2")
    kernels = (cut.parent / f"{cut.name}.kernels.h").read_text()
    for draw in ("uniform", "normal"):
        assert f"tsr::random_{draw}_vec<float>(key.seed" in kernels
    assert run(cut, 4, "selftest").rstrip().endswith("selftest: ok")
    data = ("--data", "x=normal", "--data", "y=normal", "--lr", "0.1", "--steps", "5")
    expected, found = (losses(run(p, n, "train", *data)) for p, n in ((alone, 1), (cut, 4)))
    assert len(set(expected)) == 5
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@slow
def test_a_model_with_dropout_trains_as_on_one_rank() -> None:
    """In the residual stream, whose sequences tp cuts, and behind attention."""
    source = GPT.replace("x + mlp(norm2(x))", "x + op.dropout(mlp(norm2(x)), 0.2)")
    source = source.replace("positions\n    for", "positions\n    x = op.dropout(x, 0.1)\n    for")
    assert source.count("op.dropout") == 2
    alone = build(source, "none")
    expected = losses(run(alone, 1, "train", *DATA, "--steps", 20))
    for mesh, ranks in (("tp=2,dp=2", 4), ("sp=2", 2)):
        cut = build(source, mesh)
        assert run(cut, ranks, "selftest").rstrip().endswith("selftest: ok")
        found = losses(run(cut, ranks, "train", *DATA, "--steps", 20))
        assert len(found) == 20
        np.testing.assert_allclose(found, expected, rtol=1e-6)
