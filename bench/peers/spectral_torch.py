"""The spectral step in PyTorch: complex tensors, eager or torch.compile; `--fused` as an expert would write it.

As shipped the experts are a list, one product each, as in the listing. Fused, the first layers of all experts are one
product and the second layers another, with the gates folded into the activations.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from bench import cases
from bench.peers import harness, loop_torch

Parameters = dict[str, torch.Tensor]


def activation(z: torch.Tensor) -> torch.Tensor:
    """GELU in its tanh form, of real and imaginary parts."""
    return torch.complex(F.gelu(z.real, approximate="tanh"), F.gelu(z.imag, approximate="tanh"))


def gates(h: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    """[batch, experts] from the parts of h."""
    return torch.softmax(torch.cat([h.real, h.imag], -1) @ gate, -1)


def one_by_one(size: cases.Spectral, p: Parameters, h: torch.Tensor) -> torch.Tensor:
    """The mixture as a sum over experts."""
    for _ in range(size.depth):
        weights = gates(h, p["gate"])
        results = []
        for i in range(size.experts):
            hidden = activation(h @ p[f"e{i}.W1"] + p[f"e{i}.b1"])
            results.append(weights[:, i : i + 1] * (hidden @ p[f"e{i}.W2"] + p[f"e{i}.b2"]))
        h = sum(results[1:], results[0])
    return h


def all_at_once(size: cases.Spectral, p: Parameters, h: torch.Tensor) -> torch.Tensor:
    """The mixture as two products per level."""
    for _ in range(size.depth):
        weights = gates(h, p["gate"])
        hidden = activation(h @ p["W1"] + p["b1"]).unflatten(-1, (size.experts, size.hidden))
        h = (hidden * weights[:, :, None]).flatten(-2) @ p["W2"] + weights.to(h.dtype) @ p["b2"]
    return h


def joined(size: cases.Spectral, weights: cases.Arrays) -> Parameters:
    """Parameters of `all_at_once`."""
    each = {
        name: [torch.from_numpy(weights[f"e{i}.{name}"]) for i in range(size.experts)]
        for name in ("W1", "b1", "W2", "b2")
    }
    wide = {"W1": torch.cat(each["W1"], 1), "b1": torch.cat(each["b1"])}
    tall = {"W2": torch.cat(each["W2"]), "b2": torch.stack(each["b2"])}
    return {"gate": torch.from_numpy(weights["gate"]), **wide, **tall}


def main() -> None:
    options = harness.options("spectral", __doc__ or "")
    size = cases.CASES["spectral"][options.size]
    assert isinstance(size, cases.Spectral)
    weights, data = cases.initial("spectral", options.size)
    separate = {name: torch.from_numpy(value) for name, value in weights.items()}
    parameters = joined(size, weights) if options.fused else separate
    for value in parameters.values():
        value.requires_grad_()
    mixture = all_at_once if options.fused else one_by_one
    x, target = torch.from_numpy(data["input"]), torch.from_numpy(data["target"])
    optimizer = torch.optim.SGD(parameters.values(), lr=size.learning_rate)

    def loss_of(parameters: Parameters) -> torch.Tensor:
        result = torch.fft.ifft(mixture(size, parameters, torch.fft.fft(x, norm="ortho")), norm="ortho")
        return F.mse_loss(result.real, target)

    loop_torch.train(options, optimizer, loss_of, parameters)


if __name__ == "__main__":
    main()
