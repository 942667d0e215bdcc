"""The scalar text of every elementwise op, compiled as C++ for scalars and vectors, against its NumPy meaning."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tesserac.ir.types import DType, TensorType
from tesserac.ops.base import OpSpec, all_specs
from tests.ops.support import cases

ELEMENTWISE = [s for s in all_specs() if s.kind == "elementwise" and s.scalar is not None]
LOGICAL = {"logical_and", "logical_or", "logical_not"}
COUNT = 64
# runtime/simd.h has no overload of vabs for scalars.
VECTOR_ONLY: set[str] = set()
FLAGS = ["-std=c++17", "-O1", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-Wall", "-Wextra",
         "-Werror"]

HEAD = """#include "vmath.h"
#include "rows.h"
using namespace tsr;
template <class V> static V number(V x, V) { return x; }
template <class V, class M> static V number(M mask, V like) { return select(mask, like * 0 + 1, like * 0); }
"""
VECTOR = """
extern "C" void vector_{name}(const float* a, const float* b, const float* c, float* out) {{
  for (int i = 0; i < {count}; i += lanes<float>) {{
    const Vec<float> x = load(a + i), y = load(b + i), z = load(c + i);
    (void)x, (void)y, (void)z;
    store(out + i, number<Vec<float>>({text}, x));
  }}
}}
"""
SCALAR = """
extern "C" void scalar_{name}(const double* a, const double* b, const double* c, double* out) {{
  for (int i = 0; i < {count}; ++i) {{
    const double x = a[i], y = b[i], z = c[i];
    (void)x, (void)y, (void)z;
    out[i] = number<double>({text}, x);
  }}
}}
"""


def arguments(spec: OpSpec) -> list[str]:
    """C++ for the operands; conditions are comparisons."""
    if spec.name == "select":
        return ["(x > 0)", "y", "z"]
    if spec.name in LOGICAL:
        return ["(x > 0)", "(y > 0)"]
    if spec.name == "quotient":
        return ["vfloor(x * 40)", "(vfloor(y * 2) + 3)"]
    return ["x", "y", "z"]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, root: Path) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("scalar")
    source = HEAD
    for spec in ELEMENTWISE:
        assert spec.scalar is not None
        text = spec.scalar.cpu.format(*arguments(spec))
        for body in (VECTOR,) if spec.name in VECTOR_ONLY else (VECTOR, SCALAR):
            source += body.format(name=spec.name, count=COUNT, text=text)
    (folder / "scalar.cpp").write_text(source)
    command = ["g++", *FLAGS, "-shared", "-fPIC", f"-I{root / 'runtime'}", "scalar.cpp", "-o", "scalar.so"]
    built = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr[:4000]
    return ctypes.CDLL(str(folder / "scalar.so"))


def operands(spec: OpSpec) -> list[np.ndarray]:
    """Numbers spread over the range of the op's samples."""
    (sample, *_) = [c.sample for c in cases() if c.spec is spec]
    numeric = [a for a in sample.arrays if a.dtype == np.float64] or [np.array([-1.0, 1.0])]
    rng = np.random.default_rng(5)
    rows = [rng.uniform(a.min(), a.max(), COUNT) for a in numeric]
    rows[0][:2] = rows[0][2]
    while len(rows) < 3:
        rows.append(rng.uniform(-1.0, 1.0, COUNT))
    return rows


def meaning(spec: OpSpec, rows: list[np.ndarray]) -> np.ndarray:
    if spec.name == "select":
        given = [rows[0] > 0, rows[1], rows[2]]
    elif spec.name in LOGICAL:
        given = [r > 0 for r in rows]
    elif spec.name == "quotient":
        given = [np.floor(rows[0] * 40), np.floor(rows[1] * 2) + 3]
    else:
        given = list(rows)
    (out,) = spec.evaluate(given[: spec.arity], {"dtype": DType.F64} if spec.name == "cast" else {})
    return out.astype(np.float64)


@pytest.mark.parametrize("spec", ELEMENTWISE, ids=lambda s: s.name)
def test_compiled_text_means_the_same(library: ctypes.CDLL, spec: OpSpec):
    wide = operands(spec)
    forms = [("vector", np.float32, 2e-6), ("scalar", np.float64, 1e-13)]
    for prefix, dtype, tolerance in forms[:1] if spec.name in VECTOR_ONLY else forms:
        rows = [np.ascontiguousarray(r, dtype=dtype) for r in wide]
        out = np.full(COUNT, np.nan, dtype=dtype)
        getattr(library, f"{prefix}_{spec.name}")(*(ctypes.c_void_p(r.ctypes.data) for r in (*rows, out)))
        expected = meaning(spec, [r.astype(np.float64) for r in rows])
        np.testing.assert_allclose(out, expected, rtol=tolerance, atol=tolerance)


def test_precedence_fits_the_text():
    levels = {"*": 5, "/": 5, "+": 6, "-": 6, "<": 9, "<=": 9, ">": 9, ">=": 9, "==": 10, "!=": 10, "&": 11, "|": 13}
    for spec in ELEMENTWISE:
        assert spec.scalar is not None
        words = spec.scalar.cpu.replace("(", " ( ").split()
        expected = max((levels[w] for w in words if w in levels), default=0) if "(" not in words else 0
        if spec.scalar.cpu[0] in "-!":
            expected = 3
        assert spec.scalar.precedence == expected, spec.name


def test_work_counts_transcendentals_as_ten():
    for name, work in (("exp", 10.0), ("add", 1.0), ("tanh", 10.0)):
        (spec,) = [s for s in ELEMENTWISE if s.name == name]
        assert spec.flops is not None
        t = TensorType(DType.F32, (3, 4))
        assert spec.flops((t,) * 2, (t,), {}) == 12 * work
