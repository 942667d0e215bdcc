"""The chapter's attention step in JAX: one jitted step that donates its parameters, SGD."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from bench import cases
from bench.peers import harness, loop_jax


def main() -> None:
    options = harness.options("block", __doc__ or "")
    size = cases.CASES["block"][options.size]
    assert isinstance(size, cases.Block)
    weights, data = cases.initial("block", options.size)
    inputs, labels = jnp.asarray(data["input"]), jnp.asarray(data["labels"], dtype=jnp.int32)
    features = size.width // size.heads

    def heads(x: jax.Array) -> jax.Array:
        return x.reshape(size.batch, size.positions, size.heads, features)

    def loss_of(parameters: dict[str, jax.Array]) -> jax.Array:
        query, key, value = (heads(inputs @ parameters[name]) for name in ("Wq", "Wk", "Wv"))
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / features**0.5
        if size.causal:
            scores = jnp.where(jnp.tri(size.positions, dtype=bool), scores, -jnp.inf)
        attention = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), value)
        logits = attention.reshape(size.batch, size.positions, size.width) @ parameters["Wo"]
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], -1)
        return -chosen.mean()

    def update(parameters: dict[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
        loss, gradients = jax.value_and_grad(loss_of)(parameters)
        return loss, jax.tree.map(lambda p, g: p - size.learning_rate * g, parameters, gradients)

    state = {name: jnp.asarray(value) for name, value in weights.items()}

    loop_jax.train(update, state, options)


if __name__ == "__main__":
    main()
