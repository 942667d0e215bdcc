"""Solutions of Burgers' equation for `fno_burgers.py`: u_t + u u_x = nu u_xx on [0, 1), periodic, from t = 0 to 1.

    python burgers_data.py --out DIR [--train 512] [--test 64] [--points 256] [--nu 0.02] [--seed 0]

writes train_u0.npy, train_u1.npy, test_u0.npy and test_u1.npy (float32, one sample per row). Initial values are drawn
from a Gaussian field with spectrum ~ (k^2 + 2.5^2)^-1. In space the solver is spectral with the highest third of the
frequencies left out of products; in time it is RK4 with the viscous term integrated exactly.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def initial_values(count: int, points: int, generator: np.random.Generator) -> Array:
    """[count, points/2+1] Fourier coefficients (norm "forward") of smooth random functions of mean zero and size 1."""
    k = np.arange(points // 2 + 1)
    scale = np.where((k > 0) & (k <= points // 3), 1.0 / (k**2 + 6.25), 0.0)
    noise = generator.standard_normal((2, count, k.size))
    spectrum = scale * (noise[0] + 1j * noise[1])
    size = np.sqrt(2 * np.sum(scale**2) * 2)
    return np.asarray(spectrum / size)


def solve(spectrum: Array, points: int, nu: float, steps: int = 400) -> Array:
    """The coefficients at t = 1."""
    k = np.arange(points // 2 + 1)
    kept = k <= points // 3
    dt = 1.0 / steps
    half = np.exp(-nu * (2 * np.pi * k) ** 2 * dt / 2)

    def slope(v: Array) -> Array:
        u = np.fft.irfft(v, points, norm="forward")
        return np.asarray(np.where(kept, -0.5 * 2j * np.pi * k * np.fft.rfft(u * u, norm="forward"), 0.0))

    for _ in range(steps):
        a = slope(spectrum)
        b = slope(half * (spectrum + dt / 2 * a))
        c = slope(half * spectrum + dt / 2 * b)
        d = slope(half**2 * spectrum + dt * half * c)
        spectrum = half**2 * spectrum + dt / 6 * (half**2 * a + 2 * half * (b + c) + d)
    return spectrum


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", type=int, default=512)
    parser.add_argument("--test", type=int, default=64)
    parser.add_argument("--points", type=int, default=256)
    parser.add_argument("--nu", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    generator = np.random.default_rng(options.seed)
    first = initial_values(options.train + options.test, options.points, generator)
    last = solve(first, options.points, options.nu)
    options.out.mkdir(parents=True, exist_ok=True)
    for name, spectrum in (("u0", first), ("u1", last)):
        values = np.fft.irfft(spectrum, options.points, norm="forward").astype(np.float32)
        np.save(options.out / f"train_{name}.npy", values[: options.train])
        np.save(options.out / f"test_{name}.npy", values[options.train :])
    print(f"{options.train} + {options.test} solutions at {options.points} points in {options.out}")


if __name__ == "__main__":
    main()
