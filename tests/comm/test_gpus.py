"""CUDA programs on meshes, as processes under the emulation: only NCCL's calls are made by something else."""

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
from tests.comm.test_experts import DATA as ROWS
from tests.comm.test_experts import MIXTURE
from tests.comm.test_programs import DATA, GPT

__all__ = ["cli"]
BEHIND_A_LAYER = MIXTURE.replace("router = ", "first = op.linear(D, D)\nrouter = ").replace("r(x)", "r(first(x))")
BUCKET = '[gradients]\nbucket = "100B"\n'
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_two_ranks_train_as_one(tmp_path: Path, cli: Cli) -> None:
    """Every rank proves itself; losses are one rank's, with several batches per step, too; bytes as planned.

    Buckets of gradients are on their way while layers before exchange what they need at once.
    """
    program = build(GPT, "tp=2", gpus=True, toml=BUCKET)
    text = run(program, 2, "selftest")
    assert text.rstrip().endswith("selftest: ok")
    assert "second call equal bit for bit        ok" in text
    alone = build(GPT, "none")
    for options in (("--steps", 5), ("--steps", 3, "--accumulate", 3)):
        want = losses(run(alone, 1, "train", *DATA, *options))
        np.testing.assert_allclose(losses(run(program, 2, "train", *DATA, *options)), want, rtol=1e-5)
    said = json.loads(run(program, 2, "bench", "--json", "--steps", 3))
    assert said["backend"] == "nccl"
    assert {"reduce_scatter", "all_gather", "all_reduce"} <= {row["kind"] for row in said["exchanges"]}
    for row in said["exchanges"]:
        assert (row["calls"], row["bytes"]) == (1, row["planned_bytes"])
    text = (program.parent / "gpt.program.cu").read_text()
    step = text[text.index("static void train_run"):]
    between = step[step.index("all_reduce_begin_"):step.index("all_reduce_end_")]
    assert re.search(r"reduce_scatter_\w+\(\*call.ranks", between)
    (tmp_path / "model.py").write_text(GPT)
    (tmp_path / "plan.toml").write_text(BUCKET)
    plan = cli("plan", str(tmp_path / "model.py"), "--mesh", "tp=2", "--hw", "h100-ib400", "--json")
    (entry,) = json.loads(plan.out)["entries"]
    assert sum(c["overlapped"] for c in entry["collectives"]) == len(re.findall("^  all_reduce_begin_", step, re.M)) > 1
    for name, env in (("late", {"TSR_EMULATION_ASYNC": "late"}), ("early", {"TSR_EMULATION_ASYNC": "early"}),
                      ("at once", {"TSR_OVERLAP": "0"})):
        run(program, 2, "train", *DATA, "--steps", 3, "--quiet", "--save", tmp_path / name, **env)
        assert (tmp_path / name).read_bytes() == (tmp_path / "late").read_bytes()


@slow
def test_four_ranks_on_two_axes(tmp_path: Path) -> None:
    """The CUDA program of tp=2,dp=2 has the losses of the CPU's; a checkpoint goes on bit for bit, and on the CPU."""
    gpus, processors = build(GPT, "tp=2,dp=2", gpus=True, toml=BUCKET), build(GPT, "tp=2,dp=2")
    straight = losses(run(gpus, 4, "train", *DATA, "--steps", 6))
    np.testing.assert_allclose(straight, losses(run(processors, 4, "train", *DATA, "--steps", 6)), rtol=1e-5)
    run(gpus, 4, "train", *DATA, "--steps", 4, "--checkpoint", tmp_path / "c")
    rest = losses(run(processors, 4, "train", *DATA, "--steps", 6, "--checkpoint", tmp_path / "c", "--resume"))
    np.testing.assert_allclose(rest, straight[4:], rtol=1e-5)
    run(gpus, 4, "train", *DATA, "--steps", 4, "--checkpoint", tmp_path / "d")
    again = losses(run(gpus, 4, "train", *DATA, "--steps", 6, "--checkpoint", tmp_path / "d", "--resume"))
    assert np.array_equal(again, straight[4:])


@slow
def test_rows_of_experts() -> None:
    """The host reads how many rows go where, and the exchange stands between two graphs. Rows as on the CPU.

    Buckets of gradients that are on their way end with the first of the two.
    """
    gpus, processors = (build(BEHIND_A_LAYER, "ep=2,dp=2", gpus=on, toml=BUCKET) for on in (True, False))
    text = (gpus.parent / f"{gpus.name}.program.cu").read_text()
    step = text[text.index("static void train_run"):]
    assert "exchange_rows_" in step[step.index("all_reduce_begin_"):step.index("all_reduce_end_")]
    assert run(gpus, 4, "selftest").splitlines()[-1] == "selftest: ok"
    have, want = (losses(run(p, 4, "train", *ROWS)) for p in (gpus, processors))
    np.testing.assert_allclose(have, want, rtol=1e-5)
    rows = [json.loads(run(p, 4, "bench", "--json", "--steps", 2))["exchanges"] for p in (gpus, processors)]
    here, there = (sorted((row["at"], row["bytes_of_all"]) for row in found if row["kind"] == "exchange_rows")
                   for found in rows)  # what else travels, each target's plan decides for its machine
    assert here == there


@slow
def test_the_first_listing_on_eight_ranks() -> None:
    """With its own mesh."""
    source = (EXAMPLES / "chapter6" / "listing1.py").read_text()
    program = build(source, None, gpus=True, shapes=(("input", "4x16x32"), ("Wo", "32x48")))
    assert run(program, 8, "selftest").rstrip().endswith("selftest: ok")


@slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_lost_rank(number: signal.Signals) -> None:
    """A rank that is killed, or stands still: the other says who it is, though a graph is running."""
    program = build(GPT, "tp=2", gpus=True, toml=BUCKET)
    found = launch(program, 2, "train", *DATA, "--steps", 10000, "--quiet", TSR_COMM_TIMEOUT="4")
    time.sleep(3)
    found[1].send_signal(number)
    begin = time.monotonic()
    text = found[0].communicate(timeout=30)[1]
    assert time.monotonic() - begin < 15
    assert found[0].returncode == 75
    found[1].kill()
    found[1].communicate()
    assert f"error[T0944]: rank 1 (pid {found[1].pid} on " in text
    assert "model.py:" in text or "an exchange of the runtime" in text
