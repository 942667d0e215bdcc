"""The training loop of the JAX peers: one jitted function from a state to the loss and the next state."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import jax

from bench.peers import harness


def train(
    update: Callable[[Any], tuple[jax.Array, Any]], state: Any, options: argparse.Namespace, updates: int = 10
) -> None:
    """Races `update`, compiled, with the memory of the old state given to the new one."""
    jitted = jax.jit(update, donate_argnums=0)

    def step() -> float:
        nonlocal state
        loss, state = jitted(state)
        jax.block_until_ready(state)
        return float(loss)

    harness.race(step, options, updates)
