"""Vector functions against the C library in higher precision: the bounds stated in elementary.h and activation.h."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.runtime import harness

Reference = Callable[[np.ndarray], np.ndarray]


def _each(function: Callable[[float], float]) -> Reference:
    return lambda x: np.array([function(float(v)) for v in x])


def _phi(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def _density(x: float) -> float:
    return math.exp(-0.5 * min(x * x, 1400)) / math.sqrt(2 * math.pi)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > 0 else math.exp(x) / (1 + math.exp(x))


def _slope(x: float) -> float:
    """2 u of the tanh form of gelu, with u = sqrt(2/pi) (x + 0.044715 x^3)."""
    return 2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)


def _dgelu_tanh(x: float) -> float:
    s = _sigmoid(_slope(x))
    return s + x * s * _sigmoid(-_slope(x)) * 2 * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x)


def _dsilu(x: float) -> float:
    s = _sigmoid(x)
    return s + x * s * _sigmoid(-x)


@dataclass(frozen=True)
class Function:
    """A function, its reference, an interval, and bounds: ulp of the result, or an absolute error if that is given."""

    name: str
    reference: Reference
    low: float
    high: float
    ulp: float
    ulp_double: float
    absolute: float = 0.0
    absolute_double: float = 0.0


FUNCTIONS = [
    Function("vexp", np.exp, -87, 88.5, 1, 1.01),
    Function("vexpm1", np.expm1, -30, 80, 2, 3),
    Function("vlog", np.log, 1e-37, 1e37, 1.5, 1),
    Function("vlog1p", np.log1p, -0.999, 1e6, 3, 1.5),
    Function("vtanh", np.tanh, -12, 12, 2, 4),
    Function("vsin", np.sin, -3, 3, 2, 1),
    Function("vsin", np.sin, -10000, 10000, 0, 0, 1e-7, 1e-15),
    Function("vcos", np.cos, -10000, 10000, 0, 0, 1e-7, 1e-15),
    Function("vsin", np.sin, -1e9, 1e9, 0, 0, 1e-7, 1e-15),
    Function("vsqrt", np.sqrt, 0, 1e30, 0.51, 0.51),
    Function("vrsqrt", lambda x: 1 / np.sqrt(x), 1e-20, 1e20, 1.5, 1.5),
    Function("verf", _each(math.erf), -6, 6, 3, 2),
    Function("vsigmoid", _each(_sigmoid), -80, 80, 3, 3),
    Function("vsilu", _each(lambda x: x * _sigmoid(x)), -80, 80, 3.5, 4),
    Function("vdsilu", _each(_dsilu), -80, 80, 0, 0, 4e-7, 1e-15),
    Function("vgelu", _each(lambda x: x * _phi(x)), -12, 1, 0, 0, 1e-7, 1e-15),
    Function("vgelu", _each(lambda x: x * _phi(x)), -4, 100, 40, 30),
    Function("vdgelu", _each(lambda x: _phi(x) + x * _density(x)), -30, 30, 0, 0, 3e-7, 2e-15),
    Function("vgelu_tanh", _each(lambda x: x * _sigmoid(_slope(x))), -12, 1, 0, 0, 2e-7, 1e-15),
    Function("vgelu_tanh", _each(lambda x: x * _sigmoid(_slope(x))), 1, 100, 4, 6),
    Function("vdgelu_tanh", _each(_dgelu_tanh), -12, 12, 0, 0, 4e-7, 2e-15),
    Function("vsoftplus", lambda x: np.logaddexp(x, 0), -60, 80, 4, 4),
]
SPECIAL = np.array([0.0, -0.0, math.inf, -math.inf, math.nan, 1e-40, -1e-40, 3e38, -3e38, 89.5, -105.0, 50.5, -50.5])
INF, NAN = math.inf, math.nan
LIMITS = {  # values at 0, -0, inf, -inf, NaN; a sign of zero that is not stated is not checked
    "vexp": [1, 1, INF, 0, NAN],
    "vexpm1": [0, 0, INF, -1, NAN],
    "vlog": [-INF, -INF, INF, NAN, NAN],
    "vlog1p": [0, 0, INF, NAN, NAN],
    "vtanh": [0, 0, 1, -1, NAN],
    "vsin": [0, 0, NAN, NAN, NAN],
    "vcos": [1, 1, NAN, NAN, NAN],
    "vsqrt": [0, 0, INF, NAN, NAN],
    "vrsqrt": [INF, -INF, 0, NAN, NAN],
    "verf": [0, 0, 1, -1, NAN],
    "vsigmoid": [0.5, 0.5, 1, 0, NAN],
    "vsilu": [0, 0, INF, 0, NAN],
    "vdsilu": [0.5, 0.5, 1, 0, NAN],
    "vgelu": [0, 0, INF, 0, NAN],
    "vdgelu": [0.5, 0.5, 1, 0, NAN],
    "vgelu_tanh": [0, 0, INF, 0, NAN],
    "vdgelu_tanh": [0.5, 0.5, 1, 0, NAN],
    "vsoftplus": [math.log(2), math.log(2), INF, 0, NAN],
}
POINTS = 4096


def program() -> str:
    calls = "\n".join(f"  check<T>(files, n, [](auto x) {{ return {f.name}(x); }});" for f in FUNCTIONS)
    limits = "\n".join(f"  check<T>(files, special, [](auto x) {{ return {name}(x); }});" for name in LIMITS)
    return """#include "harness.h"
#include "vmath.h"
using namespace tsr;

// The vector form on n values in y, the scalar form in z.
template <class T, class F>
static void check(Files& files, long n, F f) {
  auto x = files.read<T>(n), y = files.read<T>(n), z = files.read<T>(n);
  columns<T>(n, [&](auto c) { c.store(y.get(), f(c.load(x.get()))); });
  for (long i = 0; i < n; ++i) z.get()[i] = f(x.get()[i]);
  files.write(y), files.write(z);
}

template <class T>
static void all(Files& files) {
  constexpr long n = POINTS, special = SPECIAL;
CALLS
}

int main(int, char** argv) {
  Files files(argv);
  all<float>(files);
  all<double>(files);
}
""".replace("POINTS", str(POINTS)).replace("SPECIAL", str(SPECIAL.size)).replace("CALLS", calls + "\n" + limits)


def points(f: Function, dtype: type) -> np.ndarray:
    """Values spread over the interval, half of them evenly and half by magnitude, with both ends."""
    random = np.random.default_rng(1)
    even = random.uniform(f.low, f.high, POINTS // 2)
    size = np.exp(random.uniform(math.log(1e-6), math.log(max(abs(f.low), abs(f.high))), POINTS // 2))
    x = np.concatenate([even, size * np.where(random.random(POINTS // 2) < 0.5, -1, 1)])
    x[:2] = f.low, f.high
    return np.asarray(np.clip(x, f.low, f.high), dtype)


def ulp(values: np.ndarray, dtype: type) -> np.ndarray:
    """Distance of neighbouring numbers of dtype at the values, at least that of the smallest normal number."""
    return np.asarray(np.spacing(np.maximum(np.abs(values), np.finfo(dtype).tiny).astype(dtype)), np.float64)


@pytest.mark.parametrize("variant", harness.VARIANTS)
def test_stated_bounds_hold(variant: str, tmp_path: Path) -> None:
    inputs: list[np.ndarray] = []
    outputs: list[np.ndarray] = []
    for dtype in (np.float32, np.float64):
        for x in [points(f, dtype) for f in FUNCTIONS] + [SPECIAL.astype(dtype)] * len(LIMITS):
            inputs += [x, np.zeros_like(x), np.zeros_like(x)]
            outputs += [np.zeros_like(x)] * 2
    got = harness.run(harness.build(program(), variant, tmp_path), inputs, outputs)
    position = 0
    for dtype in (np.float32, np.float64):
        wide = np.float64 if dtype is np.float32 else np.longdouble
        for f in FUNCTIONS:
            x = inputs[3 * (position // 2)]
            with np.errstate(all="ignore"):
                want = np.asarray(f.reference(x.astype(wide)))
            for kind, y in zip(("vector", "scalar"), got[position : position + 2], strict=True):
                error = np.abs(y.astype(wide) - want)
                absolute = f.absolute if dtype is np.float32 else f.absolute_double
                limit = f.ulp if dtype is np.float32 else f.ulp_double
                allowed = absolute * np.maximum(1, np.abs(want)) if absolute else (limit + 0.01) * ulp(want, dtype)
                worst = int(np.argmax(error / allowed))
                case = f"{kind} {f.name}<{dtype.__name__}>({x[worst]!r}) = {y[worst]!r}, not {want[worst]!r}"
                assert error[worst] <= allowed[worst], case
            position += 2
        for name, limits in LIMITS.items():
            for kind, y in zip(("vector", "scalar"), got[position : position + 2], strict=True):
                for x0, value, limit in zip(SPECIAL, y, limits, strict=False):
                    near = value == dtype(limit) or abs(value - limit) < 1e-7
                    same = math.isnan(value) if math.isnan(limit) else near
                    assert same, f"{kind} {name}<{dtype.__name__}>({x0}) = {value}, not {limit}"
                if name not in ("vlog", "vlog1p", "vsqrt", "vrsqrt"):  # defined for every finite argument
                    assert not np.isnan(y[5:]).any(), f"{kind} {name}<{dtype.__name__}> of {SPECIAL[5:]}: {y[5:]}"
            position += 2


def test_exp_keeps_denormal_results(tmp_path: Path) -> None:
    source = """#include "harness.h"
#include "vmath.h"
int main(int, char** argv) {
  Files files(argv);
  auto x = files.read<float>(512);
  tsr::columns<float, 512>([&](auto c) { c.store(x.get(), tsr::vexp(c.load(x.get()))); });
  files.write(x);
}
"""
    x = np.linspace(-103, -87.4, 512).astype(np.float32)
    for variant in ("native", "sse2"):
        folder = tmp_path / variant
        folder.mkdir()
        y = np.asarray(harness.run(harness.build(source, variant, folder), [x], [x])[0], np.float32)
        assert np.all(y > 0)
        assert np.abs(y - np.exp(x.astype(np.float64))).max() <= 1.41e-45
