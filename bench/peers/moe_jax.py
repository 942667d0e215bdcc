"""The layer of experts in JAX: rows gathered into slots of a fixed capacity, batched products, one jitted step, SGD.

Shapes must be known when it is compiled, so every expert has room for a quarter more rows than its even share; with
the weights and data of this case no row is left over (the losses agree with those of the dropless programs).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from bench import cases
from bench.peers import harness, loop_jax


def main() -> None:
    options = harness.options("moe", __doc__ or "")
    size = cases.CASES["moe"][options.size]
    assert isinstance(size, cases.Moe)
    weights, data = cases.initial("moe", options.size)
    inputs, target = jnp.asarray(data["input"]), jnp.asarray(data["target"])
    capacity = int(size.tokens * size.choices / size.experts * 1.25)
    nowhere = size.experts * capacity  # a slot behind all others, for rows beyond the capacity

    def experts_of(p: dict[str, jax.Array], rows: jax.Array) -> jax.Array:
        hidden = jax.nn.gelu(jnp.einsum("ecd,edf->ecf", rows, p["W1"]) + p["b1"][:, None], approximate=True)
        return jnp.einsum("ecf,efd->ecd", hidden, p["W2"]) + p["b2"][:, None]

    def loss_of(p: dict[str, jax.Array]) -> jax.Array:
        scores, chosen = jax.lax.top_k(jax.nn.softmax(inputs @ p["Wr"], -1), size.choices)
        gates = scores / scores.sum(-1, keepdims=True)
        # The place of every (choice, token) in its expert's queue, first choices first.
        hits = jax.nn.one_hot(chosen.T.reshape(-1), size.experts, dtype=jnp.int32)
        queue = (jnp.cumsum(hits, 0) * hits).sum(-1).reshape(size.choices, size.tokens).T - 1
        fits = queue < capacity
        slot = jnp.where(fits, chosen * capacity + queue, nowhere)
        token = jnp.full(nowhere + 1, size.tokens).at[slot.reshape(-1)].set(
            jnp.repeat(jnp.arange(size.tokens), size.choices)
        )
        padded = jnp.concatenate([inputs, jnp.zeros((1, size.width))])
        rows = experts_of(p, padded[token[:-1]].reshape(size.experts, capacity, size.width))
        rows = jnp.concatenate([rows.reshape(nowhere, size.width), jnp.zeros((1, size.width))])
        out = (rows[slot] * (gates * fits)[..., None]).sum(1)
        return ((out - target) ** 2).mean()

    def update(p: dict[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
        loss, gradients = jax.value_and_grad(loss_of)(p)
        return loss, jax.tree.map(lambda x, g: x - size.learning_rate * g, p, gradients)

    state = {"Wr": jnp.asarray(weights["Wr"])}
    for name in ("W1", "b1", "W2", "b2"):
        state[name] = jnp.asarray(np.stack([weights[f"{name}.{e}"] for e in range(size.experts)]))

    loop_jax.train(update, state, options)


if __name__ == "__main__":
    main()
