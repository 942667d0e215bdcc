"""Transforms in two dimensions over ranks that hold slabs: transposed by all-to-all for each axis, there and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.cli.conftest import Cli, cli
from tests.comm.projects import build, losses, run, slow
from tests.comm.test_chapter6 import same_weights
from tests.comm.test_traffic import counted, planned

__all__ = ["cli"]

SOURCE = """
from tessera import dist, graph, op

B, X, Y = 2, 128, 256

@graph.module
def filtered(x: Tensor[B, X, Y], W: Tensor[X, Y, complex64]):
    x = dist.shard(x, P(None, "slab", None))
    y = op.real(op.ifft2(op.fft2(x) * W))
    return y + op.gelu(y)

@graph.training_step(module="filtered")
def step(batch):
    loss = op.mse(filtered(batch["x"]), batch["y"])
    return graph.backward(loss), {"loss": loss}
"""


@slow
def test_signals_are_divided(tmp_path: Path) -> None:
    """A program without training: ranks of dp filter the signals that are theirs, and one file has all of them."""
    source = (Path(__file__).resolve().parents[2] / "examples/spectral_denoise.py").read_text()
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(13, 1024)).astype(np.float32))
    for mesh, ranks in (("none", 1), ("dp=2", 2)):
        program = build(source, mesh, name="spectral_denoise.py")
        assert run(program, ranks, "selftest").rstrip().endswith("selftest: ok")
        outputs = [w for name in ("fourier", "wavelet") for w in ("--output", f"{name}={tmp_path}/{name}{ranks}.npy")]
        run(program, ranks, "infer", "--input", f"x={tmp_path}/x.npy", *outputs)
    for name in ("fourier", "wavelet"):
        one, two = (np.load(tmp_path / f"{name}{ranks}.npy") for ranks in (1, 2))
        assert one.shape == (13, 1024)
        np.testing.assert_allclose(two, one, rtol=1e-6, atol=1e-6)


@slow
def test_slabs_train_as_one_rank(cli: Cli, tmp_path: Path) -> None:
    """Nothing is ever gathered: the spectrum is turned twice forward, the multiplier lies in parts, too."""
    alone, cut = build(SOURCE, "none"), build(SOURCE, "slab=4")
    assert run(cut, 4, "selftest").rstrip().endswith("selftest: ok")
    (tmp_path / "model.py").write_text(SOURCE)
    found = counted(cut, 4)
    assert found == planned(cli, ["plan", str(tmp_path / "model.py"), "--mesh", "slab=4"])
    spectrum = 2 * 128 * 256 * 8  # complex numbers: there and back, and the multiplier's cotangent
    assert found == {("slab", "all_to_all", spectrum): 3, ("slab", "all_reduce", 4): 1}
    data = ("--data", "x=normal", "--data", "y=normal", "--lr", "0.1", "--steps", "20")
    want = losses(run(alone, 1, "train", *data, "--save", tmp_path / "one"))
    have = losses(run(cut, 4, "train", *data, "--save", tmp_path / "four"))
    assert len(have) == 20
    np.testing.assert_allclose(have, want, rtol=1e-6)
    same_weights(tmp_path / "four", tmp_path / "one")
