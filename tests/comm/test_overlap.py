"""Buckets of gradients that are exchanged beside the backward pass: the same bits, the same counts, and who waits."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import Cli, cli
from tests.comm.projects import build, launch, losses, run, slow
from tests.comm.test_programs import DATA, GPT
from tests.comm.test_traffic import counted, planned

__all__ = ["cli"]
BUCKET = '[gradients]\nbucket = "14kB"\n'


@pytest.fixture(scope="module")
def early() -> Path:
    """Two ranks, two buckets: the second layer's gradients are on their way while the first's are computed."""
    return build(GPT, "dp=2", toml=BUCKET)


def test_order(early: Path) -> None:
    """The step shows where a bucket begins and where it is awaited; the rest of the backward pass is between."""
    text = (early.parent / "gpt.program.cpp").read_text()
    step = text[text.index("static void train_run"):]
    begin, end = step.index("all_reduce_begin_"), step.index("all_reduce_end_")
    assert "train_tile5(call, w, own" in step[begin:end]
    assert "train_tile5(call, w, own" not in step[end:]


def test_in_place(early: Path) -> None:
    """The terms are computed where the gradients lie, one behind the other: an exchange is one call on one range."""
    step, kernels = ((early.parent / f"gpt.{part}").read_text() for part in ("program.cpp", "kernels.h"))
    assert re.search(r"all_reduce_begin_\w+\(\*call\.ranks, kAxis_dp, 1, g->gpt_blocks_1_mlp_b2\)", step)
    assert re.search(r"all_reduce_end_\w+\(\*call\.ranks, 1\)", step)
    calls = re.findall(r"ranks\.(all_reduce\w*)\(number, axis, Reduce::sum, DType::f32, \w+, (\d+)\)", kernels)
    assert [name for name, _ in calls] == ["all_reduce_begin", "all_reduce"]
    sizes = re.findall(r"alignas\(64\) float gpt_\w+\[(\d+)\]", step)
    assert sum(int(count) for _, count in calls) == sum(map(int, sizes))


def test_equal(early: Path, tmp_path: Path, cli: Cli) -> None:
    """The same bits as if every exchange was awaited at once; close to one bucket; what is counted is planned."""
    assert run(early, 2, "selftest").rstrip().endswith("selftest: ok")
    train = ("train", *DATA, "--steps", 20, "--quiet", "--save")
    run(early, 2, *train, tmp_path / "early")
    run(early, 2, *train, tmp_path / "late", "--reproducible", TSR_OVERLAP="0")  # the order of sums is that anyway
    assert (tmp_path / "early").read_bytes() == (tmp_path / "late").read_bytes()
    one = losses(run(build(GPT, "dp=2"), 2, "train", *DATA, "--steps", 20))
    np.testing.assert_allclose(losses(run(early, 2, "train", *DATA, "--steps", 20)), one, rtol=1e-6)
    (tmp_path / "model.py").write_text(GPT)
    (tmp_path / "plan.toml").write_text(BUCKET)
    words = ["plan", str(tmp_path / "model.py"), "--mesh", "dp=2"]
    assert counted(early, 2) == planned(cli, words)
    (entry,) = json.loads(cli(*words, "--json").out)["entries"]
    assert [c["overlapped"] for c in entry["collectives"] if c["phase"] == "gradient"] == [True, False]


@slow
def test_beside_other_axes(tmp_path: Path) -> None:
    """While buckets are on their way over dp, exchanges over tp go on; what tp adds to gradients comes behind them."""
    program = build(GPT, "tp=2,dp=2", toml='[gradients]\nbucket = "3kB"\n')
    step = (program.parent / "gpt.program.cpp").read_text()
    begin, end = step.index("all_reduce_begin_"), step.index("all_reduce_end_")
    assert re.search(r"(all_gather|reduce_scatter|all_reduce)_\w+\(\*call\.ranks, kAxis_tp", step[begin:end])
    assert run(program, 4, "selftest").rstrip().endswith("selftest: ok")
    for name, wait in (("early", "1"), ("late", "0")):
        run(program, 4, "train", *DATA, "--steps", 20, "--save", tmp_path / name, "--quiet", TSR_OVERLAP=wait)
    assert (tmp_path / "early").read_bytes() == (tmp_path / "late").read_bytes()


def test_killed(early: Path) -> None:
    """A rank dies while buckets are on their way: the other one says who, and ends."""
    found = launch(early, 2, "train", *DATA, "--steps", 1000000, "--quiet")
    time.sleep(1.5)
    found[1].send_signal(signal.SIGKILL)
    texts = [process.communicate(timeout=15)[1] for process in found]
    assert [p.returncode for p in found] == [75, -9]
    assert "rank 1 (pid" in texts[0]
