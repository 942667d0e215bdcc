"""The layer of experts in PyTorch: rows sorted by expert, an MLP per segment of them, eager or torch.compile, SGD."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from bench import cases
from bench.peers import harness, loop_torch


def main() -> None:
    options = harness.options("moe", __doc__ or "")
    size = cases.CASES["moe"][options.size]
    assert isinstance(size, cases.Moe)
    weights, data = cases.initial("moe", options.size)
    parameters = {name: torch.from_numpy(value).requires_grad_() for name, value in weights.items()}
    inputs, target = torch.from_numpy(data["input"]), torch.from_numpy(data["target"])
    optimizer = torch.optim.SGD(list(parameters.values()), lr=size.learning_rate)

    def expert(p: dict[str, torch.Tensor], number: int, rows: torch.Tensor) -> torch.Tensor:
        hidden = F.gelu(torch.addmm(p[f"b1.{number}"], rows, p[f"W1.{number}"]), approximate="tanh")
        return torch.addmm(p[f"b2.{number}"], hidden, p[f"W2.{number}"])

    def loss_of(p: dict[str, torch.Tensor]) -> torch.Tensor:
        scores, chosen = torch.softmax(inputs @ p["Wr"], -1).topk(size.choices, -1)
        gates = (scores / scores.sum(-1, keepdim=True)).flatten()
        slots = chosen.flatten()
        order = torch.argsort(slots, stable=True)
        tokens = torch.div(order, size.choices, rounding_mode="floor")
        counts = torch.bincount(slots, minlength=size.experts).tolist()
        segments = inputs.index_select(0, tokens).split(counts)
        rows = torch.cat([expert(p, number, segment) for number, segment in enumerate(segments)])
        out = torch.zeros_like(inputs).index_add(0, tokens, rows * gates.index_select(0, order)[:, None])
        return F.mse_loss(out, target)

    loop_torch.train(options, optimizer, loss_of, parameters)


if __name__ == "__main__":
    main()
