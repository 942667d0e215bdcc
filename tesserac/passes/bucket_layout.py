"""Buckets of gradients in place: the tensors of one exchange lie one behind the other where the gradients belong.

The table of parameters follows the buckets (``in_order_of_buckets``), so what one all-reduce makes is a run of the
gradients' memory. The terms that it takes in are then computed straight into that run, dense and in the bucket's order,
and the exchange is one call on one range: nothing is packed. Only what the parameters' own layout leaves room behind
(padded rows, sizes that are no multiple of a cache line) has to move afterwards, to a place that is never before its
own; buckets begin with the tensors that need not (``passes.mesh.buckets``). A term that somebody else reads as well,
that is a view of something else or would begin within a cache line has its own memory and is packed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from tesserac.codegen.buckets import BucketLayout, Run
from tesserac.codegen.stage_values import padded_row
from tesserac.codegen.views import dense
from tesserac.ir.program import Equation, Function, Input, Var
from tesserac.ir.types import TensorType
from tesserac.ops.mesh import in_shares
from tesserac.passes.plan import ALIGNMENT, Place, rounded, storage_bytes

EXCHANGES = ("all_reduce", "all_reduce_begin", "all_reduce_end")


def looseness(kind: TensorType) -> int:
    """0 for a gradient that fills whole cache lines, 1 if its rows are padded for it, 2 if the next one would not."""
    if storage_bytes(dense(kind.sizes), kind.dtype.itemsize) % ALIGNMENT:
        return 2
    return int(padded_row(kind.sizes, kind.dtype) != (kind.sizes[-1] if kind.rank else 1))


def in_order_of_buckets(declared: Sequence[Input], functions: Sequence[Function]) -> list[Input]:
    """The parameters, those whose gradients one exchange makes one behind the other in its order.

    Where an exchange makes what another one takes in, that one's gradients are among its own.
    """
    items = {item.path: item for item in declared}
    order: dict[str, Input] = {}
    for function in functions:
        order.update((path, items[path]) for path in _gradients_in_order(function) if path not in order)
    return [*order.values(), *(item for path, item in items.items() if path not in order)]


def _gradients_in_order(function: Function) -> list[str]:
    path = {o.var: o.name.removeprefix("grad:") for o in function.outputs if o.name.startswith("grad:")}
    results = {v: e.results for begin, e in _exchanges(function, (*EXCHANGES, "reduce_shares")) for v in begin.operands}
    found: dict[str, None] = {}
    met: set[tuple[Var, ...]] = set()

    def add(made: tuple[Var, ...]) -> None:
        if made not in met:
            met.add(made)
            for var in made:
                if var in path:
                    found[path[var]] = None
                elif var in results:
                    add(results[var])

    for made in results.values():
        add(made)
    return list(found)


def _exchanges(function: Function, ops: Collection[str]) -> list[tuple[Equation, Equation]]:
    """Beginning and end of every exchange, one equation where it is awaited at once."""
    begun = {e.results[0]: e for e in function.equations if e.op == "all_reduce_begin"}
    return [(begun.get(e.operands[0], e), e) for e in function.equations
            if e.op in ops and e.op != "all_reduce_begin"]


def lay_out_buckets(function: Function, places: dict[Var, Place], moves: bool) -> BucketLayout:
    """Adds places of kind ``bucket`` for what lies in one. ``moves``: tensors may overlap with where they are moved."""
    users = Counter(v for e in function.equations for v in e.operands)
    made = {v for e in function.equations for v in e.results}
    runs: dict[Var, Run] = {}
    values: set[Var] = set()
    ranges: dict[int, _Range] = {}
    exchanges = [pair for pair in _exchanges(function, EXCHANGES) if not in_shares(pair[1])]
    for begin, equation in reversed(exchanges):  # what one makes another may take in
        stay = _stay(equation.results, places, ranges)
        if stay is None or not (moves or all(stay)):
            continue
        start, size = places[equation.results[0]], equation.results[0].type.dtype.itemsize
        firsts = _sums([v.type.bytes for v in equation.results])
        memory = _memory(equation) if begin is equation else begin.result
        places[memory] = replace(start, kind="bucket")
        tensors = {v: (at // size, there) for v, at, there in zip(equation.results, firsts, stay, strict=True)}
        runs[equation.results[0]] = Run(memory, tensors)
        if begin is not equation:
            tensors = {}
            runs[begin.result] = Run(memory, tensors)
        for var, at in zip(begin.operands, firsts, strict=True):
            lies = replace(places[memory], offset=start.offset + at)
            free = users[var] == 1 and var not in places and var in made and lies.offset % ALIGNMENT == 0
            if free:
                places[var] = lies
                values.add(var)
            tensors[var] = at // size, free
    return BucketLayout(runs, frozenset(values))


@dataclass(frozen=True, slots=True)
class _Range:
    """What an exchange that makes gradients covers: how many, their bytes one behind the other, and with all room."""

    gradients: int
    dense: int
    bytes: int


def _stay(results: Sequence[Var], places: Mapping[Var, Place], ranges: dict[int, _Range]) -> list[bool] | None:
    """Whether each result is wanted where the exchange leaves it; None if they do not follow each other in memory.

    They may be gradients, and what further exchanges take in where their own gradients belong.
    """
    if results[0].type.dtype.is_complex or any(v not in places for v in results):
        return None
    at = wanted = count = 0
    stay: list[bool] = []
    first, following = places[results[0]], None
    for var in results:
        place = places[var]
        if place.kind not in ("grad", "bucket") or following not in (None, (place.index, place.offset)):
            return None
        if place.kind == "grad":
            stay.append(at == wanted and looseness(var.type) != 1)
            wanted, count, following = wanted + _room(var.type), count + 1, (place.index + 1, 0)
        else:
            inner = ranges[place.index]
            end = place.offset + var.type.bytes
            if at != wanted or end > inner.dense:
                return None
            stay.append(True)
            wanted, following = wanted + var.type.bytes, (place.index, end)
            if end == inner.dense:
                wanted, count = wanted + inner.bytes - inner.dense, count + inner.gradients
                following = (place.index + inner.gradients, 0)
        at += var.type.bytes
    if first.kind == "grad":
        ranges[first.index] = _Range(count, at, wanted)
    return stay


def parameter_bytes(kind: TensorType) -> int:
    """What a parameter takes in its table: whole rows, with their padding."""
    return storage_bytes(dense(kind.sizes, padded_row(kind.sizes)), kind.dtype.itemsize)


def _room(kind: TensorType) -> int:
    """Bytes from the beginning of a parameter to that of the next."""
    return rounded(parameter_bytes(kind))


def _memory(equation: Equation) -> Var:
    """The range of an exchange at once."""
    first = equation.results[0]
    return Var(f"{first.name}.bucket", first.type.with_shape((sum(v.type.size for v in equation.results),)))


def _sums(sizes: Sequence[int]) -> list[int]:
    return [0, *accumulate(sizes)][:-1]
