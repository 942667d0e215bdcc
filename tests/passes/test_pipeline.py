"""The pipeline as a whole: what reordering may do, and that every step keeps the program's values."""

from __future__ import annotations

import numpy as np
import pytest

from tesserac.driver import CompileOptions, front_end
from tesserac.elaborate import Options
from tesserac.ir.evaluate import evaluate
from tesserac.ir.program import Function
from tesserac.passes.differentiate import differentiate
from tesserac.passes.expand import expand
from tesserac.passes.pipeline import PIPELINE, Trace, contraction_flops, optimize, reassociated
from tesserac.passes.squeeze import squeeze_products
from tests.strategies import inputs_for

SOURCE = """
from tessera import graph, op

@graph.module
def attend(x: Tensor[4, 16, 16], Wq: Tensor[16, 16], Wk: Tensor[16, 16], Wv: Tensor[16, 16], Wo: Tensor[16, 16]):
    return op.flash_attention(x @ Wq, x @ Wk, x @ Wv, heads=HEADS) @ Wo

@graph.training_step(module="block")
def step(batch):
    loss = op.cross_entropy(attend(batch["input"]), batch["labels"])
    return graph.backward(loss), {"loss": loss}
"""


def block(heads: int) -> Function:
    options = CompileOptions(Options(mesh="none"))
    _, program, _ = front_end(SOURCE.replace("HEADS", str(heads)), "block.py", options)
    function = program.entries[0].train
    assert function is not None
    return function


def assert_same_values(function: Function, other: Function) -> None:
    values = inputs_for(function)
    wanted = evaluate(differentiate(function), values, dtype=np.float64)
    found = evaluate(differentiate(other), values, dtype=np.float64)
    assert wanted.keys() == found.keys()
    for name, want in wanted.items():
        np.testing.assert_allclose(found[name], want, rtol=1e-9, atol=1e-12, err_msg=name)


def test_one_head_becomes_nine_products_per_element_and_keeps_its_values() -> None:
    function = block(heads=1)
    better = reassociated(function)
    # 15 products of 16^3 per batch element become 9, plus 6 for the weights: (15 - 9) * 4 - 6 fewer of 2 * 16^3.
    saved = contraction_flops(optimize(function)) - contraction_flops(better)
    assert saved >= 0.9 * (6 * 4 - 6) * 2 * 16**3
    assert_same_values(function, better)


def test_several_heads_stay_as_they_are() -> None:
    function = block(heads=4)
    assert reassociated(function) is function


@pytest.mark.parametrize("reorder", [False, True])
def test_every_step_keeps_the_values(reorder: bool) -> None:
    function = block(heads=1)
    seen: list[tuple[str, Function]] = []
    optimize(function, Trace(lambda name, result: seen.append((name, result))), reorder=reorder)
    assert [name for name, _ in seen][-len(PIPELINE) :] == [step.name for step in PIPELINE]
    for _, result in seen:
        assert_same_values(function, result)


def test_squeeze_takes_letters_of_size_one_out_of_products() -> None:
    function = differentiate(block(heads=1))

    squeezed = squeeze_products(expand(function, {"attention", "attention_grad"}))
    for equation in squeezed.equations:
        if equation.op == "contract":
            assert all(1 not in v.type.sizes for v in equation.operands)
    assert_same_values(function, squeezed)
