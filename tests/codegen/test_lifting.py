"""Lifting steps against the filters they were found from."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tesserac.codegen.lifting import Lifting, lifted_wavelets, lifting
from tesserac.codegen.records import LineKernel
from tesserac.ops.base import spec_of
from tesserac.ops.wavelet import TAPS

Line = NDArray[np.float64]


def streams(way: Lifting, x: Line) -> list[Line]:
    """Both streams of a line behind the steps, scaled."""
    places = 2 * np.arange(x.size // 2)
    found = [x[(places + start) % x.size] for start in way.starts]
    for step in way.steps:
        for j, tap in enumerate(step.taps):
            found[step.stream] = found[step.stream] + tap * np.roll(found[1 - step.stream], -(step.first + j))
    return [scale * stream for scale, stream in zip(way.scales, found, strict=True)]


@pytest.mark.parametrize("kind", list(TAPS))
def test_steps_are_the_filters(kind: str) -> None:
    way = lifting(kind)
    for n in (2, 4, 6, 10, 64):  # shorter than the filters, too
        x = np.random.default_rng(n).standard_normal(n)
        found = streams(way, x)
        packed = np.concatenate([found[way.approximation], found[1 - way.approximation]])
        (want,) = spec_of("wavelet").evaluate([x], {"axis": 0, "level": 1, "type": kind})
        assert np.abs(packed - want).max() < 1e-14
    assert way.condition < 3, "of the ways through db4 the worst is 780,000"
    multiplied = sum(len(step.taps) for step in way.steps)
    assert multiplied == (2 if kind == "haar" else len(TAPS[kind])), "half of what the two filters take"


def test_only_wavelets_that_kernels_use_are_defined() -> None:
    text = lifted_wavelets([LineKernel((), "", (), (), wavelet=kind) for kind in ("db2", "haar")])
    assert [line for line in text.splitlines() if line.startswith("struct")] == ["struct Haar {", "struct Db2 {"]
    assert lifted_wavelets([LineKernel((), "line_sort", (), ())]) == ""
