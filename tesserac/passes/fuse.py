"""Fusion: which equations share a kernel.

Roots are what has to come out of a loop: products, attention, reductions, and elementwise values that are kept in
memory. Every other elementwise value is recomputed inside each region that reads it. grouping.py puts the roots into
regions.

What to keep is decided by looking at the result: a value that several regions would recompute is kept when it is
expensive, or when keeping it spares keeping the product or row sum it is made from. Then grouping starts over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tesserac.codegen.buckets import NO_BUCKETS, BucketLayout
from tesserac.codegen.region import NeedsCopy
from tesserac.codegen.stage_values import StageValues, stands_alone
from tesserac.codegen.views import VIEW_OPS, View
from tesserac.diagnostics import InternalError
from tesserac.ir.program import Var
from tesserac.ops.base import spec_of
from tesserac.passes.grouping import Fused, group
from tesserac.passes.stages import Stage

EXPENSIVE = 8.0
"""Flops per element from which recomputing in a second region costs more than keeping (a cache read is about 4)."""

MAX_DEPTH = 64
"""Nested elementwise ops after which a value is kept: expressions stay readable, the compiler's recursion shallow."""


@dataclass(frozen=True)
class Fuse:
    """``expensive``: see EXPENSIVE."""

    expensive: float = EXPENSIVE
    name: str = "fuse"
    reason: str = "pointwise and row-reduction regions become one loop nest, products take epilogues"

    def run(self, stage: Stage, outer_view: Callable[[Var], View], buckets: BucketLayout = NO_BUCKETS) -> Fused:
        """Groups of one stage."""
        values = StageValues(stage, outer_view, buckets)
        values.keep(v for v in values.exports if values.producer[v].op not in ("concat",))
        _keep_operands(values)
        _keep_rounded(values)
        _bound_depth(values)
        values.place_in_concat()
        while True:
            try:
                fused = group(values)
            except NeedsCopy as need:
                if need.var in values.kept and need.var in values.dense_rows:
                    raise InternalError(f"fusion does not end: {need.var} is a copy, and to be copied") from None
                if need.var in values.kept:
                    values.dense_rows.add(need.var)
                if values.producer[need.var].op == "reshape":
                    values.dense_rows.add(need.var)
                values.keep((need.var,))
                continue
            more = self._worth_keeping(fused)
            if not more:
                return fused
            values.keep(more)

    def _worth_keeping(self, fused: Fused) -> set[Var]:
        """Inlined values that several groups recompute and had better be kept."""
        values, users = fused.values, dict[Var, set[int]]()
        for index, item in enumerate(fused.groups):
            inlined = [*(item.region.inlined if item.region else ()), *(item.before[0].inlined if item.before else ())]
            for var in inlined:
                users.setdefault(var, set()).add(index)
        result: set[Var] = set()
        for var, groups in users.items():
            if len(groups) < 2:
                continue
            equation = values.producer[var]
            scalar = spec_of(equation.op).scalar
            rows = equation.op == "take" and equation.operands[0].type.rank > 1
            if rows or (scalar is not None and scalar.flops >= self.expensive):
                result.add(var)
        for made in fused.group_of:
            end = self._end_of_chain(values, made, users)
            if end is not None:
                result.add(end)
        return {v for v in result if v not in values.kept}

    def _end_of_chain(self, values: StageValues, var: Var, users: dict[Var, set[int]]) -> Var | None:
        """Follows single elementwise consumers from a kernel's result to the last value that several groups need."""
        if var in values.kept:
            return None
        end: Var | None = None
        while True:
            consumers = values.consumers.get(var, [])
            if len(consumers) != 1 or spec_of(consumers[0].op).kind != "elementwise":
                break
            var = consumers[0].result
            if var in values.kept:
                return None
            if len(users.get(var, ())) > 1:
                end = var
        return end


def _bound_depth(values: StageValues) -> None:
    """Keeps a value of every long chain, so that no expression nests deeper than MAX_DEPTH."""
    depth: dict[Var, int] = {}
    for equation in values.stage.equations:
        below = max((depth.get(v, 0) for v in equation.operands), default=0)
        for var in equation.results:
            if values.is_leaf(var):
                continue
            depth[var] = below + (equation.op not in VIEW_OPS)
            if depth[var] >= MAX_DEPTH:
                values.keep((var,))
                depth[var] = 0


def _keep_operands(values: StageValues) -> None:
    """Products, attention and other single kernels read their operands from memory."""
    for equation in values.stage.equations:
        kind = spec_of(equation.op).kind
        read: tuple[Var, ...] = ()
        if kind == "contract" or stands_alone(equation):
            read = equation.operands
        elif equation.op == "take":
            read = equation.operands[:1]
        for var in read:
            base, _ = values.through_views(var, ())
            if not values.is_leaf(base):
                values.keep((base,))


def _keep_rounded(values: StageValues) -> None:
    """Sums of a product that are rounded to fewer bits lie in memory as those: half the bytes, whoever reads them."""
    for equation in values.stage.equations:
        made = values.producer.get(equation.operands[0]) if equation.op == "cast" else None
        if made is None or spec_of(made.op).kind != "contract" or values.is_leaf(equation.result):
            continue
        if equation.result.type.dtype.itemsize < equation.operands[0].type.dtype.itemsize:
            values.keep((equation.result,))
