"""A mesh in one process: one rank's program run for all ranks, equation by equation, and what collectives mean.

Every value that the placements say is the same on all ranks is checked to be so, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tesserac.diagnostics import InternalError
from tesserac.ir.evaluate import checked, run_equation
from tesserac.ir.mesh import Mesh
from tesserac.ir.program import Equation, Function
from tesserac.ops.attributes import integer, string
from tesserac.ops.base import Array, Attrs, spec_of
from tesserac.ops.mesh import COLLECTIVES, in_shares, share_of
from tesserac.ops.mesh_experts import counts_of
from tesserac.passes.differentiate import differentiate
from tesserac.passes.mesh.partition import Sharded
from tesserac.passes.mesh.placements import Placements, slot_of

Wide = np.dtype[np.generic] | None
Group = Sequence[Array]
"""The arrays of the ranks of one axis, in the order of their coordinates."""


def _reduced(group: Group, kind: str) -> Array:
    """The sum in rank order, or the extreme."""
    total = group[0]
    for part in group[1:]:
        total = {"sum": np.add, "max": np.maximum, "min": np.minimum}[kind](total, part)
    return np.asarray(total)


def _all_reduce(group: Group, attrs: Attrs) -> list[Array]:
    return [_reduced(group, string(attrs, "kind"))] * len(group)


def _all_gather(group: Group, attrs: Attrs) -> list[Array]:
    return [np.concatenate(list(group), axis=integer(attrs, "dim"))] * len(group)


def _reduce_scatter(group: Group, attrs: Attrs) -> list[Array]:
    return np.split(_reduced(group, "sum"), len(group), axis=integer(attrs, "dim"))


def _all_to_all(group: Group, attrs: Attrs) -> list[Array]:
    pieces = [np.split(part, len(group), axis=integer(attrs, "split")) for part in group]
    return [np.concatenate([row[i] for row in pieces], axis=integer(attrs, "concat")) for i in range(len(group))]


def _exchanged(rows: Group, offsets: Array, attrs: Attrs) -> list[Array]:
    """``exchange_rows``: every piece (from a rank, for an expert) is copied from its place there to its place here."""
    size, total, back = len(rows), integer(attrs, "rows"), bool(attrs["back"])
    found = [np.zeros((total, *rows[0].shape[1:]), rows[0].dtype) for _ in rows]
    for owner in range(size):
        counts = counts_of(offsets, size, owner)
        here = 0
        for expert in range(counts.shape[1]):
            for source in range(size):
                there = int(offsets[source, owner * counts.shape[1] + expert])
                count = int(counts[source, expert])
                if back:
                    found[source][there : there + count] = rows[owner][here : here + count]
                else:
                    found[owner][here : here + count] = rows[source][there : there + count]
                here += count
    return found


def _shares(equation: Equation, values: Sequence[Mapping[str, Array]]) -> list[list[Array]]:
    """``reduce_shares``: every rank's elements of the sums, laid one behind the other."""
    total = _reduced([np.concatenate([v[o.name].ravel() for o in equation.operands]) for v in values], "sum")
    share = share_of([v.type for v in equation.operands], len(values))
    ends = np.cumsum([v.type.size for v in equation.operands])
    found = []
    for rank in range(len(values)):
        mine = np.zeros_like(total)
        mine[rank * share : (rank + 1) * share] = total[rank * share : (rank + 1) * share]
        parts = np.split(mine, ends[:-1])
        found.append([part.reshape(v.type.sizes) for part, v in zip(parts, equation.operands, strict=True)])
    return found


MEANING: dict[str, Callable[[Group, Attrs], list[Array]]] = {
    "all_reduce": _all_reduce,
    "all_gather": _all_gather,
    "reduce_scatter": _reduce_scatter,
    "all_to_all": _all_to_all,
}
"""What a collective of one operand and one result leaves on the ranks of its axis."""


def ranks_along(mesh: Mesh, axis: str) -> list[list[int]]:
    """Ranks that differ in their coordinate on one axis only, in the order of that coordinate."""
    at = mesh.axes.index(axis)
    found: dict[tuple[int, ...], list[int]] = {}
    for rank in range(math.prod(mesh.shape)):
        place = mesh.coordinates(rank)
        found.setdefault(place[:at] + place[at + 1:], []).append(rank)
    return list(found.values())


def run_ranks(function: Function, mesh: Mesh, inputs: Sequence[Mapping[str, Array]], wide: Wide = None, seed: int = 0,
              step: int = 0) -> list[dict[str, Array]]:
    """All values by name on every rank, from each rank's inputs by variable name."""
    values = [dict(given) for given in inputs]
    with np.errstate(all="ignore"):
        for equation in function.equations:
            if equation.op in COLLECTIVES:
                _together(equation, mesh, values, wide)
                continue
            axis = dict(equation.attrs).get("axis") if spec_of(equation.op).kind == "rank" else None
            for rank, mine in enumerate(values):
                coordinate = None if axis is None else mesh.coordinates(rank)[mesh.axes.index(str(axis))]
                arrays = [mine[v.name] for v in equation.operands]
                mine.update(run_equation(equation, arrays, wide, seed, step, coordinate))
    return values


def _together(equation: Equation, mesh: Mesh, values: list[dict[str, Array]], wide: Wide) -> None:
    attrs = equation.attributes
    axis = string(attrs, "axis")
    if mesh.sizes[axis] != attrs["size"]:
        raise InternalError(f"{equation.op} of {attrs['size']} ranks on an axis of {mesh.sizes[axis]}")
    for ranks in ranks_along(mesh, axis):
        if equation.op == "exchange_rows":
            rows, offsets = ([values[rank][v.name] for rank in ranks] for v in equation.operands)
            for rank, array in zip(ranks, _exchanged(rows, offsets[0], attrs), strict=True):
                values[rank][equation.result.name] = checked(equation.result, array, wide)
            continue
        if equation.op == "all_reduce_begin" and in_shares(equation):
            size = equation.result.type.size
            for rank, arrays in zip(ranks, _shares(equation, [values[rank] for rank in ranks]), strict=True):
                flat = np.concatenate([array.ravel() for array in arrays])
                values[rank][equation.result.name] = checked(equation.result, np.resize(flat, size), wide)
            continue
        if equation.op == "all_reduce_begin":
            buckets = [np.concatenate([values[rank][v.name].reshape(-1) for v in equation.operands]) for rank in ranks]
            for rank, array in zip(ranks, _all_reduce(buckets, attrs), strict=True):
                values[rank][equation.result.name] = checked(equation.result, array, wide)
            continue
        if equation.op == "reduce_shares":
            for rank, arrays in zip(ranks, _shares(equation, [values[rank] for rank in ranks]), strict=True):
                values[rank].update((v.name, checked(v, a, wide))
                                    for v, a in zip(equation.results, arrays, strict=True))
            continue
        for operand, result in zip(equation.operands, equation.results, strict=True):
            arrays = MEANING[equation.op]([values[rank][operand.name] for rank in ranks], attrs)
            for rank, array in zip(ranks, arrays, strict=True):
                values[rank][result.name] = checked(result, array, wide)


def split(array: Array, placements: Placements, mesh: Mesh, rank: int) -> Array:
    """One rank's part of a whole array; the terms of a sum are the array on the first rank and zeros elsewhere."""
    coordinates = mesh.coordinates(rank)
    for size, place, placement in zip(mesh.shape, coordinates, placements, strict=True):
        if placement.is_cut:
            array = np.split(array, size, axis=placement.dim)[place]
        elif placement.kind == "P" and place:
            array = np.zeros_like(array)
    return array


def holds(placements: Placements, mesh: Mesh, rank: int) -> bool:
    """Whether a rank has any of a value that lies so."""
    return all(p.kind != "O" or p.dim == place for place, p in zip(mesh.coordinates(rank), placements, strict=True))


def join(parts: Sequence[Array], placements: Placements, mesh: Mesh) -> Array:
    """The whole array from all ranks' parts; InternalError where ranks that must agree do not."""
    grid = list(parts)
    for (name, size), placement in reversed(list(zip(mesh.sizes.items(), placements, strict=True))):
        rows = [grid[i:i + size] for i in range(0, len(grid), size)]
        if placement.is_cut:
            grid = [np.concatenate(row, axis=placement.dim) for row in rows]
        elif placement.kind == "P":
            grid = [_reduced(row, "sum") for row in rows]
        elif placement.kind == "O":
            grid = [row[placement.dim] for row in rows]
        else:
            if not all(np.array_equal(row[0], other, equal_nan=other.dtype.kind in "fc") for row in rows
                       for other in row[1:]):
                raise InternalError(f"ranks along {name} do not agree")
            grid = [row[0] for row in rows]
    return grid[0]


def simulate(sharded: Sharded, inputs: Mapping[str, Array], *, function: Function | None = None,
             dtype: type | None = np.float64, seed: int = 0, step: int = 0) -> dict[str, Array]:
    """Whole outputs by name from whole inputs by path; ``dtype`` as for ``evaluate``.

    ``function``: a rank's program that was made of the sharded one and keeps its inputs and outputs; without it,
    gradients are derived here. Ranks that must have the same value and do not are an InternalError.
    """
    mesh, wide = sharded.mesh, None if dtype is None else np.dtype(dtype)
    function = differentiate(sharded.function) if function is None else function
    mine = []
    for rank in range(math.prod(mesh.shape)):
        held = {slot_of(path, lies): path for path, lies in sharded.inputs.items() if holds(lies, mesh, rank)}
        mine.append({item.var.name: checked(item.var, split(np.asarray(inputs[held[item.path]]),
                                                            sharded.inputs[item.path], mesh, rank), wide)
                     for item in function.inputs})
    values = run_ranks(function, mesh, mine, wide, seed, step)
    for var in function.variables():
        if var.name in sharded.placements and not any(p.is_own for p in sharded.placements[var.name]):
            try:
                join([v[var.name] for v in values], sharded.placements[var.name], mesh)
            except InternalError as error:
                raise InternalError(f"{var}: {error}") from None
    slots = {f"grad:{path}": f"grad:{slot_of(path, lies)}" for path, lies in sharded.inputs.items()}
    made = {o.name: o.var.name for o in function.outputs}
    return {name: join([v[made[slots.get(name, name)]] for v in values], lies, mesh)
            for name, lies in sharded.outputs.items()}
