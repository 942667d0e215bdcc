"""A language model whose sequences are cut: every rank has some of the queries of a causal attention, and all keys."""

from __future__ import annotations

import numpy as np

from tests.comm.projects import build, losses, run, slow
from tests.comm.test_programs import DATA, GPT


@slow
def test_a_causal_model_on_cut_sequences_trains_as_on_one_rank() -> None:
    alone, cut = build(GPT, "none"), build(GPT, "sp=2")
    kernels = (cut.parent / f"{cut.name}.kernels.h").read_text()
    assert "exchange::axis_index(" in kernels  # which queries are here
    assert "attention_backward<A>(" in kernels  # no array of queries by keys
    assert "exchange::all_gather(" in kernels  # keys and values
    assert run(cut, 2, "selftest").splitlines()[-1] == "selftest: ok"
    expected, found = (losses(run(p, n, "train", "--steps", 20, *DATA)) for p, n in ((alone, 1), (cut, 2)))
    assert len(found) == 20
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@slow
def test_cut_queries_of_16_bits_take_tensor_cores() -> None:
    """On GPUs in mixed precision: the losses of one rank, from the kernels that a model on one device has."""
    source = GPT.replace("= 2, 16, 2, 8, 4, 32", "= 1, 16, 2, 16, 4, 32")
    alone, cut = (build(source, mesh, gpus=True, precision="bf16") for mesh in ("none", "sp=2"))
    program = (cut.parent / f"{cut.name}.program.cu").read_text()
    for way in ("forward", "backward"):
        assert f"attention_{way}_tensor_cores<" in program
    assert run(cut, 2, "selftest").splitlines()[-1] == "selftest: ok"
    expected, found = (losses(run(p, n, "train", "--steps", 8, *DATA)) for p, n in ((alone, 1), (cut, 2)))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
