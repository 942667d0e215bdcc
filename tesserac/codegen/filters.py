"""Two transforms along one axis with pointwise work between them become one kernel: see FilterKernel."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace

from tesserac.codegen.records import Argument, FftKernel, FilterKernel, Launch, Node, Origin, Slot, Store
from tesserac.codegen.stage_values import StageValues

TOGETHER = 16
"""Lines that a register of floats holds one number each of: a loop over fewer would leave most of it empty."""


def merge_filters(values: StageValues, launches: Sequence[Launch]) -> tuple[Launch, ...]:
    """The launches of a stage with every transform joined to the one behind it that reads its lines as they are."""
    merged = list(launches)
    position = 0
    while position < len(merged):
        found = _partner(values, merged, position)
        if found is None:
            position += 1
            continue
        at, launch = found
        (other,) = {position, _second(merged, position)} - {at}
        merged[at] = launch
        del merged[other]
    return tuple(merged)


def _second(launches: Sequence[Launch], position: int) -> int:
    """The next transform that reads what a transform stores, or -1."""
    made = _written(launches[position])
    for number in range(position + 1, len(launches)):
        if isinstance(launches[number].kernel, FftKernel) and made & _read(launches[number]):
            return number
    return -1


def _partner(values: StageValues, launches: Sequence[Launch], position: int) -> tuple[int, Launch] | None:
    """Where the joint launch goes, and what it is; None if there is none."""
    if not isinstance(launches[position].kernel, FftKernel):
        return None
    number = _second(launches, position)
    if number < 0:
        return None
    first, second, amid = launches[position], launches[number], launches[position + 1 : number]
    elsewhere = {a.var for i, x in enumerate(launches) if i not in (position, number) for a in x.arguments}
    kept = {v for v in _written(first) if v in values.exports or v in elsewhere}
    if not any(_written(first) & _touched(x) for x in amid):
        at = number
    elif not any(_touched(second) & _written(x) or _written(second) & _touched(x) for x in amid):
        at = position
    else:
        return None
    launch = _joined(first, second, kept)
    return None if launch is None else (at, launch)


def _read(launch: Launch) -> set[object]:
    return {a.var for slot, a in zip(launch.kernel.slots, launch.arguments, strict=True) if not slot.written}


def _written(launch: Launch) -> set[object]:
    return {a.var for slot, a in zip(launch.kernel.slots, launch.arguments, strict=True) if slot.written}


def _touched(launch: Launch) -> set[object]:
    return {a.var for a in launch.arguments}


def _joined(first: Launch, second: Launch, kept: Collection[object]) -> Launch | None:
    """Both transforms as one kernel, if they walk the same lines in the same order."""
    first, second = _same_loops(first, second), _same_loops(second, first)
    a, b = first.kernel, second.kernel
    assert isinstance(a, FftKernel)
    assert isinstance(b, FftKernel)
    alike = (a.outer, a.count, a.upright, a.size_out) == (b.outer, b.count, b.upright, b.size_in)
    plain = all(s.mode == "set" and not s.across_tiles for s in (*a.stores, *b.stores))
    plain &= not any(n.kind == "take" for n in (*a.before, *a.nodes, *b.before, *b.nodes))
    lines = _lines(first, second)
    if not alike or not plain or not lines or _written(second) & _touched(first):
        return None
    slots: dict[Argument, Slot] = {}
    for launch in (first, second):
        for slot, argument in zip(launch.kernel.slots, launch.arguments, strict=True):
            if argument not in lines or (launch is first and argument.var in kept):
                slots.setdefault(argument, slot)
    order = sorted(slots, key=lambda argument: slots[argument].written)
    outside = {argument: number for number, argument in enumerate(order)}
    inside = {argument: len(order) + number for number, argument in enumerate(lines)}
    real = next(slot.dtype for slot, x in zip(a.slots, first.arguments, strict=True) if x in lines)
    blank = tuple(replace(slots[x], name="") for x in order) + (Slot("", real, True),) * len(lines)
    stores = [
        replace(store, slot=where[argument])
        for store in a.stores
        for argument in (first.arguments[store.slot],)
        for where in (outside, inside)
        if argument in where
    ]
    places = {**outside, **inside}
    kernel = FilterKernel(
        tuple(slots[x] for x in order),
        replace(a, slots=blank, before=_moved(a.before, first, places), nodes=_moved(a.nodes, first, places),
                stores=tuple(stores)),
        replace(b, slots=blank, before=_moved(b.before, second, places), nodes=_moved(b.nodes, second, places),
                stores=tuple(replace(s, slot=places[second.arguments[s.slot]]) for s in b.stores)),
        len(lines),
    )
    spared = sum(1 if argument.var in kept else 2 for argument in lines)
    spared_bytes = spared * math.prod(a.outer) * a.count * a.size_out * real.itemsize
    origin = Origin(tuple(dict.fromkeys((*first.origin.spans, *second.origin.spans))),
                    (*first.origin.formulas, *second.origin.formulas))
    return Launch(kernel, tuple(order), origin, first.flops + second.flops,
                  first.bytes + second.bytes - spared_bytes)


def _same_loops(launch: Launch, other: Launch) -> Launch:
    """The launch with its lines in two loops, where the other one, which walks memory otherwise, needs two for them."""
    kernel, like = launch.kernel, other.kernel
    assert isinstance(kernel, FftKernel)
    assert isinstance(like, FftKernel)
    if kernel.upright != like.upright or (*kernel.outer, kernel.count // like.count) != like.outer:
        return launch
    if kernel.count % like.count or like.count < TOGETHER:
        return launch

    upright, count = kernel.upright, like.count

    def split(strides: tuple[int, ...]) -> tuple[int, ...]:
        *outer, row, column = strides
        return (*outer, (column if upright else row) * count, row, column)

    def nodes(group: Sequence[Node]) -> tuple[Node, ...]:
        return tuple(replace(n, strides=split(n.strides)) if n.strides else n for n in group)

    stores = tuple(replace(s, strides=split(s.strides)) for s in kernel.stores)
    kernel = replace(kernel, outer=like.outer, count=like.count, before=nodes(kernel.before),
                     nodes=nodes(kernel.nodes), stores=stores)
    return replace(launch, kernel=kernel)


def _lines(first: Launch, second: Launch) -> list[Argument]:
    """What the second transform's prologue loads just as the first stored it; none if it reads any of it otherwise."""
    a, b = first.kernel, second.kernel
    assert isinstance(a, FftKernel)
    assert isinstance(b, FftKernel)
    made: dict[Argument, Store] = {first.arguments[store.slot]: store for store in a.stores}
    found: dict[Argument, None] = {}
    for node in (*b.before, *b.nodes):
        if node.slot < 0 or second.arguments[node.slot].var not in _written(first):
            continue
        argument = second.arguments[node.slot]
        if argument not in made or made[argument].strides != node.strides or node in b.nodes:
            return []
        found[argument] = None
    return list(found)


def _moved(nodes: Sequence[Node], launch: Launch, places: dict[Argument, int]) -> tuple[Node, ...]:
    return tuple(replace(n, slot=places[launch.arguments[n.slot]]) if n.slot >= 0 else n for n in nodes)
