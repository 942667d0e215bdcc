"""Tiled chains: cut a function by its batch index, so that one thread runs a tile from inputs to gradients.

Every value is placed (see placement.py) and every equation gets a level: equations that need a sum over all
tiles come one level later. Level k consists of a stage that runs once (values no tile owns) and a stage of
tiles. Inside a tile all shapes are local, intermediates live in cache-sized scratch and no barrier is left;
gradients of the weights are partial sums that are added once at the end, in a fixed order.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from tesserac.ir.program import Equation, Function, Var
from tesserac.ops.base import spec_of
from tesserac.passes.placement import PARTIAL, Placed, Split, batch_size, place
from tesserac.passes.stages import Export, Import, Stage, Staged
from tesserac.passes.tile_stage import TileStage


@dataclass(frozen=True)
class Tile:
    """``rows``: about how many rows of the innermost matrices a tile should hold (cache against loop overhead)."""

    rows: int = 128
    enabled: bool = True
    name: str = "tile"
    reason: str = "cut by the batch index: intermediates stay in cache and barriers vanish"

    def run(self, function: Function) -> Staged:
        """Stages of the function; a single one when there is no batch index to cut."""
        batch = batch_size(function) if self.enabled else None
        if batch is None:
            return Staged(function, (_whole_stage(function),))
        tiling = _Tiling(function, batch)
        tiling.place_all()
        tile = _tile_size(tiling, batch, self.rows)
        if batch // tile < 2 or not tiling.split_equations:
            return Staged(function, (_whole_stage(function),))
        return Staged(function, tuple(_Stages(tiling, tile).build()), batch)


def _whole_stage(function: Function) -> Stage:
    imports = tuple(Import(item.var, item.var) for item in function.inputs)
    made = {v for e in function.equations for v in e.results}
    exports = dict.fromkeys(output.var for output in function.outputs if output.var in made)
    return Stage(function.equations, imports, tuple(Export(v, v) for v in exports))


def _tile_size(tiling: _Tiling, batch: int, rows: int) -> int:
    """The largest divisor of the batch whose tiles hold about ``rows`` rows and leave several tiles per thread."""
    per_element = 1
    for var, placement in tiling.placement.items():
        if isinstance(placement, Split) and var.type.rank >= 2 and var.type.sizes[-1] > 1:
            per_element = max(per_element, var.type.size // var.type.sizes[-1] // batch)
    want = max(1, min(rows // per_element, batch // 8))
    return max(d for d in range(1, want + 1) if batch % d == 0)


@dataclass
class _Tiling:
    """Placements and levels of a function's values."""

    function: Function
    batch: int
    placement: dict[Var, Split | None] = field(default_factory=dict)
    partial: set[Var] = field(default_factory=set)
    level: dict[Var, int] = field(default_factory=dict)
    placed: dict[int, Placed] = field(default_factory=dict)
    split_equations: set[int] = field(default_factory=set)
    equation_level: dict[int, int] = field(default_factory=dict)
    terms: dict[Var, tuple[Var, ...]] = field(default_factory=dict)
    _uses: Counter[Var] = field(default_factory=Counter)
    _products: set[Var] = field(default_factory=set)

    def place_all(self) -> None:
        """Forward placement at the earliest level, then every tile equation moved to the latest level it may have."""
        for item in self.function.inputs:
            batched = not item.is_parameter and item.var.type.rank > 0 and item.var.type.sizes[0] == self.batch
            self.placement[item.var] = Split(0) if batched else None
            self.level[item.var] = 0
        self._uses.update(v for e in self.function.equations for v in e.operands)
        self._uses.update(output.var for output in self.function.outputs)
        self._products.update(e.result for e in self.function.equations if spec_of(e.op).kind == "contract")
        for index, equation in enumerate(self.function.equations):
            self._place(index, equation)
        self._delay()

    def _place(self, index: int, equation: Equation) -> None:
        if self._joins_sums(equation):
            a, b = equation.operands
            self.terms[equation.result] = (*self.terms.get(a, (a,)), *self.terms.get(b, (b,)))
            self.placed[index] = Placed((PARTIAL, PARTIAL), (PARTIAL,))
            self._record(index, equation, self.placed[index], self.level[a], split=True)
            return
        incoming = tuple(None if v in self.partial else self.placement[v] for v in equation.operands)
        placed = place(equation, incoming)
        if any(
            isinstance(p, Split) and v.type.sizes[p.axis] % self.batch
            for v, p in zip((*equation.operands, *equation.results), (*placed.operands, *placed.results), strict=True)
        ):
            placed = place(equation, tuple(None for _ in incoming))
        split = any(isinstance(p, Split) for p in placed.operands)
        level = max((self._available(v, placed.operands[i]) for i, v in enumerate(equation.operands)), default=0)
        self._record(index, equation, placed, level, split)

    def _record(self, index: int, equation: Equation, placed: Placed, level: int, split: bool) -> None:
        self.placed[index], self.equation_level[index] = placed, level
        if split:
            self.split_equations.add(index)
        for var, result in zip(equation.results, placed.results, strict=True):
            self.level[var] = level
            self.placement[var] = result if isinstance(result, Split) else None
            if result is PARTIAL:
                self.partial.add(var)

    def _joins_sums(self, equation: Equation) -> bool:
        """Whether an ``add`` joins products that are sums over the tiles: they may all add to one accumulator.

        Nothing else may read them. The gradient of a weight that several products use is such a sum.
        """
        return (
            equation.op == "add"
            and equation.operands[0] != equation.operands[1]
            and all(v in self.partial and self._uses[v] == 1 for v in equation.operands)
            and all(v in self.terms or v in self._products for v in equation.operands)
            and len({self.level[v] for v in equation.operands}) == 1
        )

    def _available(self, var: Var, wanted: object) -> int:
        """Level from which an equation may read ``var``: a sum or a gathered value is there one level later."""
        gathered = isinstance(self.placement[var], Split) and wanted is None
        return self.level[var] + (1 if var in self.partial or gathered else 0)

    def _delay(self) -> None:
        """As late as possible: what only outputs need waits for the last stage, so that forward and backward meet."""
        last = max((self.equation_level[i] for i in self.split_equations), default=0)
        latest: dict[Var, int] = defaultdict(lambda: last + 1)
        for index in range(len(self.function.equations) - 1, -1, -1):
            equation, placed = self.function.equations[index], self.placed[index]
            bound = last if index in self.split_equations else last + 1
            level = max(min(bound, *(latest[v] for v in equation.results)), self.equation_level[index])
            self.equation_level[index] = level
            for var in equation.results:
                self.level[var] = level
            for i, var in enumerate(equation.operands):
                gathered = (var in self.partial and placed.operands[i] is not PARTIAL) or (
                    isinstance(self.placement[var], Split) and placed.operands[i] is None
                )
                latest[var] = min(latest[var], level - (1 if gathered else 0))


class _Stages:
    """Builds the stages of a tiling, level by level."""

    def __init__(self, tiling: _Tiling, tile: int) -> None:
        self.tiling, self.tile, self.batch = tiling, tile, tiling.batch
        self.function = tiling.function
        self.producer = {v: e for e in self.function.equations for v in e.results}
        self.needed: set[Var] = {output.var for output in self.function.outputs}

    def build(self) -> list[Stage]:
        """Stages in order of execution (built backwards, so that only what is needed is kept)."""
        stages: list[Stage] = []
        for level in range(max(self.tiling.equation_level.values(), default=0), -1, -1):
            for stage in (self._tiles(level), self._once(level)):
                if stage.equations:
                    stages.append(stage)
        return stages[::-1]

    def _once(self, level: int) -> Stage:
        kept: list[Equation] = []
        after, here = set(self.needed), set(self.needed)
        for index in range(len(self.function.equations) - 1, -1, -1):
            equation = self.function.equations[index]
            mine = self.tiling.equation_level[index] == level and index not in self.tiling.split_equations
            # A constant is repeated in every stage that reads it.
            if (mine or equation.op == "full") and any(v in here for v in equation.results):
                kept.append(equation)
                here.update(equation.operands)
        kept_results = {v for e in kept for v in e.results}
        self.needed = {v for v in here if v not in kept_results}
        made = dict.fromkeys(v for e in reversed(kept) for v in e.results)
        read = dict.fromkeys(v for e in reversed(kept) for v in e.operands if v not in made)
        exports = tuple(Export(v, v) for v in made if v in after)
        return Stage(tuple(kept[::-1]), tuple(Import(v, v) for v in read), exports)

    def _tiles(self, level: int) -> Stage:
        chosen: list[int] = []
        wanted = set(self.needed)
        for index in sorted(self.tiling.split_equations, reverse=True):
            equation = self.function.equations[index]
            if self.tiling.equation_level[index] == level and any(v in wanted for v in equation.results):
                chosen.append(index)
                wanted.update(equation.operands)
        stage = TileStage(self.producer, self.batch, self.tile)
        for index in reversed(chosen):
            if not any(v in self.tiling.terms for v in self.function.equations[index].results):
                stage.add(self.function.equations[index], self.tiling.placed[index])
        exports = []
        for index in reversed(chosen):
            for var in self.function.equations[index].results:
                if var in self.needed:
                    placement = self.tiling.placement[var]
                    axis = placement.axis if placement else None
                    for term in self.tiling.terms.get(var, (var,)):
                        exports.append(Export(stage.local[term], var, axis, partial=axis is None))
        self.needed.update(item.outer for item in stage.imports)
        tiles = self.batch // self.tile
        return Stage(tuple(stage.equations), tuple(stage.imports), tuple(exports), tiles, self.tile)
