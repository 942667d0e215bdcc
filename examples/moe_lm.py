"""A language model over bytes in which every block sends a byte to two of eight experts: `make -C examples moe_lm`."""
from tessera import graph, op

L, D, H, S, B, V = 3, 128, 4, 128, 16, 256  # layers, width, heads, context, batch, vocabulary (bytes)
E, BALANCE = 8, 0.01  # experts per layer, and the weight of the loss that keeps them busy

attention = [(op.layernorm(D), op.linear(D, 3 * D), op.linear(D, D), op.layernorm(D)) for _ in range(L)]
experts = [[op.mlp(D, [2 * D], D) for _ in range(E)] for _ in range(L)]
routers = [op.router(layer, strategy="top2") for layer in experts]
last_norm = op.layernorm(D)


def block(x, layers, router):
    norm1, qkv, project, norm2 = layers
    q, k, v = op.split(qkv(norm1(x)), 3, axis=-1)
    x = x + project(op.flash_attention(q, k, v, heads=H, causal=True))
    y, load = router(norm2(x), metrics=True)
    return x + y, load


@graph.module
def moe_lm(tokens: Tensor[B, S, int32], table: Tensor[V, D], positions: Tensor[S, D]):
    x, balance, load = op.embedding(tokens, table) + positions, 0.0, 0.0
    for layers, router in zip(attention, routers):
        x, measured = block(x, layers, router)
        balance = balance + measured["aux_loss"] / L
        load = load + measured["tokens"] * (E / (2 * B * S * L))
    return last_norm(x) @ table.T, balance, load


@graph.training_step(module="moe_lm")
def step(batch):
    logits, balance, load = moe_lm(batch["input"])
    loss = op.cross_entropy(logits, batch["labels"])
    return graph.backward(loss + BALANCE * balance), {"cross_entropy": loss, "balance": balance, "load": load}
