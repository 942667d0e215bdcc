@graph.module
def ns_pinn(x, y, t):
    psi = op.mlp([x,y,t], hidden=[256,256], out_dim=1)
    u = op.grad(psi, x)
    v = op.grad(psi, y)
    p = op.grad(psi, t)
    return u, v, p

@graph.loss
def ns_loss(u, v, p):
    continuity = op.div(u, "x") + op.div(v, "y")
    momentum = op.grad(u, "t") + u*op.grad(u,"x") + v*op.grad(u,"y") + op.grad(p,"x")
    return op.mse(continuity,0) + op.mse(momentum,0)
