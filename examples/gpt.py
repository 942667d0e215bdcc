"""A small GPT over bytes: `make demo` builds it, trains it on a novel and lets it write."""
from tessera import graph, op

L, D, H, S, B, V = 4, 128, 4, 128, 16, 256  # layers, width, heads, context, batch, vocabulary (bytes)

blocks = [(op.layernorm(D), op.linear(D, 3 * D), op.linear(D, D), op.layernorm(D), op.mlp(D, [4 * D], D)) for _ in range(L)]
last_norm = op.layernorm(D)


def block(x, layers):
    norm1, qkv, project, norm2, mlp = layers
    q, k, v = op.split(qkv(norm1(x)), 3, axis=-1)
    x = x + project(op.flash_attention(q, k, v, heads=H, causal=True))
    return x + mlp(norm2(x))


@graph.module
def gpt(tokens: Tensor[B, S, int32], table: Tensor[V, D], positions: Tensor[S, D]):
    x = op.embedding(tokens, table) + positions
    for layers in blocks:
        x = block(x, layers)
    return last_norm(x) @ table.T


@graph.training_step(module="gpt")
def step(batch):
    loss = op.cross_entropy(gpt(batch["input"]), batch["labels"])
    return graph.backward(loss), {"loss": loss}
