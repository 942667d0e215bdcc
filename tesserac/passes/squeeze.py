"""Squeeze: products lose the letters of size 1, so that a head count of one does not hide a matrix chain.

Attention with one head is written with head axes like any other; ``reassociate`` looks through no reshape, and here
there is nothing to look through: the reshapes cancel against those that split the heads.
"""

from __future__ import annotations

from tesserac.ir.builder import Builder
from tesserac.ir.program import Equation, Function, Var


def squeeze_products(function: Function) -> Function:
    """The function with every size-1 letter taken out of its contractions (and put back by reshapes)."""
    builder = Builder()
    builder.reserve(v.name for v in function.variables())
    for equation in function.equations:
        if equation.op != "contract" or not _ones(equation):
            builder.append(equation)
            continue
        with builder.at(equation.span):
            _squeeze(builder, equation)
    return Function(function.name, function.inputs, tuple(builder.equations), function.outputs)


def _ones(equation: Equation) -> set[str]:
    operands, _ = str(equation.attr("spec")).split("->")
    pairs = zip(operands.split(","), equation.operands, strict=True)
    return {c for letters, var in pairs for c, n in zip(letters, var.type.sizes, strict=True) if n == 1}


def _squeeze(builder: Builder, equation: Equation) -> None:
    ones = _ones(equation)
    operands, out = str(equation.attr("spec")).split("->")
    parts = operands.split(",")
    squeezed = [_without(builder, var, letters, ones) for letters, var in zip(parts, equation.operands, strict=True)]
    spec = ",".join("".join(c for c in letters if c not in ones) for letters in parts)
    spec += "->" + "".join(c for c in out if c not in ones)
    product = builder.op("contract", *squeezed, spec=spec, named=equation.result.name)
    attrs = (("shape", equation.result.type.sizes),)
    builder.append(Equation("reshape", (product,), equation.results, attrs, equation.span))


def _without(builder: Builder, var: Var, letters: str, ones: set[str]) -> Var:
    shape = tuple(n for c, n in zip(letters, var.type.sizes, strict=True) if c not in ones)
    return var if shape == var.type.sizes else builder.op("reshape", var, shape=shape, named=var.name)
