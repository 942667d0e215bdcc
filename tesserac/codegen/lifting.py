"""Wavelet transforms as lifting steps, found from the filters (Daubechies & Sweldens 1998, sections 3 to 7).

The numbers x[2k + i] and x[2k + i'] of a line are two streams. A filter pair is a 2x2 matrix of Laurent polynomials in
the shift by one pair that acts on them. The Euclidean algorithm on the row of the low-pass filter takes that matrix
apart into steps that each add a filter of one stream to the other, and a scale per stream. Every division has several
quotients, one per number of terms that it cancels from the low end; all ways are tried and the best conditioned one is
taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from tesserac.arrays import np
from tesserac.codegen.jinja import render_template
from tesserac.codegen.names import cpp_double
from tesserac.codegen.records import Kernel, LineKernel
from tesserac.diagnostics import InternalError
from tesserac.ops.wavelet import TAPS, filters

Laurent = dict[int, float]
"""Coefficients by the power of the shift by one pair; none are zero."""

TINY = 1e-9
"""What is left of a coefficient that cancels; those that do not are far from it."""

FREQUENCIES = 64


@dataclass(frozen=True)
class Step:
    """``stream`` (0 or 1) of pair k gets the sum of taps[j] times the other stream of pair k + first + j."""

    stream: int
    first: int
    taps: tuple[float, ...]

    def cpp(self, approximation: int) -> str:
        """The initializer of the runtime's ``Lift``, which has room for two taps; a single one has a zero beside it."""
        if len(self.taps) > 2:
            raise InternalError(f"a lifting step of {len(self.taps)} taps")
        taps = ", ".join(cpp_double(t) for t in (*self.taps, 0.0)[:2])
        return f"{{{str(self.stream != approximation).lower()}, {self.first}, {len(self.taps)}, {{{taps}}}}}"


@dataclass(frozen=True)
class Lifting:
    """A filter pair: the streams start at x[starts]; ``approximation`` says which becomes that; scales come last.

    ``condition``: of the worst stage on the way, the larger singular value over the smaller one, at any frequency. All
    filters are orthonormal, so that it bounds how much a rounding of that stage is magnified.
    """

    starts: tuple[int, int]
    approximation: int
    steps: tuple[Step, ...]
    scales: tuple[float, float]
    condition: float


@lru_cache
def lifting(kind: str) -> Lifting:
    """The best conditioned lifting steps of the wavelet ``kind``, a name of TAPS; of several as good, the first."""
    low, high = (_streams(f) for f in filters(kind))
    ways = [_finished(kind, row, other, steps) for row, other, steps in _ways(low, high, ())]
    return min(ways, key=lambda way: (round(way.condition, 9), sum(len(s.taps) for s in way.steps)))


def lifted_wavelets(kernels: Iterable[Kernel]) -> str:
    """Definitions of the wavelets of kernels, each once."""
    used = {kernel.wavelet for kernel in kernels if isinstance(kernel, LineKernel)}
    chosen = [(kind, lifting(kind)) for kind in TAPS if kind in used]
    return "\n".join(
        render_template(
            "cpu/lifting.h.j2",
            kind=kind,
            name=kind.capitalize(),
            starts=(way.starts[way.approximation], way.starts[1 - way.approximation]),
            steps=[step.cpp(way.approximation) for step in way.steps],
            scales=[cpp_double(way.scales[i]) for i in (way.approximation, 1 - way.approximation)],
            condition=f"{way.condition:.2g}",
        )
        for kind, way in chosen
    )


def _streams(taps: Iterable[float]) -> tuple[Laurent, Laurent]:
    every = [float(t) for t in taps]
    return dict(enumerate(every[::2])), dict(enumerate(every[1::2]))


def _less(a: Laurent, q: Laurent, b: Laurent) -> Laurent:
    """a - q b, without what cancels."""
    result = dict(a)
    for i, u in q.items():
        for j, v in b.items():
            result[i + j] = result.get(i + j, 0.0) - u * v
    return {k: result[k] for k in sorted(result) if abs(result[k]) > TINY}


def _quotients(a: Laurent, b: Laurent) -> Iterator[Laurent]:
    """All q for which a - q b is shorter than b."""
    count = len(a) - len(b) + 1
    for low_end in range(count + 1 if len(b) > 1 else 1):  # a single term divides without a remainder
        rest, q = dict(a), dict[int, float]()
        for number in range(count):
            shift, end = (min(rest), min(b)) if number < low_end else (max(rest), max(b))
            q[shift - end] = rest[shift] / b[end]
            rest = _less(rest, {shift - end: q[shift - end]}, b)
        yield {k: q[k] for k in sorted(q)}


def _ways(
    row: tuple[Laurent, Laurent], other: tuple[Laurent, Laurent], steps: tuple[Step, ...]
) -> Iterator[tuple[tuple[Laurent, Laurent], tuple[Laurent, Laurent], tuple[Step, ...]]]:
    """Both rows of the matrix behind every sequence of steps that leaves one entry of the first."""
    if not all(row):
        yield row, other, steps
        return
    for i in (0, 1):
        if len(row[i]) < len(row[1 - i]):
            continue
        for q in _quotients(row[i], row[1 - i]):
            # What stream i gives to the filter, the other stream's step gives from now on.
            step = Step(1 - i, min(q), tuple(q.values()))
            less = [_less(r[i], q, r[1 - i]) for r in (row, other)]
            pairs = [(x, r[1]) if i == 0 else (r[0], x) for x, r in zip(less, (row, other), strict=True)]
            yield from _ways(pairs[0], pairs[1], (*steps, step))


def _finished(
    kind: str, row: tuple[Laurent, Laurent], other: tuple[Laurent, Laurent], steps: tuple[Step, ...]
) -> Lifting:
    """The way with the last step, which the high-pass filter needs, and every shift moved to where streams start."""
    a = 0 if row[0] else 1
    ((at, scale),) = row[a].items()
    ((end, last),) = other[1 - a].items()  # the determinant is one term, and so is this
    q = {k - end: v / last for k, v in other[a].items()}
    every = (*steps, Step(1 - a, min(q), tuple(q[k] for k in sorted(q))))
    shifts = {a: at, 1 - a: end}
    moved = tuple(Step(s.stream, s.first + shifts[s.stream] - shifts[1 - s.stream], s.taps) for s in every)
    first = -(len(TAPS[kind]) // 2 - 1)
    scales = (scale, last) if a == 0 else (last, scale)
    return Lifting((first + 2 * shifts[0], first + 1 + 2 * shifts[1]), a, moved, scales, _condition(every, scales))


def _condition(steps: Iterable[Step], scales: tuple[float, float]) -> float:
    """See Lifting: the determinant is one, so that the condition follows from the sum of squares c + 1/c."""
    turn = np.exp(2j * np.pi * np.arange(FREQUENCIES) / FREQUENCIES)
    matrix = np.eye(2, dtype=complex)[:, :, None] * np.ones(FREQUENCIES)
    worst: float = scales[0] ** 2 + scales[1] ** 2
    for step in steps:
        values = sum(tap * turn ** (step.first + j) for j, tap in enumerate(step.taps))
        matrix[step.stream] = matrix[step.stream] + values * matrix[1 - step.stream]
        worst = max(worst, float((np.abs(matrix) ** 2).sum(axis=(0, 1)).max()))
    return (worst + math.sqrt(max(0.0, worst**2 - 4))) / 2
