"""The static memory plan: where every value that is kept in memory lies, decided at compile time.

Four kinds of memory. *Parameters* and *gradients* have one layout, the parameter table's. *Shared* memory holds what
all threads see (relayouts of weights, sums of the tiles' terms, everything of a program that is not cut). *Scratch* is
one thread's: values of the tile in flight. Shared memory and scratch are laid out by liveness: values that never live
at the same time share addresses, and a kernel may write where it last read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tesserac.codegen.in_place import in_place_pairs
from tesserac.codegen.records import (
    AttentionKernel,
    Launch,
    RoutingKernel,
    is_ragged,
)
from tesserac.codegen.stage_values import padded_row
from tesserac.codegen.views import View, dense
from tesserac.ir.program import Function, Var
from tesserac.ir.types import DType, TensorType
from tesserac.passes.grouping import Fused
from tesserac.passes.stages import Staged

ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class Place:
    """Where a buffer lies.

    kind: param, grad, input, output (``index`` in the table), shared or scratch (``offset`` in bytes), or bucket
    (``offset`` in bytes from the gradient ``index``).
    """

    kind: str
    offset: int = 0
    index: int = 0


@dataclass(frozen=True, slots=True)
class StagePlan:
    """A stage ready to emit: launches, and the places of its own buffers (``partial``: a sum over tiles per thread)."""

    fused: Fused
    launches: tuple[Launch, ...]
    places: Mapping[Var, Place]
    partial: Mapping[Var, Place]


@dataclass(frozen=True, slots=True)
class Plan:
    """Places of the values that outlive a stage, the stages, and the sizes of shared memory and scratch in bytes.

    ``one_arena``: gradients take no memory per thread; tiles, where there are any, add their terms up in scratch.
    ``choices``: what ``topk`` and ``limit`` chose for routing, in shared memory to the end of the function.
    """

    staged: Staged
    outer: Mapping[Var, Place]
    stages: tuple[StagePlan, ...]
    shared_bytes: int
    scratch_bytes: int
    one_arena: bool = False
    choices: tuple[Var, ...] = ()


def storage_bytes(view: View, itemsize: int) -> int:
    """Bytes from the first to the last element of a view, its last row whole."""
    last = sum((n - 1) * s for n, s in zip(view.shape, view.strides, strict=True)) + 1
    row = max(view.strides[-2], view.shape[-1]) if len(view.shape) > 1 else 1
    return -(-last // row) * row * itemsize


def outer_places(function: Function, parameters: Sequence[str]) -> dict[Var, Place]:
    """Inputs, outputs and gradients; everything else that crosses stages goes to shared memory later."""
    places: dict[Var, Place] = {}
    for number, item in enumerate(function.data):
        places[item.var] = Place("input", index=number)
    for item in function.parameters:
        places[item.var] = Place("param", index=parameters.index(item.path))
    number = 0
    for output in function.outputs:
        if output.name.startswith("grad:"):
            places[output.var] = Place("grad", index=parameters.index(output.name[5:]))
        else:
            places[output.var] = Place("output", index=number)
            number += 1
    return places


def outer_view(places: Mapping[Var, Place], var: Var) -> View:
    """Layout of a value outside its stage: dense in arrays of the caller and in buckets, else with padded rows."""
    place = places.get(var)
    shape = var.type.sizes
    packed = place is not None and place.kind in ("input", "output", "bucket")
    return dense(shape) if packed else dense(shape, padded_row(shape, var.type.dtype))


@dataclass
class _Interval:
    var: Var
    size: int
    first: int
    last: int
    offset: int = -1
    merge: set[Var] = field(default_factory=set)


def pack(intervals: Iterable[_Interval], start: int = 0) -> int:
    """Gives every interval an offset: largest first, at the lowest place free during its life. Returns the end."""
    placed: list[_Interval] = []
    end = start
    for item in sorted(intervals, key=lambda i: (-i.size, i.first, i.var.name)):
        living = sorted((p for p in placed if _overlap(item, p)), key=lambda p: p.offset)
        item.offset = _lowest(item, living, start)
        placed.append(item)
        end = max(end, item.offset + item.size)
    return end


def _lowest(item: _Interval, living: Sequence[_Interval], start: int) -> int:
    """The lowest offset clear of the buffers alive at the same time, or exactly that of one written in place."""
    offset = start
    for other in living:
        if offset + item.size <= other.offset:
            break
        if offset <= other.offset and _in_place(item, other) and _fits(item, other.offset, living):
            return other.offset
        offset = max(offset, other.offset + other.size)
    return offset


def _fits(item: _Interval, offset: int, living: Sequence[_Interval]) -> bool:
    """Whether every buffer alive is clear of this place, or is the very place and may be written over."""
    return all(
        offset + item.size <= other.offset
        or other.offset + other.size <= offset
        or (other.offset == offset and _in_place(item, other))
        for other in living
    )


def _overlap(a: _Interval, b: _Interval) -> bool:
    return a.first <= b.last and b.first <= a.last


def _in_place(a: _Interval, b: _Interval) -> bool:
    """Whether one is last read by the kernel that first writes the other, element by element."""
    return a.size == b.size and ((a.last == b.first and b.var in a.merge) or (b.last == a.first and a.var in b.merge))


def rounded(size: int) -> int:
    """Size rounded up to whole cache lines."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def make_plan(
    staged: Staged, fused: Sequence[Fused], launches: Sequence[tuple[Launch, ...]], places: dict[Var, Place]
) -> Plan:
    """Lays out shared memory and scratch of a staged function."""
    outer = dict(places)
    shared: dict[Var, _Interval] = {}
    stage_positions: list[range] = []
    position = 0
    for stage, group in zip(staged.stages, launches, strict=True):
        count = 1 if stage.in_tiles else max(len(group), 1)
        stage_positions.append(range(position, position + count))
        position += count
    blocks: dict[int, _Interval] = {}
    for number, (item, group, span) in enumerate(zip(fused, launches, stage_positions, strict=True)):
        _touch_shared(item, group, span, outer, shared)
        if item.values.stage.experts is not None:
            blocks[number] = _expert_block(number, item, group, span[0])
    choices = tuple(v for v in _choices(staged.function, launches) if v in shared)
    for var in choices:
        shared[var].last = position
    shared_bytes = pack([*shared.values(), *blocks.values()])
    outer.update({v: Place("shared", i.offset) for v, i in shared.items()})
    plans, scratch_bytes = [], 0
    one_arena = bool(blocks) or all(stage.tiles is None for stage in staged.stages)
    for number, (stage, item, group) in enumerate(zip(staged.stages, fused, launches, strict=True)):
        if number in blocks:
            plans.append(_plan_experts(item, group, blocks[number].offset))
        elif stage.tiles is None:
            plans.append(StagePlan(item, group, {}, {}))
        else:
            plan, size = _plan_tiles(item, group, outer, one_arena)
            plans.append(plan)
            scratch_bytes = max(scratch_bytes, size)
    return Plan(staged, outer, tuple(plans), shared_bytes, scratch_bytes, one_arena, choices)


def _choices(function: Function, launches: Sequence[tuple[Launch, ...]]) -> dict[Var, None]:
    """What routing reads of ``topk`` and ``limit``: rounding can turn it, so that `selftest` wants to know."""
    made = {v for e in function.equations if e.op in ("topk", "limit") for v in e.results}
    kernels = (launch for group in launches for launch in group if isinstance(launch.kernel, RoutingKernel))
    return {launch.arguments[0].var: None for launch in kernels if launch.arguments[0].var in made}


def _expert_block(number: int, item: Fused, group: tuple[Launch, ...], position: int) -> _Interval:
    """Shared memory for the values of one tile of rows of an expert, on which all threads work."""
    intervals = _local_intervals(item, group)
    size = pack(intervals.values())
    name = Var(f"stage {number + 1}: values of a tile", TensorType(DType.U8, (size,)))
    return _Interval(name, rounded(size), position, position)


def _plan_experts(item: Fused, group: tuple[Launch, ...], start: int) -> StagePlan:
    intervals = _local_intervals(item, group)
    pack(intervals.values())
    return StagePlan(item, group, {v: Place("shared", start + i.offset) for v, i in intervals.items()}, {})


def _touch_shared(
    fused: Fused, launches: tuple[Launch, ...], span: range, outer: Mapping[Var, Place], shared: dict[Var, _Interval]
) -> None:
    values = fused.values
    tiled = values.stage.in_tiles
    if values.stage.experts is not None and values.stage.experts.offsets in shared:
        shared[values.stage.experts.offsets].last = span[0]
    for number, launch in enumerate(launches):
        at = span[0] if tiled else span[number]
        for argument in launch.arguments:
            for var in values.outside(argument.var) if tiled or values.is_partial(argument.var) else (argument.var,):
                if var in outer:
                    continue
                view = outer_view(outer, var) if tiled or var in values.imports else values.storage(argument.var)
                size = rounded(storage_bytes(view, var.type.dtype.itemsize))
                item = shared.setdefault(var, _Interval(var, size, at, at))
                item.last = at
        if not tiled:
            _allow_in_place(launch, shared)


def _allow_in_place(launch: Launch, intervals: Mapping[Var, _Interval]) -> None:
    """Lets results take over operands that the launch reads through one slot only (another may read elsewhere)."""
    times = Counter(argument.var for argument in launch.arguments)
    for source, target in in_place_pairs(launch.kernel):
        a, b = launch.arguments[source], launch.arguments[target]
        alone = times[a.var] == 1 and times[b.var] == 1 and a.offset == 0 and b.offset == 0
        if alone and a.var in intervals and b.var in intervals:
            intervals[a.var].merge.add(b.var)


def _plan_tiles(
    fused: Fused, launches: tuple[Launch, ...], outer: Mapping[Var, Place], one_arena: bool
) -> tuple[StagePlan, int]:
    """Scratch of a stage of tiles: terms of sums over the tiles, then what a tile has in flight.

    Terms of gradients are in the thread's own gradients, unless there is ``one_arena`` of them.
    """
    values = fused.values
    partial: dict[Var, Place] = {}
    end = 0
    sums: dict[Var, Place] = {}
    for export in values.stage.exports:
        if export.partial and (one_arena or outer[export.outer].kind != "grad"):
            if export.outer in sums:  # another term of the same sum
                partial[export.local] = sums[export.outer]
                continue
            view = values.storage(export.local)
            partial[export.local] = sums[export.outer] = Place("scratch", end)
            end += rounded(storage_bytes(view, export.local.type.dtype.itemsize))
    intervals = _local_intervals(fused, launches)
    end = pack(intervals.values(), end)
    return StagePlan(fused, launches, {v: Place("scratch", i.offset) for v, i in intervals.items()}, partial), end


def _local_intervals(fused: Fused, launches: tuple[Launch, ...]) -> dict[Var, _Interval]:
    """Sizes and lifetimes of the values within a tile; what an expert's first tile makes for all of them lives on."""
    values = fused.values
    intervals: dict[Var, _Interval] = {}
    for number, launch in enumerate(launches):
        lasting = values.stage.experts is not None and not is_ragged(launch.kernel)
        for argument in launch.arguments:
            var = argument.var
            if var in values.imports or var in values.exports:
                continue
            size = rounded(storage_bytes(values.storage(var), var.type.dtype.itemsize))
            item = intervals.setdefault(var, _Interval(var, size, number, number))
            item.first, item.last = (0, len(launches)) if lasting else (item.first, max(item.last, number))
        _allow_in_place(launch, intervals)
    return intervals


def attention_pairs(plan: StagePlan) -> dict[int, int]:
    """Backward launch -> forward launch of the same attention (they share the log-sum-exp), within one stage."""
    made: dict[Var, int] = {}
    pairs: dict[int, int] = {}
    for number, launch in enumerate(plan.launches):
        if isinstance(launch.kernel, AttentionKernel):
            if launch.kernel.backward:
                lse = launch.arguments[4].var
                if lse in made:
                    pairs[number] = made[lse]
            else:
                made[launch.arguments[4].var] = number
    return pairs
