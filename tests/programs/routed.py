"""Products of bf16 in front of what tokens choose their experts by, and a capacity that cuts the choices."""
from tessera import graph, op

mix = op.linear(16, 16)
router = op.router([op.mlp(16, [24], 16) for _ in range(5)], capacity_factor=1.0)


@graph.module
def routed(x: Tensor[768, 16]):
    h = x + mix(x)
    return h + router(h)


@graph.training_step(module="routed")
def step(batch: {"x": Tensor[768, 16], "y": Tensor[768, 16]}):
    return op.mse(routed(batch["x"]), batch["y"])
