"""Explanations of T03xx: modules, entries and parameters."""

from __future__ import annotations

from tesserac.explanations import Explanation

EXPLANATIONS: tuple[Explanation, ...] = (
    Explanation(
        "T0301",
        "Arguments do not fit a function",
        "Too many arguments, or a keyword that the function does not have.",
        "def twice(x):\n    return x + x\n\n@graph.module\ndef net(x: Tensor[4]):\n    return twice(x, 2)\n",
        "Call the function with the parameters of its definition.",
    ),
    Explanation(
        "T0302",
        "Missing argument",
        "Only a @graph.module turns parameters that a call leaves unbound into trainable parameters; on a plain "
        "function they are missing arguments.",
        "def scale(x, w):\n    return x * w\n\n@graph.module\ndef net(x: Tensor[4]):\n    return scale(x)\n",
        "Pass the argument, or decorate the function with @graph.module.",
    ),
    Explanation(
        "T0303",
        "Wrong decorator",
        "The decorator is none of Tessera's, is used as a function, or has an argument that it does not take.",
        "@op.exp\ndef net(x: Tensor[4]):\n    return x\n\n@graph.module\ndef twice(x: Tensor[4]):\n    return net(x)\n",
        '@graph.module, @graph.training_step(module="label") and @graph.loss make entries; graph.checkpoint marks '
        "a function.",
    ),
    Explanation(
        "T0304",
        "Wrong batch key",
        "A batch is indexed by strings that can name inputs.",
        '@graph.training_step(module="t")\ndef step(batch):\n    return op.mean(batch[0])\n',
        'Write batch["input"].',
    ),
    Explanation(
        "T0305",
        "Wrong result of an entry",
        "A step returns gradients, gradients and a dict of scalar metrics, or a scalar loss; a module returns tensors.",
        '@graph.training_step(module="t")\ndef step(batch):\n    return 3\n',
        'return graph.backward(loss), {"loss": loss}',
    ),
    Explanation(
        "T0306",
        "A module makes different layers in different calls",
        "The layers of a module are created once and shared by all calls, so every call must make the same ones.",
        "@graph.module\n"
        "def net(x, width):\n"
        "    return op.linear(8, width)(x)\n"
        "\n"
        '@graph.training_step(module="t")\n'
        'def step(batch: {"a": Tensor[2, 8]}):\n'
        '    return op.mean(net(batch["a"], 4)) + op.mean(net(batch["a"], 5))\n',
        "Use two modules, or a plain function, whose calls each make layers of their own.",
    ),
    Explanation(
        "T0307",
        "Wrong use of graph.backward",
        "It takes one floating-point scalar, once per step.",
        '@graph.training_step(module="t")\n'
        'def step(batch: {"x": Tensor[4, 8]}):\n'
        '    y = op.linear(8, 8)(batch["x"])\n'
        "    return graph.backward(y)\n",
        "Reduce the loss to a scalar with op.mean, op.sum or a loss, and add losses before calling it.",
    ),
    Explanation(
        "T0308",
        "Nothing to train",
        "The loss depends on no trainable parameter, or not on the one that wrt= names.",
        '@graph.training_step(module="t")\n'
        'def step(batch: {"x": Tensor[4]}):\n'
        '    return graph.backward(op.mean(batch["x"]))\n',
        "Parameters are the trailing parameters of a @graph.module that a call leaves unbound, and those of layers.",
    ),
    Explanation(
        "T0309",
        "Parameters taken to be trainable",
        "Nothing in the unit calls the module, so no call shows which parameters are data; names such as W1 or "
        "bias are taken to be weights.",
        "@graph.module\ndef net(x: Tensor[4, 8], W: Tensor[8, 2]):\n    return x @ W\n",
        "Call the module from a step; the parameters that the call binds are data.",
    ),
    Explanation(
        "T0310",
        "A loss fits no module",
        "@graph.loss belongs to the module it names, else to the one whose returned names are its parameters, else to "
        "the one that returns or takes all of them, else to the nearest earlier one with as many outputs.",
        "@graph.loss\ndef energy(u):\n    return op.mean(u)\n",
        'Name the module: @graph.loss(module="net").',
    ),
    Explanation(
        "T0311",
        "--loss does not fit",
        "--loss KIND:OUTPUT,KEY names a loss op, an output of the entry and a data input to compare it with.",
        "$ tesserac build model.py --loss mse:Y",
        "Write for example --loss mse:Y,target.",
    ),
    Explanation(
        "T0312",
        "Unused parameter",
        "The module declares the parameter and never uses it, so it is not part of the program.",
        "@graph.module\n"
        "def net(x, W, unused):\n"
        "    return x @ W\n"
        "\n"
        '@graph.training_step(module="t")\n'
        'def step(batch: {"x": Tensor[4, 8], "y": Tensor[4, 2]}):\n'
        '    return op.mse(net(batch["x"]), batch["y"])\n',
        "Remove the parameter or use it.",
    ),
    Explanation(
        "T0313",
        "No entry, or not a unique one",
        "There is nothing to compile, --entry names nothing, or two entries have one name.",
        "WIDTH = 8\n",
        'Mark a function with @graph.module or @graph.training_step(module="label"), and give every step its own '
        "label.",
    ),
    Explanation(
        "T0314",
        "graph.checkpoint is a hint without effect yet",
        "Recomputing intermediates in the backward pass is not implemented; results and gradients do not depend on it.",
        "layer = graph.checkpoint(op.linear(8, 2))\n"
        "\n"
        "@graph.module\n"
        "def net(x: Tensor[4, 8]):\n"
        "    return layer(x)\n",
        "Nothing needs to be changed. `inspect --stage plan` shows what memory the program takes.",
    ),
    Explanation(
        "T0315",
        "Outputs bound to a loss by position",
        "The names of the loss's parameters are not those that the module returns, so the outputs are taken in their "
        "order.",
        "@graph.module\n"
        "def net(x: Tensor[64, 1]):\n"
        "    u = op.mlp([x], hidden=[8], out_dim=1)\n"
        "    return u\n"
        "\n"
        "@graph.loss\n"
        "def energy(field):\n"
        '    return op.mean(field * field)\n',
        "Nothing has to change; parameters with the names of the outputs are bound by name.",
    ),
    Explanation(
        "T0319",
        "schedule.* is a hint without effect",
        "Tiles, fusion and layouts are chosen by the compiler from the program's shapes; a schedule in the source "
        "changes neither results nor code.",
        "@schedule.tile(64)\n"
        "@graph.module\n"
        "def net(x: Tensor[4, 8], W: Tensor[8, 2]):\n"
        "    return x @ W\n",
        "Nothing has to change; remove the hint to silence the note.",
    ),
)
