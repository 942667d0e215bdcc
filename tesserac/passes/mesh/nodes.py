"""What a plan is about: the nodes of a function, the choices they have, and the values between them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from tesserac.immutable import dataclass
from tesserac.ir.program import Equation, Var
from tesserac.passes.mesh.experts import MODES
from tesserac.passes.mesh.placements import Placement
from tesserac.passes.mesh.strategy import Strategy


class Numbers:
    """Equal keys have one number."""

    def __init__(self) -> None:
        self._known: dict[object, int] = {}

    def of(self, key: Hashable) -> int:
        """The number of a key."""
        return self._known.setdefault(key, len(self._known))

    def of_all(self, keys: Sequence[Hashable]) -> list[int]:
        """The numbers of many keys."""
        return [self._known.setdefault(key, len(self._known)) for key in keys]


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """What one node does on one axis: a strategy's placements and its own collectives, or those of an input or output.

    ``strategy`` is None for inputs (no operands) and outputs (no results). A search makes each of them once, so that
    whole plans compare quickly.
    """

    name: str
    operands: tuple[Placement, ...]
    results: tuple[Placement, ...]
    strategy: Strategy | None = None

    @property
    def cuts(self) -> bool:
        """Whether ranks share the work."""
        if self.strategy is None:
            return any(p.is_divided for p in self.results)
        return self.strategy.cuts or self.name in MODES

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A variable: an input, an equation or an output.

    key       orders nodes the same way whatever their order in the program
    equation  None for inputs and outputs
    keeps     bytes that each byte of its results stands for in memory until the step ends
    weight    a parameter: its gradient is reduced beside the backward pass
    gradient  whether a cotangent flows back to its results
    count     how many nodes it stands for, where alike ones are one variable (``folding``)
    """

    key: str
    operands: tuple[Var, ...]
    results: tuple[Var, ...]
    equation: Equation | None = None
    keeps: float = 0.0
    weight: bool = False
    gradient: bool = False
    count: int = 1


@dataclass(frozen=True, slots=True)
class Value:
    """A result of a node, and who reads it.

    maker     number of the node that makes it; ``result``: which of its results it is
    readers   numbers of the nodes that read it, ascending, each with the numbers of those operands
    gradient  whether a cotangent flows back; ``weight``: it is a parameter
    waited    whether something of the step reads it, not only the report of a loss
    count     how many values it stands for
    """

    maker: int
    result: int
    bytes: float
    readers: tuple[tuple[int, tuple[int, ...]], ...]
    gradient: bool
    weight: bool
    waited: bool
    count: int = 1


def values_of(nodes: Sequence[Node]) -> tuple[Value, ...]:
    """The values between nodes, in the order of those that make them."""
    readers: dict[str, dict[int, tuple[int, ...]]] = {v.name: {} for node in nodes for v in node.results}
    for i, node in enumerate(nodes):
        for k, var in enumerate(node.operands):
            readers[var.name][i] = (*readers[var.name].get(i, ()), k)
    found = []
    for i, node in enumerate(nodes):
        reported = all(v.type.rank == 0 and not any(nodes[c].results for c in readers[v.name]) for v in node.results)
        found += [Value(i, k, v.type.bytes, tuple(readers[v.name].items()),
                        node.gradient and v.type.dtype.is_differentiable, node.weight, not reported)
                  for k, v in enumerate(node.results)]
    return tuple(found)
