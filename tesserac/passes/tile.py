"""Tiled chains: cut a function by its batch index, so that one thread runs a tile from inputs to gradients.

Every value is placed (see placement.py) and every equation gets a level: equations that need a sum over all
tiles come one level later. Level k consists of a stage that runs once (values no tile owns), stages of tiles of
rows of one expert (see expert_stage.py) and a stage of tiles of the batch. Inside a tile all shapes are local,
intermediates live in cache-sized scratch and, in a tile of the batch, no barrier is left; gradients of the weights
are partial sums that are added once at the end, in a fixed order.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from tesserac.ir.program import Equation, Function, Var
from tesserac.ops.base import flops_of, spec_of
from tesserac.passes.expert_stage import (
    ExpertStage,
    every_slot_has_an_expert,
    fits_rows,
    groups_of_experts,
    most_rows,
    place_rows,
)
from tesserac.passes.placement import PARTIAL, Placed, Split, leading_sizes, place, whole
from tesserac.passes.stages import Experts, Export, Import, Stage, Staged
from tesserac.passes.tile_stage import TileStage
from tesserac.passes.whole_stage import whole_stage

ONCE, TILES = "once", "tiles"
Where = Var | str
"""The kind of stage that an equation belongs to: once, tiles of the batch, or tiles of rows of experts (offsets)."""


PLANE = 1 << 16
"""Numbers of one plane of a spectrum in a tile: two planes of floats are half of a second-level cache of 1 MB."""


@dataclass(frozen=True)
class Tile:
    """``rows``: about how many rows of the innermost matrices a tile should hold (cache against loop overhead).

    ``accumulate``: kernels of the target can add to a gradient outside tiles, too. ``experts``: cut the rows of experts
    (a function that is not prepared for it cannot do without).
    """

    rows: int = 128
    enabled: bool = True
    accumulate: bool = True
    experts: bool = True
    name: str = "tile"
    reason: str = "cut by the batch index: intermediates stay in cache and barriers vanish"

    def run(self, function: Function) -> Staged:
        """Stages of the function; a single one when there is no batch index to cut."""
        tiling = _best_tiling(function) if self.enabled else None
        if tiling is not None and tiling.batch is not None:
            batch = tiling.batch
            tile = _tile_size(tiling, batch, self.rows)
            if tile and batch // tile >= 2 and TILES in tiling.where.values():
                return Staged(function, tuple(_Stages(tiling, tile).build()), batch)
        if self.experts and any(equation.op == "route" for equation in function.equations):
            tiling = _Tiling(function, None)
            tiling.place_all()
            return Staged(function, tuple(_Stages(tiling, 1).build()))
        return Staged(function, (whole_stage(function, self.accumulate),))


def _best_tiling(function: Function) -> _Tiling | None:
    """The cut by the index that most of the work in products has: inputs may come in batches of several sizes.

    Points inside a domain and points on its boundary are such batches; what belongs to the smaller one runs once.
    """
    found = []
    for batch in leading_sizes(function):
        if batch > 1:
            tiling = _Tiling(function, batch)
            tiling.place_all()
            found.append((tiling.work(), batch, tiling))
    return max(found, key=lambda item: item[:2])[2] if found else None


_CACHE = 4 << 20
"""Bytes of weights beyond which no core's own cache holds them, so that every tile fetches all of them again."""

_FEWEST_ROWS = 16
"""Rows of a tile's innermost matrices below which one product of the whole batch is worth more than a warm cache."""

_LEAST_ROWS = 64
"""Rows of such a tile: with fewer it would wait for its weights (32 rows took a third longer for 16 MB of weights)."""


def _weights(tiling: _Tiling) -> int:
    """Bytes of the parameters that tiles of the batch read."""
    whole_parameters = {item.var for item in tiling.function.parameters}
    return sum(var.type.bytes for var in whole_parameters)


def _tile_size(tiling: _Tiling, batch: int, rows: int) -> int:
    """The largest divisor of the batch whose tiles hold about ``rows`` rows and leave several tiles per thread.

    0 where no divisor comes near, as for a prime: rows one by one would read every weight once each (a perceptron on
    1,009 rows took three to four times as long as on 1,008), so that such a batch is better not cut.
    """
    per_element = 1
    for var, placement in tiling.placement.items():
        # A last axis of two holds the parts of complex numbers: no matrix, and read in one pass.
        if placement is not None and placement.offsets is None and var.type.rank >= 2 and var.type.sizes[-1] > 2:
            per_element = max(per_element, var.type.size // var.type.sizes[-1] // batch)
    rows = min(rows, _lines_in_cache(tiling.function))
    want = max(1, min(rows // per_element, batch // 8))
    if _weights(tiling) > _CACHE:
        want = max(want, -(-_LEAST_ROWS // per_element))
    want = min(want, batch)
    tile = max(d for d in range(1, want + 1) if batch % d == 0)
    if tile == 1 < batch and _cuts_columns(tiling):
        tile = min(d for d in range(2, batch + 1) if batch % d == 0)
    return 0 if 3 * tile <= want and tile * per_element < _FEWEST_ROWS else tile


def _cuts_columns(tiling: _Tiling) -> bool:
    """Whether a product has the batch as columns: its right operand is laid out for more than one of them."""
    made = [(tiling.function.equations[i], at.results[0]) for i, at in tiling.placed.items()
            if tiling.where[i] == TILES]
    return any(spec_of(equation.op).kind == "contract" and isinstance(found, Split) and found.offsets is None
               and found.axis == equation.result.type.rank - 1 > 0 for equation, found in made)


def _lines_in_cache(function: Function) -> int:
    """Lines of transforms of which a tile's spectrum stays in cache; products want as many rows as there are."""
    kinds = [spec_of(e.op).kind for e in function.equations]
    spectral = (e for e, kind in zip(function.equations, kinds, strict=True) if kind == "spectral")
    lines = [e.results[0].type.sizes[-1] for e in spectral]
    if not lines or "contract" in kinds:
        return PLANE
    return max(1, PLANE // max(lines))


@dataclass
class _Tiling:
    """Placements and levels of a function's values; ``batch`` None: there is no batch to cut."""

    function: Function
    batch: int | None
    placement: dict[Var, Split | None] = field(default_factory=dict)
    partial: set[Var] = field(default_factory=set)
    level: dict[Var, int] = field(default_factory=dict)
    placed: dict[int, Placed] = field(default_factory=dict)
    where: dict[int, Where] = field(default_factory=dict)
    made: dict[Var, Where] = field(default_factory=dict)
    equation_level: dict[int, int] = field(default_factory=dict)
    terms: dict[Var, tuple[Var, ...]] = field(default_factory=dict)
    _constant: set[Var] = field(default_factory=set)
    _number: dict[Var, int] = field(default_factory=dict)
    _uses: Counter[Var] = field(default_factory=Counter)
    _products: set[Var] = field(default_factory=set)
    _floor: list[int] = field(default_factory=list)
    """By equation: the level before which tiles do not compute it, because an exchange that stands before it begins."""

    def place_all(self) -> None:
        """Forward placement at the earliest level, then every tile equation moved to the latest level it may have."""
        for item in self.function.inputs:
            batched = not item.is_parameter and item.var.type.rank > 0 and item.var.type.sizes[0] == self.batch
            self.placement[item.var] = Split(0) if batched else None
            self.level[item.var], self.made[item.var] = 0, ONCE
            self._constant.add(item.var)
        self._uses.update(v for e in self.function.equations for v in e.operands)
        self._uses.update(output.var for output in self.function.outputs)
        self._products.update(e.result for e in self.function.equations if spec_of(e.op).kind == "contract")
        floor = 0
        for index, equation in enumerate(self.function.equations):
            self._floor.append(floor)
            self._place(index, equation)
            if equation.op == "all_reduce_begin":
                floor = max(floor, self.equation_level[index])
        self._delay()

    def work(self) -> float:
        """Floating-point operations inside the tiles of the batch, elementwise ones apart."""
        cut = (self.function.equations[index] for index, where in self.where.items() if where == TILES)
        return sum(flops_of(equation) for equation in cut if spec_of(equation.op).kind != "elementwise")

    def _place(self, index: int, equation: Equation) -> None:
        if self._joins_sums(equation):
            a, b = equation.operands
            self.terms[equation.result] = (*self.terms.get(a, (a,)), *self.terms.get(b, (b,)))
            self._record(index, equation, Placed((PARTIAL, PARTIAL), (PARTIAL,)), TILES, self.level[a])
            return
        placed = self._choose(equation)
        cut = [p for p in (*placed.operands, *placed.results) if isinstance(p, Split)]
        where: Where = ONCE if not cut else TILES if cut[0].offsets is None else cut[0].offsets
        level = 0 if where == ONCE else self._floor[index]
        for var, wanted in zip(equation.operands, placed.operands, strict=True):
            level = max(level, self.level[var] + self._gap(var, wanted, where))
        self._record(index, equation, placed, where, level)
        if equation.op == "route":
            self._cut_routing(equation)

    def _choose(self, equation: Equation) -> Placed:
        """Cut with the rows of experts where operands are, else with the batch, else whole."""
        rows = place_rows(equation, self.placement)
        if rows is not None:
            return rows
        incoming = tuple(None if v in self.partial else self.placement[v] for v in equation.operands)
        ways = dict.fromkeys(p.offsets for p in incoming if p is not None)
        for offsets in sorted(ways, key=lambda v: v is None):
            placed = place(equation, incoming, offsets)
            fits = self._divides(equation, placed) if offsets is None else fits_rows(equation, placed)
            if fits and any(isinstance(p, Split) for p in placed.operands):
                return placed
        return whole(equation)

    def _divides(self, equation: Equation, placed: Placed) -> bool:
        both = zip((*equation.operands, *equation.results), (*placed.operands, *placed.results), strict=True)
        return all(not isinstance(p, Split) or v.type.sizes[p.axis] % (self.batch or 1) == 0 for v, p in both)

    def _cut_routing(self, equation: Equation) -> None:
        """The order of the slots belongs to the rows of experts, the positions of a token's slots to the token."""
        order, offsets, inverse = equation.results
        self.placement[order] = Split(0, offsets)
        indices = self.placement[equation.operands[0]]
        self.placement[inverse] = Split(0) if indices == Split(0) else None

    def _record(self, index: int, equation: Equation, placed: Placed, where: Where, level: int) -> None:
        self.placed[index], self.equation_level[index], self.where[index] = placed, level, where
        for var, result in zip(equation.results, placed.results, strict=True):
            self.level[var], self.made[var], self._number[var] = level, where, index
            if where == ONCE and all(v in self._constant for v in equation.operands):
                self._constant.add(var)
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

    def _gap(self, var: Var, wanted: object, where: Where) -> int:
        """Levels between a value and an equation that reads it: a sum or a gathered value is there one level later.

        Within a level, what runs once comes first, then tiles of rows of experts, then tiles of the batch.
        """
        made = self.made[var]
        if made == ONCE:
            return 0
        placement = self.placement[var]
        finished = wanted is not PARTIAL if var in self.partial else placement is not None and wanted != placement
        return 0 if not finished or where == TILES != made else 1

    def _delay(self) -> None:
        """As late as possible: what only outputs need waits for the last stage, so that forward and backward meet."""
        last = max((self.equation_level[i] for i, where in self.where.items() if where != ONCE), default=0)
        latest: dict[Var, int] = defaultdict(lambda: last + 1)
        for index in range(len(self.function.equations) - 1, -1, -1):
            equation, placed, where = self.function.equations[index], self.placed[index], self.where[index]
            bound = last if where != ONCE else last + 1
            level = max(min(bound, *(latest[v] for v in equation.results)), self.equation_level[index])
            if equation.op == "all_reduce_begin":  # the sooner the better
                level = self.equation_level[index]
            self.equation_level[index] = level
            for var in equation.results:
                self.level[var] = level
            for var, wanted in zip(equation.operands, placed.operands, strict=True):
                latest[var] = min(latest[var], level - self._gap(var, wanted, where))
        self._follow()

    def _follow(self) -> None:
        """What reads results of an earlier stage of tiles joins that stage where it can: less has to be kept."""
        for index, equation in enumerate(self.function.equations):
            placed, where = self.placed[index], self.where[index]
            if where == ONCE or all(self.made[v] == ONCE for v in equation.operands):
                continue
            level = max(
                self._floor[index],
                *(0 if v in self._constant else self.level[v] + self._gap(v, wanted, where)
                  for v, wanted in zip(equation.operands, placed.operands, strict=True)),
            )
            if level < self.equation_level[index]:
                self._move(index, level)
        self._rejoin()

    def _rejoin(self) -> None:
        """Terms of a joined sum that went ahead wait again for the last of them: they add to one accumulator."""
        for total in reversed(self.terms):  # an outer sum before those that it joins
            at = self._number[total]
            for var in (*self.function.equations[at].operands, *self.terms[total]):
                self.level[var] = self.equation_level[self._number[var]] = self.equation_level[at]

    def _move(self, index: int, level: int) -> None:
        """Moves an equation to an earlier level, and with it what it reads and waits for no tile."""
        self.equation_level[index] = level
        for var in self.function.equations[index].results:
            self.level[var] = level
        for var in self.function.equations[index].operands:
            if self.level[var] > level:
                self._move(self._number[var], level)


class _Stages:
    """Builds the stages of a tiling, level by level."""

    def __init__(self, tiling: _Tiling, tile: int) -> None:
        self.tiling, self.tile, self.batch = tiling, tile, tiling.batch
        self.function = tiling.function
        self.producer = {v: e for e in self.function.equations for v in e.results}
        self.needed: set[Var] = {output.var for output in self.function.outputs}
        self.kept = {v for v, p in tiling.placement.items() if p is not None and tiling.made[v] != ONCE}

    def build(self) -> list[Stage]:
        """Stages in order of execution (built backwards, so that only what is needed is kept)."""
        stages: list[Stage] = []
        ways = dict.fromkeys(where for where in self.tiling.where.values() if isinstance(where, Var))
        for level in range(max(self.tiling.equation_level.values(), default=0), -1, -1):
            found = [self._tiles(level)]
            for offsets in reversed(ways):
                found += self._experts(level, offsets)
            stages += [stage for stage in (*found, self._once(level)) if stage.equations]
        return stages[::-1]

    def _once(self, level: int) -> Stage:
        kept: list[Equation] = []
        after, here = set(self.needed), set(self.needed)
        for index in range(len(self.function.equations) - 1, -1, -1):
            equation = self.function.equations[index]
            mine = self.tiling.equation_level[index] == level and self.tiling.where[index] == ONCE
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

    def _chosen(self, level: int, where: Where) -> list[int]:
        """The equations of a stage that something needs, in order."""
        chosen: list[int] = []
        wanted = set(self.needed)
        for index in range(len(self.function.equations) - 1, -1, -1):
            equation = self.function.equations[index]
            mine = self.tiling.equation_level[index] == level and self.tiling.where[index] == where
            if mine and any(v in wanted for v in equation.results):
                chosen.append(index)
                wanted.update(equation.operands)
        return chosen[::-1]

    def _tiles(self, level: int) -> Stage:
        chosen = self._chosen(level, TILES)
        if self.batch is None or not chosen:
            return Stage((), (), ())
        stage = TileStage(self.producer, self.batch, self.tile)
        stage.expect([self.function.equations[index] for index in chosen], self.kept)
        for index in chosen:
            if not any(v in self.tiling.terms for v in self.function.equations[index].results):
                stage.add(self.function.equations[index], self.tiling.placed[index])
        exports = []
        for index in chosen:
            for var in self.function.equations[index].results:
                if var in self.needed:
                    placement = self.tiling.placement[var]
                    axis = placement.axis if placement else None
                    for term in self.tiling.terms.get(var, (var,)):
                        exports.append(Export(stage.local[term], var, axis, partial=axis is None))
        self.needed.update(item.outer for item in stage.imports)
        tiles = self.batch // self.tile
        return Stage(tuple(stage.equations), tuple(stage.imports), tuple(exports), tiles, self.tile)

    def _experts(self, level: int, offsets: Var) -> list[Stage]:
        """Stages of tiles of rows, one for each set of experts that compute the same, last one first."""
        chosen = self._chosen(level, offsets)
        if not chosen:
            return []
        equations = [self.function.equations[index] for index in chosen]
        route = self.producer[offsets]
        count, rows = offsets.type.sizes[0] - 1, route.results[0].type.sizes[0]
        most = most_rows(self.function, self.tiling.placement, offsets)
        needed, stages = set(self.needed), []
        for ids in groups_of_experts(equations, count, not every_slot_has_an_expert(route, self.producer)):
            stage = ExpertStage(self.function, self.producer, Experts(offsets, ids, count, rows, most), needed)
            stage.expect(equations, self.kept)
            for index in chosen:
                stage.add(self.function.equations[index], self.tiling.placed[index])
            kept = [v for e in equations for v in e.results if v in needed and self.tiling.placement[v] is not None]
            if not kept and not stage.sums:
                continue
            stages.append(stage.stage([Export(stage.local[v], v, 0) for v in kept]))
            self.needed.update(outer for item in stage.imports for outer in item.outers)
        self.needed.add(offsets)
        return stages[::-1]
