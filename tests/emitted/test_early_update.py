"""Experts whose parameters are updated behind their last tile are updated as all at the end are, to the last bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.emitted.conftest import Project

DATA = ("--data", "x=normal", "--data", "y=normal", "--steps", 5, "--lr", 0.05)
LATE = ("--clip", 1e30)  # needs the norm of all gradients before the first update, and then changes nothing


def trained(project: Project, folder: Path, *flags: object) -> tuple[bytes, list[tuple[float, float]]]:
    """The weights after a few steps, and the loss and norm of the gradients of each."""
    project.run("routed", "train", *DATA, *flags, "--save", "end.safetensors", "--log", "log.jsonl", cwd=folder)
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    steps = [(line["loss"], line["grad_norm"]) for line in lines if "grad_norm" in line]
    assert len(steps) == 5
    (folder / "log.jsonl").unlink()
    return (folder / "end.safetensors").read_bytes(), steps


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adamw"])
def test_early_updates_change_no_bit(routed: Project, tmp_path: Path, optimizer: str) -> None:
    assert "call.update->update(" in (routed.folder / "routed.program.cpp").read_text()
    early = trained(routed, tmp_path, "--optimizer", optimizer)
    assert early == trained(routed, tmp_path, "--optimizer", optimizer, *LATE)
    assert early == trained(routed, tmp_path, "--optimizer", optimizer, "--check-finite")
    assert early != trained(routed, tmp_path, "--optimizer", optimizer, "--seed", 1)


def test_validation_in_between_changes_nothing(routed: Project, tmp_path: Path) -> None:
    """Without a function of its own, the loss of validation data is that of the training step, gradients unused."""
    flags = ("--val", "x=normal", "--val", "y=normal", "--val-every", 2, "--val-batches", 1)
    assert trained(routed, tmp_path, *flags) == trained(routed, tmp_path)
