"""Tiles of rows of one expert: how the ops of a mixture of experts are placed, and what they are within such a tile.

Rows sorted by expert are cut where the experts meet. Within a tile there is one expert, so that the ops over all
experts become ordinary ones: ``grouped_contract`` a product with that expert's matrix, ``grouped_outer`` a term of its
gradient, ``grouped_rows`` a broadcast, ``dispatch`` a ``take``. How many rows a tile has is known at run time; axis 0
of its values has the largest number there can be, a size that no other axis of the function has, so that kernels
recognise their rows by it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from tesserac.diagnostics import Span
from tesserac.ir.program import Attr, Equation, Function, Var, sorted_attrs
from tesserac.ir.types import TensorType
from tesserac.ops.base import spec_of
from tesserac.passes.placement import PARTIAL, Placed, Placement, Split
from tesserac.passes.stages import Experts, Export, Import, Stage
from tesserac.passes.tile_stage import TileStage

OFFSETS_AT = {"grouped_contract": 1, "grouped_outer": 2, "grouped_rows": 0, "grouped_sum": 1, "grouped_keep": 1}
"""Where the ops over experts take the first rows of the experts."""

TILE_BYTES = 24 << 20
"""Memory of all values over the rows of a tile: what stays in a shared cache while kernels take turns."""

MOST_ROWS = 1024
"""Rows of a tile; with so many, a product's time hides that of reading the expert's matrix."""

_KINDS = ("elementwise", "view", "reduce", "gather", "contract")


def place_rows(equation: Equation, placement: Mapping[Var, Placement]) -> Placed | None:
    """Placement of an op of a mixture of experts; None for every other op."""
    if equation.op == "dispatch":
        rows = placement[equation.operands[1]]
        return Placed((None, rows, *(None for _ in equation.operands[2:])), (rows,))
    if equation.op not in OFFSETS_AT:
        return None
    at = OFFSETS_AT[equation.op]
    rows = Split(0, equation.operands[at])
    before = tuple(rows for _ in equation.operands[:at])
    after = tuple(None for _ in equation.operands[at:])
    sums = equation.op in ("grouped_outer", "grouped_sum")
    return Placed((*before, *after), tuple(PARTIAL if sums else rows for _ in equation.results))


def fits_rows(equation: Equation, placed: Placed) -> bool:
    """Whether an ordinary equation can be computed in tiles of rows: row by row, with the rows first."""
    cut = [p for p in (*placed.operands, *placed.results) if isinstance(p, Split)]
    moves = equation.op in ("concat", "pad", "argmax", "cumsum", "reduce_prod")
    return (
        spec_of(equation.op).kind in _KINDS
        and not moves
        and all(p.axis == 0 for p in cut)
        and all(isinstance(p, Split) for p in placed.results)
    )


def most_rows(function: Function, placement: Mapping[Var, Placement], offsets: Var) -> int:
    """Rows of a tile: as many as keep its values in cache, and a number that is no size of the function."""
    cut = Split(0, offsets)
    used = {v for e in function.equations if e.op in OFFSETS_AT for v in (*e.operands, *e.results)}
    values = [v.type for v, p in placement.items() if p == cut]
    bytes_per_row = sum(v.type.bytes // v.type.sizes[0] for v, p in placement.items() if p == cut and v in used)
    rows = max(v.sizes[0] for v in values)
    wanted = min(rows, MOST_ROWS, max(TILE_BYTES // max(bytes_per_row, 1), 64))
    sizes = {n for v in function.variables() for n in v.type.sizes}
    return next(n for n in range(wanted, wanted + len(sizes) + 1) if n not in sizes)


def groups_of_experts(equations: Sequence[Equation], count: int, tail: bool) -> list[tuple[int, ...]]:
    """Experts for which the same equations do the same, in ascending order; ``count`` itself stands for no expert."""
    listed = [set(_ids(e)) for e in equations if e.op in OFFSETS_AT]
    groups: dict[tuple[bool, ...], list[int]] = {}
    for expert in range(count + tail):
        groups.setdefault(tuple(expert in ids for ids in listed), []).append(expert)
    return [tuple(group) for group in groups.values()]


def every_slot_has_an_expert(route: Equation, producer: Mapping[Var, Equation]) -> bool:
    """Whether the indices come from a ``topk`` over as many scores as there are experts."""
    made = producer.get(route.operands[0])
    while made is not None and made.op in ("reshape", "cast", "stop_gradient"):
        made = producer.get(made.operands[0])
    return made is not None and made.op == "topk" and made.operands[0].type.sizes[-1] == route.attr("experts")


def _ids(equation: Equation) -> tuple[int, ...]:
    ids = equation.attr("experts")
    assert isinstance(ids, tuple)
    return tuple(int(i) for i in ids if isinstance(i, int))


class ExpertStage(TileStage):
    """Local equations for the tiles of ``experts.ids``, all of which every listed op includes, or none."""

    def __init__(
        self, function: Function, producer: Mapping[Var, Equation], experts: Experts, needed: set[Var]
    ) -> None:
        super().__init__(producer, experts.rows, experts.most)
        self.experts, self.needed = experts, needed
        self._outside = {v.name for v in function.variables()}
        self.sums: list[Export] = []
        self._each: dict[tuple[Var, ...], Var] = {}
        self._span = Span.point("<none>", 1, 1)
        self._zeros: set[Var] = set()

    def add(self, equation: Equation, placed: Placed) -> None:
        """Appends the local form of an equation of the function."""
        if equation.op == "dispatch":
            self.local[equation.result] = self._dispatched(equation)
        elif equation.op in OFFSETS_AT:
            self._grouped(equation)
        elif equation.op == "add" and self._operand(equation.operands[0], placed.operands[0]) in self._zeros:
            self._rename(equation, self._operand(equation.operands[1], placed.operands[1]))
        elif equation.op == "add" and self._operand(equation.operands[1], placed.operands[1]) in self._zeros:
            self._rename(equation, self._operand(equation.operands[0], placed.operands[0]))
        else:
            super().add(equation, placed)

    def stage(self, exports: Sequence[Export]) -> Stage:
        """The finished stage; ``exports`` are those of values that are cut."""
        return Stage(
            tuple(self.equations), tuple(self.imports), (*exports, *self.sums), tile=self.tile, experts=self.experts
        )

    def _shape(self, var: Var, axis: int) -> tuple[int, ...]:
        return (self.tile, *var.type.sizes[1:])

    def _clone(self, var: Var, axis: int) -> Var | None:
        """Rows of tokens and the experts' vectors are read again rather than kept for all rows."""
        equation = self.producer.get(var)
        if equation is not None and equation.op == "dispatch":
            return self._dispatched(equation)
        if equation is not None and equation.op == "grouped_rows" and self._lists(equation):
            return self._repeated(equation)
        if equation is not None and spec_of(equation.op).kind == "random":
            return None  # its kernels derive the first global index from the number of the tile
        return super()._clone(var, axis)

    def _leaves(self, var: Var) -> frozenset[Var]:
        equation = self.producer.get(var)
        if equation is not None and equation.op in ("dispatch", "grouped_rows"):
            return frozenset()  # read again from what all rows share
        return super()._leaves(var)

    def _lists(self, equation: Equation) -> bool:
        """Whether the op includes the experts of this stage."""
        return self.experts.ids[0] in _ids(equation)

    def _emit(self, op: str, name: str, kind: TensorType, *operands: Var, **attrs: Attr) -> Var:
        """Appends an equation with a result of this type, whose name no value of the function has."""
        return self._append(op, self._helper(name), kind, *operands, **attrs)

    def _helper(self, name: str) -> str:
        candidate, count = name, 1
        while candidate in self._outside or candidate in self.names:
            count += 1
            candidate = f"{name}_{count}"
        self.names.add(candidate)
        return candidate

    def _append(self, op: str, name: str, kind: TensorType, *operands: Var, **attrs: Attr) -> Var:
        local = Var(name, kind)
        self.equations.append(Equation(op, operands, (local,), sorted_attrs(attrs), self._span))
        return local

    def _rename(self, equation: Equation, value: Var) -> None:
        """The equation's result is a value that is there already."""
        result = equation.result
        if result in self.needed:
            value = self._append("reshape", self._fresh(result.name), value.type, value, shape=value.type.shape)
        self.local[result] = value

    # -- rows of tokens -------------------------------------------------------------------------------

    def _dispatched(self, equation: Equation) -> Var:
        """Rows of x by the tokens of their slots, times the slots' gates."""
        self._span = equation.span
        x, order, inverse, *gates = equation.operands
        token = slot = self._part(order, 0)
        choices = inverse.type.sizes[1]
        if choices > 1:
            kind = slot.type
            fill = self._emit("full", "choices", kind, value=choices, shape=kind.shape, dtype=kind.dtype)
            token = self._emit("quotient", "token", kind, slot, fill)
        name = equation.result.name
        kind = x.type.with_shape((self.tile, x.type.sizes[1]))
        if not gates:
            return self._append("take", self._fresh(name), kind, self._entire(x), token)
        rows = self._emit("take", f"{name}_rows", kind, self._entire(x), token)
        flat = gates[0].type.with_shape((gates[0].type.size,))
        gate = self._emit("reshape", "gates", flat, self._entire(gates[0]), shape=flat.shape)
        gate = self._emit("take", "gate", flat.with_shape((self.tile,)), gate, slot)
        gate = self._emit("broadcast", "gate", kind, gate, shape=kind.shape, axes=(0,))
        return self._append("mul", self._fresh(name), kind, rows, gate)

    # -- the expert's own -------------------------------------------------------------------------------

    def _grouped(self, equation: Equation) -> None:
        self._span = equation.span
        if not self._lists(equation):
            if equation.op not in ("grouped_outer", "grouped_sum"):
                self._zero(equation.result)
            return
        if equation.op == "grouped_contract":
            self._contract(equation)
        elif equation.op == "grouped_outer":
            x, y = (self._rows(v) for v in equation.operands[:2])
            self._sum(equation, "contract", x, y, spec="md,mn->dn")
        elif equation.op == "grouped_sum":
            self._sum(equation, "reduce_sum", self._rows(equation.operands[0]), axes=(0,))
        elif equation.op == "grouped_keep":
            self._rename(equation, self._rows(equation.operands[0]))
        else:
            self.local[equation.result] = self._repeated(equation)

    def _rows(self, var: Var) -> Var:
        """The tile's rows of a value."""
        return self._operand(var, Split(0, self.experts.offsets))

    def _zero(self, result: Var) -> None:
        kind = result.type.with_shape(self._shape(result, 0))
        zero = self._append("full", self._fresh(result.name), kind, value=0.0, shape=kind.shape, dtype=kind.dtype)
        self.local[result] = zero
        self._zeros.add(zero)

    def _contract(self, equation: Equation) -> None:
        x, result = self._rows(equation.operands[0]), equation.result
        matrix = self._own(equation, equation.operands[2:])
        if equation.attr("transposed"):
            known = next((e.result for e in self.equations if e.op == "relayout" and e.operands == (matrix,)), None)
            turned = matrix.type.with_shape(matrix.type.shape[::-1])
            matrix = known or self._emit("relayout", f"{matrix.name}_t", turned, matrix, perm=(1, 0))
        kind = result.type.with_shape(self._shape(result, 0))
        self.local[result] = self._append("contract", self._fresh(result.name), kind, x, matrix, spec="md,dn->mn")

    def _repeated(self, equation: Equation) -> Var:
        vector = self._own(equation, equation.operands[1:])
        kind = vector.type.with_shape((self.tile, *vector.type.shape))
        axes = tuple(range(1, kind.rank))
        return self._append("broadcast", self._fresh(equation.result.name), kind, vector, shape=kind.shape, axes=axes)

    def _own(self, equation: Equation, tensors: Sequence[Var]) -> Var:
        """The expert's own of tensors that the op takes for each of its experts."""
        ids = _ids(equation)
        each = tuple(tensors[ids.index(e)] for e in self.experts.ids)
        if each not in self._each:
            local = Var(self._helper(_common_name(each)), each[0].type)
            self.imports.append(Import(each[0], local, each=each))
            self._each[each] = local
        return self._each[each]

    def _sum(self, equation: Equation, op: str, *operands: Var, **attrs: Attr) -> None:
        """A sum over the tiles of an expert."""
        ids = _ids(equation)
        each = tuple(equation.results[ids.index(e)] for e in self.experts.ids)
        local = self._emit(op, _common_name(each), each[0].type, *operands, **attrs)
        self.sums.append(Export(local, each[0], partial=True, each=each))


def _common_name(each: Sequence[Var]) -> str:
    """A name for one of several values: that of the first without its number."""
    name = each[0].name
    if len(each) == 1:
        return name
    return re.sub(r"[._]?\d+(?=[._]|$)", "", name) or name
