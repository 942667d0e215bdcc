"""Every user-facing op means what NumPy says."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tests.elaborate.support import forward

RNG = np.random.default_rng(7)
X = RNG.normal(size=(2, 3, 4))
Y = RNG.normal(size=(2, 3, 4))
V = RNG.normal(size=4)
COLUMN = RNG.normal(size=(3, 1))
M = RNG.normal(size=(4, 5))
POSITIVE = np.abs(X) + 0.5
IDS = np.array([[0, 2, 1], [3, 3, 0]], dtype=np.int32)


def softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def erf(x: np.ndarray) -> np.ndarray:
    return np.vectorize(math.erf)(x)


CASES: list[tuple[str, tuple[np.ndarray, ...], Any]] = [
    ("return a + b", (X, V), X + V),
    ("return a - b", (V, X), V - X),
    ("return a * b", (X, COLUMN), X * COLUMN),
    ("return a / b", (X, POSITIVE), X / POSITIVE),
    ("return 2 - a", (X,), 2 - X),
    ("return a * 2 + 1", (X,), X * 2 + 1),
    ("return 1 / a", (POSITIVE,), 1 / POSITIVE),
    ("return -a", (X,), -X),
    ("return a ** 2", (X,), X**2),
    ("return a ** 3", (X,), X**3),
    ("return a ** 4", (X,), X**4),
    ("return a ** 0", (X,), X**0),
    ("return a ** 0.5", (POSITIVE,), POSITIVE**0.5),
    ("return a ** -1", (POSITIVE,), POSITIVE**-1.0),
    ("return a ** 2.5", (POSITIVE,), POSITIVE**2.5),
    ("return a ** b", (POSITIVE, X), POSITIVE**X),
    ("return a // b", (X, POSITIVE), X // POSITIVE),
    ("return a % 0.3", (X,), X % 0.3),
    ("return op.where(a < b, a, b)", (X, Y), np.minimum(X, Y)),
    ("return op.where((a < 0.5) & ~(a < -0.5), 1.0, 0.0)", (X,), ((X < 0.5) & (X >= -0.5)) * 1.0),
    ("return op.where((a < -1) | (a > 1), a, 0.0)", (X,), np.where(np.abs(X) > 1, X, 0)),
    ("return op.cast(a == 3, fp32)", (IDS,), (IDS == 3) * 1.0),
    ("return a + 1", (IDS,), IDS + 1),
    ("return a @ b", (X, M), X @ M),
    ("return a @ b", (X, V), X @ V),
    ("return a @ b", (V, M), V @ M),
    ("return a @ b", (V, V), V @ V),
    ("return a @ b", (X, X.transpose(0, 2, 1).copy()), X @ X.transpose(0, 2, 1)),
    ("return a @ b", (X[:1], np.stack([M] * 3)), X[:1] @ np.stack([M] * 3)),
    ("return a @ b", (M.T.copy()[:3], np.stack([X] * 2)[:, :, 0][..., None]), None),
    ("return a.T", (X,), X.transpose(0, 2, 1)),
    ("return op.transpose(a)", (M,), M.T),
    ("return op.transpose(a, 0, 2, 1)", (X,), X.transpose(0, 2, 1)),
    ("return op.transpose(a, (2, 0, 1))", (X,), X.transpose(2, 0, 1)),
    ("return a.transpose(0, 1)", (X,), X.transpose(1, 0, 2)),
    ("return a.reshape(3, -1)", (X,), X.reshape(3, -1)),
    ("return op.reshape(a, (a.shape[0], a.shape[1] * a.shape[2]))", (X,), X.reshape(2, 12)),
    ("return a[0]", (X,), X[0]),
    ("return a[-1, 1:]", (X,), X[-1, 1:]),
    ("return a[..., ::2]", (X,), X[..., ::2]),
    ("return a[:, None, 1]", (X,), X[:, None, 1]),
    ("return a[:, :-1]", (X,), X[:, :-1]),
    ("return a[b]", (M, IDS), M[IDS]),
    ("return op.take(a, b)", (M, IDS), M[IDS]),
    ("return op.take(a, b, axis=1)", (X.transpose(0, 2, 1).copy(), IDS), X.transpose(0, 2, 1)[:, IDS]),
    ("return op.concat([a, b], axis=1)", (X, Y), np.concatenate([X, Y], 1)),
    ("return op.concat([a, b], axis=-1)", (X, Y), np.concatenate([X, Y], -1)),
    ("return op.stack([a, b], axis=1)", (X, Y), np.stack([X, Y], 1)),
    ("p, q = op.split(a, 2, axis=-1)\nreturn q - p", (X,), X[..., 2:] - X[..., :2]),
    ("return op.split(a, [1, 3], axis=2)[1]", (X,), X[..., 1:]),
    ("return op.slice(a, [0, 1, 1], [2, 2, 3])", (X,), X[0:2, 1:3, 1:4]),
    (
        "return op.pad(a, [(0, 0), (1, 0), (0, 2)], value=3.0)",
        (X,),
        np.pad(X, [(0, 0), (1, 0), (0, 2)], constant_values=3),
    ),
    ("return op.pad(a, (1, 2))", (V,), np.pad(V, (1, 2))),
    ("return op.one_hot(a, 5)", (IDS,), np.eye(5)[IDS]),
    ("return op.iota(4)", (), np.arange(4)),
    ("return op.iota((2, 3), axis=1, dtype=fp32)", (), np.broadcast_to(np.arange(3.0), (2, 3))),
    ("return op.zeros(2, 3) + op.ones((2, 3)) * 2 + op.full((2, 3), 0.5)", (), np.full((2, 3), 2.5)),
    ("return op.broadcast_to(a, 3, 4)", (V,), np.broadcast_to(V, (3, 4))),
    ("return op.squeeze(op.expand_dims(a, 1), 1)", (X,), X),
    ("return op.tril(a)", (X,), np.tril(X)),
    ("return op.triu(a, 1)", (X,), np.triu(X, 1)),
    ("return op.where(op.tril(3), a[:, :, :3], -1.0)", (X,), np.where(np.tril(np.ones((3, 3), bool)), X[:, :, :3], -1)),
    ("return op.sum(a)", (X,), X.sum()),
    ("return a.sum(axis=1, keepdims=True)", (X,), X.sum(1, keepdims=True)),
    ("return op.sum(a, axis=(0, -1))", (X,), X.sum((0, 2))),
    ("return op.mean(a, -1)", (X,), X.mean(-1)),
    ("return op.mean(a)", (X,), X.mean()),
    ("return op.var(a, axis=1)", (X,), X.var(1)),
    ("return op.max(a, axis=0)", (X,), X.max(0)),
    ("return op.max(a, 0.0)", (X,), np.maximum(X, 0)),
    ("return op.min(a)", (X,), X.min()),
    ("return op.prod(a, axis=-1)", (X,), X.prod(-1)),
    ("return op.norm(a, axis=-1)", (X,), np.linalg.norm(X, axis=-1)),
    ("return op.norm(a, p=1)", (X,), np.abs(X).sum()),
    ("return op.argmax(a, axis=1)", (X,), X.argmax(1)),
    ("return op.cumsum(a, axis=1)", (X,), X.cumsum(1)),
    ("return op.cumsum(a, reverse=True)", (V,), V[::-1].cumsum()[::-1]),
    ("return op.topk(a, 2)[0]", (X,), -np.sort(-X, -1)[..., :2]),
    ("values, where = op.topk(a, 2, softmax=True)\nreturn where", (X,), np.argsort(-X, -1, kind="stable")[..., :2]),
    ("return op.sort(a)", (X,), np.sort(X)),
    ("return op.maximum(a, 0) + op.minimum(a, b)", (X, Y), np.maximum(X, 0) + np.minimum(X, Y)),
    ("return op.clip(a, -0.5, 0.5)", (X,), np.clip(X, -0.5, 0.5)),
    ("return op.clip(a, high=0.5)", (X,), np.minimum(X, 0.5)),
    (
        "return op.exp(a) + op.log(b) + op.sqrt(b) + op.rsqrt(b)",
        (X, POSITIVE),
        np.exp(X) + np.log(POSITIVE) + POSITIVE**0.5 + POSITIVE**-0.5,
    ),
    ("return op.sin(a) + op.cos(a) + op.tanh(a) + op.erf(a)", (X,), np.sin(X) + np.cos(X) + np.tanh(X) + erf(X)),
    ("return op.abs(a) + op.sign(a) + op.floor(a) + op.square(a)", (X,), np.abs(X) + np.sign(X) + np.floor(X) + X * X),
    ("return op.relu(a)", (X,), np.maximum(X, 0)),
    ("return op.gelu(a)", (X,), X * 0.5 * (1 + erf(X / np.sqrt(2)))),
    ("return op.gelu_tanh(a)", (X,), 0.5 * X * (1 + np.tanh(np.sqrt(2 / np.pi) * (X + 0.044715 * X**3)))),
    ("return op.silu(a) - a * op.sigmoid(a)", (X,), X * 0),
    ("return op.softplus(a)", (X,), np.log1p(np.exp(X))),
    ("return op.softmax(a)", (X,), softmax(X)),
    ("return op.softmax(a, axis=1)", (X,), softmax(X, 1)),
    ("return op.log_softmax(a, axis=0)", (X,), np.log(softmax(X, 0))),
    (
        "return op.layernorm(a, affine=False)",
        (X,),
        (X - X.mean(-1, keepdims=True)) / np.sqrt(X.var(-1, keepdims=True) + 1e-5),
    ),
    (
        "return op.layernorm(a, b, b, eps=0.1)",
        (X, V),
        (X - X.mean(-1, keepdims=True)) / np.sqrt(X.var(-1, keepdims=True) + 0.1) * V + V,
    ),
    ("return op.rmsnorm(a, b)", (X, V), X / np.sqrt((X * X).mean(-1, keepdims=True) + 1e-6) * V),
    ("return op.embedding(a, b)", (IDS, M), M[IDS]),
    ("return op.linear(a, b, c)", (X, M, M[0]), X @ M + M[0]),
    ("return op.einsum('bsd,dn->bsn', a, b)", (X, M), X @ M),
    ("return op.einsum('bsd,btd->bst', a, b)", (X, Y), np.einsum("bsd,btd->bst", X, Y)),
    ("return op.einsum('abc->ca', a)", (X,), np.einsum("abc->ca", X)),
    ("return op.einsum('bsd,dn,n->sb', a, b, c)", (X, M, M[0]), np.einsum("bsd,dn,n->sb", X, M, M[0])),
    ("return op.einsum('ab,bc', a, b)", (M, M.T.copy()), np.einsum("ab,bc", M, M.T)),
    ("return op.mse(a, b)", (X, Y), ((X - Y) ** 2).mean()),
    ("return op.mse(a, 0)", (X,), (X**2).mean()),
    ("return op.mae(a, b)", (X, Y), np.abs(X - Y).mean()),
    (
        "return op.kl_divergence(op.softmax(a), op.softmax(b))",
        (X, Y),
        (softmax(X) * (np.log(softmax(X)) - np.log(softmax(Y)))).sum(-1).mean(),
    ),
    ("return op.cross_entropy(a, b)", (X, IDS), -np.log(softmax(X))[np.arange(2)[:, None], np.arange(3), IDS].mean()),
    ("return op.cross_entropy(a, op.softmax(b))", (X, Y), -(softmax(Y) * np.log(softmax(X))).sum(-1).mean()),
    (
        "return op.cross_entropy(a, target=b, ignore_index=3)",
        (X, IDS),
        -np.mean([np.log(softmax(X))[i, j, IDS[i, j]] for i in range(2) for j in range(3) if IDS[i, j] != 3]),
    ),
    ("return op.stop_gradient(op.cast(a, 'int32')) + 0", (X,), X.astype(int)),
    ("total = 0\nfor i in range(3):\n    total = total + a * i\nreturn total", (X,), 3 * X),
    ("f = lambda x, k=2: x * k\nreturn f(a) + f(a, k=3)", (X,), 5 * X),
    ("def twice(x):\n    return x + x\nreturn twice(twice(a))", (X,), 4 * X),
    ("y = a\ny += 1\ny *= 2\nreturn y", (X,), (X + 1) * 2),
    ("scale = [k ** 2 for k in range(4) if k % 2]\nreturn a * sum(scale)", (X,), 10 * X),
    ("sizes = {'n': 3}\nreturn a * sizes['n'] if sizes['n'] > 2 and a.shape[0] == 2 else a", (X,), 3 * X),
    ("parts = [a, a * 2]\nparts.append(a)\nx, y, z = parts\nreturn x + y + z", (X,), 4 * X),
]


@pytest.mark.parametrize(("body", "arrays", "expected"), CASES, ids=[c[0].splitlines()[-1][:60] for c in CASES])
def test_means_what_numpy_says(body: str, arrays: tuple[np.ndarray, ...], expected: Any) -> None:
    if expected is None:
        expected = arrays[0] @ arrays[1]
    found = forward(body, *arrays)
    assert np.shape(found) == np.shape(expected)
    np.testing.assert_allclose(np.asarray(found, dtype=float), expected, rtol=1e-6, atol=1e-7)


def reference_attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    heads: int,
    groups: int,
    causal: bool,
    scale: float | None = None,
) -> np.ndarray:
    """[B,S,n] attention, one head at a time."""
    width = q.shape[-1] // heads
    outputs = []
    for h in range(heads):
        g = h * groups // heads
        qs, ks, vs = (
            q[..., h * width :][..., :width],
            k[..., g * width :][..., :width],
            v[..., g * width :][..., :width],
        )
        scores = qs @ ks.swapaxes(-1, -2) * (scale or width**-0.5)
        if causal:
            scores = np.where(np.tril(np.ones(scores.shape[-2:], bool)), scores, -np.inf)
        outputs.append(softmax(scores) @ vs)
    return np.concatenate(outputs, -1)


@pytest.mark.parametrize(("heads", "groups", "causal"), [(1, 1, False), (2, 2, True), (4, 2, True)])
def test_attention_with_heads_in_the_last_axis(heads: int, groups: int, causal: bool) -> None:
    q, k, v = (
        RNG.normal(size=(2, 5, 8)),
        RNG.normal(size=(2, 5, 8 * groups // heads)),
        RNG.normal(size=(2, 5, 8 * groups // heads)),
    )
    kv = f", kv_heads={groups}" if groups != heads else ""
    found = forward(f"return op.flash_attention(a, b, c, heads={heads}, causal={causal}{kv})", q, k, v)
    np.testing.assert_allclose(found, reference_attention(q, k, v, heads, groups, causal), rtol=1e-6)


def test_attention_with_heads_in_an_axis_of_their_own() -> None:
    q, k, v = (RNG.normal(size=(2, 3, 5, 4)) for _ in range(3))
    found = forward("return op.flash_attention(a, b, c, scale=0.3)", q, k, v)
    expected = softmax(q @ k.swapaxes(-1, -2) * 0.3) @ v
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_rope_rotates_pairs_by_position() -> None:
    x = RNG.normal(size=(2, 5, 8))
    found = forward("return op.rope(a, heads=2, theta=100.0)", x)
    heads = x.reshape(2, 5, 2, 2, 2)  # batch, position, head, half, pair
    angle = np.arange(5)[:, None] * 100.0 ** (-np.arange(2) / 2)
    cos, sin = np.cos(angle)[None, :, None], np.sin(angle)[None, :, None]
    low, high = heads[..., 0, :], heads[..., 1, :]
    expected = np.stack([low * cos - high * sin, high * cos + low * sin], -2).reshape(2, 5, 8)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_random_numbers_are_scaled_and_independent() -> None:
    first, second = forward("return op.random_normal(400, 50, mean=2.0, std=0.5), op.random_normal(400, 50)")
    assert abs(first.mean() - 2) < 0.02
    assert abs(first.std() - 0.5) < 0.02
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.03
    spread = forward("return op.random_uniform((1000,), low=-1.0, high=3.0)")
    assert -1 <= spread.min() < -0.95
    assert 2.95 < spread.max() < 3
