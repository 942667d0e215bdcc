"""Explanations of T07xx: meshes and sharding."""

from __future__ import annotations

from tesserac.explanations import Explanation

EXPLANATIONS: tuple[Explanation, ...] = (
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
        "T0705",
        "Nothing to plan, or plan.toml says nonsense",
        "`tesserac plan` needs a mesh, settings that mean something, and a template whose axes the mesh has.",
        "$ tesserac plan examples/gpt.py --mesh none",
        "Give a mesh with --mesh or in the source; plan.toml has the tables mesh, roles, pin, zero and memory.",
    ),
    Explanation(
        "T0706",
        "A pin that cannot be kept",
        "A pin in plan.toml or a dist.shard matches no tensor, has another number of dimensions, names an axis that "
        "the mesh lacks, or asks for a placement that nothing which reads the tensor can work with.",
        "$ printf '[pin]\\n\"gpt.tabel\" = \"tp\"\\n' > plan.toml\n"
        "$ tesserac plan examples/gpt.py --mesh tp=2 --toml plan.toml",
        "The message says which placements there are, or which names.",
    ),
    Explanation(
        "T0717",
        "Term of a sum in a function that is not linear",
        "On some mesh axis every rank has a term of a value, and the value is their sum. A function of the terms is no "
        "term of the function of the value unless the function is linear: tanh(a) + tanh(b) is not tanh(a + b).",
        "$ tesserac plan model.py --lock edited.lock.json   # where tanh was given the placements P -> P",
        "Let the operand be R (all-reduce) or S (reduce-scatter) there.",
    ),
    Explanation(
        "T0718",
        "Term of a sum joined with a whole value",
        "One operand is a term of a sum over the ranks of a mesh axis and the other is whole on each of them, so that "
        "the sum would count the whole one once per rank, as a bias added before the all-reduce.",
        "$ tesserac plan model.py --lock edited.lock.json   # where add was given the placements P, R -> P",
        "Make the whole value a term too (R -> P keeps it on the first rank), or add the terms first.",
    ),
    Explanation(
        "T0707",
        "Unknown hardware",
        "`--hw` names a machine that tesserac has a file of, or a JSON file of your own with the same fields.",
        "$ tesserac plan examples/gpt.py --mesh tp=2 --hw h200",
        "Take one of the machines that the message lists, or copy its file and put your machine's rates in.",
    ),
    Explanation(
        "T0708",
        "A large parameter on every rank",
        "--deny-replicated forbids parameters of that size to lie whole on every rank of an axis that could cut them.",
        "$ tesserac plan examples/gpt.py --mesh tp=3 --deny-replicated 1kB",
        "Choose sizes that the axis divides, pin the parameter, or raise the limit.",
    ),
    Explanation(
        "T0709",
        "Collectives that were not asked for",
        "A collective is larger than --max-collective-bytes allows, --shard=strict found one that neither a template "
        "nor a pin accounts for, the counts are not those of the template that --expect names, or roles in plan.toml "
        "forbid what every plan needs.",
        "$ tesserac plan examples/gpt.py --mesh tp=2 --max-collective-bytes 1kB",
        "Look at `why` in the report; pin tensors where you want them, or raise the limit.",
    ),
    Explanation(
        "T0710",
        "A stale lock file",
        "The lock file was made for another program or mesh. The message names the first equation that differs.",
        "$ tesserac plan examples/gpt.py --mesh tp=2 --write-lock plan.lock.json && "
        "tesserac plan examples/gpt.py --mesh tp=4 --lock plan.lock.json",
        "Plan again with --write-lock and review the difference.",
    ),
    Explanation(
        "T0711",
        "W101: a large tensor on every rank",
        "A parameter lies whole on all ranks of an axis that could hold parts of it.",
        "$ tesserac plan examples/gpt.py --mesh tp=3 --set V=131072",
        "Choose sizes that the axis divides, or pin the parameter.",
    ),
    Explanation(
        "T0712",
        "W102: a large gather",
        "A plan gathers a large tensor, and no template of this mesh does that.",
        "$ printf 'from tessera import op, graph\\n@graph.module\\ndef f(x: Tensor[8, 4], W: Tensor[4, 4]):\\n' "
        "> sums.py\n"
        "$ printf '    return op.cumsum(x @ W, axis=0)\\n' >> sums.py\n"
        "$ tesserac plan sums.py --mesh dp=2 --deny-replicated 16",
        "See `why` in the report; pin another placement if you know a better one.",
    ),
    Explanation(
        "T0713",
        "W103: an idle axis",
        "Nothing is cut along an axis, so its ranks all do the same.",
        "$ tesserac plan examples/heat.py --mesh sp=2",
        "Leave the axis out or give it a name that says what it may cut: dp, tp, ep, sp, cp, or any other for all.",
    ),
    Explanation(
        "T0714",
        "W104: an axis across nodes",
        "The devices of an axis that communicates much do not lie in one node.",
        "$ tesserac plan examples/gpt.py --mesh tp=2,dp=8 --hw h100-ib400",
        "Order the mesh so that this axis comes last: neighbouring devices differ in the last axis.",
    ),
    Explanation(
        "T0715",
        "W105: sizes that do not come apart evenly",
        "An axis does not divide a batch, or the heads of an attention, so they are cut another way or not at all.",
        "$ tesserac plan examples/gpt.py --mesh tp=3",
        "Choose sizes that the axis divides.",
    ),
    Explanation(
        "T0716",
        "W106: an operator that cannot be cut",
        "An operator needs the whole extent of a dimension that an axis cuts, so its operand is gathered and every "
        "rank computes all of it.",
        "$ printf 'from tessera import op, graph\\n@graph.module\\ndef f(x: Tensor[8, 4], W: Tensor[4, 4]):\\n' "
        "> sums.py\n"
        "$ printf '    return op.cumsum(x @ W, axis=0)\\n' >> sums.py\n"
        "$ tesserac plan sums.py --mesh dp=2",
        "Let it work along another dimension, or leave the axis out.",
    ),
    Explanation(
        "T0719",
        "A collective that changes no value",
        "Programs are about whole tensors, on any mesh, and the compiler finds the collectives. One that is written "
        "out is therefore the tensor itself, and a pin: all_reduce, all_gather, broadcast keep it whole along the "
        "axis, reduce_scatter and all_to_all cut it. Gradients of graph.backward are sums over all ranks already, and "
        "a barrier has nothing to wait for: a rank waits where it needs what others send.",
        'mesh = dist.Mesh(axes=["dp"], devices=[0, 1])\n\n@graph.module\ndef net(x: Tensor[8, 4]):\n'
        '    return dist.all_gather(x * 2, axis="dp")\n',
        "Leave it out, or write the pin that is meant: dist.shard, dist.replicate, dist.partial.",
    ),
    Explanation(
        "T0720",
        "A plan that does not fit",
        "What one rank holds (parameters, gradients, moments, data, and values as if nothing fused) is more than "
        "--memory, or memory.limit of plan.toml. The machine's own limit gives a warning, since the built program "
        "needs less for values.",
        "$ tesserac plan examples/gpt.py --mesh tp=2 --memory 1MB",
        "Cut more: more ranks, a tensor axis, or zero.stage = 3 in plan.toml for parameters on data axes.",
    ),
    Explanation(
        "T0721",
        "A pin without effect",
        "A pin says how what reads a value has it. Nothing does where the value is not needed for any result, where "
        "only an output is made of it, or where a derivative is found without it. Pins in plan.toml that match no "
        "value are an error (T0706).",
        '$ tesserac plan model.py   # with `y = dist.shard(x * 2, P("dp", None))`, where no result needs y',
        "Pin what is computed from the value, or leave the pin out.",
    ),
)
