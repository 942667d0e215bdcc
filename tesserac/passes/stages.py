"""The staged form of a function: what runs once, what runs tile by tile, and what crosses between the two."""

from __future__ import annotations

from dataclasses import dataclass

from tesserac.ir.program import Equation, Function, Var


@dataclass(frozen=True, slots=True)
class Import:
    """A stage reads ``outer``: whole (axis None), or its own part along ``axis`` under the name ``local``.

    ``each``: one value per expert of the stage, of which a tile reads its expert's; ``outer`` is the first.
    """

    outer: Var
    local: Var
    axis: int | None = None
    each: tuple[Var, ...] = ()

    @property
    def outers(self) -> tuple[Var, ...]:
        """All values outside the stage that may be read."""
        return self.each or (self.outer,)


@dataclass(frozen=True, slots=True)
class Export:
    """A stage leaves ``local`` behind as ``outer``: whole, its part along ``axis``, or a sum's term (``partial``).

    ``each``: one value per expert of the stage, of which a tile adds to its expert's; ``outer`` is the first.
    """

    local: Var
    outer: Var
    axis: int | None = None
    partial: bool = False
    each: tuple[Var, ...] = ()

    @property
    def outers(self) -> tuple[Var, ...]:
        """All values outside the stage that may be written."""
        return self.each or (self.outer,)


@dataclass(frozen=True, slots=True)
class Experts:
    """What the tiles of a stage are rows of: the experts ``ids``, whose rows start at ``offsets``.

    ``rows`` counts the rows of all experts, ``most`` bounds those of a tile, ``count`` is the number of experts; the
    id ``count`` stands for the rows behind those of all experts.
    """

    offsets: Var
    ids: tuple[int, ...]
    count: int
    rows: int
    most: int


@dataclass(frozen=True, slots=True)
class Stage:
    """Equations over local values.

    ``tiles`` is None for a stage that runs once, by all threads together, on whole values; else the number of
    tiles, each computed from beginning to end by one thread in its own scratch. ``tile`` counts batch elements.
    With ``experts``, the stage is a sequence of tiles of at most ``tile`` rows of one expert: all threads work on one
    of them together, kernel by kernel.
    """

    equations: tuple[Equation, ...]
    imports: tuple[Import, ...]
    exports: tuple[Export, ...]
    tiles: int | None = None
    tile: int = 1
    experts: Experts | None = None

    @property
    def in_tiles(self) -> bool:
        """Whether the stage goes over its launches again and again, on a part of the outer values each time."""
        return self.tiles is not None or self.experts is not None

    @property
    def calls(self) -> int:
        """How often each launch is called; tiles of experts are counted as one per expert."""
        if self.experts is not None:
            return sum(1 for e in self.experts.ids if e < self.experts.count)
        return self.tiles or 1


@dataclass(frozen=True, slots=True)
class Staged:
    """A function as a sequence of stages; ``batch`` is the size of the index that was cut (1: none)."""

    function: Function
    stages: tuple[Stage, ...]
    batch: int = 1
