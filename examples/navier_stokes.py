"""Two-dimensional incompressible flow: the Navier-Stokes equations in stream-function form.

The network gives a stream function and a pressure. The velocity (psi_y, -psi_x) has no divergence whatever the network
says; the momentum equations hold at points inside, the velocity is given at the start and on the walls of a square of
side pi. `make -C examples navier_stokes` trains on the decaying vortex of Taylor and Green and compares with it.
"""
from tessera import graph, op

N, WIDTH = 512, 64  # points inside, at the start and on the walls; width of the network
VISCOSITY = 0.1
PI = 3.141592653589793

net = op.mlp(3, [WIDTH, WIDTH, WIDTH], 2, activation="tanh")


@graph.module
def flow(x, y, t):
    psi, p = op.split(net(op.concat([x, y, t], axis=-1)), 2, axis=-1)
    u, v = op.grad(psi, y), -op.grad(psi, x)
    return u, v, p


def momentum(u, v, p_x, w, x, y, t):
    """What is left of the momentum equation of the velocity component w."""
    return op.grad(w, t) + u * op.grad(w, x) + v * op.grad(w, y) + p_x - VISCOSITY * op.laplacian(w, [x, y])


def mismatch(x, y, t):
    """How far the velocity is from the vortex."""
    u, v, p = flow(x, y, t)
    decay = op.exp(-2 * VISCOSITY * t)
    return op.mse(u, -op.cos(x) * op.sin(y) * decay) + op.mse(v, op.sin(x) * op.cos(y) * decay)


@graph.training_step(module="navier_stokes")
def step(
    x: Tensor[N, 1], y: Tensor[N, 1], t: Tensor[N, 1],
    x0: Tensor[N, 1], y0: Tensor[N, 1],
    way: Tensor[N, 1], tw: Tensor[N, 1],
):
    u, v, p = flow(x, y, t)
    inside_x = momentum(u, v, op.grad(p, x), u, x, y, t)
    inside_y = momentum(u, v, op.grad(p, y), v, x, y, t)
    inside = op.mean(inside_x**2 + inside_y**2)
    start = mismatch(x0, y0, 0 * x0)
    xw = PI * op.clip(1.5 - op.abs(way - 1.5), 0, 1)  # once round the square as `way` goes from 0 to 4
    yw = PI * op.clip(1.5 - op.abs(way - 2.5), 0, 1)
    walls = mismatch(xw, yw, tw)
    return graph.backward(inside + 10 * (start + walls)), {"inside": inside, "start": start, "walls": walls}
