"""The spectral step in JAX: one jitted step with complex tensors; `--fused`: two products a level for all experts."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from bench import cases
from bench.peers import harness, loop_jax

Parameters = dict[str, jax.Array]


def activation(z: jax.Array) -> jax.Array:
    """GELU in its tanh form, of real and imaginary parts."""
    return jax.lax.complex(jax.nn.gelu(z.real, approximate=True), jax.nn.gelu(z.imag, approximate=True))


def gates(h: jax.Array, gate: jax.Array) -> jax.Array:
    """[batch, experts] from the parts of h."""
    return jax.nn.softmax(jnp.concatenate([h.real, h.imag], -1) @ gate, -1)


def one_by_one(size: cases.Spectral, p: Parameters, h: jax.Array) -> jax.Array:
    """The mixture as a sum over experts."""
    for _ in range(size.depth):
        weights = gates(h, p["gate"])
        results = []
        for i in range(size.experts):
            hidden = activation(h @ p[f"e{i}.W1"] + p[f"e{i}.b1"])
            results.append(weights[:, i : i + 1] * (hidden @ p[f"e{i}.W2"] + p[f"e{i}.b2"]))
        h = sum(results[1:], results[0])
    return h


def all_at_once(size: cases.Spectral, p: Parameters, h: jax.Array) -> jax.Array:
    """The mixture as two products per level."""
    for _ in range(size.depth):
        weights = gates(h, p["gate"])
        hidden = activation(h @ p["W1"] + p["b1"]).reshape(size.batch, size.experts, size.hidden)
        h = (hidden * weights[:, :, None]).reshape(size.batch, -1) @ p["W2"] + weights.astype(h.dtype) @ p["b2"]
    return h


def joined(size: cases.Spectral, weights: cases.Arrays) -> Parameters:
    """Parameters of `all_at_once`."""
    each = {name: [weights[f"e{i}.{name}"] for i in range(size.experts)] for name in ("W1", "b1", "W2", "b2")}
    wide = {"W1": jnp.concatenate(each["W1"], 1), "b1": jnp.concatenate(each["b1"])}
    tall = {"W2": jnp.concatenate(each["W2"]), "b2": jnp.stack(each["b2"])}
    return {"gate": jnp.asarray(weights["gate"]), **wide, **tall}


def main() -> None:
    options = harness.options("spectral", __doc__ or "")
    size = cases.CASES["spectral"][options.size]
    assert isinstance(size, cases.Spectral)
    weights, data = cases.initial("spectral", options.size)
    separate = {name: jnp.asarray(value) for name, value in weights.items()}
    parameters = joined(size, weights) if options.fused else separate
    mixture = all_at_once if options.fused else one_by_one
    x, target = jnp.asarray(data["input"]), jnp.asarray(data["target"])

    def loss_of(parameters: Parameters) -> jax.Array:
        result = jnp.fft.ifft(mixture(size, parameters, jnp.fft.fft(x, norm="ortho")), norm="ortho")
        return jnp.square(result.real - target).mean()

    def train(parameters: Parameters) -> tuple[jax.Array, Parameters]:
        loss, gradients = jax.value_and_grad(loss_of)(parameters)
        # JAX's gradient of a complex number is the conjugate of the direction of steepest ascent.
        return loss, jax.tree.map(lambda p, g: p - size.learning_rate * jnp.conj(g), parameters, gradients)

    loop_jax.train(train, parameters, options)


if __name__ == "__main__":
    main()
