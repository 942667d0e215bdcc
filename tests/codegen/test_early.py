"""Which gradients of experts a training step may take over before it ends: those that nothing reads afterwards."""

from __future__ import annotations

import re

import pytest

from tesserac.driver import CompileOptions, compile_source
from tesserac.elaborate import Options

MODEL = """
from tessera import graph, op

experts = [op.mlp(16, [24], 16) for _ in range(4)]
router = op.router(experts)
again = op.router({again})

@graph.module
def model(x: Tensor[64, 16]):
    return {value}

@graph.training_step(module="model")
def step(batch):
    loss = op.mse(model(batch["x"]), batch["y"]){penalty}
    return graph.backward(loss), {{"loss": loss}}
"""


def taken_over(value: str = "router(x)", again: str = "experts", penalty: str = "", mesh: str = "none") -> set[str]:
    """The parameters whose gradients are handed to call.update, by the text of the emitted program."""
    source = MODEL.format(value=value, again=again, penalty=penalty)
    options = CompileOptions(elaboration=Options(mesh=mesh))
    files = compile_source(source, "model.py", options).files
    text = next(text for name, text in files.items() if name.endswith(".program.cpp"))
    members = re.findall(r"gradient_of<float>\(call, tile, \{(.*?)\}\)", text, re.DOTALL)
    found = {member for each in members for member in re.findall(r"g->(\w+)", each)}
    rows = re.findall(r"constexpr int k\w+Parameters\[\d+\]\[\d+\] = \{(.*?)\};", text, re.DOTALL)
    numbers = [int(n) for listed in rows for n in re.findall(r"\d+", listed)]
    table = text.partition("kParameters[] = {")[2].partition("};")[0]
    names = re.findall(r'^    \{"(\S+)", DType', table, re.MULTILINE)
    assert {names[n].replace(".", "_") for n in numbers} == found, "what the table lists is what is formed early"
    assert len(numbers) == len(found)
    assert ("call.update->update" in text) == bool(found) == (", true};" in text)
    return found


def experts(*numbers: int) -> set[str]:
    return {f"model_experts_{i}_{name}" for i in numbers for name in ("w1", "b1", "w2", "b2")}


def test_of_experts_that_are_used_once() -> None:
    assert taken_over() == experts(0, 1, 2, 3)


@pytest.mark.parametrize(
    ("differs", "expected"),
    [
        pytest.param({"value": "again(router(x))"}, (), id="a second mixture adds to what the first left"),
        pytest.param({"value": "router(x) + experts[1](x)"}, (), id="an expert is applied to all tokens, too"),
        pytest.param({"penalty": " + 1e-3 * op.sum(op.square(experts[2].w1))"}, ("b1", "w2", "b2"), id="a penalty"),
        pytest.param({"mesh": "dp=2"}, (), id="ranks add them up"),
        pytest.param({"mesh": "ep=2"}, ("w1", "b1", "w2", "b2"), id="every rank has some of the experts"),
    ],
)
def test_not_of_what_is_used_elsewhere(differs: dict[str, str], expected: tuple[str, ...]) -> None:
    """The parameters of one name go together: what holds for all experts holds for each."""
    found = taken_over(**differs)
    assert {name.rpartition("_")[2] for name in found} == set(expected)
