"""GPT-2 of 124 million parameters: 12 layers, 768 features, 1024 tokens of context, the head tied to the embedding.

Training it takes a GPU: `tesserac build examples/gpt2_124m.py --target cuda`. The vocabulary is padded to a multiple of 128.
"""
from tessera import graph, op

L, D, H, S, B, V = 12, 768, 12, 1024, 32, 50304  # layers, width, heads, context, batch, vocabulary

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
def gpt2(tokens: Tensor[B, S, int32], tok_emb: Tensor[V, D], pos_emb: Tensor[S, D]):
    h = op.embedding(tokens, tok_emb) + pos_emb
    for parts in layers:
        h = block(h, parts)
    return norm(h) @ tok_emb.T


@graph.training_step(module="gpt2_124m")
def step(batch):
    loss = op.cross_entropy(gpt2(batch["input"]), batch["labels"])
    return graph.backward(loss), {"loss": loss}
