"""The equations of one stage of tiles: those of the function in local form, on a tile's part of its values."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from tesserac.ir.program import Attr, Equation, Var, sorted_attrs
from tesserac.ops.base import spec_of
from tesserac.passes.placement import Placed, Split, local_shape
from tesserac.passes.stages import Import

CLONABLE = ("elementwise", "source", "view", "random")
"""Kinds of ops that a tile repeats rather than read its part of their result."""


class TileStage:
    """Local equations of tiles of ``tile`` of the ``batch`` entries; ``producer``: the equation of each value."""

    def __init__(self, producer: Mapping[Var, Equation], batch: int, tile: int) -> None:
        self.producer, self.batch, self.tile = producer, batch, tile
        self.equations: list[Equation] = []
        self.imports: list[Import] = []
        self.local: dict[Var, Var] = {}
        self.names: set[str] = set()
        self._cut: dict[tuple[Var, int], Var] = {}
        self._whole: dict[Var, Var] = {}
        self._kept: Collection[Var] = ()
        self._certain: set[Var] = set()
        self._leaves_of: dict[Var, frozenset[Var]] = {}

    def expect(self, equations: Sequence[Equation], cut: Collection[Var]) -> None:
        """Says what will be added, and which values other tiles would have to keep for this stage (``cut``).

        What an operand is repeated from, if that is one value, is read in any case.
        """
        made = {v for e in equations for v in e.results}
        self._kept = cut
        for var in dict.fromkeys(v for e in equations for v in e.operands if v not in made):
            leaves = self._leaves(var)
            if len(leaves) == 1:
                self._certain |= leaves

    def add(self, equation: Equation, placed: Placed) -> None:
        """Appends the local form of an equation of the function."""
        operands = tuple(self._operand(v, p) for v, p in zip(equation.operands, placed.operands, strict=True))
        results = []
        for var, placement in zip(equation.results, placed.results, strict=True):
            shape = self._shape(var, placement.axis) if isinstance(placement, Split) else var.type.sizes
            local = Var(var.name, var.type.with_shape(shape))
            self.local[var] = local
            results.append(local)
        self.equations.append(_with_local_attrs(equation, operands, tuple(results)))

    def _shape(self, var: Var, axis: int) -> tuple[int, ...]:
        return local_shape(var, axis, self.batch, self.tile)

    def _operand(self, var: Var, placement: object) -> Var:
        if var in self.local and isinstance(placement, Split):
            return self.local[var]
        return self._part(var, placement.axis) if isinstance(placement, Split) else self._entire(var)

    def _entire(self, var: Var) -> Var:
        """A whole value: constants are repeated here rather than read."""
        if var not in self._whole:
            producer = self.producer.get(var)
            if producer is not None and producer.op == "full":
                local = Var(self._fresh(var.name), var.type)
                self.equations.append(replace(producer, results=(local,)))
                self._whole[var] = local
            else:
                self.imports.append(Import(var, var))
                self._whole[var] = var
        return self._whole[var]

    def _part(self, var: Var, axis: int) -> Var:
        """A tile's part of a value that is not split here: recomputed when cheap, else read from the whole."""
        key = var, axis
        if key not in self._cut:
            clone = self._clone(var, axis) if self._repeats_cheaply(var) else None
            if clone is None:
                clone = Var(self._fresh(var.name), var.type.with_shape(self._shape(var, axis)))
                self.imports.append(Import(var, clone, axis))
            self._cut[key] = clone
        return self._cut[key]

    def _repeats_cheaply(self, var: Var) -> bool:
        """Whether repeating a value needs no more of other tiles' values than the value itself."""
        more = (v.type.bytes for v in self._leaves(var) - self._certain if v in self._kept)
        return var not in self._kept or sum(more) <= var.type.bytes

    def _leaves(self, var: Var) -> frozenset[Var]:
        """The values that a value is repeated from, inputs of the function not counted."""
        if var not in self._leaves_of:
            equation = self.producer.get(var)
            if equation is None:
                self._leaves_of[var] = frozenset()
            elif spec_of(equation.op).kind in CLONABLE:
                self._leaves_of[var] = frozenset[Var]().union(*(self._leaves(v) for v in equation.operands))
            else:
                self._leaves_of[var] = frozenset((var,))
        return self._leaves_of[var]

    def _clone(self, var: Var, axis: int) -> Var | None:
        equation = self.producer.get(var)
        if equation is None or spec_of(equation.op).kind not in CLONABLE:
            return None
        if equation.op == "iota" and equation.attr("axis") == axis:
            return None
        if spec_of(equation.op).kind == "random" and axis != 0:
            return None  # kernels derive a tile's first global index from its number, which needs whole leading rows
        if equation.operands:
            rule = spec_of(equation.op).factors
            factors = rule([v.type for v in equation.operands], [var.type], equation.attributes) if rule else None
            letter = factors.results[0][axis] if factors else None
            if factors is None or (letter is not None and factors.kind(letter) != "pass"):
                return None
            if letter is None and equation.op != "broadcast":
                return None
            of = zip(equation.operands, factors.operands, strict=True)
            if any(v.type.sizes[axes.index(letter)] % self.batch for v, axes in of if letter in axes):
                return None  # the axis is one of several that a reshape joins, and shorter than there are tiles
            operands = tuple(
                self._part(v, axes.index(letter)) if letter is not None and letter in axes else self._entire(v)
                for v, axes in zip(equation.operands, factors.operands, strict=True)
            )
        else:
            operands = ()
        local = Var(self._fresh(var.name), var.type.with_shape(self._shape(var, axis)))
        self.equations.append(_with_local_attrs(equation, operands, (local,)))
        return local

    def _fresh(self, name: str) -> str:
        """The same name as outside, unless another part of that value has it here."""
        candidate, count = name, 1
        while candidate in self.names:
            count += 1
            candidate = f"{name}.part{count}"
        self.names.add(candidate)
        return candidate


def _with_local_attrs(equation: Equation, operands: tuple[Var, ...], results: tuple[Var, ...]) -> Equation:
    """The equation on local shapes: attributes that repeat a shape follow the result."""
    attrs: dict[str, Attr] = equation.attributes
    if "shape" in attrs:
        attrs["shape"] = results[0].type.sizes
    if equation.op == "slice":
        limits, full = list(equation.attr("limits")), equation.operands[0].type.sizes  # type: ignore[arg-type]
        for axis, (old, new) in enumerate(zip(full, operands[0].type.sizes, strict=True)):
            if old != new:
                limits[axis] = new
        attrs["limits"] = tuple(limits)
    return Equation(equation.op, operands, results, sorted_attrs(attrs), equation.span)
