"""The GPT step in PyTorch: eager or torch.compile, fused AdamW."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from bench import cases
from bench.peers import harness, loop_torch

Parameters = dict[str, torch.Tensor]


def logits_of(size: cases.Gpt, parameters: Parameters, tokens: torch.Tensor) -> torch.Tensor:
    """[batch, context, vocabulary] from [batch, context] token ids."""

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, (size.width,), parameters[f"{name}_w"], parameters[f"{name}_b"])

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ parameters[f"{name}_w"] + parameters[f"{name}_b"]

    h = F.embedding(tokens, parameters["tok_emb"]) + parameters["pos_emb"]
    for layer in range(size.layers):
        name = f"b{layer}"
        joint = linear(norm(h, f"{name}.ln1"), f"{name}.qkv")
        query, key, value = (part.unflatten(-1, (size.heads, -1)).transpose(1, 2) for part in joint.chunk(3, -1))
        attention = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        h = h + linear(attention.transpose(1, 2).flatten(2), f"{name}.proj")
        hidden = F.gelu(linear(norm(h, f"{name}.ln2"), f"{name}.fc"), approximate="tanh")
        h = h + linear(hidden, f"{name}.out")
    return norm(h, "lnf") @ (parameters["tok_emb"].T if size.tied else parameters["head_w"])


def main() -> None:
    options = harness.options("gpt", __doc__ or "")
    size = cases.CASES["gpt"][options.size]
    assert isinstance(size, cases.Gpt)
    weights, data = cases.initial("gpt", options.size)
    parameters = {name: torch.from_numpy(value).requires_grad_() for name, value in weights.items()}
    tokens, labels = torch.from_numpy(data["input"]), torch.from_numpy(data["labels"]).flatten()
    groups = [
        {"params": [p for p in parameters.values() if p.ndim >= 2], "weight_decay": size.weight_decay},
        {"params": [p for p in parameters.values() if p.ndim < 2], "weight_decay": 0.0},
    ]
    betas = (size.beta1, size.beta2)
    optimizer = torch.optim.AdamW(groups, lr=size.learning_rate, betas=betas, eps=size.eps, fused=True)

    def loss_of(parameters: Parameters) -> torch.Tensor:
        return F.cross_entropy(logits_of(size, parameters, tokens).flatten(0, 1), labels)

    loop_torch.train(options, optimizer, loss_of, parameters)


if __name__ == "__main__":
    main()
