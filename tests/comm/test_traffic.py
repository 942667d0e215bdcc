"""What ranks exchange in a step: counted while they run, planned, and by the formulas for such programs."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.cli.conftest import Cli, cli
from tests.comm.projects import build, run, slow
from tests.comm.test_chapter6 import CASES
from tests.comm.test_programs import GPT

__all__ = ["cli"]

Key = tuple[str, str, int]
"""Axis, op, and bytes of the whole tensor on that axis, as plans count them."""
SCALAR = 64
"""Bytes up to which an exchange is that of a loss, a count or the load of experts, which formulas leave out."""


def counted(program: Path, ranks: int) -> Counter[Key]:
    """What the ranks of a running program count, in the terms of a plan."""
    data = json.loads(run(program, ranks, "bench", "--steps", 2, "--warmup", 1, "--threads", 1, "--json"))
    assert (data["ranks"], data["backend"]) == (ranks, "local")
    found: Counter[Key] = Counter()
    for item in data["exchanges"]:
        assert item["calls"] == 1
        kind, size = item["kind"], item["bytes"]
        if kind == "exchange_rows":  # a rank sends what its tokens want; all together, every row once
            size = item["bytes_of_all"] * item["size"] / ranks
        else:
            assert size == item["planned_bytes"]
            assert item["bytes_of_all"] == ranks * size
            size *= item["size"] if kind in ("all_gather", "all_to_all") else 1
        found[item["axis"], kind, int(size)] += 1
    return found


def planned(cli: Cli, words: list[str]) -> Counter[Key]:
    """The training step's collectives in `tesserac plan --json`."""
    (entry,) = json.loads(cli(*words, "--json").out)["entries"]
    assert entry["function"] == "train"
    return Counter((c["axis"], c["kind"], c["bytes"]) for c in entry["collectives"])


def large(found: Counter[Key]) -> Counter[Key]:
    """Without scalars."""
    return Counter({key: times for key, times in found.items() if key[2] > SCALAR})


def sequence_parallel(sizes: Mapping[str, int], tp: int, dp: int) -> Counter[Key]:
    """Megatron's sequence parallelism over ``tp`` and data parallelism over ``dp``, for examples/gpt.py.

    Per block of attention or MLP a gather ahead and a scatter behind, and the same back; none ahead of the first block,
    whose input every rank has whole. A vocabulary in columns gathers what it reads, and here the logits; the gradients
    of parameters that every rank of tp has whole are reduced over tp, all over dp.
    """
    L, D, S, B, V, F = (sizes[k] for k in "LDSBVF")  # F: columns of the MLP
    stream, logits = 4 * B // dp * S * D, 4 * B // dp * S * V
    whole = L * (6 * D + 3 * D + 3 * D * D) + 2 * D + S * D + V * D  # norms, biases of sums, qkv, embeddings
    parts = L * (2 * D * F // tp + F // tp + D * D // tp)
    blocks = 2 * L
    found = Counter({("tp", "all_gather", stream): (blocks - 1) + 1 + blocks,
                     ("tp", "reduce_scatter", stream): blocks + 1 + (blocks - 1),
                     ("tp", "all_gather", logits): 1, ("tp", "all_reduce", 4 * whole): 1})
    if dp > 1:
        found["dp", "all_reduce", 4 * (whole + parts)] += 1
    return found


def gradients(axis: str, *shapes: tuple[int, ...]) -> Counter[Key]:
    """One bucket of all of them."""
    return Counter({(axis, "all_reduce", 4 * sum(map(math.prod, shapes))): 1})


SIZES = {"L": 1, "D": 32, "S": 16, "B": 8, "V": 256, "F": 128}
SLOTS = 32 * 2 * 32 * 4
"""Bytes of listing 3's rows: 32 tokens, two experts for each, 32 columns."""
LISTING3 = [(32, 8), *8 * [(32, 64), (64,), (64, 32), (32,)]]
COMPLEX = [*4 * [(32, 32), (32,), (32, 32), (32,)]]
FORMULAS: dict[str, Counter[Key]] = {
    # Queries cut along the sequence: keys and values are gathered, their cotangents scattered, and logits gathered.
    "listing 1, verbatim": Counter({("tp", "all_gather", 4 * 2 * 16 * 32): 2, ("tp", "all_gather", 4 * 2 * 16 * 48): 1,
                                    ("tp", "reduce_scatter", 4 * 2 * 16 * 32): 2,
                                    **gradients("tp", (32, 32), (32, 48)),
                                    **gradients("dp", (32, 32), *2 * [(32, 16)], (32, 48))}),
    "listing 1, heads": Counter({("tp", "all_reduce", 4 * 2 * 16 * 48): 1,  # a quarter of the batch; none back
                                 **gradients("dp", *3 * [(32, 16)], (16, 48))}),
    "gpt, tp": sequence_parallel(SIZES, 2, 1),
    "gpt, tp and dp": sequence_parallel(SIZES, 2, 2),
    "listing 2, points": gradients("dp", (3, 32), (32,), (32, 32), (32,), (32, 1)),  # derivatives have no last bias
    "listing 3, dp": gradients("dp", *LISTING3),
    # Rows go to their experts and come back; their cotangents go the same ways, and x needs none.
    "listing 3, ep": Counter({("ep", "all_gather", 4 * (8 + 1) * 4): 1, ("ep", "exchange_rows", SLOTS): 3,
                              **gradients("ep", LISTING3[0])}),  # those of experts stay where the experts are
    "listing 4, batch": gradients("dp", *COMPLEX, *COMPLEX) + gradients("dp", (64, 4)),
}


@slow
@pytest.mark.parametrize("name", FORMULAS)
def test_case(name: str, cli: Cli, tmp_path: Path) -> None:
    """Counts and bytes: at run time = in the plan = in the formula."""
    case = CASES[name]
    found = counted(case.program(case.mesh), case.ranks)
    assert found == planned(cli, case.plan(tmp_path))
    assert large(found) == FORMULAS[name]


def test_gpt(cli: Cli, tmp_path: Path) -> None:
    """Over dp alone there is one bucket of gradients; with tp beside it, what is counted is what is planned."""
    (tmp_path / "model.py").write_text(GPT)
    plan = ["plan", str(tmp_path / "model.py"), "--mesh"]
    two, four = (counted(build(GPT, mesh), ranks) for mesh, ranks in (("dp=2", 2), ("tp=2,dp=2", 4)))
    assert two == planned(cli, [*plan, "dp=2"])
    D, S, V = 16, 8, 32
    block = [(3 * D, D), (3 * D,), (D, D), (D, 2 * D), (2 * D,), (2 * D, D), *6 * [(D,)]]
    assert large(two) == gradients("dp", *2 * block, (V, D), (S, D))
    assert four == planned(cli, [*plan, "tp=2,dp=2"])
    text = run(build(GPT, "tp=2,dp=2"), 4, "bench", "--steps", 3, "--warmup", 1, "--threads", 1)
    rows = re.findall(r"^ +\d+ \w+ +\w+ +\S+ +1 a step of (\d+) bytes \(planned: \1 bytes\) in", text, re.M)
    assert len(rows) == four.total()
