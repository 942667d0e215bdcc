"""Which outputs have a row per sample: their first axis comes from the batch axis, not merely as long by chance."""

from __future__ import annotations

from tesserac.ir.program import Equation, Function
from tesserac.ops.base import spec_of

_SORTED = frozenset(("dispatch", "combine", "gate_dot", "grouped_contract", "grouped_keep"))
"""Ops whose first axes are tokens or rows of tokens in another order: by their factor rules, nothing to cut."""


def batched_outputs(function: Function, batch: int | None) -> set[str]:
    """Names of the outputs whose first axis is the batch axis of size ``batch`` (None: there is none)."""
    if batch is None:
        return set()
    fits = {o.name for o in function.outputs if o.var.type.rank and o.var.type.sizes[0] == batch}
    if batch == 1:
        return fits  # axes of size 1 come and go by reshapes: there is nothing to tell them apart
    axes: dict[str, set[int]] = {
        i.var.name: {0} for i in function.data if i.var.type.rank and i.var.type.sizes[0] == batch
    }
    for equation in function.equations:
        for var, found in zip(equation.results, _carried(equation, axes), strict=True):
            if found:
                axes[var.name] = found
    return {o.name for o in function.outputs if o.name in fits and 0 in axes.get(o.var.name, ())}


def _carried(equation: Equation, axes: dict[str, set[int]]) -> list[set[int]]:
    """For every result, the axes that come from the batch axis."""
    given = [axes.get(v.name, set()) for v in equation.operands]
    if not any(given):
        return [set() for _ in equation.results]
    rule = spec_of(equation.op).factors
    if equation.op in _SORTED or rule is None:
        first = any(0 in found for found in given)
        return [{0} if first and v.type.rank else set() for v in equation.results]
    factors = rule([v.type for v in equation.operands], [v.type for v in equation.results], equation.attributes)
    letters = {row[a] for row, found in zip(factors.operands, given, strict=True) for a in found} - {None}
    return [{a for a, letter in enumerate(row) if letter in letters} for row in factors.results]
