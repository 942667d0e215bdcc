"""A value whose cotangents the source computes by a rule of its own (``autodiff.custom_grad``).

Operands: the value y, a placeholder for its cotangent, then for every input x_i what the rule makes of the placeholder,
then the inputs. The rule's equations stand in the program once; reverse mode repeats those that depend on the
placeholder for each cotangent it meets, so what they compute can be differentiated again.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

from tesserac.diagnostics import InternalError
from tesserac.ir.dims import Dims, ShapeError
from tesserac.ir.program import Equation, Var
from tesserac.ir.types import TensorType
from tesserac.ops.base import Array, Attrs, Factors, OpSpec, register
from tesserac.ops.rules import LETTERS, need_float, same_dtype, same_shape

if TYPE_CHECKING:
    from tesserac.ir.builder import Builder


def _infer(types: Sequence[TensorType], attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    count = len(types) // 2 - 1
    if len(types) % 2 or count < 1:
        raise ShapeError("custom_grad needs a value, its cotangent, and as many cotangents of inputs as inputs")
    need_float("custom_grad", types, range(len(types)))
    for a, b in ((0, 1), *((2 + i, 2 + count + i) for i in range(count))):
        same_dtype("custom_grad", types, (a, b))
        same_shape("custom_grad", types, (a, b), dims)
    return (types[0],)


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
    raise InternalError("custom_grad has no value of its own; run the differentiate pass first")


def _vjp(b: Builder, e: Equation, cotangents: Sequence[Var | None]) -> tuple[Var | None, ...]:
    """The rule's equations again, with the cotangent in place of the placeholder."""
    (given,) = cotangents
    placeholder, count = e.operands[1], len(e.operands) // 2 - 1
    slopes = e.operands[2 : 2 + count]
    if given is None:
        return (None,) * len(e.operands)
    values = {placeholder.name: given}
    for equation in _between(b.equations, placeholder, slopes):
        operands = [values.get(v.name, v) for v in equation.operands]
        with b.at(equation.span):
            results = b.ops(equation.op, operands, equation.attributes)
        values.update((old.name, new) for old, new in zip(equation.results, results, strict=True))
    found = [values.get(slope.name, slope) for slope in slopes]
    return (*(None,) * (2 + count), *found)


def _between(equations: Sequence[Equation], start: Var, ends: Sequence[Var]) -> list[Equation]:
    """The equations on the way from one value to others, in order."""
    needed = {v.name for v in ends}
    behind: list[Equation] = []
    for equation in reversed(equations):
        if any(v.name in needed for v in equation.results):
            needed.update(v.name for v in equation.operands)
            behind.append(equation)
    carried = {start.name}
    found = []
    for equation in reversed(behind):
        if any(v.name in carried for v in equation.operands):
            carried.update(v.name for v in equation.results)
            found.append(equation)
    return found


def _factors(ins: Sequence[TensorType], outs: Sequence[TensorType], attrs: Attrs) -> Factors:
    """The value passes through; operands of other shapes share its leading axes as far as the sizes agree."""
    letters = LETTERS[: outs[0].rank]
    return Factors(tuple(_leading(t, outs[0], letters) for t in ins), (tuple(letters),))


def _leading(type_: TensorType, value: TensorType, letters: str) -> tuple[str | None, ...]:
    same = list(takewhile(lambda pair: pair[0] == pair[1], zip(type_.shape, value.shape, strict=False)))
    return (*letters[: len(same)], *(None,) * (type_.rank - len(same)))


register(
    OpSpec(
        "custom_grad",
        "the first operand, with cotangents of its inputs by a rule of the source",
        "transform",
        None,
        _infer,
        _evaluate,
        vjp=_vjp,
        factors=_factors,
    )
)
