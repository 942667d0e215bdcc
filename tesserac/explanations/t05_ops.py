"""Explanations of T05xx: operators."""

from __future__ import annotations

from tesserac.explanations import Explanation

EXPLANATIONS: tuple[Explanation, ...] = (
    Explanation(
        "T0501",
        "Not supported yet",
        "The name is part of Tessera and this version of tesserac does not compile it.",
        "@graph.module\ndef net(x: Tensor[8]):\n    return op.conv2d(x, x)\n",
        "`tesserac ops` lists what can be compiled.",
    ),
    Explanation(
        "T0502",
        "Unknown op",
        "There is no op of that name.",
        "@graph.module\ndef net(x: Tensor[8]):\n    return op.sofmax(x)\n",
        "`tesserac ops` lists every op; the message names the nearest one.",
    ),
    Explanation(
        "T0503",
        "Wrong kind of operand",
        "The value cannot stand there: a function, a layer or a list where a tensor is needed, or something that "
        "cannot be called.",
        '@graph.module\ndef net(x: Tensor[8]):\n    return op.exp("x")\n',
        "Pass a tensor; apply a layer to its input.",
    ),
    Explanation(
        "T0504",
        "Arguments do not fit an op",
        "A missing, surplus or unknown argument, or a value that the argument does not take. The message shows the"
        " signature.",
        "@graph.module\ndef net(x: Tensor[8]):\n    return op.softmax(x, dim=0)\n",
        "Follow the signature; `tesserac ops` shows it too.",
    ),
    Explanation(
        "T0505",
        "Attention that sees the future",
        "The step is labelled as a language model, and an attention is not causal, so every position sees the ones"
        " it should predict.",
        "@graph.module\n"
        "def net(x, W):\n"
        "    return op.flash_attention(x, x, x) @ W\n"
        "\n"
        '@graph.training_step(module="TinyLM")\n'
        'def step(batch: {"x": Tensor[2, 4, 8], "y": Tensor[2, 4, 8]}):\n'
        '    return op.mse(net(batch["x"]), batch["y"])\n',
        "op.flash_attention(q, k, v, causal=True), unless the model is meant to be bidirectional.",
    ),
    Explanation(
        "T0506",
        "Experts that do not fit together",
        "The results of all experts of a mixture are weighted and added, so each of them yields one tensor with a row"
        " per token, and all have the same width and element type. Inside they may differ.",
        "router = op.router([op.mlp(8, [16], 8), op.mlp(8, [16], 6)])\n"
        "\n"
        "@graph.module\n"
        "def net(x: Tensor[4, 8]):\n"
        "    return router(x)\n",
        "Give all experts the same output width.",
    ),
    Explanation(
        "T0507",
        "An expert that looks at several tokens",
        "An expert gets the rows of the tokens that chose it: any number of them, sorted by expert. What it does to a"
        " row must not depend on the others, on their number, or on where the row stands.",
        "router = op.router([lambda x: x - op.mean(x, axis=0) for _ in range(4)])\n"
        "\n"
        "@graph.module\n"
        "def net(x: Tensor[4, 8]):\n"
        "    return router(x)\n",
        "Combine the features of a token only; attention, sums over tokens and positions belong outside the experts.",
    ),
    Explanation(
        "T0510",
        "Orthonormal transforms by default",
        "A Fourier transform without `norm=` is orthonormal in Tessera: 1/sqrt(n) in either direction. Other libraries"
        " put no factor in front of the transform and 1/n in front of the inverse. Where something that is not linear"
        " stands between the two, the results differ.",
        "@graph.module\ndef net(x: Tensor[8]):\n    return op.abs(op.fft(x))\n",
        'norm="ortho" settles it; norm="backward" is what NumPy, PyTorch and JAX do.',
    ),
)
