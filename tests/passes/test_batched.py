"""Which outputs have a row per sample, on functions in which another axis is as long as the batch."""

from __future__ import annotations

import pytest

from tesserac.passes.batched import batched_outputs
from tests.elaborate.support import compile_source, infer_of

BODIES = {
    "h, op.sum(h, axis=0), op.sum(h, axis=1)": {"net.0", "net.2"},
    "h.T, h.reshape(64), op.softmax(h)": {"net.2"},
    "h @ h.T, W @ W": {"net.0"},
    "op.sort(h), op.concat([h, h], axis=0)[0:8], op.exp(W)": {"net.0"},
    "router(h, metrics=True)[0], router(h, metrics=True)[1]['tokens']": {"net.0"},
    "router(h.reshape(8, 2, 4)), op.fft(h)": {"net.0", "net.1"},
}


@pytest.mark.parametrize("body", BODIES)
def test_the_first_axis_must_come_from_the_batch(body: str) -> None:
    width = 4 if "(8, 2, 4)" in body else 8
    result = compile_source(f"""
    router = op.router([op.mlp({width}, [4], {width}) for _ in range(8)])

    @graph.module
    def net(x: Tensor[8, 8], W: Tensor[8, 8]):
        h = x @ W
        return {body}
    """)
    assert result.program is not None, result.text
    assert batched_outputs(infer_of(result), 8) == BODIES[body]
    assert batched_outputs(infer_of(result), None) == set()


def test_a_batch_of_one_goes_by_its_size() -> None:
    body = "return op.exp(x), op.sum(x, axis=1), op.sum(x)"
    result = compile_source(f"@graph.module\ndef net(x: Tensor[1, 8]):\n    {body}\n")
    assert batched_outputs(infer_of(result), 1) == {"net.0", "net.1"}
