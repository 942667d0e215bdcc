"""Entries with derivatives by coordinates, for tests of emitted code: batches of several sizes, vector coordinates."""

from tessera import autodiff, graph, op


@autodiff.custom_grad
def soft(x):
    return op.clip(x, -1.0, 1.0)


@soft.grad
def soft_rule(x, upstream):
    return upstream * op.where(op.abs(x) < 1, 1.0, 0.1)


@graph.module
def net(x, t):
    u = op.mlp([x, t], hidden=[9, 7], out_dim=1, activation="tanh")
    ut = op.grad(u, "t")
    uxx = op.laplacian(u, ["x"])
    return u, ut, uxx


@graph.training_step(module="heat")
def step(batch):
    _, ut, uxx = net(batch["x"], batch["t"])
    residual = op.mse(ut, uxx)
    ub, _, _ = net(batch["xb"], batch["tb"])
    boundary = op.mse(op.grad(ub, "x"), 0) + op.mean(soft(ub)) + op.mse(op.grad(soft(ub), "x"), 0)
    x0 = batch["x0"]
    u0, _, _ = net(x0, 0 * x0)
    start = op.mse(u0, op.sin(x0))
    return residual + 10 * boundary + start, {"residual": residual, "boundary": boundary, "start": start}


@graph.module
def cloud(z):
    f = op.mlp(z, hidden=[6], out_dim=1)
    g = op.grad(f, "z")
    h = op.hessian(f, "z")
    d4 = op.biharmonic(f, "z")
    hv = graph.hvp(f, "z", op.sin(z))
    energy = graph.hvp(lambda q: op.sum(op.sin(q) * q), wrt=z, dir=g)
    return f, g, h, d4, hv, energy
