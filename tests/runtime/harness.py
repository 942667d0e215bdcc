"""Compiles small C++ programs against runtime/ for several instruction sets and runs them on NumPy arrays."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
COMMON = (
    "-std=c++17 -fopenmp -fno-math-errno -fno-trapping-math -Wall -Wextra -Werror -Wno-psabi"
    f" -I{ROOT / 'runtime'} -I{Path(__file__).resolve().parent}"
).split()
VARIANTS: dict[str, list[str]] = {
    "native": ["-O3", "-march=native"],
    "avx2": ["-O3", "-march=x86-64-v3"],
    "sse2": ["-O3", "-march=x86-64"],
    "sanitized": ["-O0", "-g1", "-march=native", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
}
# "quick" is for programs with so many instantiations that optimising them would take most of the test's time.
FLAGS = {**VARIANTS, "quick": ["-O0", "-march=native"]}
Arrays = Sequence[NDArray[np.generic]]


def skip_unless_runnable(variant: str) -> None:
    """Skips a test whose variant this machine cannot run, or for which there is no compiler."""
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    if variant in ("avx2", "sse2") and platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("not an x86 machine")
    if variant == "avx2" and "avx2" not in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace"):
        pytest.skip("no AVX2")


def build(source: str, variant: str, folder: Path) -> Path:
    """The program of a C++ source text, compiled with the flags of a variant. Warnings are errors."""
    skip_unless_runnable(variant)
    program = folder / variant
    (folder / f"{variant}.cpp").write_text(source, encoding="utf-8")
    command = ["g++", *COMMON, *FLAGS[variant], str(folder / f"{variant}.cpp"), "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:4000]
    return program


def run(program: Path, inputs: Arrays, outputs: Arrays) -> list[NDArray[np.generic]]:
    """Runs a program of harness.h; the results have the shapes and dtypes of `outputs`."""
    source, target = program.with_suffix(".in"), program.with_suffix(".out")
    source.write_bytes(b"".join(np.ascontiguousarray(a).tobytes() for a in inputs))
    done = subprocess.run([str(program), str(source), str(target)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[:4000]
    data, results, position = target.read_bytes(), [], 0
    for like in outputs:
        results.append(np.frombuffer(data, like.dtype, like.size, position).reshape(like.shape))
        position += like.nbytes
    assert position == len(data)
    return results


def output(program: Path) -> str:
    """What a program prints when it is run without arguments."""
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[:4000]
    return done.stdout
