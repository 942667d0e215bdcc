"""Differential equations trained by the emitted program: the examples at small sizes, and L-BFGS beside SciPy's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from examples import compare
from tesserac.binding import load

from .conftest import Builder, Project

PI = repr(float(np.pi))
HEAT = {"x": "uniform:0:1", "t": "uniform:0:1", "x0": "uniform:0:1", "te": "uniform:0:1"}
PLATE = {"x": "uniform:0:1", "y": "uniform:0:1", "way": "uniform:0:4"}
TIME = {"t": "uniform:0:1", "tw": "uniform:0:1"}
FLOW = dict.fromkeys(("x", "y", "x0", "y0"), f"uniform:0:{PI}") | TIME | {"way": "uniform:0:4"}


def flags(specs: dict[str, str]) -> list[str]:
    return [part for key, spec in specs.items() for part in ("--data", f"{key}={spec}")]


def losses(path: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in path.read_text(encoding="utf-8").splitlines()]


def build(builder: Builder, name: str, *more: str, goals: tuple[str, ...] = ()) -> Project:
    sizes = ("--set", "N=48", "--set", "WIDTH=16")
    return builder.build("-".join([name, *more]), f"examples/{name}.py", *sizes, *more, goals=goals or (name,))


@pytest.mark.parametrize(("name", "specs"), [("biharmonic", PLATE), ("navier_stokes", FLOW)])
def test_examples_learn_and_are_compared(
    builder: Builder, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, specs: dict[str, str]
) -> None:
    """Adam on new points, then L-BFGS on fixed ones: the loss falls, and so does the error on the grid."""
    project = build(builder, name)
    assert project.run(name, "selftest", cwd=tmp_path).stdout.splitlines()[-1] == "selftest: ok"
    adam = ("--optimizer", "adam", "--lr", "1e-2", "--save", "adam.safetensors", "--log", "adam.jsonl")
    project.run(name, "train", *flags(specs), *adam, "--steps", 400, "--quiet", cwd=tmp_path)
    rest = ("--optimizer", "lbfgs", "--weights", "adam.safetensors", "--save", "w.safetensors", "--log", "lbfgs.jsonl")
    project.run(name, "train", *flags(specs), *rest, "--steps", 150, "--quiet", cwd=tmp_path)
    first, last = losses(tmp_path / "adam.jsonl"), losses(tmp_path / "lbfgs.jsonl")
    assert last == sorted(last, reverse=True)
    assert last[-1] < 0.3 * last[0]
    assert np.mean(first[-5:]) < 0.5 * first[0]
    problem = compare.PROBLEMS[name]
    errors = []
    for weights in ("adam.safetensors", "w.safetensors"):
        names = list(problem.exact(*problem.grid()))
        have = compare.inferred(problem, project.folder / name, tmp_path / weights, names)
        errors.append(compare.relative_error(have, problem.exact(*problem.grid()), problem.measured))
    assert errors[1] < errors[0] < 1.5
    arguments = [name, str(project.folder / name), str(tmp_path / "w.safetensors"), "--limit"]
    assert compare.main([*arguments, repr(2 * errors[1])]) == 0
    assert compare.main([*arguments, repr(0.5 * errors[1])]) == 1
    assert f"relative L2 error of {', '.join(problem.measured)} {100 * errors[1]:.3f}%" in capsys.readouterr().out


def test_exact_solutions_solve_their_equations() -> None:
    """By differences: what the examples are compared with is what they are asked for."""
    h = 1e-3
    x, y, t = np.meshgrid(*([np.linspace(0.3, 0.7, 5)] * 3), indexing="ij")
    at = np.array([h, 0, 0]), np.array([0, h, 0]), np.array([0, 0, h])

    def flow(name: str, d: Any) -> Any:
        return compare.taylor_green(x + d[0], y + d[1], t + d[2])[name]

    def first(name: str, axis: int) -> Any:
        return (flow(name, at[axis]) - flow(name, -at[axis])) / (2 * h)

    def second(name: str, axis: int) -> Any:
        return (flow(name, at[axis]) - 2 * flow(name, 0 * at[axis]) + flow(name, -at[axis])) / h**2

    u, v = flow("u", 0 * at[0]), flow("v", 0 * at[0])
    assert np.abs(first("u", 0) + first("v", 1)).max() < 1e-6
    for name, axis in (("u", 0), ("v", 1)):
        carried = first(name, 2) + u * first(name, 0) + v * first(name, 1) + first("p", axis)
        assert np.abs(carried - 0.1 * (second(name, 0) + second(name, 1))).max() < 1e-6
    rod = (compare.heat(x, t + h)["u"] - compare.heat(x, t - h)["u"]) / (2 * h)
    bent = compare.heat(x + h, t)["u"] - 2 * compare.heat(x, t)["u"] + compare.heat(x - h, t)["u"]
    assert np.abs(rod - 0.1 * bent / h**2).max() < 1e-5


def test_lbfgs_keeps_up_with_scipy(builder: Builder, tmp_path: Path) -> None:
    """The heat equation in double precision on fixed points: the same start, the same number of evaluations."""
    optimize = pytest.importorskip("scipy.optimize")
    project = build(builder, "heat", "--precision", "fp64", goals=("heat", "libheat.so"))
    rng = np.random.default_rng(4)
    points = {name: rng.uniform(size=(48, 1)) for name in HEAT}
    for name, value in points.items():
        np.save(tmp_path / f"{name}.npy", value)
    start = ("--optimizer", "adam", "--steps", 0, "--save", "start.safetensors")
    specs = flags({name: f"{name}.npy" for name in HEAT})
    project.run("heat", "train", *specs, *start, cwd=tmp_path)
    model = load(project.folder / "libheat.so").create("heat")
    model.load_weights(tmp_path / "start.safetensors")
    names = [info.name for info in model.parameters]
    shapes = {name: value.shape for name, value in load_file(tmp_path / "start.safetensors").items()}

    def evaluate(flat: Any) -> tuple[float, Any]:
        at = 0
        for name in names:
            size = int(np.prod(shapes[name]))
            model.params[name] = flat[at : at + size].reshape(shapes[name])
            at += size
        found = model.value_and_grad(**points)
        return found.loss, np.concatenate([np.asarray(found.grads[name]).ravel() for name in names])

    weights = load_file(tmp_path / "start.safetensors")
    flat = np.concatenate([weights[name].ravel() for name in names])
    settings = {"maxcor": 10, "maxfun": 400, "maxiter": 10**6, "gtol": 0, "ftol": 0}
    theirs = optimize.minimize(evaluate, flat, jac=True, method="L-BFGS-B", options=settings)
    ours = ("--optimizer", "lbfgs", "--weights", "start.safetensors", "--steps", 1000, "--max-evaluations", 400)
    project.run("heat", "train", *specs, *ours, "--quiet", "--log", "log.jsonl", cwd=tmp_path)
    found = losses(tmp_path / "log.jsonl")
    assert found[-1] < 1e-2 * found[0]
    assert found[-1] < 3 * theirs.fun
