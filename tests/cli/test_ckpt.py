"""`tesserac ckpt`: checkpoints in parts become one file; damaged ones are refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tesserac.cli import run

W = np.arange(24, dtype=np.float32).reshape(4, 6)
SCALE = np.arange(3, dtype=np.float64)
MOMENT = W.astype(np.float16)


def write(folder: Path) -> dict[str, Any]:
    """W in four rectangles of different sizes on two ranks, a whole vector, a moment cut by columns."""
    folder.mkdir(parents=True)
    first = {"W": W[:3, :2].copy(), "m.scale": SCALE, "optimizer.m.W": MOMENT[:, :4].copy()}
    save_file(first, folder / "a.safetensors")
    save_file({"W": W[:3, 2:].copy(), "optimizer.m.W": MOMENT[:, 4:].copy()}, folder / "b.safetensors")
    save_file({"W": W[3:].copy()}, folder / "c.safetensors")

    def parts(*items: tuple[str, list[int], list[int]]) -> list[dict[str, Any]]:
        return [{"file": f"{f}.safetensors", "offsets": o, "lengths": n} for f, o, n in items]

    index: dict[str, Any] = {
        "format": "tesserac-checkpoint",
        "version": 1,
        "metadata": {"step": "7"},
        "tensors": {
            "W": {
                "dtype": "F32",
                "shape": [4, 6],
                "parts": parts(("a", [0, 0], [3, 2]), ("b", [0, 2], [3, 4]), ("c", [3, 0], [1, 6])),
            },
            "m.scale": {"dtype": "F64", "shape": [3], "parts": parts(("a", [0], [3]))},
            "optimizer.m.W": {
                "dtype": "F16",
                "shape": [4, 6],
                "parts": parts(("a", [0, 0], [4, 4]), ("b", [0, 4], [4, 2])),
            },
        },
    }
    (folder / "index.json").write_text(json.dumps(index))
    return index


def test_parts_become_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "ckpt" / "step-000000007")
    (tmp_path / "ckpt" / "step-000000009.tmp").mkdir()
    out = tmp_path / "model.safetensors"
    assert run(["ckpt", "merge", str(tmp_path / "ckpt"), "-o", str(out)]) == 0
    found = load_file(out)
    assert sorted(found) == ["W", "m.scale"]
    np.testing.assert_array_equal(found["W"], W)
    np.testing.assert_array_equal(found["m.scale"], SCALE)
    assert run(["ckpt", "merge", str(tmp_path / "ckpt" / "step-000000007"), "-o", str(out), "--optimizer"]) == 0
    np.testing.assert_array_equal(load_file(out)["optimizer.m.W"], MOMENT)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ckpt", "model.safetensors"]
    assert run(["ckpt", "show", str(tmp_path / "ckpt")]) == 0
    assert "b.safetensors  [0:3, 2:6]" in capsys.readouterr().out


def damage(folder: Path, index: dict[str, Any], kind: str) -> None:
    """One kind of damage."""
    w = index["tensors"]["W"]
    if kind == "gone":
        (folder / "b.safetensors").unlink()
    elif kind == "truncated":
        data = (folder / "c.safetensors").read_bytes()
        (folder / "c.safetensors").write_bytes(data[:-8])
    elif kind == "foreign":
        (folder / "b.safetensors").write_bytes(b"no header here at all")
    elif kind == "hole":
        del w["parts"][1]
    elif kind == "overlap":
        w["parts"][2]["offsets"] = [2, 0]
    elif kind == "outside":
        w["parts"][2]["offsets"] = [4, 0]
    elif kind == "elsewhere":
        w["parts"][0]["file"] = "../secret.safetensors"
    elif kind == "version":
        index["version"] = 2
    (folder / "index.json").write_text("{" if kind == "json" else json.dumps(index))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("gone", "b.safetensors` is not a usable checkpoint: No such file"),
        ("truncated", "`W` is missing or truncated"),
        ("foreign", "it is no safetensors file"),
        ("hole", "12 numbers are in no part of `W`"),
        ("overlap", "two parts overlap of `W`"),
        ("outside", "a part lies outside of `W`"),
        ("elsewhere", "a part outside the folder"),
        ("version", "it is no index of version 1"),
        ("json", "it is malformed"),
    ],
)
def test_damage(kind: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "step-000000001"
    damage(folder, write(folder), kind)
    out = tmp_path / "model.safetensors"
    assert run(["ckpt", "merge", str(folder), "-o", str(out)]) == 1
    error = capsys.readouterr().err
    assert "T0950" in error
    assert words in error
    assert [p.name for p in tmp_path.iterdir()] == ["step-000000001"]


def test_nothing_there_and_nowhere_to_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ckpt", "merge", str(tmp_path), "-o", str(tmp_path / "x")]) == 1
    assert "there is no index.json" in capsys.readouterr().err
    write(tmp_path / "step-1")
    assert run(["ckpt", "merge", str(tmp_path / "step-1"), "-o", str(tmp_path / "absent" / "x")]) == 1
    assert "T0916" in capsys.readouterr().err
