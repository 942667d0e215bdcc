"""Complex inputs, parameters, outputs and a complex target; nothing here is real but the loss."""

from tessera import graph, op


@graph.module
def waves(z: Tensor["B", 10, complex64], gain: Tensor["B", 10]):
    h = op.mlp(z * (0.5 - 2j) + gain, hidden=[12], out_dim=6)
    out = h * op.exp(0.1 * op.conj(h)) / (1.5 + op.abs(h))
    return out, op.angle(h)


@graph.training_step(module="waves")
def step(batch):
    out, angle = waves(batch["z"], batch["gain"])
    loss = op.mse(out, batch["target"]) + 0.1 * op.mean(op.abs(out) ** 2) + 0.01 * op.mean(op.cos(angle))
    return graph.backward(loss), {"loss": loss, "size": op.mean(op.abs(out))}
