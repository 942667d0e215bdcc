"""A layer of experts as the peers have it: the best K of E, each D -> 2D -> D with tanh GELU; mean squared error.

Sizes are those of `d512`; `--set T=32 --set D=16 --set E=4` gives `tiny`.
"""
from tessera import graph, op

T, D, E, K = 4096, 512, 16, 2  # tokens, width, experts, choices of a token

experts = [op.mlp(D, [2 * D], D, activation="gelu_tanh") for _ in range(E)]
router = op.router(experts, strategy="topk", k=K)


@graph.module
def moe(x: Tensor[T, D]):
    return router(x)


@graph.training_step(module="moe")
def step(batch):
    loss = op.mse(moe(batch["input"]), batch["target"])
    return graph.backward(loss), {"loss": loss}
