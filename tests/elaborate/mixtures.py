"""A mixture of experts written out in NumPy: every expert on every token, with weights that are mostly zero."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tesserac.ir.program import Function

Arrays = Mapping[str, np.ndarray[Any, Any]]
Expert = Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]


def gelu(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.asarray(0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))))


def softmax(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    e = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


def mlp(p: Arrays, stem: str) -> Expert:
    return lambda x: gelu(x @ p[f"{stem}.w1"] + p[f"{stem}.b1"]) @ p[f"{stem}.w2"] + p[f"{stem}.b2"]


def dense_mixture(x: np.ndarray[Any, Any], gate: np.ndarray[Any, Any], experts: list[Expert], k: int,
                  switch: bool = False) -> np.ndarray[Any, Any]:
    """Every expert on every token; a weight is zero where the expert is not among the token's k best."""
    logits = x @ gate
    chosen = np.zeros(logits.shape, bool)
    for t, row in enumerate(logits):
        chosen[t, sorted(range(len(row)), key=lambda e: (-row[e], e))[:k]] = True
    weights = softmax(logits) * chosen if switch else softmax(np.where(chosen, logits, -np.inf))
    return np.asarray(sum(weights[:, e: e + 1] * f(x) for e, f in enumerate(experts)))


def values_for(function: Function, seed: int = 0, **given: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Random values of all inputs but the given ones."""
    rng = np.random.default_rng(seed)
    return {i.path: given.get(i.path, rng.normal(size=i.var.type.sizes)) for i in function.inputs}


def mixture_source(tokens: int, width: int = 6, experts: int = 4, extra: str = "") -> str:
    return f"""
    experts = [op.mlp({width}, [5], {width}) for _ in range({experts})]
    router = op.router(experts{extra})

    @graph.module
    def net(x: Tensor[{tokens}, {width}]):
        return router(x)
    """
