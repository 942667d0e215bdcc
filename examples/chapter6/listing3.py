experts = [op.mlp(4096, [8192], 4096) for _ in range(16)]
router = op.router(experts)

@graph.module
def moe_layer(x): return router(x)
