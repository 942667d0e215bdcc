from tessera import dist, op, graph

# Define mesh
mesh = dist.Mesh(axes=["tp","dp"], devices=[[0,1,2,3],[4,5,6,7]])

# Model
@graph.module
def transformer(x, Wq, Wk, Wv, Wo):
    attn = op.flash_attention(x @ Wq, x @ Wk, x @ Wv)
    return attn @ Wo

# Loss and training loop
@graph.training_step(module="TransformerLM")
def step(batch):
    out = transformer(batch["input"])
    loss = op.cross_entropy(out, batch["labels"])
    grads = graph.backward(loss)
    return grads, {"loss": loss}
