"""The GPT step in JAX: one jitted step, AdamW included, that donates parameters and moments."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bench import cases
from bench.peers import harness, loop_jax

Parameters = dict[str, jax.Array]


class State(NamedTuple):
    """Parameters, the optimizer's two moments of each, and the number of updates made."""

    parameters: Parameters
    first: Parameters
    second: Parameters
    updates: jax.Array


def logits_of(size: cases.Gpt, parameters: Parameters, tokens: jax.Array) -> jax.Array:
    """[batch, context, vocabulary] from [batch, context] token ids."""
    features = size.width // size.heads
    visible = jnp.tri(size.context, dtype=bool)

    def norm(x: jax.Array, name: str) -> jax.Array:
        centred = x - x.mean(-1, keepdims=True)
        scale = jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-5)
        return centred * scale * parameters[f"{name}_w"] + parameters[f"{name}_b"]

    def linear(x: jax.Array, name: str) -> jax.Array:
        return x @ parameters[f"{name}_w"] + parameters[f"{name}_b"]

    def attend(x: jax.Array) -> jax.Array:
        parts = jnp.split(x, 3, axis=-1)
        query, key, value = (part.reshape(size.batch, size.context, size.heads, features) for part in parts)
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / features**0.5
        weights = jax.nn.softmax(jnp.where(visible, scores, -jnp.inf))
        return jnp.einsum("bhqk,bkhd->bqhd", weights, value).reshape(size.batch, size.context, size.width)

    h = parameters["tok_emb"][tokens] + parameters["pos_emb"]
    for layer in range(size.layers):
        name = f"b{layer}"
        h = h + linear(attend(linear(norm(h, f"{name}.ln1"), f"{name}.qkv")), f"{name}.proj")
        hidden = jax.nn.gelu(linear(norm(h, f"{name}.ln2"), f"{name}.fc"), approximate=True)
        h = h + linear(hidden, f"{name}.out")
    return norm(h, "lnf") @ (parameters["tok_emb"].T if size.tied else parameters["head_w"])


def adamw(size: cases.Gpt, state: State, gradients: Parameters) -> State:
    """One update with decoupled weight decay on parameters of rank two and more."""
    count = state.updates + 1
    first = jax.tree.map(lambda m, g: size.beta1 * m + (1 - size.beta1) * g, state.first, gradients)
    second = jax.tree.map(lambda v, g: size.beta2 * v + (1 - size.beta2) * g * g, state.second, gradients)

    def update(p: jax.Array, m: jax.Array, v: jax.Array) -> jax.Array:
        kept = p * (1 - size.learning_rate * size.weight_decay) if p.ndim >= 2 else p
        unbiased = m / (1 - size.beta1**count)
        return kept - size.learning_rate * unbiased / (jnp.sqrt(v / (1 - size.beta2**count)) + size.eps)

    return State(jax.tree.map(update, state.parameters, first, second), first, second, count)


def main() -> None:
    options = harness.options("gpt", __doc__ or "")
    size = cases.CASES["gpt"][options.size]
    assert isinstance(size, cases.Gpt)
    weights, data = cases.initial("gpt", options.size)
    tokens = jnp.asarray(data["input"], dtype=jnp.int32)
    labels = jnp.asarray(data["labels"], dtype=jnp.int32)

    def loss_of(parameters: Parameters) -> jax.Array:
        scores = jax.nn.log_softmax(logits_of(size, parameters, tokens))
        return -jnp.take_along_axis(scores, labels[..., None], -1).mean()

    def train(state: State) -> tuple[jax.Array, State]:
        loss, gradients = jax.value_and_grad(loss_of)(state.parameters)
        return loss, adamw(size, state, gradients)

    parameters = {name: jnp.asarray(value) for name, value in weights.items()}
    first, second = (jax.tree.map(jnp.zeros_like, parameters) for _ in range(2))
    state = State(parameters, first, second, jnp.float32(0))

    loop_jax.train(train, state, options)


if __name__ == "__main__":
    main()
