"""Explanations of T06xx: differentiation."""

from __future__ import annotations

from tesserac.explanations import Explanation

EXPLANATIONS: tuple[Explanation, ...] = (
    Explanation(
        "T0601",
        "No derivative rule",
        "A derivative was asked for, and on its way lies something that has no rule for it. Leaving its contribution "
        "out would give a wrong derivative, so compilation stops. All operators of the catalogue have rules. A "
        "function under @autodiff.custom_grad has one for reverse mode; derivatives by coordinates are taken in "
        "forward mode, which follows from the rule where that is linear in the cotangent. A rule that clips the "
        "cotangent is not.",
        "from tessera import autodiff, graph, op\n"
        "\n"
        "@autodiff.custom_grad\n"
        "def clipped(x):\n"
        "    return op.clip(x, -1.0, 1.0)\n"
        "\n"
        "@clipped.grad\n"
        "def rule(x, upstream):\n"
        "    return op.clip(upstream, -1.0, 1.0)\n"
        "\n"
        "@graph.module\n"
        "def net(x: Tensor[64, 1]):\n"
        '    return op.grad(clipped(x), "x")\n',
        "Let the rule be products and sums of the cotangent with values that do not depend on it, take the derivative "
        "by the coordinate first and apply the function to it, or wrap its operand in `op.stop_gradient(...)` if it is "
        "meant to be a constant there.",
    ),
    Explanation(
        "T0602",
        "A gradient that is zero everywhere",
        "The loss depends on the parameter, but only through operators whose derivative is zero wherever it exists: "
        "rounding, signs, comparisons, positions of maxima, conversions to integers. Training could never move it.",
        "from tessera import graph, op\n"
        "\n"
        "@graph.module\n"
        "def model(x, gate):\n"
        "    return x * op.floor(gate)\n"
        "\n"
        "@graph.training_step(module=\"demo\")\n"
        "def step(batch):\n"
        "    out = model(batch[\"input\"])\n"
        "    loss = op.mse(out, batch[\"target\"])\n"
        "    return graph.backward(loss)\n",
        "Let the parameter reach the loss through a differentiable operator as well (`op.sigmoid` instead of a "
        "comparison, `op.softmax` instead of a maximum's position), or mark it as a constant with "
        "`op.stop_gradient(...)`.",
    ),
    Explanation(
        "T0603",
        "Points that are joined",
        "A derivative by a coordinate is taken at every point: row r of the derivative belongs to row r of the "
        "coordinate. That has a meaning only while row r of the value depends on row r of the coordinate alone. A "
        "sum or mean over the points, a normalisation or softmax along them, attention between them or a product "
        "such as `x^T x` makes a value depend on all points at once.",
        "from tessera import graph, op\n"
        "\n"
        "@graph.module\n"
        "def residual(x):\n"
        "    u = op.mlp(x, hidden=[8], out_dim=1)\n"
        "    centred = u - op.mean(u, axis=0)\n"
        "    return op.grad(centred, x)\n",
        "Differentiate first and join the points afterwards, as in a mean over squared residuals. Normalise over "
        "features (`op.layernorm`) instead of over points. Use `op.stop_gradient(...)` where the joined value is "
        "meant to be a constant.",
    ),
    Explanation(
        "T0604",
        "Second derivatives of a piecewise linear operator",
        "`op.relu`, `op.abs`, maxima, `op.where` and sorting are linear, or choose between operands, on each side "
        "of a kink. They have no curvature of their own, and the kink itself contributes nothing; what is chosen keeps "
        "the curvature it has. With relu throughout, the second derivative of a network is zero everywhere, and a "
        "residual with second derivatives cannot train it.",
        "from tessera import graph, op\n"
        "\n"
        "@graph.module\n"
        "def residual(x):\n"
        "    u = op.mlp(x, hidden=[8], out_dim=1, activation=\"relu\")\n"
        "    return op.grad(op.grad(u, x), x)\n",
        "Use a smooth activation: `tanh`, `gelu`, `silu`, `sin`. Where the operator only limits or "
        "chooses a value, and the place where it changes over does not matter, the warning can be ignored.",
    ),
    Explanation(
        "T0611",
        "Unknown coordinate",
        "A coordinate given as a string is the name of an input of the module call that computed the value, and that "
        "module has no input of this name.",
        "@graph.module\n"
        "def net(x: Tensor[64, 1], t: Tensor[64, 1]):\n"
        "    u = op.mlp([x, t], hidden=[8], out_dim=1)\n"
        '    return op.grad(u, "time")\n',
        "Use one of the names that the message lists, or give the tensor itself: `op.grad(u, t)`.",
    ),
    Explanation(
        "T0612",
        "Derivative by something the value is not computed from",
        "The coordinate is a tensor, or an input of another module, that plays no part in the value. Its derivative "
        "would be zero, which is hardly what was meant.",
        "@graph.module\n"
        "def net(x: Tensor[64, 1]):\n"
        "    u = op.mlp([x], hidden=[8], out_dim=1)\n"
        "    scaled = 2 * x\n"
        "    return op.grad(u, scaled)\n",
        "Differentiate by a tensor on the way to the value, as in `op.grad(u, x)`, or by an input of the module that "
        "computes it.",
    ),
    Explanation(
        "T0613",
        "Ambiguous coordinate",
        "The value is computed from several inputs of this name: of several calls of a module, or of a module and the "
        "one that calls it.",
        "@graph.module\n"
        "def net(x):\n"
        "    return op.mlp([x], hidden=[8], out_dim=1)\n"
        "\n"
        "@graph.module\n"
        "def scaled(x: Tensor[64, 1]):\n"
        "    u = net(2 * x)\n"
        '    return op.grad(u, "x")\n',
        "Give the tensor instead of its name (`op.grad(u, x)`), or take the derivatives before values of several calls "
        "are combined.",
    ),
    Explanation(
        "T0614",
        "Field and coordinates do not fit",
        "A derivative is taken at every point, so value and coordinate have the axes of the points in front; a "
        "divergence takes one coordinate per component, a curl two or three.",
        "@graph.module\n"
        "def net(x: Tensor[64, 1], y: Tensor[64, 1]):\n"
        "    u = op.mlp([x, y], hidden=[8], out_dim=1)\n"
        '    return op.div([u, u * u, u], ["x", "y"])\n',
        "Name one coordinate per component: `op.div([u, v], [\"x\", \"y\"])`.",
    ),
    Explanation(
        "T0615",
        "A derivative that is zero",
        "The coordinate is an input of the module, and the value does not depend on it.",
        "@graph.module\n"
        "def net(x: Tensor[64, 1], t: Tensor[64, 1]):\n"
        "    u = op.mlp([x], hidden=[8], out_dim=1)\n"
        '    return u + op.grad(u, "t")\n',
        "If the value should depend on the coordinate, feed it to the network; otherwise leave the term out.",
    ),
    Explanation(
        "T0616",
        "Wrong seed of a derivative",
        "Tangents have the types of the inputs, cotangents those of the outputs, one each; a gradient belongs to a "
        "function that returns a scalar.",
        "@graph.module\n"
        "def net(x: Tensor[64, 1], dx: Tensor[64]):\n"
        "    y, dy = op.jvp(op.tanh, x, dx)\n"
        "    return dy\n",
        "Give one seed per input (or output), of the same shape and dtype.",
    ),
    Explanation(
        "T0617",
        "The divergence of a gradient",
        "A module returns the derivatives of one field by its coordinates, and their divergence is formed: it is the "
        "Laplacian of that field. That is right for a potential. A stream function psi is used the other way round, "
        "u = psi_y and v = -psi_x, and then the divergence vanishes identically.",
        "@graph.module\n"
        "def flow(x: Tensor[64, 1], y: Tensor[64, 1]):\n"
        "    psi = op.mlp([x, y], hidden=[8], out_dim=1)\n"
        '    u = op.grad(psi, "x")\n'
        '    v = op.grad(psi, "y")\n'
        "    return u, v\n"
        "\n"
        "@graph.loss\n"
        "def continuity(u, v):\n"
        '    return op.mse(op.div([u, v], ["x", "y"]), 0)\n',
        "For a potential nothing has to change. For a stream function write `u = op.grad(psi, \"y\")` and "
        "`v = -op.grad(psi, \"x\")`, or `u, v = op.curl(psi, [\"x\", \"y\"])`.",
    ),
    Explanation(
        "T0618",
        "Wrong derivative rule of a function",
        "A function under @autodiff.custom_grad takes tensors by position and returns one tensor. Its rule takes the "
        "same arguments and the cotangent of the result, and returns a cotangent for every tensor. Trainable "
        "parameters that the function uses are arguments, since otherwise the rule could not give their gradients.",
        "@autodiff.custom_grad\n"
        "def clipped(x):\n"
        "    return op.clip(x, -1, 1)\n"
        "\n"
        "@graph.module\n"
        "def net(x: Tensor[64, 1]):\n"
        "    return clipped(x)\n",
        "Write the rule below the function: `@clipped.grad` before `def rule(x, upstream): return upstream`.",
    ),
    Explanation(
        "T0619",
        "A quotient by a coordinate",
        "op.div of two tensors divides them element by element; with the name of an input it is a derivative. Here the "
        "divisor is an input that the dividend is computed from, so either may have been meant.",
        "@graph.module\n"
        "def net(x: Tensor[64, 1]):\n"
        "    u = op.mlp([x], hidden=[8], out_dim=1)\n"
        "    return op.div(u, x)\n",
        'Nothing has to change for the quotient, which `u / x` says as well. The derivative is `op.div(u, "x")` or '
        "`op.grad(u, x)`.",
    ),
)
