"""A module without a loss: a forward program, which --loss makes trainable."""
from tessera import graph, op

inner = op.mlp(6, [10], 3)


@graph.module
def forward(x: Tensor[5, 6], scale: Tensor[6]):
    Y = inner(x * scale)
    return Y
