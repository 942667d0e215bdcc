"""Where a value lies on one axis of a mesh, and where its cotangent does.

``S(d)``: cut along axis d of the tensor, evenly, in the order of the ranks. ``P``: every rank has a term of a sum.
``R``: all ranks have the value, and its whole cotangent. ``R*``: all ranks have the value, and each has a term of its
cotangent (what a VJP yields whose other operands are cut). On a mesh of several axes a value has one placement per
axis, in mesh order; a tensor axis that several of them cut is cut by the first one first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from tesserac.immutable import dataclass
from tesserac.ir.types import TensorType


@dataclass(frozen=True, slots=True)
class Placement:
    """One placement on one mesh axis: ``kind`` is S, P, R or R*; ``dim`` belongs to S and is -1 for the others.

    Three more kinds occur in mixtures of experts only: T and E (see ``experts.py``), and O, a parameter that the rank
    number ``dim`` holds in the input ``slot`` of its program, and no other rank (see ``owned.py``).
    """

    kind: str
    dim: int = -1
    slot: str = ""

    @property
    def dual(self) -> Placement:
        """The placement of the cotangent of a value that is placed so."""
        if self.kind == "R*":
            return PARTIAL
        return REPLICATED if self.kind == "P" else self

    @property
    def is_own(self) -> bool:
        """Whether what ranks hold makes up no whole that anything else could use."""
        return self.kind in ("T", "E", "O")

    @property
    def is_divided(self) -> bool:
        """Whether the ranks of the axis together hold the value once, part by part or whole at one of them."""
        return self.kind in ("S", "T", "E", "O")

    @property
    def is_cut(self) -> bool:
        """Whether a rank holds a part only."""
        return self.kind == "S"

    def __str__(self) -> str:
        return f"{self.kind}({self.dim})" if self.kind in ("S", "O") else self.kind


def Shard(dim: int) -> Placement:
    """Cut along axis ``dim`` of the tensor."""
    return Placement("S", dim)


def Owned(rank: int, slot: str) -> Placement:
    """Held by one rank of the axis alone, in the input with this path."""
    return Placement("O", rank, slot)


PARTIAL = Placement("P")
REPLICATED = Placement("R")
VARYING = Placement("R*")

Placements = tuple[Placement, ...]
"""One placement per mesh axis, in mesh order."""


def placed(type_: TensorType, placement: Placement) -> Placement:
    """The placement as far as it matters for the type: what has no cotangent is R where it would be R*."""
    return REPLICATED if placement == VARYING and not type_.dtype.is_differentiable else placement


def local_type(type_: TensorType, placements: Sequence[Placement], sizes: Sequence[int]) -> TensorType:
    """The type of one rank's part; ValueError if a cut is not even."""
    shape = list(type_.sizes)
    for placement, size in zip(placements, sizes, strict=True):
        if placement.is_cut or (placement.kind == "T" and placement.dim >= 0):
            if placement.dim >= len(shape) or shape[placement.dim] % size:
                raise ValueError(f"{type_} cannot be cut into {size} along axis {placement.dim}")
            shape[placement.dim] //= size
    return type_.with_shape(tuple(shape))


def slot_of(path: str, placements: Placements) -> str:
    """The path of the input that a parameter has in the program of the rank that holds it."""
    return next((p.slot for p in placements if p.slot), path)


def local_placements(placements: Placements) -> Placements:
    """How what a rank holds lies, whichever rank that is."""
    return tuple(replace(p, dim=0) if p.kind == "O" else p for p in placements)


def shown(placements: Iterable[Placement]) -> str:
    """``S(0) x R``: what reports print."""
    return " x ".join(map(str, placements))
