"""Checkpoints of several ranks: any mesh reads what any mesh wrote; damage costs a checkpoint, never a wrong number."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tesserac.checkpoints import merge, newest, read_index
from tests.comm.test_ranks import CLEAN, start

MESHES = ("", "1", "2", "3", "2 2", "1 3", "3 2")


def run(parts: Path, mesh: str, *arguments: object, code: int = 0, **env: str) -> str:
    """All ranks of a mesh; what they printed, rank 0's standard output first."""
    sizes = mesh.split()
    words = [*map(str, arguments), *sizes]
    count = int(np.prod([int(n) for n in sizes])) if sizes else 0
    if count == 0:
        done = subprocess.run([parts, *words], env={**CLEAN, **env}, text=True, capture_output=True, timeout=60)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr
    found = start(parts, count, *words, **env)
    texts = [process.communicate(timeout=60) for process in found]
    assert [process.returncode for process in found] == [code] * count, texts
    return "".join(out for out, _ in texts) + "".join(err for _, err in texts)


@pytest.mark.parametrize("wrote", MESHES)
def test_any_mesh_reads_any_mesh(parts: Path, wrote: str, tmp_path: Path) -> None:
    run(parts, wrote, "save", tmp_path, 7)
    for reads in MESHES:
        assert run(parts, reads, "load", tmp_path) == "step 7, 0 wrong, seed 5\n"
    assert not [p for p in tmp_path.rglob("*") if ".tmp" in p.name]


def test_work_is_shared_and_nothing_is_written_twice(parts: Path, tmp_path: Path) -> None:
    run(parts, "2 2", "save", tmp_path, 7)
    checkpoint = read_index(newest(tmp_path))
    sizes = [p.stat().st_size for p in sorted(checkpoint.folder.glob("rank-*.safetensors"))]
    assert len(sizes) == 4
    assert sum(t.bytes for t in checkpoint.tensors) == 3 * (12 * 24 * 4 + 7 * 4 + 72 * 8 + 24 * 8 + 4)
    out = tmp_path / "one.safetensors"
    merge(checkpoint, out)
    found = load_file(out)
    assert found["W"].shape == (12, 24)
    np.testing.assert_array_equal(found["W"].ravel(), (-100000 + np.arange(288) + 7 / 64).astype(np.float32))
    for mesh in ("", "2 2"):
        assert "0 wrong" in run(parts, mesh, "weights", out)
        assert "0 wrong" in run(parts, mesh, "weights", checkpoint.folder)


def test_steps_follow_each_other(parts: Path, tmp_path: Path) -> None:
    """The newest counts, whichever mesh wrote it; two are kept; a step that is written again replaces the old one."""
    for mesh, step in (("", 1), ("2", 2), ("2 2", 3), ("2 2", 3), ("", 3)):
        run(parts, mesh, "save", tmp_path, step)
        assert f"step {step}, 0 wrong" in run(parts, "3", "load", tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000000002", "step-000000003.safetensors"]


def test_a_full_disk_on_one_rank(parts: Path, tmp_path: Path) -> None:
    run(parts, "2 2", "save", tmp_path, 7)
    text = run(parts, "2 2", "save", tmp_path, 8, code=1, TEST_FULL="2")
    assert text.count("T0917") == 4
    assert text.count("rank 2: cannot write") == 3
    assert [p.name for p in tmp_path.iterdir()] == ["step-000000007"]
    assert "step 7, 0 wrong" in run(parts, "2", "load", tmp_path)


@pytest.mark.parametrize("kind", ["gone", "truncated", "changed", "index"])
def test_damage_costs_one_checkpoint(parts: Path, kind: str, tmp_path: Path) -> None:
    """All ranks agree on the checkpoint before, also where only one of them reads the damaged file."""
    run(parts, "3 2", "save", tmp_path, 7)
    run(parts, "3 2", "save", tmp_path, 8)
    victim = tmp_path / "step-000000008" / ("index.json" if kind == "index" else "rank-00003.safetensors")
    data = bytearray(victim.read_bytes())
    if kind == "gone":
        victim.unlink()
    else:
        if kind == "changed":
            data[-5] ^= 4
        victim.write_bytes(data if kind == "changed" else data[: len(data) // 2])
    for mesh in ("", "3 2", "2"):
        text = run(parts, mesh, "load", tmp_path)
        assert "warning: " in text
        assert text.endswith("step 7, 0 wrong, seed 5\n")
    (tmp_path / "step-000000007" / "index.json").unlink()
    assert "T0918" in run(parts, "3 2", "load", tmp_path, code=1)


def test_unfinished_ones_are_cleared_away(parts: Path, tmp_path: Path) -> None:
    unfinished = tmp_path / "step-000000009.tmp"
    unfinished.mkdir()
    (unfinished / "rank-00000.safetensors").write_bytes(b"x")
    assert "step 0" in run(parts, "2", "load", tmp_path)
    run(parts, "2", "save", tmp_path, 7)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000000007"]
    assert os.listdir(tmp_path / "step-000000007")
