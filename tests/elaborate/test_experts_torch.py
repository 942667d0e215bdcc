"""Mixtures of experts and all their gradients against PyTorch's autograd of the dense sum, in double precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tesserac.ir.evaluate import evaluate
from tests.elaborate.mixtures import values_for
from tests.elaborate.support import compile_source, train_of

torch = pytest.importorskip("torch")

ROUTERS = {
    "top2": "op.router(experts)",
    "every expert": 'op.router(experts, "topk", k=4)',
    "switch": 'op.router(experts, "switch")',
    "dense": "op.recursive_mixture(experts, 1)",
}


def source(router: str, tokens: int) -> str:
    return f"""
    experts = [op.mlp(6, [5], 6, activation="tanh") for _ in range(4)]
    router = {router}

    @graph.module
    def net(x, shift: Tensor[6]):
        return router(x + shift)

    @graph.training_step(module="t")
    def step(batch: {{"x": Tensor[{tokens}, 6], "y": Tensor[{tokens}, 6]}}):
        return op.mean(op.square(net(batch["x"]) - batch["y"]))
    """


def dense(p: dict[str, Any], tokens: int, k: int, switch: bool) -> Any:
    """The loss, with weights that are zero where an expert is not chosen."""
    x = p["x"] + p["net.shift"]
    logits = x @ p["net.router.gate"]
    order = np.argsort(-logits.detach().numpy(), axis=1, kind="stable")[:, :k]
    chosen = torch.zeros(tokens, 4, dtype=torch.bool)
    chosen[torch.arange(tokens)[:, None], torch.as_tensor(order.copy())] = True
    weights = logits.softmax(-1) * chosen if switch else logits.masked_fill(~chosen, -torch.inf).softmax(-1)
    results = []
    for e in range(4):
        w1, b1, w2, b2 = (p[f"net.experts.{e}.{n}"] for n in ("w1", "b1", "w2", "b2"))
        results.append(torch.tanh(x @ w1 + b1) @ w2 + b2)
    return (((weights[:, :, None] * torch.stack(results, 1)).sum(1) - p["y"]) ** 2).mean()


@pytest.mark.parametrize("tokens", [1, 12])
@pytest.mark.parametrize("case", ["random", "to one expert", "ties"])
@pytest.mark.parametrize("router", ROUTERS)
def test_gradients_are_those_of_the_dense_sum(router: str, case: str, tokens: int) -> None:
    function = train_of(compile_source(source(ROUTERS[router], tokens), precision="fp64"))
    p = values_for(function, 5)
    gate = p["net.router.gate"]
    if case == "to one expert":
        p["x"] = np.abs(p["x"]) + 1.0
        p["net.shift"] = np.abs(p["net.shift"])
        gate[:, 2] = 4.0
    elif case == "ties":
        gate[:, 1] = gate[:, 3]
    found = evaluate(function, p, dtype=np.float64)
    tensors = {k: torch.tensor(v, dtype=torch.float64, requires_grad=True) for k, v in p.items()}
    k = {"top2": 2, "every expert": 4, "switch": 1, "dense": 4}[router]
    loss = dense(tensors, tokens, k, router == "switch")
    loss.backward()
    assert float(found["loss"]) == pytest.approx(loss.item(), rel=1e-12)
    for item in function.parameters:
        expected = tensors[item.path].grad.numpy()
        np.testing.assert_allclose(found[f"grad:{item.path}"], expected, rtol=1e-12, atol=1e-12, err_msg=item.path)
