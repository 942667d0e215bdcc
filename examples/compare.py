"""Compares a trained example with its exact solution: evaluates the fields on a grid, prints the error, draws them.

    python examples/compare.py heat build/examples/heat/heat WEIGHTS --picture heat.png
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Fields = dict[str, Array]


@dataclass(frozen=True)
class Problem:
    """A problem with a known solution.

    `axes`: low, high and points of every coordinate, in the order of `exact`'s arguments; the first two are drawn, a
    third at its end. `limit`: the relative L2 error, of all fields of `measured` together, that training must reach.
    """

    axes: Mapping[str, tuple[float, float, int]]
    exact: Callable[..., Fields]
    measured: tuple[str, ...]
    limit: float

    def grid(self) -> list[Array]:
        """The coordinates of all points, each as an array of the grid's shape."""
        return list(np.meshgrid(*(np.linspace(*axis) for axis in self.axes.values()), indexing="ij"))


def heat(x: Array, t: Array) -> Fields:
    """A rod of diffusivity 0.1 that cools."""
    return {"u": np.exp(-0.1 * np.pi**2 * t) * np.sin(np.pi * x)}


def biharmonic(x: Array, y: Array) -> Fields:
    """A loaded plate."""
    return {"u": np.sin(np.pi * x) * np.sin(np.pi * y)}


def taylor_green(x: Array, y: Array, t: Array) -> Fields:
    """The vortex of Taylor and Green at viscosity 0.1; its pressure has the mean zero."""
    decay = np.exp(-0.2 * t)
    velocity = {"u": -np.cos(x) * np.sin(y) * decay, "v": np.sin(x) * np.cos(y) * decay}
    return velocity | {"p": -0.25 * (np.cos(2 * x) + np.cos(2 * y)) * decay**2}


PROBLEMS = {
    "heat": Problem({"x": (0, 1, 101), "t": (0, 1, 101)}, heat, ("u",), 0.01),
    "biharmonic": Problem({"x": (0, 1, 65), "y": (0, 1, 65)}, biharmonic, ("u",), 0.01),
    "navier_stokes": Problem(
        {"x": (0, np.pi, 65), "y": (0, np.pi, 65), "t": (0, 1, 5)}, taylor_green, ("u", "v"), 0.02
    ),
}


def inferred(problem: Problem, program: Path, weights: Path, names: list[str]) -> Fields:
    """The fields that the program computes on the problem's grid."""
    with tempfile.TemporaryDirectory() as folder:
        command = [str(program.resolve()), "infer", "--weights", str(weights)]
        for name, (low, high, points) in problem.axes.items():
            command += ["--input", f"{name}=grid:{low!r}:{high!r}:{points}"]
        for name in names:
            command += ["--output", f"{name}={folder}/{name}.npy"]
        subprocess.run(command, check=True)
        shape = problem.grid()[0].shape
        return {name: np.load(f"{folder}/{name}.npy").astype(np.float64).reshape(shape) for name in names}


def relative_error(have: Fields, want: Fields, names: tuple[str, ...]) -> float:
    """The L2 norm of the difference over that of the exact fields."""
    square = sum(float(((have[name] - want[name]) ** 2).sum()) for name in names)
    return float(np.sqrt(square / sum(float((want[name] ** 2).sum()) for name in names)))


def draw(problem: Problem, have: Fields, want: Fields, picture: Path) -> None:
    """A row for every field: what was computed, the exact field, their difference."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    across, along = (np.linspace(*axis) for axis in list(problem.axes.values())[:2])
    figure, rows = pyplot.subplots(len(have), 3, figsize=(10, 2.9 * len(have)), squeeze=False, layout="constrained")
    for (name, computed), row in zip(have.items(), rows, strict=True):
        last = (..., -1) if computed.ndim > 2 else (...,)
        shown = {"computed": computed[last], "exact": want[name][last], "difference": (computed - want[name])[last]}
        for (title, values), axes in zip(shown.items(), row, strict=True):
            bound = np.abs(want[name][last] if title != "difference" else values).max()
            image: Any = axes.pcolormesh(across, along, values.T, cmap="RdBu_r", vmin=-bound, vmax=bound)
            axes.set(title=f"{name}, {title}", xlabel=list(problem.axes)[0], ylabel=list(problem.axes)[1])
            figure.colorbar(image, ax=axes)
    figure.savefig(picture, dpi=110)
    pyplot.close(figure)


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 1 where the error is above the limit or the picture cannot be drawn."""
    parser = argparse.ArgumentParser(description="Compares a trained example with its exact solution.")
    parser.add_argument("problem", choices=list(PROBLEMS))
    parser.add_argument("program", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--picture", type=Path, help="a .png or .svg file to draw the fields in")
    parser.add_argument("--limit", type=float, help="the largest relative error that is good enough")
    given = parser.parse_args(arguments)
    for path in (given.program, given.weights):
        if not path.exists():
            parser.error(f"{path} does not exist; make -C examples {given.problem} builds and trains it")
    problem = PROBLEMS[given.problem]
    want = problem.exact(*problem.grid())
    have = inferred(problem, given.program, given.weights, list(want))
    if "p" in have:  # a pressure is known up to a constant
        have["p"] -= have["p"].mean((0, 1)) - want["p"].mean((0, 1))
    error, limit = relative_error(have, want, problem.measured), given.limit or problem.limit
    print(f"{given.problem}: relative L2 error of {', '.join(problem.measured)} {100 * error:.3f}%", end="")
    print(f" (at most {100 * limit:g}% is good)")
    for name in [name for name in want if name not in problem.measured]:
        print(f"{given.problem}: relative L2 error of {name} {100 * relative_error(have, want, (name,)):.3f}%")
    if given.picture and importlib.util.find_spec("matplotlib") is None:
        print("no picture: matplotlib is missing; pip install 'tesserac[plot]'", file=sys.stderr)
        return 1
    if given.picture:
        draw(problem, have, want, given.picture)
        print(f"{given.picture}: {', '.join(want)} beside the exact solution")
    return int(not error <= limit)


if __name__ == "__main__":
    sys.exit(main())
