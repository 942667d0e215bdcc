"""The staged form of a function: what runs once, what runs tile by tile, and what crosses between the two."""

from __future__ import annotations

from dataclasses import dataclass

from tesserac.ir.program import Equation, Function, Var


@dataclass(frozen=True, slots=True)
class Import:
    """A stage reads ``outer``: whole (axis None), or its own part along ``axis`` under the name ``local``."""

    outer: Var
    local: Var
    axis: int | None = None


@dataclass(frozen=True, slots=True)
class Export:
    """A stage leaves ``local`` behind as ``outer``: whole, its part along ``axis``, or a sum's term (``partial``)."""

    local: Var
    outer: Var
    axis: int | None = None
    partial: bool = False


@dataclass(frozen=True, slots=True)
class Stage:
    """Equations over local values.

    ``tiles`` is None for a stage that runs once, by all threads together, on whole values; else the number of
    tiles, each computed from beginning to end by one thread in its own scratch. ``tile`` counts batch elements.
    """

    equations: tuple[Equation, ...]
    imports: tuple[Import, ...]
    exports: tuple[Export, ...]
    tiles: int | None = None
    tile: int = 1


@dataclass(frozen=True, slots=True)
class Staged:
    """A function as a sequence of stages; ``batch`` is the size of the index that was cut (1: none)."""

    function: Function
    stages: tuple[Stage, ...]
    batch: int = 1
