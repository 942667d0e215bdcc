# ruff: noqa: E501  (exact messages stay on one line)
"""Emitted programs train: the same bits every time, through kills and resumes, and with losses given by a flag."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tesserac.binding import load

from .conftest import Builder, Project

TRAIN = ("--data", "input=text.txt", "--optimizer", "adamw", "--clip", 1, "--warmup", 5, "--schedule", "cosine")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_two_runs_are_equal_bit_for_bit(gpt: Project, data: Path) -> None:
    for name in ("a", "b"):
        gpt.run("gpt", "train", *TRAIN, "--steps", 20, "--save", f"{name}.safetensors", "--quiet", cwd=data)
    assert (data / "a.safetensors").read_bytes() == (data / "b.safetensors").read_bytes()
    weights = load_file(data / "a.safetensors")
    assert weights["gpt.blocks.0.mlp.w1"].shape == (24, 96)
    assert all(np.isfinite(value).all() for value in weights.values())


def test_killed_while_it_saves_a_run_resumes_to_the_same_bits(gpt: Project, data: Path) -> None:
    """Saving after every step, a run that is killed is as good as always writing its checkpoint."""
    steps = ("--steps", 600, "--quiet")
    gpt.run("gpt", "train", *TRAIN, *steps, "--checkpoint", "whole", "--log", "whole.jsonl", cwd=data)
    flags = [
        *TRAIN,
        *steps,
        "--checkpoint",
        "parts",
        "--save-every",
        1,
        "--keep",
        2,
        "--resume",
        "--log",
        "parts.jsonl",
    ]
    killed = 0
    for delay in (0.05, 0.13, 0.21):
        process = gpt.start("gpt", *["train", *flags], cwd=data)
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
    assert killed == 3
    gpt.run("gpt", "train", *flags, cwd=data)
    last = "step-000000600.safetensors"
    assert (data / "whole" / last).read_bytes() == (data / "parts" / last).read_bytes()
    assert lines(data / "whole.jsonl")[-1]["loss"] == lines(data / "parts.jsonl")[-1]["loss"]


def test_every_metric_is_logged(zoo: Project, data: Path) -> None:
    specs = ("--data", "tokens=randint(11)", "--data", "labels=randint(11)")
    zoo.run("decoder", "train", *specs, "--steps", 2, "--quiet", "--log", "log.jsonl", cwd=data)
    assert [set(line["metrics"]) for line in lines(data / "log.jsonl")] == [{"largest", "size"}] * 2


@pytest.mark.parametrize(
    ("entry", "specs"),
    [
        ("rows1000", ("--data", "x=x1000.npy", "--data", "target=zeros")),
        ("single", ("--data", "x=x13.npy", "--data", "target=zeros")),
    ],
)
def test_steps_that_return_only_gradients_or_a_loss_learn(
    zoo: Project, data: Path, entry: str, specs: tuple[str, ...]
) -> None:
    flags = ("--steps", 40, "--optimizer", "adam", "--lr", 0.01, "--quiet", "--log", "log.jsonl")
    zoo.run(entry, "train", *specs, *flags, cwd=data)
    found = [line["loss"] for line in lines(data / "log.jsonl")]
    assert sum(found[-5:]) < 0.5 * sum(found[:5])


def test_a_module_without_a_loss_infers_and_is_not_trained(builder: Builder, tmp_path: Path) -> None:
    project = builder.build("forward", "tests/programs/forward.py", goals=("forward",))
    assert project.run("forward", "selftest", cwd=tmp_path).stdout.splitlines()[-1] == "selftest: ok"
    assert project.fails("forward", "train", cwd=tmp_path, code=2) == (
        "error[T0924]: forward has no training step\n"
        "  = help: define one with @graph.training_step or @graph.loss in the source, or build with --loss mse:OUTPUT,KEY\n"
    )


def test_a_loss_by_flag_trains_it(builder: Builder) -> None:
    flags = ("--loss", "mse:Y,target")
    project = builder.build("forward-loss", "tests/programs/forward.py", *flags, goals=("libforward.so",))
    model = load(project.folder / "libforward.so").create("forward", optimizer="adam")
    rng = np.random.default_rng(0)
    batch = {"x": rng.normal(size=(5, 6)).astype(np.float32), "target": rng.normal(size=(5, 3)).astype(np.float32)}
    untrained = model.infer(x=batch["x"])["Y"]
    first = model.train_step(0.02, **batch).loss
    assert first == pytest.approx(np.mean((untrained - batch["target"]) ** 2), rel=1e-5)
    for _ in range(60):
        last = model.train_step(0.02, **batch).loss
    assert last < 0.3 * first
