"""The GPT of bench/peers/gpt.py: untied head, learned positions, fused query-key-value product, tanh GELU.

Sizes are those of `base`; `--set L=2 --set D=32 --set H=2 --set S=16 --set B=2` gives `tiny`.
"""
from tessera import graph, op

L, D, H, S, B, V = 4, 256, 4, 256, 16, 65  # layers, width, heads, context, batch, vocabulary

layers = [
    (op.layernorm(D), op.linear(D, 3 * D), op.linear(D, D), op.layernorm(D), op.mlp(D, [4 * D], D, activation="gelu_tanh"))
    for _ in range(L)
]
norm = op.layernorm(D)


def block(x, parts):
    norm1, qkv, proj, norm2, mlp = parts
    q, k, v = op.split(qkv(norm1(x)), 3, axis=-1)
    x = x + proj(op.flash_attention(q, k, v, heads=H, causal=True))
    return x + mlp(norm2(x))


@graph.module
def gpt(tokens: Tensor[B, S, int32], tok_emb: Tensor[V, D], pos_emb: Tensor[S, D], head_w: Tensor[D, V]):
    h = op.embedding(tokens, tok_emb) + pos_emb
    for parts in layers:
        h = block(h, parts)
    return norm(h) @ head_w


@graph.training_step(module="gpt_bench")
def step(batch):
    loss = op.cross_entropy(gpt(batch["input"]), batch["labels"])
    return graph.backward(loss), {"loss": loss}
