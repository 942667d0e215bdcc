"""The chapter's attention step in PyTorch: scaled_dot_product_attention, eager or torch.compile, SGD."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from bench import cases
from bench.peers import harness, loop_torch


def main() -> None:
    options = harness.options("block", __doc__ or "")
    size = cases.CASES["block"][options.size]
    assert isinstance(size, cases.Block)
    weights, data = cases.initial("block", options.size)
    parameters = {name: torch.from_numpy(value).requires_grad_() for name, value in weights.items()}
    inputs, labels = torch.from_numpy(data["input"]), torch.from_numpy(data["labels"]).flatten()
    optimizer = torch.optim.SGD(list(parameters.values()), lr=size.learning_rate)

    def heads(x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (size.heads, -1)).transpose(1, 2)

    def loss_of(parameters: dict[str, torch.Tensor]) -> torch.Tensor:
        query, key, value = (heads(inputs @ parameters[name]) for name in ("Wq", "Wk", "Wv"))
        attention = F.scaled_dot_product_attention(query, key, value, is_causal=size.causal)
        logits = attention.transpose(1, 2).flatten(2) @ parameters["Wo"]
        return F.cross_entropy(logits.flatten(0, 1), labels)

    loop_torch.train(options, optimizer, loss_of, parameters)


if __name__ == "__main__":
    main()
