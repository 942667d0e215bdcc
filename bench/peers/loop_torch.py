"""The training loop of the PyTorch peers whose step is a loss, its gradient and an optimizer of PyTorch's own."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch

from bench.peers import harness

Parameters = dict[str, torch.Tensor]


def train(
    options: argparse.Namespace,
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[Parameters], torch.Tensor],
    parameters: Parameters,
) -> None:
    """Races the step, with the loss through torch.compile where `--compile` asks for it."""
    forward = torch.compile(loss_of) if options.compile else loss_of

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = forward(parameters)
        loss.backward()
        optimizer.step()
        return loss.item()

    harness.race(step, options)
