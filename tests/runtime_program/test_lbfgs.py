"""L-BFGS of the built program: against the textbook recursion in NumPy and SciPy's, resumed runs, how it ends."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from .conftest import Programs

RULE = ("--optimizer", "lbfgs")
XY = ("--data", "x=x.npy", "--data", "labels=labels.npy")


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def rosenbrock(p: Any) -> tuple[float, Any]:
    """The loss of Valley and its gradient: five valleys side by side."""
    x, y = p[0::2], p[1::2]
    rise = y - x * x
    gradient = np.empty_like(p)
    gradient[0::2] = -400 * rise * x - 2 * (1 - x)
    gradient[1::2] = 200 * rise
    return float((100 * rise**2 + (1 - x) ** 2).sum()), gradient


def start(folder: Path, dtype: type = np.float64) -> Any:
    p = np.array([-1.2, 1.0, 0.5, -1.5, 2.0, 2.0, -0.5, 0.0, 1.5, 3.0])
    save_file({"p": p.reshape(2, 5).astype(dtype)}, folder / "start.safetensors")
    return p


def test_it_finds_the_minimum_of_the_valley(checked: Programs, tmp_path: Path) -> None:
    start(tmp_path)
    flags = [*RULE, "--weights", "start.safetensors", "--steps", 400, "--tolerance", "1e-9", "--save", "e.safetensors"]
    done = checked.run("Valley64", "train", *flags, cwd=tmp_path)
    logged = lines(done.stdout)
    losses = [line["loss"] for line in logged]
    assert all(after < before for before, after in itertools.pairwise(losses)), "every iteration descends"
    assert len(logged) < 320, "SciPy takes 310 to 1e-10"
    assert logged[-1]["evaluations"] < 1.3 * len(logged)
    np.testing.assert_allclose(load_file(tmp_path / "e.safetensors")["p"], 1, atol=1e-9)
    norm = f"{logged[-1]['grad_norm']:.3g}"
    assert done.stderr == (
        f"note: L-BFGS ends at step {len(logged)}: the norm of the gradient, {norm}, is within --tolerance 1e-09\n"
    )


def test_iterations_follow_the_recursion(checked: Programs, tmp_path: Path) -> None:
    """Every accepted step lies along the direction that the inverse Hessian of NumPy's dense BFGS formula gives."""
    p = start(tmp_path)
    pairs: list[tuple[Any, Any]] = []
    _, gradient = rosenbrock(p)
    for step in range(1, 9):
        flags = [*RULE, "--lbfgs-history", 3, "--weights", "start.safetensors", "--save", "e.safetensors"]
        flags += ["--steps", step]
        logged = lines(checked.run("Valley64", "train", *flags, cwd=tmp_path).stdout)[-1]
        inverse = np.eye(10)
        if pairs:
            s, y = pairs[-1]
            inverse *= (s @ y) / (y @ y)
        for s, y in pairs[-3:]:  # (7.16) of Nocedal and Wright
            v = np.eye(10) - np.outer(y, s) / (y @ s)
            inverse = v.T @ inverse @ v + np.outer(s, s) / (y @ s)
        direction = -inverse @ gradient
        after = load_file(tmp_path / "e.safetensors")["p"].ravel()
        np.testing.assert_allclose(after - p, logged["lr"] * direction, rtol=1e-5, atol=1e-9)
        loss, new = rosenbrock(after)
        assert logged["loss"] == pytest.approx(loss, rel=1e-12)
        assert logged["grad_norm"] == pytest.approx(np.linalg.norm(new), rel=1e-8)
        before, _ = rosenbrock(p)
        slope = gradient @ direction
        assert loss <= before + 1e-4 * logged["lr"] * slope, "sufficient decrease"
        assert abs(new @ direction) <= 0.9 * abs(slope), "curvature condition"
        pairs.append((after - p, new - gradient))
        p, gradient = after, new


def test_it_needs_no_more_evaluations_than_scipy(plain: Programs, tmp_path: Path) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    p = start(tmp_path)
    settings = {"maxcor": 10, "gtol": 1e-6, "ftol": 0}
    found = optimize.minimize(rosenbrock, p, jac=True, method="L-BFGS-B", options=settings)
    flags = [*RULE, "--weights", "start.safetensors", "--steps", 500, "--tolerance", "1e-6"]
    logged = lines(plain.run("Valley64", "train", *flags, cwd=tmp_path).stdout)
    assert logged[-1]["loss"] < 1e-10
    assert logged[-1]["evaluations"] <= 1.5 * found.nfev


def test_single_precision_ends_where_its_digits_do(checked: Programs, tmp_path: Path) -> None:
    start(tmp_path, np.float32)
    flags = [*RULE, "--weights", "start.safetensors", "--steps", 300, "--save", "end.safetensors"]
    done = checked.run("Valley", "train", *flags, cwd=tmp_path)
    assert lines(done.stdout)[-1]["loss"] < 1e-9
    np.testing.assert_allclose(load_file(tmp_path / "end.safetensors")["p"], 1, atol=1e-3)


def test_a_kink_is_reported(checked: Programs, tmp_path: Path) -> None:
    done = checked.run("Fold", "train", *RULE, "--steps", 300, cwd=tmp_path)
    last = lines(done.stdout)[-1]
    assert last["step"] < 300
    assert f"note: L-BFGS ends at step {last['step']}: no step lowers the loss " in done.stderr
    assert "it is a minimum to the last digit, or not smooth there" in done.stderr


def test_evaluations_can_be_limited(checked: Programs, tmp_path: Path) -> None:
    start(tmp_path)
    flags = [*RULE, "--weights", "start.safetensors", "--steps", 500, "--max-evaluations", 20]
    done = checked.run("Valley64", "train", *flags, cwd=tmp_path)
    assert 20 <= lines(done.stdout)[-1]["evaluations"] <= 21
    assert done.stderr.endswith("--max-evaluations 20 are used up\n")
    assert checked.run("Valley64", "train", *flags, "--quiet", cwd=tmp_path).stderr == ""


@pytest.mark.parametrize("program", ["Valley64", "Valley"])
def test_resumed_runs_are_equal_bit_for_bit(plain: Programs, tmp_path: Path, program: str) -> None:
    start(tmp_path, np.float64 if program == "Valley64" else np.float32)
    flags = [*RULE, "--lbfgs-history", 4, "--weights", "start.safetensors", "--quiet", "--log"]
    plain.run(program, "train", *flags, "a.jsonl", "--steps", 19, "--save", "a.safetensors", cwd=tmp_path)
    saved = ["--checkpoint", "ckpt", "--resume", "--save", "b.safetensors"]
    for steps in (2, 9, 19):
        plain.run(program, "train", *flags, "b.jsonl", *saved, "--steps", steps, cwd=tmp_path)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    whole, parts = (lines((tmp_path / f"{name}.jsonl").read_text()) for name in "ab")
    assert [{**line, "ms": 0} for line in whole] == [{**line, "ms": 0} for line in parts]


def test_new_points_restart_it_and_resume(plain: Programs, data: Path) -> None:
    """Softmax regression on a batch kept for five iterations; checkpoints on both sides of a change."""
    flags = [*XY, *RULE, "--resample", 5, "--quiet", "--log"]
    plain.run("Softmax", "train", *flags, "a.jsonl", "--steps", 17, "--save", "a.safetensors", cwd=data)
    for steps in (3, 5, 10, 12, 17):
        saved = ["--checkpoint", "ckpt", "--resume", "--save", "b.safetensors"]
        plain.run("Softmax", "train", *flags, "b.jsonl", *saved, "--steps", steps, cwd=data)
    assert (data / "a.safetensors").read_bytes() == (data / "b.safetensors").read_bytes()
    whole, parts = (lines((data / f"{name}.jsonl").read_text()) for name in "ab")
    assert [{**line, "ms": 0} for line in whole] == [{**line, "ms": 0} for line in parts]
    losses = [line["loss"] for line in whole]
    for first in (0, 5, 10):
        batch = losses[first : first + 5]
        assert batch == sorted(batch, reverse=True)


def test_validation_leaves_it_alone(plain: Programs, data: Path) -> None:
    done = plain.run("Softmax", "train", *XY, *RULE, "--steps", 9, "--save", "a.safetensors", cwd=data)
    assert "note: only the first batch of 8 of the 40 samples in 'x.npy' is used; --resample K draws " in done.stderr
    flags = ["--val", "x=x.npy", "--val", "labels=labels.npy", "--val-every", 2]
    again = plain.run("Softmax", "train", *XY, *RULE, *flags, "--steps", 9, "--save", "b.safetensors", cwd=data)
    assert (data / "a.safetensors").read_bytes() == (data / "b.safetensors").read_bytes()
    counts = [line["evaluations"] for line in lines(done.stdout)]
    assert [line["evaluations"] for line in lines(again.stdout) if "loss" in line] == counts


def test_flags_that_do_not_go_with_it(checked: Programs, tmp_path: Path) -> None:
    for flag in ("--lr", "--clip", "--warmup", "--weight-decay", "--momentum"):
        error = checked.fails("Valley64", "train", *RULE, flag, 1, cwd=tmp_path, code=2)
        assert error.startswith(f"error[T0921]: {flag} means nothing to lbfgs\n")
    error = checked.fails("Valley64", "train", "--lbfgs-history", 3, cwd=tmp_path, code=2)
    assert error.startswith("error[T0921]: --lbfgs-history means nothing to adamw\n")
    error = checked.fails("Valley64", "bench", *RULE, cwd=tmp_path, code=2)
    assert error == (
        "error[T0921]: --optimizer 'lbfgs' is unknown\n  = help: known: sgd, momentum, adam, adamw\n"
    )


def test_a_checkpoint_of_another_history_is_refused(checked: Programs, tmp_path: Path) -> None:
    checked.run("Valley64", "train", *RULE, "--steps", 3, "--checkpoint", "ckpt", cwd=tmp_path)
    flags = ["--checkpoint", "ckpt", "--resume", "--lbfgs-history", 4]
    assert checked.fails("Valley64", "train", *RULE, *flags, cwd=tmp_path).startswith(
        "error[T0919]: 'ckpt/step-000000003.safetensors' was written by optimizer 'lbfgs --lbfgs-history 10', "
        "this run uses 'lbfgs --lbfgs-history 4'\n"
    )


def test_a_loss_that_is_no_number(checked: Programs, tmp_path: Path) -> None:
    save_file({"p": np.full((2, 5), 1e200)}, tmp_path / "far.safetensors")
    error = checked.fails("Valley64", "train", *RULE, "--weights", "far.safetensors", cwd=tmp_path)
    assert error.startswith("error[T0925]: step 1: the loss is inf, the norm of its gradient ")
