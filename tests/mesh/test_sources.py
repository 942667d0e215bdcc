"""Programs from sources (language models, experts, fields with coordinate derivatives, spectra) on simulated meshes."""

from __future__ import annotations

from random import Random

import pytest

from tesserac.ir.program import Function
from tesserac.passes.differentiate import expand_derivatives
from tests.elaborate.support import EXAMPLES, compile_source, train_of
from tests.mesh.drawing import mesh_of, worst_difference

MESHES = tuple(map(mesh_of, ("dp=2", "tp=4", "dp=2,tp=2", "a=2,b=2,c=2")))


def example(name: str, *settings: tuple[str, int], **options: object) -> Function:
    """The training step of an example with smaller constants."""
    text = (EXAMPLES / name).read_text()
    result = compile_source(text, header=False, sets=tuple((k, str(v)) for k, v in settings), mesh="none", **options)
    assert result.program is not None, result.text
    return train_of(result)


FIELD = """
net = op.mlp(2, [6, 6], 1, activation="tanh")

@autodiff.custom_grad
def soft(x):
    return op.clip(x, -1.0, 1.0)

@soft.grad
def soft_rule(x, upstream):
    return upstream * op.where(op.abs(x) < 1, 1.0, 0.1)

@graph.module
def rod(x, t):
    return net(op.concat([x, t], axis=-1))

@graph.training_step(module="field")
def step(x: Tensor[8, 1], t: Tensor[8, 1]):
    u = rod(x, t)
    residual = op.grad(u, t) - 0.1 * op.grad(u, x, order=2) + op.laplacian(u, ["x", "t"])
    return op.mean(residual ** 2) + op.mean(soft(u)), {"size": op.mean(op.abs(u))}
"""

DROPS = """
@graph.module
def drops(x: Tensor[8, 12], W: Tensor[12, 8]):
    return op.dropout(op.relu(op.dropout(x, 0.25) @ W), 0.5)

@graph.training_step(module="drops")
def step(batch):
    return op.mean(drops(batch["x"]) ** 2)
"""

PROGRAMS = {
    "listing1": lambda: example("chapter6/listing1.py", shapes=(("input", "4x8x8"), ("Wo", "8x12"))),
    "gpt": lambda: example("gpt.py", ("L", 2), ("D", 8), ("H", 4), ("S", 8), ("B", 4), ("V", 16)),
    "moe": lambda: example("moe_lm.py", ("L", 1), ("D", 8), ("H", 2), ("S", 8), ("B", 4), ("V", 16), ("E", 4)),
    "heat": lambda: example("heat.py", ("N", 8), ("WIDTH", 4)),
    "fno": lambda: example("fno_burgers.py", ("B", 4), ("N", 16), ("W", 4), ("M", 4), ("L", 2)),
    "field": lambda: train_of(compile_source("from tessera import autodiff\n" + FIELD)),
    "dropout": lambda: train_of(compile_source(DROPS)),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_source_on_a_mesh(name: str):
    function = PROGRAMS[name]()
    rng = Random(name)
    for _ in range(4):
        assert worst_difference(function, rng.choice(MESHES), rng) < 1e-9


def test_derivatives_by_coordinates_are_expanded_first():
    """What is left asks for gradients of the loss alone, and keeps the rules that the source gives."""
    kinds = [e.op for e in expand_derivatives(PROGRAMS["field"]()).equations]
    assert kinds.count("backward") == 1
    assert "derivative" not in kinds
    assert "combination" not in kinds
    assert "custom_grad" in kinds
