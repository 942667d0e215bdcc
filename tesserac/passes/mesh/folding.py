"""Equal layers as one: a plan's variables for a search that gives alike nodes the same choice.

Nodes are alike that compute the same, and whose neighbours do, and theirs, up to a distance (colour refinement;
Weisfeiler and Lehman 1968): of many equal layers only the first and the last ones differ. One variable stands for all
alike nodes, and its tables count as often, so the sum over a folded plan's tables is that of the plan unfolded. What is
best where layers may differ is not always best here (products of equal shape, cut by columns and rows in turn), so
whoever folds has to ask the unfolded sum whether it can be had cheaper.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tesserac.passes.mesh.nodes import Choice, Node, Numbers, Value, values_of

DISTANCE = 2
"""Nodes that are as far apart may still differ without making each other different."""

FEWER = 0.5
"""Share of the nodes that has to go before folding is worth it."""


@dataclass(frozen=True, slots=True, eq=False)
class Folding:
    """The variables of a plan: nodes and values with their counts, and which of them stands for every node."""

    nodes: tuple[Node, ...]
    values: tuple[Value, ...]
    of: tuple[int, ...]
    first: tuple[int, ...]

    def unfolded(self, plan: Mapping[str, Sequence[Choice]]) -> dict[str, tuple[Choice, ...]]:
        """What every node does under a plan of the variables."""
        return {axis: tuple([choices[number] for number in self.of]) for axis, choices in plan.items()}

    def folded(self, plan: Mapping[str, Sequence[Choice]]) -> dict[str, tuple[Choice, ...]]:
        """A plan of the variables: what the first node does that each stands for."""
        return {axis: tuple([choices[i] for i in self.first]) for axis, choices in plan.items()}


def unfolded(nodes: Sequence[Node]) -> Folding:
    """Every node for itself."""
    numbers = tuple(range(len(nodes)))
    return Folding(tuple(nodes), values_of(nodes), numbers, numbers)


def folded(whole: Folding, kinds: Sequence[Hashable], apart: Collection[int] = ()) -> Folding:
    """Alike nodes as one, but for those that stay ``apart``; the same as ``whole`` if they are hardly fewer.

    ``kinds``: equal for nodes that compute the same and may do the same.
    """
    colours = Numbers().of_all([(kind, i) if i in apart else (kind,) for i, kind in enumerate(kinds)])
    readers: list[list[tuple[int, tuple[int, ...], int]]] = [[] for _ in whole.nodes]
    makers: list[list[tuple[int, ...]]] = [[] for _ in whole.nodes]
    for value in whole.values:
        for reader, operands in value.readers:
            readers[value.maker].append((value.result, operands, reader))
            makers[reader].append((value.maker, value.result, *operands))
    for _ in range(DISTANCE):
        colours = Numbers().of_all([
            (colour, *[(colours[i], *rest) for i, *rest in makers[at]], None,
             *sorted([(result, operands, colours[i]) for result, operands, i in readers[at]]))
            for at, colour in enumerate(colours)])
    members: list[list[int]] = [[] for _ in set(colours)]
    for i, colour in enumerate(colours):
        members[colour].append(i)
    return _by_colour(whole, colours, members) if len(members) <= FEWER * len(colours) else whole


def _by_colour(whole: Folding, colours: Sequence[int], members: Sequence[Sequence[int]]) -> Folding:
    """Variables are numbered in the order of the first nodes that they stand for."""
    nodes = tuple(replace(whole.nodes[same[0]], count=len(same)) for same in members)
    alike: dict[tuple[Any, ...], list[Value]] = {}
    for value in whole.values:
        at = _merged([(colours[reader], operands) for reader, operands in value.readers])
        key = (colours[value.maker], value.result, value.bytes, value.gradient, value.weight, value.waited, at)
        alike.setdefault(key, []).append(value)
    values = tuple(replace(same[0], maker=key[0], readers=key[-1], count=len(same)) for key, same in alike.items())
    return Folding(nodes, values, tuple(colours), tuple(same[0] for same in members))


def _merged(readers: list[tuple[int, tuple[int, ...]]]) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """Readers that are one variable as one, ascending."""
    found: dict[int, tuple[int, ...]] = {}
    for reader, operands in sorted(readers):
        before = found.get(reader, ())
        found[reader] = operands if before in ((), operands) else tuple(sorted({*before, *operands}))
    return tuple(found.items())
