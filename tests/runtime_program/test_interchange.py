"""Weights to and from the safetensors package and PyTorch, in every float type."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from .conftest import Programs


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_weights_of_numpy(checked: Programs, tmp_path: Path, dtype: str) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(5, 4))
    values[0] = [6e-8, -65504, 0, 1e-5]  # halves: smallest subnormal, largest, zero, subnormal
    weights = {"b": rng.normal(size=4).astype(dtype), "W": values.astype(dtype)}
    save_file(weights, tmp_path / "in.safetensors", {"author": 'someone \u2603 "quoted"'})
    flags = ["--data", "x=zeros", "--data", "labels=randint", "--steps", 0]
    checked.run("Softmax", "train", *flags, "--weights", "in.safetensors", "--save", "out.safetensors", cwd=tmp_path)
    out = load_file(tmp_path / "out.safetensors")
    for name, value in weights.items():
        np.testing.assert_array_equal(out[name], value.astype(np.float32))


def test_weights_of_torch(checked: Programs, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file as load_torch
    from safetensors.torch import save_file as save_torch

    weights = {"W": torch.randn(5, 4).to(torch.bfloat16), "b": torch.randn(4).to(torch.float16)}
    save_torch(weights, tmp_path / "in.safetensors")
    flags = ["--data", "x=zeros", "--data", "labels=randint", "--steps", 0]
    checked.run("Softmax", "train", *flags, "--weights", "in.safetensors", "--save", "out.safetensors", cwd=tmp_path)
    out = load_torch(tmp_path / "out.safetensors")
    for name, value in weights.items():
        assert out[name].dtype == torch.float32
        assert torch.equal(out[name], value.float())


def test_initial_weights_follow_their_distribution(checked: Programs, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(b"a" * 100)
    for seed, name in ((0, "a"), (0, "b"), (1, "c")):
        flags = [
            "--data",
            "input=t.txt",
            "--steps",
            0,
            "--seed",
            seed,
            "--threads",
            1 + seed,
            "--save",
            f"{name}.safetensors",
        ]
        checked.run("Bigram", "train", *flags, cwd=tmp_path)
    a, b, c = (load_file(tmp_path / f"{name}.safetensors")["table"] for name in "abc")
    assert a.mean() == pytest.approx(0, abs=0.001)
    assert a.std() == pytest.approx(0.02, rel=0.03)
    assert np.abs(a).max() > 0.06, "tails"
    np.testing.assert_array_equal(a, b)
    assert abs(np.corrcoef(a.ravel(), c.ravel())[0, 1]) < 0.03
