"""The chapter's transformer (listing 1) at the sizes the peers run; `--set H=8 --set CAUSAL=True` chooses the variant."""
from tessera import graph, op

B, S, D, V, H, CAUSAL = 8, 512, 512, 512, 1, False  # batch, positions, width, classes, heads


@graph.module
def transformer(x: Tensor[B, S, D], Wq: Tensor[D, D], Wk: Tensor[D, D], Wv: Tensor[D, D], Wo: Tensor[D, V]):
    attn = op.flash_attention(x @ Wq, x @ Wk, x @ Wv, heads=H, causal=CAUSAL)
    return attn @ Wo


@graph.training_step(module="block")
def step(batch):
    loss = op.cross_entropy(transformer(batch["input"]), batch["labels"])
    return graph.backward(loss), {"loss": loss}
