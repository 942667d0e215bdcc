"""Expansion of fused ops into primitives, for targets without a kernel of their own and for the reference."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from tesserac.ir.builder import Builder
from tesserac.ir.program import Equation, Function, Var
from tesserac.ops.base import spec_of
from tesserac.passes.linearize import expanded
from tesserac.passes.rename import renamed_equation, tidy


def expand(function: Function, names: Collection[str] | None = None) -> Function:
    """The same function with the fused ops called ``names`` (None: all) in primitives.

    Results keep their names and spans.
    """

    def wanted(equation: Equation) -> bool:
        return spec_of(equation.op).expand is not None and (names is None or equation.op in names)

    while any(wanted(equation) for equation in function.equations):
        function = _once(function, {id(e) for e in function.equations if wanted(e)})
    return function


def _once(function: Function, chosen: set[int]) -> Function:
    b = Builder()
    b.reserve(v.name for v in function.variables())
    values: dict[str, Var] = {}
    proposed: dict[str, str] = {}
    keep = {item.var.name for item in function.inputs}
    for equation in function.equations:
        current = renamed_equation(equation, values)
        if id(equation) not in chosen:
            b.append(current)
            keep.update(v.name for v in equation.results)
            continue
        with b.at(equation.span, prefix=f"{equation.results[0].name}_"):
            block, results = expanded(b, current)
        made = {v.name for e in block for v in e.results}
        for old, new in zip(equation.results, results, strict=True):
            values[old.name] = new
            if new.name in made:
                proposed[new.name] = old.name
    outputs = tuple(replace(o, var=values.get(o.var.name, o.var)) for o in function.outputs)
    return tidy(replace(function, equations=tuple(b.equations), outputs=outputs), keep, proposed)
