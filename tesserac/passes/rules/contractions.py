"""Rules for contractions: views fold into the letters, and only true matrix products remain.

A contraction that sums nothing, or whose operands share all letters, has no use for a matrix kernel; it becomes
products and sums that loop fusion handles.
"""

from __future__ import annotations

from collections.abc import Sequence

from tesserac.ir.program import Equation, Var
from tesserac.passes.rules.build import axes_of, on_axes, reduced, reshaped, scaled, spread, transposed, varying_axes
from tesserac.passes.rules.letters import join_spec, split_spec
from tesserac.passes.rules.rewriter import Rewriter
from tesserac.passes.rules.rule import Rule


def _parts(equation: Equation) -> tuple[str, str, str]:
    return split_spec(str(equation.attr("spec")))


def _contract(graph: Rewriter, operands: Sequence[Var], letters: Sequence[str], result: str) -> Var:
    return graph.op("contract", *operands, spec=join_spec(letters[0], letters[1], result))


def _sizes(equation: Equation) -> dict[str, int]:
    left, right, _ = _parts(equation)
    first, second = equation.operands
    return dict(zip(left + right, first.type.sizes + second.type.sizes, strict=True))


def _placed(graph: Rewriter, var: Var, letters: str, result: str, sizes: dict[str, int]) -> Var:
    """``var`` with axes ``letters`` as a value with axes ``result``: permuted, and repeated along the others."""
    order = sorted(range(len(letters)), key=lambda axis: result.index(letters[axis]))
    value = transposed(graph, var, order)
    return spread(graph, value, [sizes[c] for c in result], [result.index(letters[axis]) for axis in order])


def _of_transpose(graph: Rewriter, equation: Equation) -> Var | None:
    left, right, result = _parts(equation)
    letters, operands = [left, right], list(equation.operands)
    for i, var in enumerate(equation.operands):
        inner = graph.defined_by(var, "transpose")
        if inner is not None:
            perm = axes_of(inner, "perm")
            letters[i] = "".join(letters[i][perm.index(axis)] for axis in range(len(perm)))
            operands[i] = inner.operands[0]
    return None if tuple(operands) == equation.operands else _contract(graph, operands, letters, result)


def _then_transpose(graph: Rewriter, equation: Equation) -> Var | None:
    inner = graph.defined_by(equation.operands[0], "contract")
    if inner is None or graph.uses(inner.result) > 1:
        return None
    left, right, result = _parts(inner)
    permuted = "".join(result[axis] for axis in axes_of(equation, "perm"))
    return _contract(graph, inner.operands, (left, right), permuted)


def _of_broadcast(graph: Rewriter, equation: Equation) -> Var | None:
    """Letters along which an operand is constant leave it: they count, or belong to the other operand."""
    letters, sizes = list(_parts(equation)[:2]), _sizes(equation)
    result = _parts(equation)[2]
    for i, var in enumerate(equation.operands):
        varying = varying_axes(graph, var)
        definition = graph.definition(var)
        if definition is None or definition.op not in ("broadcast", "full") or len(varying) == var.type.rank:
            continue
        kept = sorted(varying)
        rest = "".join(letters[i][axis] for axis in kept)
        gone = [c for c in letters[i] if c not in rest and c not in letters[1 - i]]
        operands = list(equation.operands)
        operands[i], letters[i] = on_axes(graph, var, kept), rest
        count = 1
        for letter in gone:
            count *= 1 if letter in result else sizes[letter]
        inner = "".join(c for c in result if c not in gone)
        value = scaled(graph, _contract(graph, operands, letters, inner), count)
        return _placed(graph, value, inner, result, sizes)
    return None


def _of_units(graph: Rewriter, equation: Equation) -> Var | None:
    """An operand that is a reshape which only adds axes of size 1 is read without the reshape."""
    letters, result = list(_parts(equation)[:2]), _parts(equation)[2]
    for i, var in enumerate(equation.operands):
        inner = graph.defined_by(var, "reshape")
        if inner is None:
            continue
        source = inner.operands[0]
        units = {axis for axis, size in enumerate(var.type.sizes) if size == 1}
        needed = any(letters[i][axis] in result and letters[i][axis] not in letters[1 - i] for axis in units)
        if needed or tuple(n for n in var.type.sizes if n != 1) != source.type.sizes:
            continue
        operands = list(equation.operands)
        operands[i] = source
        letters[i] = "".join(c for axis, c in enumerate(letters[i]) if axis not in units)
        return _contract(graph, operands, letters, result)
    return None


def _lonely_letters(graph: Rewriter, equation: Equation) -> Var | None:
    """Sums over a letter of one operand alone come before the product."""
    letters, result = list(_parts(equation)[:2]), _parts(equation)[2]
    operands = list(equation.operands)
    for i, own in enumerate(tuple(letters)):
        alone = [axis for axis, c in enumerate(own) if c not in result and c not in letters[1 - i]]
        operands[i] = reduced(graph, "reduce_sum", operands[i], alone)
        letters[i] = "".join(c for axis, c in enumerate(own) if axis not in alone)
    return None if tuple(operands) == equation.operands else _contract(graph, operands, letters, result)


def _as_product(graph: Rewriter, equation: Equation) -> Var | None:
    """No sum at all, or one operand with all letters: products and a sum without reuse of the larger one's elements."""
    left, right, result = _parts(equation)
    sizes = _sizes(equation)
    summed = [c for c in left if c not in result]
    if summed and not (set(left) <= set(right) or set(right) <= set(left)):
        return None
    if any(c not in left or c not in right for c in (left + right) if c not in result):
        return None  # letters of one operand alone are summed first
    # In the order of the larger operand where the result is only a part of its letters: nothing is transposed.
    whole = max((left, right), key=len)
    order = whole if [c for c in whole if c in result] == list(result) else result + "".join(summed)
    factors = [_placed(graph, var, own, order, sizes)
               for var, own in zip(equation.operands, (left, right), strict=True)]
    product = graph.op("mul", *factors)
    return reduced(graph, "reduce_sum", product, [axis for axis, c in enumerate(order) if c not in result])


def _of_column(graph: Rewriter, equation: Equation) -> Var | None:
    """An axis of size 1 that only one operand and the result have needs no letter."""
    left, right, result = _parts(equation)
    sizes = _sizes(equation)
    units = [c for c in result if sizes[c] == 1 and (c in left) != (c in right)]
    if not units:
        return None
    operands = [reshaped(graph, var, [sizes[c] for c in own if c not in units])
                for var, own in zip(equation.operands, (left, right), strict=True)]
    letters = ["".join(c for c in own if c not in units) for own in (left, right)]
    value = _contract(graph, operands, letters, "".join(c for c in result if c not in units))
    return reshaped(graph, value, equation.result.type.sizes)


def _scaled_operand(graph: Rewriter, equation: Equation) -> Var | None:
    """A number (or one scalar value) that multiplies an operand moves to the smallest of operands and result."""
    left, right, result = _parts(equation)
    for i, var in enumerate(equation.operands):
        found = _scale_of(graph, var)
        if found is None or graph.uses(var) > 1:
            continue
        rest, factor = found
        other = equation.operands[1 - i]
        operands = list(equation.operands)
        operands[i] = rest
        if equation.result.type.size <= min(var.type.size - 1, other.type.size):
            return _times(graph, _contract(graph, operands, (left, right), result), factor)
        if other.type.size < var.type.size and equation.operands[0] != equation.operands[1]:
            operands[1 - i] = _times(graph, other, factor)
            return _contract(graph, operands, (left, right), result)
    return None


def _scale_of(graph: Rewriter, var: Var) -> tuple[Var, Var | None] | None:
    """The value and the scalar whose product ``var`` is; the scalar None stands for -1."""
    negative, product = graph.defined_by(var, "neg"), graph.defined_by(var, "mul")
    if negative is not None:
        return negative.operands[0], None
    if product is None:
        return None
    for factor, rest in (product.operands, product.operands[::-1]):
        if not varying_axes(graph, factor):
            return rest, on_axes(graph, factor, ())
    return None


def _times(graph: Rewriter, var: Var, factor: Var | None) -> Var:
    if factor is None:
        return graph.op("neg", var)
    value = graph.constant_of(factor)
    if value is not None:
        return scaled(graph, var, float(value))
    return graph.op("mul", var, spread(graph, factor, var.type.sizes, ()))


def _unit_result(graph: Rewriter, equation: Equation) -> Var | None:
    """A reshape of a contraction that only drops axes of size 1 drops their letters."""
    inner = graph.defined_by(equation.operands[0], "contract")
    if inner is None or graph.uses(inner.result) > 1:
        return None
    left, right, result = _parts(inner)
    sizes = _sizes(inner)
    kept = [c for c in result if sizes[c] != 1]
    if len(kept) == len(result) or equation.result.type.sizes != tuple(sizes[c] for c in kept):
        return None
    return _contract(graph, inner.operands, (left, right), "".join(kept))


def _units_of_input(graph: Rewriter, equation: Equation) -> Var | None:
    """A contraction whose summed letters all have size 1 is a product, which needs no matrix kernel."""
    left, right, result = _parts(equation)
    sizes = _sizes(equation)
    units = [c for c in left if c in right and c not in result]
    if not units or any(sizes[c] != 1 for c in units):
        return None
    operands = [reshaped(graph, var, [sizes[c] for c in own if c not in units])
                for var, own in zip(equation.operands, (left, right), strict=True)]
    letters = ["".join(c for c in own if c not in units) for own in (left, right)]
    return _contract(graph, operands, letters, result)


RULES = (
    Rule("contract-transpose", ("contract",), "a permutation of an operand is a permutation of its letters",
         _of_transpose),
    Rule("transpose-contract", ("transpose",), "a permutation of the result is one of its letters", _then_transpose),
    Rule("contract-broadcast", ("contract",), "letters along which an operand is constant need not be multiplied",
         _of_broadcast),
    Rule("contract-units", ("contract",), "axes of size 1 need no letter", _of_units),
    Rule("contract-unit-sum", ("contract",), "a sum of one term is the term", _units_of_input),
    Rule("contract-column", ("contract",), "a matrix of one column is a vector", _of_column),
    Rule("reshape-contract", ("reshape",), "axes of size 1 need no letter", _unit_result),
    Rule("contract-lonely", ("contract",), "a sum over one operand's own letter comes before the product",
         _lonely_letters),
    Rule("contract-product", ("contract",), "without reuse of elements it is a product and a sum", _as_product),
    Rule("contract-scaled", ("contract",), "scale the smallest of operands and result", _scaled_operand),
)
