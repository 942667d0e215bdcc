"""Pictures in plain characters: the grid of devices, and which part of a tensor lies where."""

from __future__ import annotations

from collections.abc import Sequence

from tesserac.ir.mesh import Mesh
from tesserac.passes.mesh.placements import Placements

MOST = 8
"""Pieces along an axis of a tensor, or devices along an axis of the mesh, that are drawn; more are left out."""


def mesh_picture(mesh: Mesh) -> list[str]:
    """Devices as a grid: the last axis runs across, the one before it down; further axes make several grids."""
    *outer, across = mesh.axes
    if not outer:
        return _table([[across, *_numbers(mesh.shape[-1])], ["", *_cut([str(d) for d in mesh.devices])]])
    down = outer[-1]
    rows, columns = mesh.shape[-2], mesh.shape[-1]
    found = []
    grids = len(mesh.devices) // (rows * columns)
    for grid in range(min(grids, 2)):
        start = grid * rows * columns
        if grids > 1:
            place = mesh.coordinates(start)[:-2]
            found.append(", ".join(f"{a}={i}" for a, i in zip(outer[:-1], place, strict=True)))
        body = [[str(i), *_cut([str(d) for d in mesh.devices[start + i * columns: start + (i + 1) * columns]])]
                for i in range(rows)]
        found += _table([[f"{down} \\ {across}", *_numbers(columns)], *_cut_rows(body)])
    if grids > 2:
        found.append(f"... and {grids - 2} more such grids")
    return found


def shard_picture(name: str, shape: Sequence[int], places: Placements, mesh: Mesh) -> list[str]:
    """A tensor as boxes: columns are pieces of the last axis that is cut, rows those of the one before it."""
    cuts: dict[int, list[str]] = {}
    for axis, place in zip(mesh.axes, places, strict=True):
        if place.is_cut:
            cuts.setdefault(place.dim, []).append(axis)
    size = "x".join(map(str, shape)) or "scalar"
    uncut = [axis for axis, place in zip(mesh.axes, places, strict=True) if not place.is_cut]
    same = f"; the same along {' and '.join(uncut)}" if uncut and cuts else ""
    owners = [axis for axis, place in zip(mesh.axes, places, strict=True) if place.kind == "O"]
    if owners:
        return [f"{name} [{size}]: whole on one rank of {owners[0]}"]
    if not cuts:
        return [f"{name} [{size}]: whole on every rank"]
    dims = sorted(cuts)[-2:]
    titles = [f"axis {d} by {' then '.join(cuts[d])}" for d in dims]
    head = f"{name} [{size}]: {', '.join(titles)}{same}"
    pieces = [_pieces(shape[d], [(a, mesh.sizes[a]) for a in cuts[d]]) for d in dims]
    if len(dims) == 1 and dims[0] == 0 and len(shape) > 1:
        return [head, *_boxes([[piece] for piece in _cut(pieces[0])])]
    if len(dims) == 1:
        return [head, *_boxes([_cut(pieces[0])])]
    return [head, *_boxes([_cut([f"{row} | {column}" for column in pieces[1]]) for row in _cut(pieces[0])])]


def _pieces(extent: int, axes: Sequence[tuple[str, int]]) -> list[str]:
    """``tp 0: 0..15`` for every piece, the first mesh axis slowest."""
    names = [""]
    for axis, size in axes:
        names = [f"{name} {axis} {i}".strip() for name in names for i in range(size)]
    length = extent // len(names)
    return [f"{name}: {_range(i * length, length)}" for i, name in enumerate(names)]


def _range(start: int, length: int) -> str:
    return str(start) if length == 1 else f"{start}..{start + length - 1}"


def _cut(items: Sequence[str]) -> list[str]:
    return list(items) if len(items) <= MOST else [*items[: MOST - 2], "...", items[-1]]


def _cut_rows(rows: list[list[str]]) -> list[list[str]]:
    return rows if len(rows) <= MOST else [*rows[: MOST - 2], ["..."] * len(rows[0]), rows[-1]]


def _numbers(count: int) -> list[str]:
    return _cut([str(i) for i in range(count)])


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def _boxes(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    line = "+" + "+".join("-" * (width + 2) for width in widths) + "+"
    found = [line]
    for row in rows:
        found.append("|" + "|".join(f" {cell.ljust(width)} " for cell, width in zip(row, widths, strict=True)) + "|")
        found.append(line)
    return found
