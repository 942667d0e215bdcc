"""A plate under load, laplacian(laplacian u) = f, simply supported: u and its laplacian vanish at the edge.

The load is that of u = sin(pi x) sin(pi y) on the unit square, which `make -C examples biharmonic` compares with.
"""
from tessera import graph, op

N, WIDTH = 512, 64  # points inside and on the edge, width of the network
PI = 3.141592653589793

net = op.mlp(2, [WIDTH, WIDTH], 1, activation="tanh")


@graph.module
def plate(x, y):
    u = net(op.concat([x, y], axis=-1))
    return u


@graph.training_step(module="biharmonic")
def step(x: Tensor[N, 1], y: Tensor[N, 1], way: Tensor[N, 1]):
    load = op.sin(PI * x) * op.sin(PI * y)
    bending = op.mse(op.biharmonic(plate(x, y), [x, y]) / (4 * PI**4), load)
    xe = op.clip(1.5 - op.abs(way - 1.5), 0, 1)  # once round the edge as `way` goes from 0 to 4
    ye = op.clip(1.5 - op.abs(way - 2.5), 0, 1)
    edge = plate(xe, ye)
    support = op.mean(edge**2) + op.mean((op.laplacian(edge, [xe, ye]) / (2 * PI**2)) ** 2)
    return graph.backward(bending + 10 * support), {"bending": bending, "support": support}
