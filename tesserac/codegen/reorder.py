"""Nodes of a region under the loops of a kernel that walks its axes in another order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from tesserac.codegen.records import Node


def reordered(nodes: Sequence[Node], reorder: Callable[[tuple[int, ...]], tuple[int, ...]]) -> tuple[Node, ...]:
    """Nodes over (outer loops, rows, columns); what does not vary along the columns becomes a row value."""
    result: list[Node] = []
    for node in nodes:
        strides = reorder(node.strides) if node.strides else ()
        extent = node.extent
        if node.kind in ("load", "iota", "random"):
            extent = "full" if strides[-1] else "row"
        elif node.kind == "op":
            extent = "full" if any(result[a].extent == "full" for a in node.args) else "row"
        same = strides == node.strides and extent == node.extent
        result.append(node if same else replace(node, strides=strides, extent=extent))
    return tuple(result)
