"""Fewer, longer axes: a loop nest whose neighbouring axes every access walks as one needs only one loop for them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from tesserac.codegen.records import Node, Store, accesses_of


def collapse(
    domain: tuple[int, ...], nodes: Sequence[Node], stores: Sequence[Store], ragged: bool = False
) -> tuple[tuple[int, ...], list[Node], list[Store]]:
    """Merges neighbouring axes that every access walks as one, and drops axes of size 1; a scalar is a row of one.

    ``ragged``: the first axis stays a loop of its own, and never is the last.
    """
    if ragged and len(domain) == 1:
        domain = (*domain, 1)
        nodes = [replace(n, strides=(*n.strides, 0), extent="row") if n.strides else n for n in nodes]
        stores = [replace(s, strides=(*s.strides, 0)) for s in stores]
    if not domain:
        domain = (1,)
        nodes = [replace(n, strides=(0,), extent="row") if n.kind in ("load", "iota", "random") else n for n in nodes]
        stores = [replace(s, strides=(0,)) for s in stores]
    rows_matter = any(n.kind in ("reduce", "take") or (n.extent == "row" and n.kind in ("load", "iota")) for n in nodes)
    rows_matter = rows_matter or any(s.mode != "set" for s in stores)
    last = len(domain) - 1
    accesses = [item.strides for item in accesses_of(nodes, stores) if item.strides]
    groups: list[list[int]] = []
    for axis in range(len(domain)):
        if domain[axis] == 1 and axis != last:
            continue
        if groups and not (axis == last and rows_matter) and not (ragged and groups == [[0]]):
            before = groups[-1][-1]
            if all(s[before] == s[axis] * domain[axis] for s in accesses):
                groups[-1].append(axis)
                continue
        groups.append([axis])
    if len(groups) > 1 + ragged and groups[-1] == [last] and domain[last] == 1 and not rows_matter:
        groups.pop()
    sizes = tuple(math.prod(domain[a] for a in g) for g in groups)

    def pick(strides: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(strides[g[-1]] for g in groups) if strides else strides

    def moved(node: Node) -> Node:
        strides = pick(node.strides)
        if node.kind in ("load", "iota", "random") and strides:
            return replace(node, strides=strides, extent="full" if strides[-1] else "row")
        return replace(node, strides=strides)

    new_nodes: list[Node] = []
    for node in map(moved, nodes):
        if node.kind == "op":
            full = any(new_nodes[a].extent == "full" for a in node.args)
            node = replace(node, extent="full" if full else "row")
        new_nodes.append(node)
    return sizes, new_nodes, [replace(s, strides=pick(s.strides)) for s in stores]
