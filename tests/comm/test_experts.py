"""Mixtures of experts on a mesh, as processes: rows travel to their experts' ranks and back, and none is dropped."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from tesserac.checkpoints import merge, newest, read_index
from tests.comm.projects import build, losses, run, slow

MIXTURE = """
from tessera import graph, op

T, D, E = 16, 8, 4

experts = [op.mlp(D, [12], D) for _ in range(E)]
router = op.router(experts, strategy="top2")

@graph.module
def moe(x: Tensor[T, D]):
    return x + router(x)

@graph.training_step(module="moe")
def step(batch):
    loss = op.mse(moe(batch["x"]), batch["y"])
    return graph.backward(loss), {"loss": loss}
"""
DATA = ("--data", "x=normal", "--data", "y=normal", "--optimizer", "momentum", "--lr", "0.05", "--steps", "20")


def test_experts_on_two_ranks_train_as_on_one() -> None:
    """A rank holds its experts' parameters alone: the arena shrinks, and no gradient of an expert travels."""
    alone, spread = build(MIXTURE, "none"), build(MIXTURE, "ep=2")
    kernels = (spread.parent / f"{spread.name}.kernels.h").read_text()
    assert kernels.count("exchange::exchange_rows(") == 2  # there and back; x needs no gradient
    assert run(spread, 2, "selftest").splitlines()[-1] == "selftest: ok"
    expected, found = (losses(run(p, n, "train", *DATA)) for p, n in ((alone, 1), (spread, 2)))
    assert len(found) == 20
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    experts, gate = 4 * (8 * 12 + 12 + 12 * 8 + 8), 8 * 4
    for program, count in ((alone, experts + gate), (spread, experts // 2 + gate)):
        text = run(program, 1, "describe")
        assert f"parameters: {count} in " in text
    sums = re.findall(r"all_reduce +ep +model.py:\d+ +(\d+)\n", text)  # of the loss, and of gradients
    assert [int(n) for n in sums] == [4, 4 * gate]
    assert "moe.experts.2.b1                 12 on rank 1 of ep" in text


def test_ranks_of_experts_divide_samples(tmp_path: Path) -> None:
    """Each of them routes its own samples; rows travel to the experts, and the file is one rank's, bit for bit."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(21, 8)).astype(np.float32))
    for mesh, ranks in (("none", 1), ("ep=2", 2)):
        files = ("--input", f"x={tmp_path}/x.npy", "--output", f"{tmp_path}/{ranks}.npy")
        run(build(MIXTURE, mesh), ranks, "infer", *files)
    one, two = (np.load(tmp_path / f"{ranks}.npy") for ranks in (1, 2))
    assert one.shape == (21, 8)
    assert np.array_equal(two, one)


@slow
def test_checkpoints_of_experts_go_on_anywhere(tmp_path: Path) -> None:
    """What four ranks wrote goes on with two and with one, and four go on bit for bit; merged it is the weights."""
    programs = {1: build(MIXTURE, "none"), 2: build(MIXTURE, "ep=2"), 4: build(MIXTURE, "ep=4")}
    straight = losses(run(programs[4], 4, "train", *DATA))
    first = (*DATA[:-1], "12")
    run(programs[4], 4, "train", *first, "--checkpoint", tmp_path / "c", "--save", tmp_path / "w.safetensors")
    merge(read_index(newest(tmp_path / "c")), tmp_path / "merged.safetensors")
    direct, merged = load_file(tmp_path / "w.safetensors"), load_file(tmp_path / "merged.safetensors")
    assert len(direct) == 17
    assert all(np.array_equal(direct[name], merged[name]) for name in direct)
    for ranks, program in programs.items():
        copy = tmp_path / f"c{ranks}"
        shutil.copytree(tmp_path / "c", copy)
        rest = losses(run(program, ranks, "train", *DATA, "--checkpoint", copy, "--resume"))
        np.testing.assert_allclose(rest, straight[12:], rtol=0 if ranks == 4 else 1e-6)
    start = ("--weights", tmp_path / "w.safetensors", "--steps", "1")
    each = [losses(run(p, n, "train", *DATA[:-2], *start)) for n, p in programs.items()]
    np.testing.assert_allclose(each, each[0][0], rtol=1e-6)


@slow
def test_shares_of_experts_on_two_axes(tmp_path: Path) -> None:
    """ZeRO-1 along dp of what lies at its expert's rank on ep; batches added up; and the way back to one rank."""
    alone, spread = build(MIXTURE, "none"), build(MIXTURE, "ep=2,dp=2", toml="[zero]\nstage = 1\n")
    assert run(spread, 4, "selftest").splitlines()[-1] == "selftest: ok"
    more = ("--accumulate", "2", "--clip", "0.2")
    want = losses(run(alone, 1, "train", *DATA, *more))
    found = losses(run(spread, 4, "train", *DATA[:-1], "12", *more, "--checkpoint", tmp_path / "c"))
    np.testing.assert_allclose(found, want[:12], rtol=1e-6)
    rest = losses(run(alone, 1, "train", *DATA, *more, "--checkpoint", tmp_path / "c", "--resume"))
    np.testing.assert_allclose(rest, want[12:], rtol=1e-6)
