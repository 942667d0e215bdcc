"""The conversion table: how a value gets from one placement to another on a mesh axis, and what its cotangent does.

A row names the op of ``tesserac.ops.mesh`` that makes the value. The way back is never written down: the cotangent of
the result lies as the dual of ``target`` and goes to the dual of ``source``: a row of the same table, or nothing. After
Megatron-LM's f and g (Shoeybi et al. 2019) and the types of reduced and unreduced values in JAX.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from heapq import heappop, heappush

from tesserac.diagnostics import InternalError
from tesserac.ir.builder import Builder
from tesserac.ir.program import Attr, Var
from tesserac.ir.types import DType, TensorType
from tesserac.passes.mesh.placements import PARTIAL, REPLICATED, VARYING, Placement, Placements, Shard


@dataclass(frozen=True, slots=True)
class Row:
    """One row: the op that makes the result, its settings, and the collective that it is (None: local).

    ``settings`` are attributes of the op; the axes of the tensors in question are added by ``convert``.
    """

    op: str
    collective: str | None
    settings: tuple[tuple[str, Attr], ...] = ()


TABLE: dict[tuple[str, str], Row] = {
    ("P", "R"): Row("all_reduce", "all_reduce", (("to", "R"),)),
    ("P", "R*"): Row("all_reduce", "all_reduce", (("to", "R*"),)),
    ("P", "S"): Row("reduce_scatter", "reduce_scatter"),
    ("S", "R"): Row("all_gather", "all_gather", (("to", "R"),)),
    ("S", "R*"): Row("all_gather", "all_gather", (("to", "R*"),)),
    ("S", "S"): Row("all_to_all", "all_to_all"),
    ("S", "P"): Row("shard_embed", None),
    ("R", "R*"): Row("vary", None),
    ("R", "S"): Row("shard_slice", None, (("of", "R"),)),
    ("R", "P"): Row("keep_first", None, (("of", "R"),)),
    ("R*", "R"): Row("unvary", None),
    ("R*", "S"): Row("shard_slice", None, (("of", "R*"),)),
    ("R*", "P"): Row("keep_first", None, (("of", "R*"),)),
}


def collective(source: Placement, target: Placement) -> str | None:
    """The collective that a conversion is; None if it is local or nothing."""
    return None if source == target else TABLE[source.kind, target.kind].collective


def backward(source: Placement, target: Placement) -> tuple[Placement, Placement]:
    """The conversion of the cotangent: from where that of the target lies to where that of the source does."""
    return target.dual, source.dual


def backward_collective(source: Placement, target: Placement) -> str | None:
    """The collective of the transposed conversion."""
    return collective(*backward(source, target))


def convert(b: Builder, x: Var, axis: str, size: int, source: Placement, target: Placement,
            named: str | None = None) -> Var:
    """Adds the equation of a conversion of one rank's ``x`` along one mesh axis; ``x`` itself if nothing changes."""
    if source == target:
        return x
    row = TABLE[source.kind, target.kind]
    attrs: dict[str, Attr] = {"axis": axis, "size": size, **dict(row.settings)}
    if row.op == "all_to_all":
        attrs.update(split=target.dim, concat=source.dim)
    elif source.is_cut or target.is_cut:
        attrs["dim"] = source.dim if source.is_cut else target.dim
    (result,) = b.ops(row.op, (x,), attrs, named)
    return result


# ------------------------------------------------------------------------------------------------ several axes


@dataclass(frozen=True, slots=True)
class Step:
    """One conversion on the way: mesh axis number, and the value's placements before and after."""

    axis: int
    before: Placements
    after: Placements

    @property
    def source(self) -> Placement:
        """Placement on the axis before."""
        return self.before[self.axis]

    @property
    def target(self) -> Placement:
        """Placement on the axis after."""
        return self.after[self.axis]


LATENCY = 1e6
"""Bytes that a link could have moved while a collective starts (10 us at 100 GB/s)."""

StepCost = Callable[[Step], float]
"""What a step costs, forward and backward together; not negative."""


def steps_from(type_: TensorType, sizes: Sequence[int], at: Placements) -> Iterable[Step]:
    """All single conversions of a value that keep its parts even and in order.

    A tensor axis that two mesh axes cut is cut by the earlier one first, so only the later cut may come or go.
    """
    extents = list(type_.sizes)
    for placement, size in zip(at, sizes, strict=True):
        if placement.is_cut:
            extents[placement.dim] //= size
    for axis, old in enumerate(at):
        inner = {p.dim for p in at[axis + 1:] if p.is_cut}
        if old.is_own or (old.is_cut and old.dim in inner):
            continue
        for new in (REPLICATED, VARYING, PARTIAL, *(Shard(d) for d in range(type_.rank))):
            if new == PARTIAL and type_.dtype is DType.BOOL:
                continue
            if new == old or ((old, new) == (VARYING, REPLICATED) and not type_.dtype.is_differentiable):
                continue
            if new.is_cut and (new.dim in inner or extents[new.dim] % sizes[axis]):
                continue
            yield Step(axis, at, (*at[:axis], new, *at[axis + 1:]))


def step_bytes(type_: TensorType, sizes: Sequence[int], step: Step) -> float:
    """Bytes of what the step moves on its axis, as one rank of the other axes sees it, with ring factors.

    Forward and backward together: 2(n-1)/n for an all-reduce, (n-1)/n for gathers and scatters, (n-1)/n^2 for an
    all-to-all, and LATENCY each; a local step costs nearly nothing, so that short ways win.
    """
    n, held = sizes[step.axis], float(type_.bytes)
    for axis, size in enumerate(sizes):
        if axis != step.axis and step.before[axis].is_cut:
            held /= size
    weight = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0, "all_to_all": 1.0 / n, None: 0.0}
    ways = [collective(step.source, step.target)]
    if type_.dtype.is_differentiable:
        ways.append(backward_collective(step.source, step.target))
    return sum(weight[way] * held * (n - 1) / n + LATENCY for way in ways if way is not None) + 1e-3


@lru_cache(maxsize=50_000)
def _leaving(type_: TensorType, sizes: tuple[int, ...], at: Placements) -> tuple[tuple[float, Step], ...]:
    """All single conversions with what they move: of many ways, and of equal layers, the same ones are looked at."""
    return tuple((step_bytes(type_, sizes, step), step) for step in steps_from(type_, sizes, at))


@lru_cache(maxsize=100_000)
def way(type_: TensorType, sizes: tuple[int, ...], sources: frozenset[Placements],
        target: Placements) -> tuple[Step, ...]:
    """The cheapest steps (by bytes) from any of the placements that are there already to the target."""
    queue: list[tuple[float, int, Placements]] = []
    count = itertools.count()
    best: dict[Placements, tuple[float, Step | None]] = {}
    for source in sorted(sources, key=str):
        best[source] = (0.0, None)
        heappush(queue, (0.0, next(count), source))
    while queue:
        cost, _, at = heappop(queue)
        if at == target:
            break
        if cost > best[at][0]:
            continue
        for moved, step in _leaving(type_, sizes, at):
            total = cost + moved
            if step.after not in best or total < best[step.after][0]:
                best[step.after] = (total, step)
                heappush(queue, (total, next(count), step.after))
    if target not in best:
        raise InternalError(f"no conversion of {type_} leads to {target}")
    found: list[Step] = []
    last = best[target][1]
    while last is not None:
        found.append(last)
        last = best[last.before][1]
    return tuple(reversed(found))


def version_tree(type_: TensorType, sizes: tuple[int, ...], produced: Placements,
                 needed: Iterable[Placements]) -> tuple[Step, ...]:
    """The conversions that make every needed version of a value, each at most once, for the fewest bytes.

    A version may be made from any that is there, so consumers share a gathered value, and cotangents of equal placement
    are added before they are converted back. Up to four versions are tried in all orders, more in the order given.
    """
    wanted = [p for p in dict.fromkeys(needed) if p != produced]
    orders = itertools.permutations(wanted) if len(wanted) <= 4 else iter([tuple(wanted)])
    best: tuple[float, tuple[Step, ...]] | None = None
    for order in orders:
        have, steps = {produced}, []
        for target in order:
            for step in way(type_, sizes, frozenset(have), target):
                steps.append(step)
                have.add(step.after)
        cost = sum(step_bytes(type_, sizes, step) for step in steps)
        if best is None or cost < best[0] - 1e-9:
            best = cost, tuple(steps)
    return best[1] if best is not None else ()
