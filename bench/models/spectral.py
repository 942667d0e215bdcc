"""Listing 4 with a loss, at the sizes and with the activation of the peers (`gelu_tanh`, of real and imaginary parts)."""
from tessera import graph, op

B, N, HIDDEN, E, DEPTH = 256, 512, 512, 4, 3  # batch, bins, hidden width, experts, levels

mixture = op.recursive_mixture([op.mlp(N, [HIDDEN], N, activation="gelu_tanh") for _ in range(E)], depth=DEPTH)


@graph.module
def spectral(x: Tensor[B, N]):
    return op.real(op.ifft(mixture(op.fft(x, norm="ortho")), norm="ortho"))


@graph.training_step(module="spectral")
def step(batch):
    loss = op.mse(spectral(batch["input"]), batch["target"])
    return graph.backward(loss), {"loss": loss}
