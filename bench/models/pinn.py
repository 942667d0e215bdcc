"""The residuals of bench/peers/pinn_torch.py: listing 2's of psi(x, y, t), or with PLATE the biharmonic of u(x, y)."""
from tessera import graph, op

N, W, L, PLATE = 4096, 256, 2, False  # points, width, hidden layers, which equation

net = op.mlp(2 if PLATE else 3, [W for _ in range(L)], 1, activation="tanh")


@graph.module
def pinn(coordinates):
    return net(op.concat(coordinates, axis=-1))


def plate(x, y):
    return op.mse(op.biharmonic(pinn([x, y]), [x, y]), 1)


def flow(x, y, t):
    psi = pinn([x, y, t])
    u, v, p = op.grad(psi, x), op.grad(psi, y), op.grad(psi, t)
    continuity = op.grad(u, x) + op.grad(v, y)
    momentum = op.grad(u, t) + u * op.grad(u, x) + v * op.grad(u, y) + op.grad(p, x)
    return op.mse(continuity, 0) + op.mse(momentum, 0)


@graph.training_step(module="pinn")
def step(batch: {"x": Tensor[N, 1], "y": Tensor[N, 1]}):
    x, y = batch["x"], batch["y"]
    loss = plate(x, y) if PLATE else flow(x, y, batch["t"])
    return graph.backward(loss), {"loss": loss}
