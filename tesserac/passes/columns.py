"""Products with an operand of which only some columns vary: only the rows of the weight that meet those are read.

The first layer of a field sees its coordinates joined side by side. A derivative by one of them is a column of ones
beside columns of zeros, and its product with the weight is one row of the weight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tesserac.ir.builder import Builder
from tesserac.ir.program import Equation, Var
from tesserac.ops.attributes import integer, string
from tesserac.ops.contract import parse_spec
from tesserac.ops.rules import add_optional
from tesserac.passes.multiindex import Index
from tesserac.passes.varying import Program

Column = tuple[int, Var]
"""Where it begins along an axis, and the columns themselves."""


def product_of_columns(program: Program, look: Callable[[Var, Index], Var | None], equation: Equation,
                       flags: Sequence[bool], a: Index) -> tuple[Var | None] | None:
    """The coefficient of a contraction over an axis along which one operand was joined; None if that is not so."""
    if equation.op != "contract" or sum(flags) != 1:
        return None
    side = list(flags).index(True)
    if look(equation.operands[side], a) is None:
        return (None,)
    letters = parse_spec(string(equation.attributes, "spec"))
    own, other, result = letters[side], letters[1 - side], letters[2]
    for axis, letter in enumerate(own):
        if letter in result or letter not in other:
            continue
        found = columns_of(program, look, equation.operands[side], axis, a)
        if found is not None and sum(v.type.sizes[axis] for _, v in found) < equation.operands[side].type.sizes[axis]:
            b, total = program.builder, None
            for start, column in found:
                limit = start + column.type.sizes[axis]
                weight = _rows(b, equation.operands[1 - side], other.index(letter), start, limit)
                (term,) = b.ops("contract", (column, weight) if side == 0 else (weight, column), equation.attributes)
                total = add_optional(b, total, term)
            return (total,)
    return None


def columns_of(program: Program, look: Callable[[Var, Index], Var | None], value: Var, axis: int, a: Index
               ) -> list[Column] | None:
    """The columns of a value's coefficient that are not zero, if it was joined along the axis."""
    direction = next((d for d, n in zip(program.directions, a, strict=True) if n and d.coordinate == value), None)
    if direction is not None and axis == value.type.rank - 1 and value.type.rank > 1:
        return [(direction.component, program.one(value))] if sum(a) == 1 else []
    defined = program.definition(value)
    if defined is None or defined[0].op != "concat" or integer(defined[0].attributes, "axis") != axis:
        return None
    found: list[Column] = []
    start = 0
    for part in defined[0].operands:
        inner = columns_of(program, look, part, axis, a) if program.depends(part, a) else []
        if inner is None:
            coefficient = look(part, a)
            inner = [] if coefficient is None else [(0, coefficient)]
        found.extend((start + offset, column) for offset, column in inner)
        start += part.type.sizes[axis]
    return found


def _rows(b: Builder, weight: Var, axis: int, start: int, limit: int) -> Var:
    sizes = weight.type.sizes
    starts = tuple(start if i == axis else 0 for i in range(len(sizes)))
    limits = tuple(limit if i == axis else n for i, n in enumerate(sizes))
    return b.op("slice", weight, starts=starts, limits=limits, strides=(1,) * len(sizes))
