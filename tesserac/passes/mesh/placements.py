"""Where a value lies on one axis of a mesh, and where its cotangent does.

``S(d)``: cut along axis d of the tensor, evenly, in the order of the ranks. ``P``: every rank has a term of a sum.
``R``: all ranks have the value, and its whole cotangent. ``R*``: all ranks have the value, and each has a term of its
cotangent (what a VJP yields whose other operands are cut). On a mesh of several axes a value has one placement per
axis, in mesh order; a tensor axis that several of them cut is cut by the first one first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tesserac.ir.types import TensorType


@dataclass(frozen=True, slots=True)
class Placement:
    """One placement on one mesh axis: ``kind`` is S, P, R or R*; ``dim`` belongs to S and is -1 for the others.

    Two more kinds occur within a mixture of experts only (see ``experts.py``): T and E.
    """

    kind: str
    dim: int = -1

    @property
    def dual(self) -> Placement:
        """The placement of the cotangent of a value that is placed so."""
        if self.kind == "R*":
            return PARTIAL
        return REPLICATED if self.kind == "P" else self

    @property
    def is_own(self) -> bool:
        """Whether what ranks hold makes up no whole that anything else could use."""
        return self.kind in ("T", "E")

    @property
    def is_cut(self) -> bool:
        """Whether a rank holds a part only."""
        return self.kind == "S"

    def __str__(self) -> str:
        return f"S({self.dim})" if self.is_cut else self.kind


def Shard(dim: int) -> Placement:
    """Cut along axis ``dim`` of the tensor."""
    return Placement("S", dim)


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


def shown(placements: Iterable[Placement]) -> str:
    """``S(0) x R``: what reports print."""
    return " x ".join(map(str, placements))
