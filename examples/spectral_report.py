"""Runs the executables of `spectral_denoise.py` and `fno_burgers.py`, compares with what is known, and draws.

    python spectral_report.py denoise EXECUTABLE [--picture FILE.png] [--least DB]
    python spectral_report.py burgers EXECUTABLE WEIGHTS DATA [--picture FILE.png] [--limit ERROR]

The signal is the electrocardiogram that ships with PyWavelets (`pywt.data.ecg`, 1024 samples; package and record under
the MIT licence, https://github.com/PyWavelets/pywt), with normal noise of a fixed seed. The exit status is 1 where the
gain in signal-to-noise ratio stays under --least or the mean relative error of the test set is over --limit.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
NOISE = 0.25
"""Standard deviation of the noise, where that of the signal is 1."""


def computed(executable: Path, inputs: dict[str, Array], names: list[str], *flags: str) -> list[Array]:
    """Outputs of an executable's `infer`, by name."""
    with tempfile.TemporaryDirectory() as folder:
        command = [str(executable.resolve()), "infer", *flags]
        for key, value in inputs.items():
            np.save(f"{folder}/{key}.npy", value)
            command += ["--input", f"{key}={folder}/{key}.npy"]
        for name in names:
            command += ["--output", f"{name}={folder}/out_{name}.npy"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return [np.load(f"{folder}/out_{name}.npy") for name in names]


def ratio(clean: Array, got: Array) -> float:
    """Signal-to-noise ratio in dB."""
    return float(10 * np.log10(np.sum(clean**2) / np.sum((got - clean) ** 2)))


def curves(picture: Path, title: str, x: Array, lines: dict[str, Array]) -> None:
    """One panel per line over a shared axis."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(lines), 1, sharex=True, figsize=(9, 1.7 * len(lines)), layout="constrained")
    for axis, (name, values) in zip(axes, lines.items(), strict=True):
        axis.plot(x, values, linewidth=0.8)
        axis.set_ylabel(name)
    figure.suptitle(title)
    figure.savefig(picture, dpi=120)


def denoise(options: argparse.Namespace) -> bool:
    """Signal-to-noise ratio before and after, over eight draws of noise."""
    import pywt.data

    record = pywt.data.ecg().astype(np.float64)
    clean = (record - record.mean()) / record.std()
    noise = np.random.default_rng(7).standard_normal((8, clean.size))
    noisy = (clean + NOISE * noise).astype(np.float32)
    fourier, wavelet = computed(options.executable, {"x": noisy}, ["fourier", "wavelet"])
    results = {"noisy": noisy, "fourier": fourier, "wavelet": wavelet}
    ratios = {name: np.array([ratio(clean, row) for row in rows]) for name, rows in results.items()}
    for name, found in ratios.items():
        print(f"{name:8s} {found.mean():5.1f} dB  (from {found.min():.1f} to {found.max():.1f})")
    if options.picture:
        shown = {"clean": clean, **{name: rows[0] for name, rows in results.items()}}
        curves(options.picture, "Electrocardiogram: signal-to-noise ratio "
               + ", ".join(f"{name} {found[0]:.1f} dB" for name, found in ratios.items()), np.arange(clean.size), shown)
    gains = [float((ratios[name] - ratios["noisy"]).mean()) for name in ("fourier", "wavelet")]
    return min(gains) >= options.least


def burgers(options: argparse.Namespace) -> bool:
    """Relative L2 errors on initial values that were not trained on."""
    first, last = (np.load(options.data / f"test_{name}.npy") for name in ("u0", "u1"))
    (found,) = computed(options.executable, {"u0": first}, ["u1"], "--weights", str(options.weights))
    errors = np.linalg.norm(found - last, axis=1) / np.linalg.norm(last, axis=1)
    print(f"relative error of {len(errors)} test solutions: mean {errors.mean():.4f}, largest {errors.max():.4f}")
    if options.picture:
        worst = int(errors.argmax())
        lines = {"u(x, 0)": first[worst], "u(x, 1)": last[worst], "predicted": found[worst],
                 "error": found[worst] - last[worst]}
        curves(options.picture, f"Burgers' equation, the worst of the test set: error {errors[worst]:.3f}",
               np.arange(first.shape[1]) / first.shape[1], lines)
    return bool(errors.mean() <= options.limit)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True)
    for name, function in (("denoise", denoise), ("burgers", burgers)):
        command = commands.add_parser(name)
        command.set_defaults(function=function)
        command.add_argument("executable", type=Path)
        if name == "burgers":
            command.add_argument("weights", type=Path)
            command.add_argument("data", type=Path)
        command.add_argument("--picture", type=Path)
        command.add_argument("--least", type=float, default=2.0, help="gain in dB")
        command.add_argument("--limit", type=float, default=0.05, help="mean relative error")
    options = parser.parse_args()
    raise SystemExit(0 if options.function(options) else 1)


if __name__ == "__main__":
    main()
