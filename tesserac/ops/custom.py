"""A value whose cotangents the source computes by a rule of its own (``autodiff.custom_grad``).

Operands: the value y, a placeholder for its cotangent, then for every input x_i what the rule makes of the placeholder,
then the inputs. The rule's equations stand in the program once; reverse mode repeats those that depend on the
placeholder for each cotangent it meets, so what they compute can be differentiated again.

Forward mode follows from a rule that is linear in the cotangent, u -> J^T u: its transpose is v -> J v, and transposing
it equation by equation gives the tangent equations, whose slopes are ordinary values.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

from tesserac.diagnostics import CompileError, Diagnostics, InternalError, Label
from tesserac.ir.dims import Dims, ShapeError
from tesserac.ir.program import Equation, Var
from tesserac.ir.types import TensorType
from tesserac.ops.attributes import number
from tesserac.ops.base import Array, Attrs, Factors, OpSpec, register, spec_of
from tesserac.ops.rules import LETTERS, add_optional, linear_jvp, need_float, same_dtype, same_shape

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


def _jvp(b: Builder, e: Equation, tangents: Sequence[Var | None]) -> tuple[Var | None, ...]:
    """The transpose of the rule on the inputs' tangents; those of the value and of what the rule made do not count."""
    placeholder, count = e.operands[1], len(e.operands) // 2 - 1
    slopes = e.operands[2 : 2 + count]
    sums: dict[str, Var | None] = {}
    for slope, tangent in zip(slopes, tangents[2 + count :], strict=True):
        sums[slope.name] = add_optional(b, sums.get(slope.name), tangent)
    if all(value is None for value in sums.values()):
        return (None,)
    path = _between(b.equations, placeholder, slopes)
    carried = {placeholder.name, *(v.name for equation in path for v in equation.results)}
    zeros = _zeros(b.equations)
    for equation in reversed(path):
        flags = [v.name in carried for v in equation.operands]
        rule = spec_of(equation.op).transpose
        if rule is None or not _is_linear(equation, flags, zeros):
            raise _not_linear(e, equation)
        given = [sums.get(v.name) for v in equation.results]
        if any(ct is not None for ct in given):
            for operand, flag, ct in zip(equation.operands, flags, rule(b, equation, given, flags), strict=True):
                if flag:
                    sums[operand.name] = add_optional(b, sums.get(operand.name), ct)
    return (sums.get(placeholder.name),)


def _zeros(equations: Sequence[Equation]) -> set[str]:
    """Names of the values that are zero throughout."""
    found: set[str] = set()
    for equation in equations:
        zero = equation.op == "full" and number(equation.attributes, "value") == 0.0
        if zero or (equation.op in ("broadcast", "reshape") and equation.operands[0].name in found):
            found.add(equation.result.name)
    return found


def _is_linear(equation: Equation, flags: Sequence[bool], zeros: set[str]) -> bool:
    """Whether an equation is linear in its flagged operands together; the others are fixed."""
    op = equation.op
    if op in ("mul", "contract"):
        return sum(flags) == 1
    if op == "div":
        return list(flags) == [True, False]
    if op in ("add", "sub", "concat", "select"):
        terms = list(zip(equation.operands, flags, strict=True))[1 if op == "select" else 0 :]
        return all(flag or v.name in zeros for v, flag in terms)
    if op == "pad":
        return number(equation.attributes, "value") == 0.0
    return op in ("neg", "cast") or (op == "take" and not flags[1]) or spec_of(op).jvp is linear_jvp


def _not_linear(asked: Equation, culprit: Equation) -> CompileError:
    bag = Diagnostics()
    bag.error(
        "T0601",
        "forward mode, which derivatives by coordinates take, does not follow from this derivative rule: "
        f"`{culprit.op}` is not linear in the cotangent",
        culprit.span,
        labels=(Label(asked.span, "a derivative was asked for through this value"),),
        help=("let the rule be products and sums of the cotangent with values that do not depend on it",
              "or take the derivative by the coordinate first, and apply the function to it"),
    )
    return CompileError(bag.items)


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
        jvp=_jvp,
        vjp=_vjp,
        factors=_factors,
    )
)
