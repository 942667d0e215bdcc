"""Small models that between them use what emitted programs must get right; their sizes fit no vector and no team of threads."""
from tessera import graph, op

B, S, D, H, KV, V = 3, 7, 24, 4, 2, 11

# A decoder as LLaMA's: rotary positions, two key heads for four query heads, rmsnorm, a gated silu, a tied table.
norm1, norm2, last = op.rmsnorm(D), op.rmsnorm(D), op.rmsnorm(D)
to_q, to_kv, to_x = op.linear(D, D), op.linear(D, 2 * KV * (D // H)), op.linear(D, D)
up, gate, down = op.linear(D, 40), op.linear(D, 40), op.linear(40, D)


@graph.module
def decoder(tokens: Tensor[B, S, int32], table: Tensor[V, D]):
    x = op.embedding(tokens, table)
    h = norm1(x)
    k, v = op.split(to_kv(h), 2, axis=-1)
    q, k = op.rope(to_q(h), heads=H), op.rope(k, heads=KV)
    x = x + to_x(op.flash_attention(q, k, v, heads=H, kv_heads=KV, causal=True))
    h = norm2(x)
    x = x + down(op.silu(gate(h)) * up(h))
    return last(x) @ table.T


@graph.training_step(module="decoder")
def decoder_step(batch):
    scores = decoder(batch["tokens"])
    loss = op.cross_entropy(scores, batch["labels"])
    return graph.backward(loss), {"loss": loss, "largest": op.max(scores), "size": op.mean(op.abs(scores))}


# Dropout, and a step that returns its loss alone.
thinned = op.mlp(9, [21], 4)


@graph.module
def drops(x: Tensor[13, 9]):
    return thinned(op.dropout(x, 0.5))


@graph.training_step(module="drops")
def drops_step(batch):
    return op.cross_entropy(drops(batch["x"]), batch["labels"])


# Rows in tiles of several, and of a number that nothing divides; a step that returns its gradients alone.
fit1000, fit997 = op.mlp(9, [21], 5), op.mlp(9, [21], 5, activation="tanh")


@graph.module
def regress(x: Tensor[1000, 9]):
    return fit1000(x)


@graph.training_step(module="rows1000")
def rows1000(batch):
    return graph.backward(op.mse(regress(batch["x"]), batch["target"]))


@graph.module
def regress_prime(x: Tensor[997, 9]):
    return fit997(x)


@graph.training_step(module="rows997")
def rows997(batch):
    return graph.backward(op.mse(regress_prime(batch["x"]), batch["target"]))


# A batch of one.
fit1 = op.mlp(9, [21], 1)


@graph.module
def regress_one(x: Tensor[1, 9]):
    return fit1(x)


@graph.training_step(module="single")
def single(batch):
    return op.mse(regress_one(batch["x"]), batch["target"])
