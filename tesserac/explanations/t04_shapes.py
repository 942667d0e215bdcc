"""Explanations of T04xx: shapes and dtypes."""

from __future__ import annotations

from tesserac.explanations import Explanation

EXPLANATIONS: tuple[Explanation, ...] = (
    Explanation(
        "T0401",
        "Unknown shape",
        "Where the value is used, nothing has said how many axes it has. Parameters get shapes from their use; "
        "data has to bring one.",
        '@graph.training_step(module="t")\n'
        "def step(batch):\n"
        '    y = op.linear(8, 2)(batch["x"])\n'
        "    return op.mean(y)\n",
        '--shape x=4x8 on the command line, [shapes] in model.toml, or an annotation: batch: {"x": Tensor[4, 8]}.',
    ),
    Explanation(
        "T0402",
        "Unresolved dimension",
        "No operation, annotation or option settles the size.",
        "@graph.module\n"
        "def net(x, W):\n"
        "    return x @ W\n"
        "\n"
        '@graph.training_step(module="t")\n'
        'def step(batch: {"x": Tensor[4, 8]}):\n'
        '    return op.mean(net(batch["x"]))\n',
        "Give it with --shape net.W=_x16 or --dim, or annotate: W: Tensor[8, 16].",
    ),
    Explanation(
        "T0403",
        "Shapes contradict each other",
        "Two places force different sizes on one dimension; both are shown.",
        "@graph.module\ndef net(x: Tensor[4, 8], W: Tensor[9, 2]):\n    return x @ W\n",
        "Make the two sizes agree, or reshape one of the operands.",
    ),
    Explanation(
        "T0404",
        "Wrong axes",
        "The operation cannot apply to a tensor of this shape: too few axes, an axis or index that does not exist,"
        " sizes that do not divide.",
        "@graph.module\ndef net(x: Tensor[4, 8]):\n    return x[5]\n",
        "Check the shape that the message shows.",
    ),
    Explanation(
        "T0405",
        "Floats needed",
        "The operation is defined for floating-point elements, and integers become floats only by a cast.",
        "@graph.module\ndef net(x: Tensor[4, 8, int32], W: Tensor[8, 2]):\n    return x @ W\n",
        "op.cast(x, float32), or op.embedding to look rows up by number.",
    ),
    Explanation(
        "T0406",
        "Integers needed",
        "Ids and labels are integers.",
        "@graph.module\ndef net(x: Tensor[4, float32], table: Tensor[10, 8]):\n    return op.embedding(x, table)\n",
        "Declare the input with an integer dtype, or convert it with op.cast(x, int32).",
    ),
    Explanation(
        "T0407",
        "Element types do not mix",
        "Float widths promote to the wider; integers, floats and masks meet only through a cast.",
        "@graph.module\ndef net(x: Tensor[4], n: Tensor[4, int32]):\n    return x * n\n",
        "Convert one operand with op.cast, or choose by a mask with op.where.",
    ),
    Explanation(
        "T0408",
        "Wrong annotation",
        "A tensor annotation is Tensor[dims..., dtype]; dims are positive integers, names, or products of them.",
        "@graph.module\ndef net(x: Tensor[4, -1]):\n    return x\n",
        'Write Tensor["B", 64], Tensor[B, S, int32] or tensor[(B, S), bf16].',
    ),
    Explanation(
        "T0409",
        "Element type not supported",
        "8-bit floats parse, but no target computes with them yet.",
        "@graph.module\ndef net(x: Tensor[4, fp8_e4m3]):\n    return x\n",
        "Use bf16 or fp16.",
    ),
    Explanation(
        "T0410",
        "Default width",
        "Nothing settles the width of a projection that attention consumes, so it keeps the width of its input.",
        "@graph.module\n"
        "def net(x, Wq, Wk, Wv):\n"
        "    return op.flash_attention(x @ Wq, x @ Wk, x @ Wv, causal=True)\n"
        "\n"
        '@graph.training_step(module="t")\n'
        'def step(batch: {"x": Tensor[2, 4, 8]}):\n'
        '    return op.mean(net(batch["x"]))\n',
        "Nothing has to change; --shape net.Wq=_x16 chooses another width.",
    ),
    Explanation(
        "T0411",
        "Wrong shape option",
        "A --shape, --dim or model.toml entry cannot be read, or names nothing in the program.",
        "$ tesserac check model.py --shape input=4xx64",
        "--shape input=4x64x32, --shape input=B,S,D, --shape Wo=_x50304, --dim B=8.",
    ),
    Explanation(
        "T0412",
        "Shape of a coordinate",
        "Nothing gives the shape of an input by which a derivative is taken, or of one beside it in the same call. It "
        "is taken to be a column: one row per point, as many as the other inputs of the call have.",
        "@graph.module\n"
        "def net(x: Tensor[64, 1], t):\n"
        "    u = op.mlp([x, t], hidden=[8], out_dim=1)\n"
        '    return op.grad(u, "t") - op.laplacian(u, ["x"])\n',
        "Nothing has to change; --shape t=64x3 or an annotation gives another shape.",
    ),
    Explanation(
        "T0414",
        "A complex tensor where a real one is needed",
        "Order, maxima, most functions and losses have no meaning for complex numbers, and comparing a complex tensor "
        "with a real one would silently count its imaginary part as an error.",
        "@graph.module\ndef net(z: Tensor[4, complex64]):\n    return op.relu(z)\n",
        "Take op.real(z), op.imag(z), op.abs(z) or op.angle(z), or act on both parts: "
        "op.complex(op.relu(op.real(z)), op.relu(op.imag(z))).",
    ),
    Explanation(
        "T0415",
        "A tensor that no memory holds",
        "The size of a tensor is more than 2^50 bytes, a petabyte, so that it is a mistake, and positions in it could "
        "not be counted in the emitted program.",
        "@graph.module\ndef net(x: Tensor[2 ** 40, 2 ** 20], w: Tensor[2 ** 20, 4]):\n    return x @ w\n",
        "Make a dimension smaller; a broadcast of two long axes against each other is a frequent reason.",
    ),
)
