"""A Fourier neural operator (Li et al. 2021) for Burgers' equation: from u(x, 0) to u(x, 1) on a periodic interval.

Data comes from `burgers_data.py`. A level mixes channels in the lowest M frequencies by complex weights and at every
point by a linear layer. Nothing but the transforms depends on the resolution.
"""
from tessera import graph, op

B, N, W, M, L = 20, 256, 32, 16, 4  # batch, points, channels, frequencies kept, levels

lift = op.linear(2, W)
points = [op.linear(W, W) for _ in range(L)]
project = op.mlp(W, [128], 1)


@graph.module
def fno(u: Tensor[B, N], weights: Tensor[L, M, W, W, complex64]):
    x = op.broadcast_to(op.cast(op.iota(N), fp32) / N, B, N)
    h = lift(op.stack([u, x], axis=-1))
    for level in range(L):
        low = op.rfft(h, axis=1, norm="ortho")[:, :M]
        mixed = op.einsum("bmi,mio->bmo", low, weights[level])
        smooth = op.irfft(op.pad(mixed, [(0, 0), (0, N // 2 + 1 - M), (0, 0)]), N, axis=1, norm="ortho")
        h = op.gelu(smooth + points[level](h)) if level < L - 1 else smooth + points[level](h)
    return project(h)[:, :, 0]


@graph.training_step(module="fno_burgers")
def step(batch: {"u0": Tensor[B, N], "u1": Tensor[B, N]}):
    u1 = fno(batch["u0"])
    error = op.norm(u1 - batch["u1"], axis=1) / op.norm(batch["u1"], axis=1)
    loss = op.mean(error)
    return graph.backward(loss), {"loss": loss}
