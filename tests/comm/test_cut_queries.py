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
