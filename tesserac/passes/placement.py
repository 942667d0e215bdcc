"""Where the batch axis goes: the placement of every value on one mesh-like index.

Cutting a program by its batch index is the same question as sharding it over a data-parallel axis, and the
same factor rules answer it. ``Split(axis)``: the value is cut along that axis. ``None``: every tile sees all of
it. ``PARTIAL``: each tile holds a term of a sum. Vocabulary of GSPMD/Shardy; see docs/architecture.md.
"""

from __future__ import annotations

from tesserac.immutable import dataclass
from tesserac.ir.program import Equation, Function, Var
from tesserac.ops.base import spec_of


@dataclass(frozen=True, slots=True)
class Split:
    """Cut along ``axis``: by the batch or, with ``offsets``, as rows sorted by expert, where the experts meet."""

    axis: int
    offsets: Var | None = None


@dataclass(frozen=True, slots=True)
class Partial:
    """A term of a sum over the tiles."""


PARTIAL = Partial()
Placement = Split | Partial | None


@dataclass(frozen=True, slots=True)
class Placed:
    """Placements of an equation's operands as it consumes them, and of its results.

    An operand that is split but consumed whole (``operands[i] is None`` while its value is Split) has to be
    gathered before; ``sliced`` lists operands that are whole and of which a tile needs its part, with the axis.
    """

    operands: tuple[Placement, ...]
    results: tuple[Placement, ...]
    sliced: tuple[tuple[int, int], ...] = ()


def leading_sizes(function: Function) -> tuple[int, ...]:
    """The leading sizes of the data inputs, largest first."""
    return tuple(sorted({item.var.type.sizes[0] for item in function.data if item.var.type.rank}, reverse=True))


def batch_size(function: Function) -> int | None:
    """The leading size that all data inputs have in common, which is then their batch axis; None where they differ."""
    sizes = leading_sizes(function)
    return sizes[0] if len(sizes) == 1 else None


def whole(equation: Equation) -> Placed:
    """Every operand gathered, every result whole."""
    return Placed(tuple(None for _ in equation.operands), tuple(None for _ in equation.results))


def place(equation: Equation, incoming: tuple[Placement, ...], offsets: Var | None = None) -> Placed:
    """Placement of the results of one equation; falls back to gathering its operands.

    Only operands that are cut the way ``offsets`` says count as cut; see Split.
    """
    incoming = tuple(p if isinstance(p, Split) and p.offsets == offsets else None for p in incoming)
    split = {i: p.axis for i, p in enumerate(incoming) if isinstance(p, Split)}
    rule = spec_of(equation.op).factors
    if not split or rule is None:
        return whole(equation)
    factors = rule([v.type for v in equation.operands], [v.type for v in equation.results], equation.attributes)
    letters = {factors.operands[i][axis] for i, axis in split.items()}
    letter = letters.pop() if len(letters) == 1 else None
    if letter is None or factors.kind(letter) not in ("pass", "sum"):
        return whole(equation)
    operands: list[Placement] = []
    sliced: list[tuple[int, int]] = []
    for i, axes in enumerate(factors.operands):
        if letter in axes:
            operands.append(Split(axes.index(letter), offsets))
            if i not in split:
                sliced.append((i, axes.index(letter)))
        else:
            operands.append(None)
    results = tuple(_result(axes, letter, factors.kind(letter), offsets) for axes in factors.results)
    if None in results:
        return whole(equation)
    return Placed(tuple(operands), results, tuple(sliced))


def _result(axes: tuple[str | None, ...], letter: str, kind: str, offsets: Var | None) -> Placement:
    if letter in axes:
        return Split(axes.index(letter), offsets)
    return PARTIAL if kind == "sum" else None


def local_shape(var: Var, axis: int, batch: int, tile: int) -> tuple[int, ...]:
    """The shape of a tile's part of a value: the cut axis keeps ``tile`` of every ``batch`` entries."""
    sizes = list(var.type.sizes)
    sizes[axis] = sizes[axis] // batch * tile
    return tuple(sizes)
