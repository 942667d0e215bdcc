"""One derivative of the order K by one of three coordinates, its mean square, and the gradient of that."""
from tessera import graph, op

N, W, K = 1024, 128, 1  # points, width, order

net = op.mlp(3, [W, W], 1, activation="tanh")


@graph.module
def orders(x, y, t):
    return net(op.concat([x, y, t], axis=-1))


@graph.training_step(module="orders")
def step(x: Tensor[N, 1], y: Tensor[N, 1], t: Tensor[N, 1]):
    return op.mean(op.grad(orders(x, y, t), x, order=K) ** 2)
