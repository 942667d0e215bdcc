"""The evaluator's random numbers are those of runtime/philox.h, bit for bit (uniform) and to rounding (normal)."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tesserac.ir.types import DType
from tesserac.ops.base import spec_of

SOURCE = """#include "philox.h"
#include <cstdint>
#define FILL(name, type, draw) \\
  extern "C" void name(uint64_t seed, uint64_t stream, long count, type* out) { \\
    for (long i = 0; i < count; ++i) out[i] = tsr::draw<type>(seed, stream, uint64_t(i)); }
FILL(uniform_f32, float, random_uniform)
FILL(uniform_f64, double, random_uniform)
FILL(normal_f32, float, random_normal)
FILL(normal_f64, double, random_normal)
"""
COUNT = 257


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, root: Path) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("philox")
    (folder / "random.cpp").write_text(SOURCE)
    command = ["g++", "-std=c++17", "-O1", "-fopenmp", "-shared", "-fPIC", f"-I{root / 'runtime'}", "random.cpp"]
    built = subprocess.run([*command, "-o", "random.so"], cwd=folder, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr[:4000]
    return ctypes.CDLL(str(folder / "random.so"))


@pytest.mark.parametrize(("seed", "step", "stream"), [
    (0, 0, 0), (7, 3, 0xDEADBEEF12345678), (2**63 + 5, 11, 2**64 - 4)])
@pytest.mark.parametrize("dtype", [DType.F32, DType.F64])
@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_same_numbers(library: ctypes.CDLL, kind: str, dtype: DType, seed: int, step: int, stream: int):
    out = np.empty(COUNT, dtype=dtype.numpy)
    draw = getattr(library, f"{kind}_{dtype}")
    # The counter holds stream + step, which wraps around like an unsigned integer.
    draw(ctypes.c_uint64(seed), ctypes.c_uint64((stream + step) % 2**64), ctypes.c_long(COUNT),
         ctypes.c_void_p(out.ctypes.data))
    attrs = {"shape": (COUNT,), "dtype": dtype, "stream": stream, "seed": seed, "step": step}
    (found,) = spec_of(f"random_{kind}").evaluate((), attrs)
    assert found.dtype == out.dtype
    if kind == "uniform":
        assert np.array_equal(found, out)
    else:
        np.testing.assert_allclose(found, out, rtol=1e-6 if dtype is DType.F32 else 1e-13, atol=1e-13)
