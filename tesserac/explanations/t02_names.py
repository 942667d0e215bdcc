"""Explanations of T02xx: names, scopes and compile-time evaluation."""

from __future__ import annotations

from tesserac.explanations import Explanation

EXPLANATIONS: tuple[Explanation, ...] = (
    Explanation(
        "T0201",
        "Foreign import",
        "A source is compiled, never run, so no Python library and no other file can take part in it.",
        "import torch\n",
        "Remove the import. `op`, `graph`, `dist`, `optim`, `autodiff`, `schedule` and `numerics` are all there is; "
        "they are bound even without an import.",
    ),
    Explanation(
        "T0202",
        "Unknown attribute",
        "The value has no attribute of that name: a namespace without that member, a layer without that parameter,"
        " or a tensor without that method.",
        "from tessera import graph\n"
        "emb = op.embedding(10, 4)\n"
        "\n"
        "@graph.module\n"
        "def net(x: Tensor[3, int32]):\n"
        "    return emb(x) + emb.table\n",
        "Layers offer their parameters by name (`weight`, `bias`, `w1`...), tensors `.T`, `.shape`, `.dtype` and "
        "methods such as `.reshape`.",
    ),
    Explanation(
        "T0203",
        "Namespace used without an import",
        "`op`, `graph`, `dist`, `optim`, `autodiff`, `schedule` and `numerics` are bound even where the source "
        "does not import them.",
        "@graph.module\ndef net(x: Tensor[4]):\n    return op.exp(x)\n",
        "Nothing has to change; `from tessera import graph, op` makes the note go away.",
    ),
    Explanation(
        "T0204",
        "Impossible compile-time operation",
        "Numbers, strings and lists are computed while compiling, and this operation has no result: a wrong type, "
        "a missing key, a division by zero, or a result too large to hold.",
        "WIDTH = 8 // 0\n\n@graph.module\ndef net(x: Tensor[4, WIDTH]):\n    return x\n",
        "Correct the operands; the message names them.",
    ),
    Explanation(
        "T0205",
        "Condition not known at compile time",
        "`if`, `for`, `and`, `or` and `assert` decide what the program is, so they need values that are known "
        "while compiling; the elements of a tensor are not.",
        "@graph.module\ndef net(x: Tensor[4]):\n    if x > 0:\n        return x\n    return -x\n",
        "Choose between tensors elementwise: op.where(x > 0, x, -x). Combine masks with & and |.",
    ),
    Explanation(
        "T0206",
        "Impossible assignment",
        "The target cannot take the value: an element of a tensor, a different number of names than values, or "
        "something that is not a name.",
        "@graph.module\ndef net(x: Tensor[4]):\n    a, b = 1, 2, 3\n    return x\n",
        "Tensors are immutable; build a new one with op.where, op.concat or op.pad. Unpack as many values as there"
        " are names.",
    ),
    Explanation(
        "T0207",
        "Assertion failed",
        "An `assert` about compile-time facts does not hold.",
        "D, H = 10, 4\n"
        'assert D % H == 0, f"{H} heads do not divide {D}"\n'
        "\n"
        "@graph.module\n"
        "def net(x: Tensor[2, D]):\n"
        "    return x * H\n",
        "Change the constants so that the asserted fact holds.",
    ),
    Explanation(
        "T0208",
        "Elaboration takes too long",
        "Loops are unrolled and functions inlined while compiling; the number of steps is limited so that no "
        "source can hang the compiler.",
        "total = 0\n"
        "for i in range(1000):\n"
        "    for j in range(1000):\n"
        "        total = total + 1\n"
        "\n"
        "@graph.module\n"
        "def net(x: Tensor[4]):\n"
        "    return x * total\n",
        "Hold the repetition in a tensor dimension, or shorten the loop.",
    ),
    Explanation(
        "T0209",
        "Calls nest too deeply",
        "Functions are inlined, so a recursion needs a compile-time condition that ends it.",
        "def f(x):\n    return f(x + 1)\n\n@graph.module\ndef net(x: Tensor[4]):\n    return f(x)\n",
        "End the recursion with a compile-time condition, or write a loop.",
    ),
    Explanation(
        "T0210",
        "Unknown name in an import",
        "`tessera` offers op, graph, dist, optim, autodiff, schedule, numerics, Tensor, P and the element types.",
        "from tessera import layers\n\n@graph.module\ndef net(x: Tensor[4]):\n    return layers\n",
        "Import one of the names that exist.",
    ),
    Explanation(
        "T0211",
        "--set or --set-literal changes nothing",
        "The option names a constant or a literal that the source does not have, or its value is not a constant.",
        "$ tesserac check model.py --set WIDHT=64",
        "Name a constant that is assigned at the top level, or a literal that occurs in the source.",
    ),
    Explanation(
        "T0212",
        "Undefined name",
        "Nothing assigns the name before it is used, and it is not one of the language's own.",
        "@graph.module\ndef net(x: Tensor[4]):\n    return x * scale\n",
        "Define it, or correct its spelling.",
    ),
)
