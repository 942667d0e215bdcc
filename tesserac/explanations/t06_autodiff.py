"""Explanations of T06xx: differentiation."""

from __future__ import annotations

from tesserac.explanations import Explanation

EXPLANATIONS: tuple[Explanation, ...] = (
    Explanation(
        "T0601",
        "No derivative rule",
        "A gradient was asked for, and on the way from the loss back to the parameter lies an operator that has no "
        "derivative rule. Leaving its contribution out would train on a wrong gradient, so compilation stops. Every "
        "operator of this version has a rule; the code is for those that a later one may add without.",
        "tesserac inspect model.py --stage ad",
        "Write the computation with operators that have derivatives (`tesserac ops` lists them), or wrap the operand "
        "in `op.stop_gradient(...)` if it is meant to be a constant there.",
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
)
