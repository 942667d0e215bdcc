"""The values of one stage: who makes them, which are kept in memory, and how they are stored."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tesserac.codegen.buckets import NO_BUCKETS, BucketLayout
from tesserac.codegen.views import VIEW_OPS, View, apply, dense, reshaped
from tesserac.ir.program import Equation, Var
from tesserac.ir.types import DType
from tesserac.ops.base import spec_of
from tesserac.passes.stages import Stage

KERNEL_KINDS = ("reduce", "contract", "fused", "scatter", "layout", "sort", "spectral", "line", "grouped", "collective",
                "rank")
"""Op kinds whose results always come out of a kernel (they may still stay in registers within their region)."""

LINE_OPS = frozenset(("argmax", "cumsum", "iwavelet", "reduce_prod", "sort", "topk", "wavelet"))
"""Ops that walk along one axis by a function of the runtime, element after element."""

ROUTING_OPS = frozenset(("route", "limit"))
"""Ops that sort the slots of all tokens by expert."""

_GROUPED = "contract contract_wide outer outer_wide sum number table"
GROUPED_OPS = frozenset(f"grouped_{name}" for name in _GROUPED.split())
"""Ops over the rows of every expert, where rows of experts are not cut into tiles."""

MOVING_OPS = frozenset(("concat", "pad"))
"""View ops that no strides express: they move data."""

PIECE = 8
"""Elements of 16 bits that asynchronous copies move at once: rows they copy begin at multiples of them."""

ACCUMULATED = ("reduce", "scatter")
"""Op kinds whose kernels clear their result first, row by row."""


def equal_rows(view: View) -> bool:
    """Whether all rows of a view lie equally far apart."""
    return reshaped(view, (math.prod(view.shape[:-1]), *view.shape[-1:])) is not None


def stands_alone(equation: Equation) -> bool:
    """Whether the equation is a kernel of its own that reads its operands from memory."""
    kinds = ("fused", "layout", "grouped", "collective", "rank")
    return spec_of(equation.op).kind in kinds or equation.op in LINE_OPS | MOVING_OPS | ROUTING_OPS


def padded_row(shape: tuple[int, ...], dtype: DType = DType.F32) -> int:
    """Row stride of a tensor in our own memory, in elements.

    Rows of 256 elements and more whose size is a multiple of 128 get 16 more: an odd number of cache lines, so
    that the rows of a matrix do not fall into the same cache sets. For bf16 that takes twice as many elements.
    """
    last = shape[-1] if shape else 1
    lines = 2 if dtype is DType.BF16 else 1
    return last + 16 * lines if len(shape) >= 2 and last >= 256 and last % (128 * lines) == 0 else last


@dataclass
class StageValues:
    """Facts about a stage's values that grouping and lowering share; ``keep`` adds to ``kept`` while fusion decides."""

    stage: Stage
    outer_view: Callable[[Var], View]
    buckets: BucketLayout = NO_BUCKETS
    kept: set[Var] = field(default_factory=set)
    dense_rows: set[Var] = field(default_factory=set)
    row_strides: dict[Var, int] = field(default_factory=dict)
    aliases: dict[Var, tuple[Var, View]] = field(default_factory=dict)
    _is_leaf: dict[str, bool] = field(default_factory=dict)
    _bases: dict[str, tuple[Var, tuple[Equation, ...]]] = field(default_factory=dict)
    _stored: dict[tuple[str, tuple[Equation, ...]], View | Var] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.producer: dict[Var, Equation] = {v: e for e in self.stage.equations for v in e.results}
        self.imports = {item.local: item for item in self.stage.imports}
        self.exports = {item.local: item for item in self.stage.exports}
        self.consumers: dict[Var, list[Equation]] = {}
        for equation in self.stage.equations:
            for var in equation.operands:
                self.consumers.setdefault(var, []).append(equation)

    @property
    def most(self) -> int | None:
        """The size of axes whose length is known at run time: the most it can be."""
        return self.stage.experts.most if self.stage.experts is not None else None

    def is_ragged(self, domain: tuple[int, ...]) -> bool:
        """Whether the length of the first axis is known at run time (it comes first wherever there is one)."""
        return bool(domain) and domain[0] == self.most

    def kind(self, var: Var) -> str:
        """Kind of the op that makes a value; ``import`` for values from outside."""
        return "import" if var in self.imports else spec_of(self.producer[var].op).kind

    def keep(self, variables: Iterable[Var]) -> None:
        """Gives values memory of their own."""
        self.kept.update(variables)
        self._is_leaf.clear()
        self._bases.clear()
        self._stored.clear()

    def is_leaf(self, var: Var) -> bool:
        """Whether regions read the value from memory rather than compute it themselves."""
        found = self._is_leaf.get(var.name)
        if found is None:
            found = self._is_leaf[var.name] = var in self.imports or var in self.kept or self._leaves_kernel(var)
        return found

    def _leaves_kernel(self, var: Var) -> bool:
        equation = self.producer[var]
        return spec_of(equation.op).kind in KERNEL_KINDS or equation.op in MOVING_OPS

    def through_views(self, var: Var, chain: tuple[Equation, ...]) -> tuple[Var, tuple[Equation, ...]]:
        """Walks back through views that have no memory of their own."""
        found = self._bases.get(var.name)
        if found is None:
            base, views = var, tuple[Equation, ...]()
            while base not in self.imports and base not in self.kept and self.producer[base].op in VIEW_OPS:
                equation = self.producer[base]
                views = (equation, *views)
                base = equation.operands[0]
            found = self._bases[var.name] = base, views
        base, views = found
        return base, views + chain if views else chain

    def constant(self, equation: Equation) -> float:
        """The number a ``full`` equation repeats."""
        value = equation.attr("value")
        assert isinstance(value, (int, float))
        return float(value)

    def storage(self, var: Var) -> View:
        """Where a leaf lies, relative to the buffer of ``root(var)``."""
        if var in self.aliases:
            return self.aliases[var][1]
        if var in self.imports:
            item = self.imports[var]
            outer = self.outer_view(item.outer)
            return View(var.type.sizes, outer.strides, outer.offset)
        if var in self.exports:
            outer = self.outer_view(self.exports[var].outer)
            return View(var.type.sizes, outer.strides, outer.offset)
        shape = var.type.sizes
        if var in self.dense_rows or var in self.buckets.values:
            return dense(shape)
        return dense(shape, self.row_strides.get(var, padded_row(shape, var.type.dtype)))

    def stored(self, var: Var, chain: tuple[Equation, ...]) -> View | Var:
        """Where a leaf lies, seen through a chain of views; the value of the chain to copy where no strides suffice."""
        key = var.name, chain
        found = self._stored.get(key)
        if found is None:
            found = self._stored[key] = self._seen(self.storage(var), chain)
        return found

    def _seen(self, view: View, chain: tuple[Equation, ...]) -> View | Var:
        for equation in chain:
            result = apply(equation, view)
            if result is None:
                return equation.result
            view = result
        return view

    def outside(self, var: Var) -> tuple[Var, ...]:
        """The values outside the stage that a value of a tile is, or is a part of; none for one of the tile's own."""
        crossing = self.imports.get(var) or self.exports.get(var)
        return crossing.outers if crossing is not None else ()

    def root(self, var: Var) -> Var:
        """The value that owns the buffer."""
        return self.root(self.aliases[var][0]) if var in self.aliases else var

    def place_in_concat(self) -> None:
        """Operands of a concat that are made here are written straight to their place in the result."""
        for equation in reversed(self.stage.equations):
            if equation.op != "concat":
                continue
            axis, start = equation.attr("axis"), 0
            assert isinstance(axis, int)
            for var in equation.operands:
                whole = self.storage(equation.result)
                view = View(var.type.sizes, whole.strides, whole.offset + start * whole.strides[axis])
                start += var.type.sizes[axis]
                free = (
                    var not in self.imports
                    and var not in self.exports
                    and var not in self.aliases
                    and self.producer[var].op not in VIEW_OPS
                    and equation.operands.count(var) == 1
                    and (self.kind(var) not in ACCUMULATED or equal_rows(view))
                )
                if free and self.kind(var) in (*KERNEL_KINDS, "elementwise") and not self.is_partial(equation.result):
                    self.aliases[var] = (equation.result, view)
                    self.keep((var,))

    def is_partial(self, var: Var) -> bool:
        """Whether tiles add up what they compute for this value."""
        return var in self.exports and self.exports[var].partial
