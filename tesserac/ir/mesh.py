"""Meshes of devices: a grid with a name for every axis."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from tesserac.diagnostics import Span

CLOSED, OPEN = "-", "?"
"""In a layout: a dimension that is not cut, and one that may be."""


@dataclass(frozen=True, slots=True)
class Mesh:
    """``dist.Mesh``: device numbers in row-major order of the axes; rank r of a run works for ``devices[r]``."""

    axes: tuple[str, ...]
    shape: tuple[int, ...]
    devices: tuple[int, ...]
    span: Span | None = field(default=None, compare=False)

    @property
    def sizes(self) -> dict[str, int]:
        """Devices along every axis, in mesh order."""
        return dict(zip(self.axes, self.shape, strict=True))

    def squeezed(self) -> Mesh:
        """Without the axes of size 1, along which nothing can be cut and nobody can be talked to."""
        kept = [(a, n) for a, n in zip(self.axes, self.shape, strict=True) if n > 1]
        return Mesh(tuple(a for a, _ in kept), tuple(n for _, n in kept), self.devices, self.span)

    def coordinates(self, rank: int) -> tuple[int, ...]:
        """Where a rank stands: one coordinate per axis."""
        found = []
        for size in reversed(self.shape):
            found.append(rank % size)
            rank //= size
        return tuple(reversed(found))

    def groups(self, axis: str) -> tuple[tuple[int, ...], ...]:
        """The devices that communicate along an axis: groups that differ in that coordinate alone."""
        at = self.axes.index(axis)
        groups: dict[tuple[int, ...], list[int]] = {}
        for rank, device in enumerate(self.devices):
            place = self.coordinates(rank)
            groups.setdefault(place[:at] + place[at + 1:], []).append(device)
        return tuple(tuple(group) for group in groups.values())

    def __str__(self) -> str:
        return ",".join(f"{a}={n}" for a, n in zip(self.axes, self.shape, strict=True))


@dataclass(frozen=True, slots=True)
class Pinned:
    """A layout of a value in the source: per dimension the mesh axes that cut it, CLOSED or OPEN.

    ``value``: its name, "" where the program does not need it.
    ``terms``: axes along which what makes the value leaves terms of a sum. ``whole``: axes along which it is whole.
    """

    value: str
    dims: tuple[tuple[str, ...], ...]
    span: Span | None = field(default=None, compare=False)
    terms: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()


def parse_mesh(text: str) -> Mesh | str:
    """``tp=2,dp=4`` with devices counted from 0, the last axis running fastest; else a sentence that says why not."""
    axes: list[str] = []
    shape: list[int] = []
    for part in text.split(","):
        axis, equals, count = (word.strip() for word in part.partition("="))
        if not axis.isidentifier():
            return f"{axis!r} is no name of an axis"
        if not equals or not (count.isascii() and count.isdigit()):
            return f"axis {axis} has no size" if not count else f"{count!r} is no size of axis {axis}"
        if int(count[:20]) < 1:
            return f"axis {axis} has no devices"
        if axis in axes:
            return f"axis {axis} is there twice"
        axes.append(axis)
        shape.append(int(count[:20]))
    if math.prod(shape) > MAX_DEVICES:
        return f"it has more than {MAX_DEVICES:,} devices"
    return Mesh(tuple(axes), tuple(shape), tuple(range(math.prod(shape))))


MAX_DEVICES = 1 << 20
"""More than any machine has; a typing mistake beyond it is refused before it costs memory."""
