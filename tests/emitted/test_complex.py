"""A built program on complex numbers: to its users one complex tensor, in files, in NumPy and in the optimizer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tesserac.binding import Library, load
from tesserac.driver import CompileOptions, front_end
from tesserac.elaborate import Options
from tesserac.ir.evaluate import evaluate
from tesserac.ir.program import Program
from tests.conftest import ROOT

from .conftest import Builder, Project

SOURCE = "tests/programs/waves.py"
W1 = "waves.h.w1"


@pytest.fixture(scope="module")
def project(builder: Builder) -> Project:
    return builder.build("waves", SOURCE, "--dim", "B=6")


@pytest.fixture(scope="module")
def library(project: Project) -> Library:
    return load(project.folder / "libwaves.so")


@pytest.fixture(scope="module")
def program() -> Program:
    options = CompileOptions(Options(dims=(("B", 6),)))
    return front_end((ROOT / SOURCE).read_text(encoding="utf-8"), SOURCE, options)[1]


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


def batch(samples: int = 6) -> dict[str, np.ndarray]:
    return {"z": numbers(samples, 10), "gain": numbers(samples, 10, seed=1).real, "target": numbers(samples, 6, seed=2)}


def test_selftest(project: Project, tmp_path: Path) -> None:
    assert project.run("waves", "selftest", cwd=tmp_path).stdout.endswith("selftest: ok\n")


def test_loss_and_gradients_are_the_evaluators(library: Library, program: Program) -> None:
    model = library.create("waves", seed=4)
    values = batch()
    found = model.value_and_grad(**values)
    (entry,) = program.entries
    assert entry.train is not None
    wanted = evaluate(entry.train, {**values, **{n: np.array(p) for n, p in model.params.items()}}, dtype=np.float64)
    assert found.loss == pytest.approx(float(wanted["loss"]), rel=1e-6)
    for name, grad in found.grads.items():
        assert grad.dtype == np.complex64
        want = wanted[f"grad:{name}"]
        np.testing.assert_allclose(grad, want, atol=1e-5 * np.abs(want).max())


def test_first_values(library: Library) -> None:
    """Both parts of every element are drawn, with a variance that makes |w|^2 that of a real layer."""
    w1, again = (np.array(library.create("waves", seed=s).params[W1]) for s in (1, 1))
    np.testing.assert_array_equal(w1, again)
    bound = 1 / np.sqrt(2 * 10)
    parts = np.stack([w1.real, w1.imag])
    assert np.abs(parts).max() <= bound < 1.1 * np.abs(parts).max()
    assert len(np.unique(parts)) == parts.size
    assert np.mean(np.abs(w1) ** 2) == pytest.approx(1 / (3 * 10), rel=0.25)


def test_files_hold_complex_tensors(library: Library, tmp_path: Path) -> None:
    model = library.create("waves", seed=2)
    path = tmp_path / "w.safetensors"
    model.save_weights(path)
    stored = load_file(path)
    assert {name: value.dtype for name, value in stored.items()} == dict.fromkeys(model.params, np.complex64)
    for name, value in stored.items():
        np.testing.assert_array_equal(value, model.params[name])
    stored[W1] = numbers(10, 12)
    save_file(stored, path)
    model.load_weights(path)
    np.testing.assert_array_equal(model.params[W1], stored[W1])
    model.params[W1] = stored[W1].astype(np.complex128) * 2
    np.testing.assert_array_equal(model.params[W1], stored[W1] * 2)
    with pytest.raises(ValueError, match="read-only"):
        model.params[W1][0, 0] = 1


def test_adam_updates_both_parts_as_real_numbers(library: Library) -> None:
    model = library.create("waves", seed=3, optimizer="adam", beta1=0.9, beta2=0.99, eps=1e-6)
    values, rate = batch(), 0.01
    want = np.array(model.params[W1]).astype(np.complex128)
    first, second = np.zeros((2, *want.shape)), np.zeros((2, *want.shape))
    for step in range(1, 4):
        gradient = np.array(model.value_and_grad(**values).grads[W1])
        parts = np.stack([gradient.real, gradient.imag])
        first, second = 0.9 * first + 0.1 * parts, 0.99 * second + 0.01 * parts**2
        move = rate * first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.99**step)) + 1e-6)
        want -= move[0] + 1j * move[1]
        model.train_step(rate, **values)
        np.testing.assert_allclose(model.params[W1], want, atol=2e-6)


def test_a_resumed_run_gives_the_same_bits(project: Project, tmp_path: Path) -> None:
    for name, value in batch(30).items():
        np.save(tmp_path / f"{name}.npy", value)
    data = [part for name in batch() for part in ("--data", f"{name}={name}.npy")]
    common = (*data, "--optimizer", "adamw", "--clip", 1, "--quiet")
    project.run("waves", "train", *common, "--steps", 9, "--save", "whole.safetensors", cwd=tmp_path)
    project.run("waves", "train", *common, "--steps", 4, "--checkpoint", "run", cwd=tmp_path)
    project.run("waves", "train", *common, "--steps", 9, "--checkpoint", "run", "--resume", "--save",
                "parts.safetensors", cwd=tmp_path)  # fmt: skip
    assert (tmp_path / "whole.safetensors").read_bytes() == (tmp_path / "parts.safetensors").read_bytes()
    moments = load_file(next((tmp_path / "run").glob("step-*9.safetensors")))
    assert moments[f"optimizer.v.{W1}"].dtype == np.complex64


def test_arrays_in_and_out(project: Project, library: Library, tmp_path: Path) -> None:
    values = batch(15)
    for name in ("z", "gain"):
        np.save(tmp_path / f"{name}.npy", values[name])
    model = library.create("waves", seed=0)
    want = model.infer(z=values["z"], gain=values["gain"])
    assert {n: (v.dtype, v.shape) for n, v in want.items()} == {
        "waves.0": (np.complex64, (15, 6)),
        "waves.1": (np.float32, (15, 6)),
    }
    outputs = ("--output", "waves.0=out.npy", "--output", "waves.1=angle.npy")
    inputs = ("--input", "z=z.npy", "--input", "gain=gain.npy")
    project.run("waves", "infer", *inputs, *outputs, cwd=tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), want["waves.0"])
    meeting = ("--output", "waves.0=new.npy", "--output", "waves.1=./new.npy")  # a file that is not there yet
    text = project.run("waves", "infer", *inputs, *meeting, cwd=tmp_path, code=2).stderr
    assert "two outputs go to './new.npy'" in text
    np.save(tmp_path / "z.npy", values["z"].astype(np.complex128))
    project.run("waves", "infer", *inputs, *outputs, cwd=tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), want["waves.0"])
    np.save(tmp_path / "z.npy", values["z"].real)
    text = project.fails("waves", "infer", *inputs, *outputs, cwd=tmp_path)
    assert "error[T0906]: input 'z' takes c64, 'z.npy' holds floating-point numbers" in text
    bad = values["z"].copy()
    bad[3, 2] = complex(1.0, np.nan)
    np.save(tmp_path / "z.npy", bad)
    failed = project.run("waves", "infer", *inputs, *outputs, cwd=tmp_path, code=1)
    assert "input 'z': NaN at sample 3, position 2" in failed.stderr


def test_described_as_one_complex_tensor(project: Project, tmp_path: Path) -> None:
    text = project.run("waves", "describe", cwd=tmp_path).stdout
    assert W1 in text
    assert "c64" in text
    assert ":re" not in text
    described = json.loads((project.folder / "model.json").read_text(encoding="utf-8"))["entries"][0]
    assert {"name": W1, "dtype": "c64", "shape": [10, 12]} in described["parameters"]
    assert {"name": "z", "dtype": "c64", "shape": [6, 10]} in described["functions"]["train"]["inputs"]
