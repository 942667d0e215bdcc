"""Explanations of T07xx: meshes and sharding."""

from __future__ import annotations

from tesserac.explanations import Explanation

EXPLANATIONS: tuple[Explanation, ...] = (
    Explanation(
        "T0701",
        "Several devices",
        "The program asks for a mesh of several devices. `tesserac plan` shows how it would be cut, but programs for "
        "several devices are not emitted yet.",
        'mesh = dist.Mesh(axes=["dp"], devices=[0, 1])\n\n@graph.module\ndef net(x: Tensor[8]):\n    return x * 2\n',
        "Compile the same source for one device with --mesh none.",
    ),
    Explanation(
        "T0702",
        "Wrong mesh",
        "A mesh has named axes and nested, rectangular lists of different device numbers, one level per axis. A unit "
        "has one mesh, which holds for all its entries.",
        'mesh = dist.Mesh(axes=["tp", "dp"], devices=[0, 1, 2, 3])\n'
        "\n"
        "@graph.module\n"
        "def net(x: Tensor[8]):\n"
        "    return x * 2\n",
        'dist.Mesh(axes=["tp", "dp"], devices=[[0, 1], [2, 3]]), or shape=(2, 2) with a flat list.',
    ),
    Explanation(
        "T0703",
        "Strategy that is not there",
        "A plan or a pin asks for a way of running an operation that its rule does not have, or that the sizes forbid.",
        "$ tesserac plan model.py --mesh tp=3   # with a pin that cuts 8 heads by 3",
        "Choose one of the strategies that the message lists, or a mesh axis whose size divides the dimension.",
    ),
    Explanation(
        "T0704",
        "Uneven cut",
        "A plan cuts an input or a parameter along a dimension that the mesh axis does not divide.",
        "$ tesserac plan model.py --mesh dp=3   # with a pin that cuts a batch of 8 by 3",
        "Use an axis size that divides the dimension, or pad the dimension in the source.",
    ),
    Explanation(
        "T0707",
        "Unknown hardware",
        "`--hw` names a machine that tesserac has a file of, or a JSON file of your own with the same fields.",
        "$ tesserac plan examples/gpt.py --mesh tp=2 --hw h200",
        "Take one of the machines that the message lists, or copy its file and put your machine's rates in.",
    ),
)
