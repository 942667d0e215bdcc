"""Points of physics-informed training: samplers, grids, constants, files of any length, separate boundary batches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from .conftest import Programs

INSIDE, BOUNDARY = 16, 6


def batch(program: Programs, folder: Path, *flags: object, steps: int = 1, **specs: str) -> dict[str, Any]:
    """The sum of the batches of the first steps, by input: what gradient descent leaves in the weights, negated."""
    given = {"x": "zeros", "y": "zeros", "xb": "zeros", **specs}
    data = [part for key, spec in given.items() for part in ("--data", f"{key}={spec}")]
    rule = ["--optimizer", "sgd", "--lr", "1", "--steps", steps, "--quiet", "--save", "w.safetensors"]
    program.run("Points", "train", *data, *rule, *flags, cwd=folder)
    return {name: -value for name, value in load_file(folder / "w.safetensors").items()}


def nth(program: Programs, folder: Path, step: int, *flags: object, **specs: str) -> dict[str, Any]:
    """The batch of one step, counted from 0."""
    last = batch(program, folder, *flags, steps=step + 1, **specs)
    if step == 0:
        return last
    before = batch(program, folder, *flags, steps=step, **specs)
    return {name: last[name] - before[name] for name in last}


def test_coordinates_are_sampled_independently(checked: Programs, tmp_path: Path) -> None:
    first = batch(checked, tmp_path, x="uniform:-1:1", y="uniform:-1:1", xb="uniform:2:3")
    assert np.all(np.abs(first["x"]) <= 1)
    assert np.all((first["xb"] >= 2) & (first["xb"] <= 3))
    assert len(set(first["x"])) == INSIDE
    assert not np.intersect1d(first["x"], first["y"]).size
    assert abs(np.corrcoef(first["x"], first["y"])[0, 1]) < 0.8
    other = batch(checked, tmp_path, "--seed", 1, x="uniform:-1:1")
    assert not np.intersect1d(first["x"], other["x"]).size


def test_points_do_not_depend_on_threads_or_on_the_form_of_the_flag(plain: Programs, tmp_path: Path) -> None:
    one = batch(plain, tmp_path, "--threads", 1, steps=3, x="uniform:-1:1", y="normal:1:0.5")
    two = batch(plain, tmp_path, "--threads", 2, steps=3, x="uniform(-1, 1)", y="normal(1,0.5)")
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name])


def test_samples_have_the_moments_asked_for(plain: Programs, tmp_path: Path) -> None:
    """Sums of 400 batches: means within five standard errors."""
    total = batch(plain, tmp_path, steps=400, x="uniform:1:3", y="normal:-2:0.5")
    count = 400 * INSIDE
    assert total["x"].sum() / count == pytest.approx(2, abs=5 * (4 / 12 / count) ** 0.5)
    assert total["y"].sum() / count == pytest.approx(-2, abs=5 * 0.5 / count**0.5)


def test_resample_keeps_points_for_some_steps(plain: Programs, tmp_path: Path) -> None:
    spec = {"x": "uniform:0:1"}
    batches = [nth(plain, tmp_path, step, "--resample", 2, **spec)["x"] for step in range(4)]
    np.testing.assert_allclose(batches[0], batches[1], atol=1e-6)
    np.testing.assert_allclose(batches[2], batches[3], atol=1e-6)
    assert np.abs(batches[0] - batches[2]).max() > 0.1
    always = batch(plain, tmp_path, "--resample", 0, steps=5, **spec)["x"]
    np.testing.assert_allclose(always, 5 * batches[0], rtol=1e-5)


def test_resampled_training_resumes_bit_for_bit(plain: Programs, tmp_path: Path) -> None:
    specs = {"x": "uniform:0:1", "xb": "uniform:5:6"}
    flags = ("--resample", 3)
    whole = batch(plain, tmp_path, *flags, steps=8, **specs)
    saved = (*flags, "--checkpoint", "ckpt", "--resume")
    batch(plain, tmp_path, *saved, steps=4, **specs)
    resumed = batch(plain, tmp_path, *saved, steps=8, **specs)
    for name, value in whole.items():
        np.testing.assert_array_equal(value, resumed[name])


def test_constants(checked: Programs, tmp_path: Path) -> None:
    found = batch(checked, tmp_path, x="const:-0.25", xb="const:1")
    np.testing.assert_array_equal(found["x"], np.full(INSIDE, -0.25))
    np.testing.assert_array_equal(found["xb"], np.ones(BOUNDARY))
    np.testing.assert_array_equal(found["y"], np.zeros(INSIDE))


def test_grid_of_one_batch(checked: Programs, tmp_path: Path) -> None:
    found = batch(checked, tmp_path, x="grid:0:1:8", y="grid:-1:1:2", xb="grid:0:5:6")
    x, y = np.meshgrid(np.linspace(0, 1, 8), [-1, 1], indexing="ij")
    np.testing.assert_allclose(found["x"], x.ravel(), rtol=1e-6)
    np.testing.assert_array_equal(found["y"], y.ravel())
    np.testing.assert_array_equal(found["xb"], np.arange(6))  # an axis of a grid of its own: it has other rows


def test_a_larger_grid_is_visited_in_epochs(plain: Programs, tmp_path: Path) -> None:
    """32 x 2 points in batches of 16: four steps see each point once, and coordinates stay together."""
    specs = {"x": "grid:0:31:32", "y": "grid:0:1:2"}
    seen = [nth(plain, tmp_path, step, **specs) for step in range(4)]
    points = np.concatenate([np.stack([s["x"], s["y"]], 1) for s in seen]).round(3)
    assert sorted(map(tuple, points)) == sorted((float(i), float(j)) for i in range(32) for j in range(2))


@pytest.mark.parametrize("count", [6, 7, 16, 20, 100])
def test_files_of_any_length(plain: Programs, tmp_path: Path, count: int) -> None:
    """Every epoch sees every sample once, also where batches straddle epochs or hold several."""
    np.save(tmp_path / "p.npy", np.arange(count, dtype=np.float64)[:, None])
    np.save(tmp_path / "q.npy", 100 + np.arange(count, dtype=np.float64)[:, None])
    seen = [nth(plain, tmp_path, step, x="p.npy", y="q.npy") for step in range(count if count < 10 else 5)]
    x = np.concatenate([s["x"] for s in seen]).round(2)
    np.testing.assert_allclose(np.concatenate([s["y"] for s in seen]), x + 100, atol=1e-2)
    if count == INSIDE:
        np.testing.assert_allclose(seen[3]["x"], np.arange(16), atol=1e-3)  # a fixed batch, in its own order
    for epoch in range(len(x) // count):
        assert sorted(x[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_a_small_file_is_announced(checked: Programs, tmp_path: Path) -> None:
    np.save(tmp_path / "few.npy", np.zeros((3, 1)))
    data = ["--data", "x=zeros", "--data", "y=zeros", "--data", "xb=few.npy", "--steps", 1]
    done = checked.run("Points", "train", *data, cwd=tmp_path)
    assert done.stderr == "note: 'few.npy' holds 3 samples, a batch of input 'xb' takes 6: each batch repeats some\n"


def test_lengths_must_agree_only_where_inputs_have_the_same_rows(checked: Programs, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((40, 1)))
    np.save(tmp_path / "b.npy", np.zeros((39, 1)))
    batch(checked, tmp_path, x="a.npy", y="a.npy", xb="b.npy")
    data = ["--data", "x=a.npy", "--data", "xb=zeros", "--data"]
    assert checked.fails("Points", "train", *data, "y=b.npy", cwd=tmp_path) == (
        "error[T0912]: 'a.npy' holds 40 samples, 'b.npy' holds 39\n"
        "  = help: sample i of one belongs to sample i of the other: they need equally many\n"
    )
    error = checked.fails("Points", "train", *data, "y=grid:0:1:7", cwd=tmp_path)
    assert error.startswith("error[T0912]: 'a.npy' holds 40 samples, 'grid:0:1:7' holds 7\n")


@pytest.mark.parametrize(("value", "name"), [(np.nan, "NaN"), (-np.inf, "-infinity")])
def test_a_point_that_is_no_number_is_named(checked: Programs, tmp_path: Path, value: float, name: str) -> None:
    points = np.zeros((50, 1))
    points[41] = value
    np.save(tmp_path / "p.npy", points)
    data = ["--data", "x=zeros", "--data", "y=zeros", "--data", "xb=p.npy"]
    assert checked.fails("Points", "train", *data, cwd=tmp_path) == (
        f"error[T0907]: input 'xb': {name} at sample 41, position 0 of 'p.npy'\n"
        "  = help: clean the data first (numpy.isfinite finds all of them)\n"
    )


def test_loss_terms_are_logged(checked: Programs, tmp_path: Path) -> None:
    data = ["--data", "x=const:0.5", "--data", "y=zeros", "--data", "xb=const:2", "--steps", 1, "--lr", 0]
    done = checked.run("Points", "train", *data, cwd=tmp_path)
    assert json.loads(done.stdout)["metrics"] == {"inside": 8, "boundary": 12}


# ------------------------------------------------------------------------------------------------ infer


def field(program: Programs, folder: Path, *inputs: str) -> Any:
    """What infer computes: x + 10 y, at any number of points."""
    given = [part for spec in inputs for part in ("--input", spec)]
    program.run("Points", "infer", *given, "--output", "f.npy", cwd=folder)
    return np.load(folder / "f.npy")


def test_infer_on_a_grid(checked: Programs, tmp_path: Path) -> None:
    x, y = np.linspace(0, 1, 7), np.linspace(-1, 1, 5)
    found = field(checked, tmp_path, "x=grid:0:1:7", "y=grid:-1:1:5")
    assert found.shape == (35, 1)
    np.testing.assert_allclose(found.reshape(7, 5), x[:, None] + 10 * y, atol=1e-5)
    turned = field(checked, tmp_path, "y=grid:-1:1:5", "x=grid:0:1:7")
    np.testing.assert_array_equal(turned.reshape(5, 7), found.reshape(7, 5).T)


def test_infer_on_a_line_and_at_a_point(checked: Programs, tmp_path: Path) -> None:
    line = field(checked, tmp_path, "x=grid:0:2:33", "y=const:0.5")
    np.testing.assert_allclose(line[:, 0], np.linspace(0, 2, 33) + 5, rtol=1e-6)
    np.save(tmp_path / "y.npy", np.arange(33.0)[:, None])
    mixed = field(checked, tmp_path, "x=grid:0:2:33", "y=y.npy")
    np.testing.assert_allclose(mixed[:, 0], np.linspace(0, 2, 33) + 10 * np.arange(33), rtol=1e-6)
    assert field(checked, tmp_path, "x=grid:3:3:1", "y=const:0").tolist() == [[3]]


def test_bad_inputs_of_infer(checked: Programs, tmp_path: Path) -> None:
    def fails(*specs: str, code: int = 2) -> str:
        given = [part for spec in specs for part in ("--input", spec)]
        return checked.fails("Points", "infer", *given, "--output", "f.npy", cwd=tmp_path, code=code)

    assert fails("x=uniform:0:1", "y=const:0") == (
        "error[T0911]: --input 'x=uniform:0:1': infer takes no samplers and no tokens\n"
        "  = help: give FILE.npy, grid:LO:HI:N or const:V\n"
    )
    assert fails("x=grid:0:1:4", "x=grid:0:1:4").startswith("error[T0910]: --input: input 'x' is given twice\n")
    assert fails("x=grid:0:1:9999999", "y=grid:0:1:9999999").startswith(
        "error[T0912]: 'grid:0:1:9999999': the grid has more than 2^40 points\n"
    )
    np.save(tmp_path / "y.npy", np.zeros((5, 1)))
    assert fails("x=grid:0:1:4", "y=y.npy", code=1).startswith(
        "error[T0912]: 'grid:0:1:4' holds 4 samples, 'y.npy' holds 5\n"
    )
    save_file({"x": np.zeros(1, np.float32)}, tmp_path / "w.safetensors")


def test_grids_are_for_real_coordinates(checked: Programs, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((8, 5)))
    data = ["--data", "x=x.npy", "--data", "labels=grid:0:3:4"]
    assert checked.fails("Softmax", "train", *data, cwd=tmp_path, code=2) == (
        "error[T0906]: input 'labels' (i32, 8) cannot take 'grid:0:3:4'\n"
        "  = help: a grid gives one real coordinate per sample: shapes N and N x 1\n"
    )
    data = ["--data", "x=x.npy", "--data", "labels=const:7"]
    assert checked.fails("Softmax", "train", *data, cwd=tmp_path).startswith(
        "error[T0908]: input 'labels': value 7 at sample 0, position 0 of the array is outside 0 .. 3"
    )
