"""Values with a derivative rule of the source's own, once every derivative has been taken."""

from __future__ import annotations

from dataclasses import replace

from tesserac.ir.program import Function, Var
from tesserac.passes.rename import renamed_equation


def drop_custom_rules(function: Function) -> Function:
    """The same function with every ``custom_grad`` replaced by its first operand, the value."""
    if all(equation.op != "custom_grad" for equation in function.equations):
        return function
    values: dict[str, Var] = {}
    equations = []
    for asked in function.equations:
        equation = renamed_equation(asked, values)
        if equation.op == "custom_grad":
            values[equation.result.name] = equation.operands[0]
        else:
            equations.append(equation)
    outputs = tuple(replace(o, var=values.get(o.var.name, o.var)) for o in function.outputs)
    return replace(function, equations=tuple(equations), outputs=outputs)
