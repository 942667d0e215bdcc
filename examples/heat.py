"""The heat equation on a rod, u_t = a u_xx, from u = sin(pi x) at the start and with ends kept at zero.

The exact solution is exp(-a pi^2 t) sin(pi x). Points inside, at the start and at the ends are batches of their own;
`make -C examples heat` trains on them and compares.
"""
from tessera import graph, op

N, WIDTH = 512, 32  # points of each kind, width of the network
DIFFUSIVITY = 0.1
PI = 3.141592653589793

net = op.mlp(2, [WIDTH, WIDTH, WIDTH], 1, activation="tanh")


@graph.module
def rod(x, t):
    u = net(op.concat([x, t], axis=-1))
    return u


@graph.training_step(module="heat")
def step(x: Tensor[N, 1], t: Tensor[N, 1], x0: Tensor[N, 1], te: Tensor[N, 1]):
    u = rod(x, t)
    equation = op.mse(op.grad(u, t), DIFFUSIVITY * op.grad(u, x, order=2))
    start = op.mse(rod(x0, 0 * x0), op.sin(PI * x0))
    ends = op.mean(rod(0 * te, te) ** 2 + rod(0 * te + 1, te) ** 2)
    loss = equation + 10 * start + 10 * ends
    return graph.backward(loss), {"equation": equation, "start": start, "ends": ends}
