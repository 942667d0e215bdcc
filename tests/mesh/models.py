"""Transformer blocks in IR, small enough to run on many simulated ranks."""

from __future__ import annotations

from tesserac.ir.program import Function, Var
from tests.models import Model


def transformer(layers: int = 1, heads: int = 4, kv_heads: int = 2, causal: bool = True, vocab: int = 16) -> Function:
    """Embedding, blocks (norm, attention, norm, mlp) and cross entropy over a vocabulary, with all gradients."""
    m = Model()
    ids, labels = m.labels("ids", 4, 8, bound=vocab), m.labels("labels", 4, 8, bound=vocab)
    x = m.op(1, "take", m.weight("table", vocab, 8), ids, named="x")
    for layer in range(layers):
        x = _block(m, x, f"L{layer}.", heads, kv_heads, causal)
    logits = m.linear(9, m.op(8, "rmsnorm", x, m.weight("scale", 8)), m.weight("head", 8, vocab), None, "logits")
    return m.train(m.op(10, "cross_entropy", logits, labels, ignore_index=3, named="loss"))


def _block(m: Model, x: Var, name: str, heads: int, kv_heads: int, causal: bool) -> Var:
    width = 8 // heads * kv_heads
    y = m.op(2, "layernorm", x, m.weight(f"{name}gain", 8), m.weight(f"{name}bias", 8), named="y")
    q = m.linear(3, y, m.weight(f"{name}Wq", 8, 8), m.weight(f"{name}bq", 8), "q")
    k = m.linear(3, y, m.weight(f"{name}Wk", 8, width), None, "k")
    v = m.linear(3, y, m.weight(f"{name}Wv", 8, width), None, "v")
    attrs = {"heads": heads, "kv_heads": kv_heads, "causal": causal, "scale": 0.5}
    attended, _ = m.b.ops("attention", (q, k, v), attrs, "attended")
    x = m.op(5, "add", x, m.linear(4, attended, m.weight(f"{name}Wo", 8, 8), None, "o"))
    hidden = m.op(6, "gelu", m.linear(6, x, m.weight(f"{name}W1", 8, 16), m.weight(f"{name}b1", 16), "hidden"))
    return m.op(7, "add", x, m.linear(7, hidden, m.weight(f"{name}W2", 16, 8), None, "down"))
