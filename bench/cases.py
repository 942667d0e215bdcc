"""The training steps that are raced: their sizes, initial weights, data and work.

Weights and data come from one NumPy PCG64 stream, drawn in a fixed order, so that every contestant starts from the same
float32 values and its losses can be compared with `bench/expected/`. Changing the order or a scale changes every loss.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Arrays = dict[str, Array]
SEED = 1234


@dataclass(frozen=True, slots=True)
class Block:
    """Attention over `width` features in `heads` heads, an output product to `classes`, cross-entropy; plain SGD."""

    batch: int
    positions: int
    width: int
    classes: int
    heads: int
    causal: bool = False
    learning_rate: float = 1.0

    def gflop(self) -> float:
        """Multiply-adds of the products one step needs, counted as two operations each, in 1e9.

        The three input products have no gradient towards the data. Attention counts in full also where it is causal.
        """
        rows = self.batch * self.positions
        inputs = 3 * 2 * rows * self.width**2
        output = 2 * rows * self.width * self.classes
        attention = 2 * 2 * rows * self.positions * self.width
        return (2 * inputs + 3 * output + 3 * attention) / 1e9

    def arrays(self, draw: Draw) -> tuple[Arrays, Arrays]:
        """(weights, data)."""
        data = {
            "input": draw.normal(self.batch, self.positions, self.width),
            "labels": draw.integers(self.classes, self.batch, self.positions),
        }
        scale = self.width**-0.5
        weights = {name: draw.normal(self.width, self.width, scale=scale) for name in ("Wq", "Wk", "Wv")}
        weights["Wo"] = draw.normal(self.width, self.classes, scale=scale)
        return weights, data


@dataclass(frozen=True, slots=True)
class Gpt:
    """A decoder with pre-normalised blocks and a tanh-GELU MLP of four times the width; AdamW.

    `tied`: the head is the embedding's transpose.
    """

    layers: int
    width: int
    heads: int
    vocabulary: int
    context: int
    batch: int
    learning_rate: float = 3e-4
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1  # of parameters of rank two and more
    tied: bool = False

    def gflop(self) -> float:
        """As `Block.gflop`; every product counts three times (forward and both gradients)."""
        rows = self.batch * self.context
        weights = 12 * self.width**2 * self.layers + self.width * self.vocabulary
        attention = 2 * 2 * rows * self.context * self.width * self.layers
        return 3 * (2 * rows * weights + attention) / 1e9

    def arrays(self, draw: Draw) -> tuple[Arrays, Arrays]:
        """(weights, data); layer i owns the names `b{i}.*`."""
        width = self.width
        tokens = draw.integers(self.vocabulary, self.batch, self.context + 1)
        data = {"input": tokens[:, :-1].copy(), "labels": tokens[:, 1:].copy()}
        weights = {
            "tok_emb": draw.normal(self.vocabulary, width, scale=0.02),
            "pos_emb": draw.normal(self.context, width, scale=0.02),
        }
        residual = 0.02 / (2 * self.layers) ** 0.5
        for layer in range(self.layers):
            parts = {
                **_norm("ln1", width),
                **_linear("qkv", draw.normal(width, 3 * width, scale=0.02)),
                **_linear("proj", draw.normal(width, width, scale=residual)),
                **_norm("ln2", width),
                **_linear("fc", draw.normal(width, 4 * width, scale=0.02)),
                **_linear("out", draw.normal(4 * width, width, scale=residual)),
            }
            weights |= {f"b{layer}.{name}": value for name, value in parts.items()}
        weights |= _norm("lnf", width)
        if not self.tied:
            weights["head_w"] = draw.normal(width, self.vocabulary, scale=0.02)
        return weights, data


@dataclass(frozen=True, slots=True)
class Moe:
    """The best `choices` of `experts` for a token, each width -> 2 width -> width, tanh GELU; squared error, SGD."""

    tokens: int
    width: int
    experts: int
    choices: int = 2
    learning_rate: float = 1.0

    def gflop(self) -> float:
        """As `Block.gflop`; the rows and the router have no gradient towards the data."""
        expert = 2 * self.tokens * self.choices * self.width * 2 * self.width
        router = 2 * self.tokens * self.width * self.experts
        return (5 * expert + 2 * router) / 1e9

    def arrays(self, draw: Draw) -> tuple[Arrays, Arrays]:
        """(weights, data); expert i owns the names `*.{i}`."""
        count, width, hidden = self.experts, self.width, 2 * self.width
        data = {"input": draw.normal(self.tokens, width), "target": draw.normal(self.tokens, width)}
        weights = {"Wr": draw.normal(width, count, scale=width**-0.5)}
        stacks = {
            "W1": draw.normal(count, width, hidden, scale=width**-0.5),
            "b1": draw.normal(count, hidden, scale=0.02),
            "W2": draw.normal(count, hidden, width, scale=hidden**-0.5),
            "b2": draw.normal(count, width, scale=0.02),
        }
        weights |= {f"{name}.{i}": part.copy() for name, stack in stacks.items() for i, part in enumerate(stack)}
        return weights, data


@dataclass(frozen=True, slots=True)
class Spectral:
    """Listing 4 trained: a transform, a recursive mixture of complex MLPs shared over its levels, and back.

    Mean squared error of the real part; plain SGD. The activation is the tanh form of GELU, of either part.
    """

    batch: int
    width: int
    hidden: int
    experts: int
    depth: int
    learning_rate: float = 0.1

    def gflop(self) -> float:
        """As `Block.gflop`, complex multiply-adds as eight operations; the first product has no data gradient."""
        one = 8 * self.batch * self.width * self.hidden * self.experts
        return one * (2 * self.depth * 3 - 1) / 1e9

    def arrays(self, draw: Draw) -> tuple[Arrays, Arrays]:
        """(weights, data); expert i owns the names `e{i}.*`."""
        n, hidden, count = self.width, self.hidden, self.experts
        data = {"input": draw.normal(self.batch, n), "target": draw.normal(self.batch, n)}
        weights = {"gate": draw.normal(2 * n, count, scale=(2 * n) ** -0.5)}
        stacked = {
            "W1": draw.complex_normal(count, n, hidden, scale=n**-0.5),
            "b1": draw.complex_normal(count, hidden, scale=0.02),
            "W2": draw.complex_normal(count, hidden, n, scale=hidden**-0.5),
            "b2": draw.complex_normal(count, n, scale=0.02),
        }
        weights |= {f"e{i}.{name}": value[i].copy() for i in range(count) for name, value in stacked.items()}
        return weights, data


@dataclass(frozen=True, slots=True)
class Pinn:
    """The residual of a differential equation at points, for a network of tanh layers, with its gradient; Adam.

    ``momentum``: the loss of the chapter's listing 2, second derivatives by x, y and t. ``biharmonic``: the Laplacian
    of the Laplacian in the plane is 1.
    """

    points: int
    width: int
    hidden: int  # layers
    equation: str = "momentum"
    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    @property
    def coordinates(self) -> tuple[str, ...]:
        """Names of the inputs, each ``[points, 1]``."""
        return ("x", "y", "t") if self.equation == "momentum" else ("x", "y")

    def gflop(self) -> float:
        """Work between hidden layers by the cheapest scheme we know, whatever a contestant computes.

        A row is one product of a point's features with a layer's matrix. Forward, the momentum equation needs 5 (value,
        three tangents, one covector shared by the second derivatives), the biharmonic 11 (the Taylor coefficients up to
        order four with those of order four summed); the gradient needs each twice more.
        """
        rows = 3 * (5 if self.equation == "momentum" else 11)
        return rows * 2 * self.points * self.width**2 * (self.hidden - 1) / 1e9

    def arrays(self, draw: Draw) -> tuple[Arrays, Arrays]:
        """(weights, data); layer i owns `w{i}` and `b{i}`, counted from 1."""
        data = {name: draw.uniform(self.points, 1) for name in self.coordinates}
        widths = [len(self.coordinates), *[self.width] * self.hidden, 1]
        weights: Arrays = {}
        for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(widths), 1):
            weights[f"w{layer}"] = draw.normal(fan_in, fan_out, scale=fan_in**-0.5)
            weights[f"b{layer}"] = draw.normal(fan_out, scale=0.1)
        return weights, data


@dataclass(frozen=True, slots=True)
class Draw:
    """The one random stream that all arrays of a case are drawn from, in order."""

    generator: np.random.Generator

    def normal(self, *shape: int, scale: float = 1.0) -> Array:
        """float32 values of standard deviation `scale`; the factor is rounded to float32 first."""
        return self.generator.standard_normal(shape, dtype=np.float32) * np.float32(scale)

    def complex_normal(self, *shape: int, scale: float) -> Array:
        """complex64 values whose parts have the standard deviation `scale` / sqrt(2); real parts are drawn first."""
        values = np.empty(shape, np.complex64)
        values.real = self.normal(*shape, scale=scale * 0.5**0.5)
        values.imag = self.normal(*shape, scale=scale * 0.5**0.5)
        return values

    def uniform(self, *shape: int) -> Array:
        """float32 values in [0, 1)."""
        return self.generator.random(shape, dtype=np.float32)

    def integers(self, below: int, *shape: int) -> Array:
        """int64 values in [0, below)."""
        return self.generator.integers(0, below, shape, dtype=np.int64)


def _norm(name: str, width: int) -> Arrays:
    return {f"{name}_w": np.ones(width, np.float32), f"{name}_b": np.zeros(width, np.float32)}


def _linear(name: str, weight: Array) -> Arrays:
    return {f"{name}_w": weight, f"{name}_b": np.zeros(weight.shape[1], np.float32)}


_BLOCK = Block(batch=8, positions=512, width=512, classes=512, heads=1)
_BLOCK_TINY = Block(batch=2, positions=16, width=32, classes=32, heads=1)

Case = Block | Gpt | Moe | Spectral | Pinn

CASES: dict[str, dict[str, Case]] = {
    "block": {
        "h1": _BLOCK,
        "h8": replace(_BLOCK, heads=8),
        "h8c": replace(_BLOCK, heads=8, causal=True),
        "tiny": _BLOCK_TINY,
        "tiny-h4c": replace(_BLOCK_TINY, heads=4, causal=True),
    },
    "gpt": {
        "base": Gpt(layers=4, width=256, heads=4, vocabulary=65, context=256, batch=16),
        "tiny": Gpt(layers=2, width=32, heads=2, vocabulary=65, context=16, batch=2),
        "124m": Gpt(layers=12, width=768, heads=12, vocabulary=50304, context=1024, batch=32, tied=True),
        "tiny-tied": Gpt(layers=1, width=32, heads=2, vocabulary=65, context=16, batch=2, tied=True),
    },
    "moe": {
        "d512": Moe(tokens=4096, width=512, experts=16),
        "d1024": Moe(tokens=2048, width=1024, experts=16),
        "tiny": Moe(tokens=32, width=16, experts=4),
    },
    "spectral": {
        "n512": Spectral(batch=256, width=512, hidden=512, experts=4, depth=3),
        "tiny": Spectral(batch=4, width=32, hidden=32, experts=4, depth=3),
    },
    "pinn": {
        "base": Pinn(points=4096, width=256, hidden=2),
        "deep": Pinn(points=4096, width=128, hidden=4),
        "biharmonic": Pinn(points=4096, width=256, hidden=2, equation="biharmonic"),
        "tiny": Pinn(points=32, width=12, hidden=2),
        "tiny-biharmonic": Pinn(points=24, width=10, hidden=2, equation="biharmonic"),
    },
}
DEFAULT_SIZES: dict[str, tuple[str, ...]] = {
    "block": ("h1", "h8"),
    "gpt": ("base",),
    "moe": ("d512", "d1024"),
    "spectral": ("n512",),
    "pinn": ("base", "deep", "biharmonic"),
}
UPDATES: dict[str, int] = {case: 50 if case == "pinn" else 10 for case in CASES}
"""How many updates the losses of all contestants are compared over."""


def initial(case: str, size: str, seed: int = SEED) -> tuple[Arrays, Arrays]:
    """(weights, data) of one case; equal for every contestant."""
    make: Callable[[Draw], tuple[Arrays, Arrays]] = CASES[case][size].arrays
    return make(Draw(np.random.Generator(np.random.PCG64(seed))))
