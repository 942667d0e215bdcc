"""Rules for reductions."""

from __future__ import annotations

from tesserac.ir.program import Equation, Var
from tesserac.passes.rules.build import (
    axes_of,
    on_axes,
    reduced,
    reshaped,
    scaled,
    spread,
    transposed,
    varying_axes,
    without,
)
from tesserac.passes.rules.letters import ALPHABET, join_spec, split_spec
from tesserac.passes.rules.rewriter import Rewriter
from tesserac.passes.rules.rule import Rule

REDUCTIONS = ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod")


def _nothing(graph: Rewriter, equation: Equation) -> Var | None:
    return equation.operands[0] if not axes_of(equation) else None


def _of_units(graph: Rewriter, equation: Equation) -> Var | None:
    operand, axes = equation.operands[0], axes_of(equation)
    sizes = operand.type.sizes
    units = [axis for axis in axes if sizes[axis] == 1]
    if not units or operand.type.dtype is not equation.result.type.dtype:
        return None
    left = [axis for axis in range(len(sizes)) if axis not in units]
    smaller = reshaped(graph, operand, without(sizes, units))
    return reduced(graph, equation.op, smaller, [left.index(axis) for axis in axes if axis not in units])


def _of_reduction(graph: Rewriter, equation: Equation) -> Var | None:
    inner = graph.defined_by(equation.operands[0], equation.op)
    if inner is None or inner.operands[0].type.dtype is not equation.result.type.dtype:
        return None
    if graph.uses(inner.result) > 1:
        return None
    first = axes_of(inner)
    left = [axis for axis in range(inner.operands[0].type.rank) if axis not in first]
    return reduced(graph, equation.op, inner.operands[0], [*first, *(left[axis] for axis in axes_of(equation))])


def _of_broadcast(graph: Rewriter, equation: Equation) -> Var | None:
    """Repeated elements count by multiplication (sum) or not at all (maximum, minimum)."""
    operand = equation.operands[0]
    if graph.defined_by(operand, "broadcast") is None:
        return None
    shape, axes, dtype = operand.type.sizes, axes_of(equation), equation.result.type.dtype
    varying = varying_axes(graph, operand)
    repeated = [axis for axis in axes if axis not in varying]
    if not repeated or operand.type.dtype is not dtype or 0 in shape:
        return None
    count = 1
    for axis in repeated:
        count *= shape[axis]
    kept = sorted(varying)
    small = on_axes(graph, operand, kept)
    total = reduced(graph, equation.op, small, [kept.index(axis) for axis in axes if axis in varying])
    if equation.op == "reduce_sum":
        total = scaled(graph, total, count)
    left = [axis for axis in range(len(shape)) if axis not in axes]
    places = [left.index(axis) for axis in kept if axis in left]
    return spread(graph, total, equation.result.type.sizes, places)


def _of_added_units(graph: Rewriter, equation: Equation) -> Var | None:
    inner = graph.defined_by(equation.operands[0], "reshape")
    if inner is None:
        return None
    source, sizes, axes = inner.operands[0], inner.result.type.sizes, axes_of(equation)
    units = [axis for axis, size in enumerate(sizes) if size == 1]
    real = [axis for axis, size in enumerate(source.type.sizes) if size != 1]
    if without(sizes, units) != tuple(source.type.sizes[axis] for axis in real):
        return None
    place = dict(zip((axis for axis in range(len(sizes)) if axis not in units), real, strict=True))
    total = reduced(graph, equation.op, source, [place[axis] for axis in axes if axis in place])
    return reshaped(graph, total, equation.result.type.sizes)


def _of_transpose(graph: Rewriter, equation: Equation) -> Var | None:
    inner = graph.defined_by(equation.operands[0], "transpose")
    if inner is None:
        return None
    perm, axes = axes_of(inner, "perm"), axes_of(equation)
    gone = {perm[axis] for axis in axes}
    left = [axis for axis in range(len(perm)) if axis not in gone]
    order = [left.index(perm[axis]) for axis in range(len(perm)) if axis not in axes]
    return transposed(graph, reduced(graph, equation.op, inner.operands[0], sorted(gone)), order)


def _of_negative(graph: Rewriter, equation: Equation) -> Var | None:
    inner = graph.defined_by(equation.operands[0], "neg")
    if inner is None or graph.uses(inner.result) > 1:
        return None
    return graph.op("neg", reduced(graph, "reduce_sum", inner.operands[0], axes_of(equation)))


def _of_scaled(graph: Rewriter, equation: Equation) -> Var | None:
    """A factor that is constant along the summed axes multiplies the sum."""
    product = graph.defined_by(equation.operands[0], "mul")
    if product is None or graph.uses(product.result) > 1:
        return None
    axes, shape = axes_of(equation), product.result.type.sizes
    if product.result.type.size == equation.result.type.size:
        return None
    for factor, other in (product.operands, product.operands[::-1]):
        if varying_axes(graph, factor).isdisjoint(axes):
            left = [axis for axis in range(len(shape)) if axis not in axes]
            return graph.op("mul", reduced(graph, "reduce_sum", other, axes), on_axes(graph, factor, left))
    return None


def _of_product(graph: Rewriter, equation: Equation) -> Var | None:
    """A contraction proper: both factors vary along summed axes, and each along an axis of its own."""
    product = graph.defined_by(equation.operands[0], "mul")
    if product is None or graph.uses(product.result) > 1 or not product.result.type.dtype.is_float:
        return None
    axes = set(axes_of(equation))
    left, right = (varying_axes(graph, var) for var in product.operands)
    shared = left & right
    sizes, rank = product.result.type.sizes, product.result.type.rank
    constant = [axis for axis in range(rank) if axis not in left | right | axes]
    if not (left - right and right - left and axes <= shared) or any(sizes[axis] != 1 for axis in constant):
        return None
    letters = [ALPHABET[axis] for axis in range(rank)]
    first, second = ([letters[axis] for axis in sorted(side)] for side in (left, right))
    result = [letters[axis] for axis in range(rank) if axis not in axes and axis in left | right]
    operands = [on_axes(graph, var, sorted(side)) for var, side in zip(product.operands, (left, right), strict=True)]
    value = graph.op("contract", *operands, spec=join_spec(first, second, result))
    return reshaped(graph, value, equation.result.type.sizes)


def _of_contraction(graph: Rewriter, equation: Equation) -> Var | None:
    inner = graph.defined_by(equation.operands[0], "contract")
    if inner is None or graph.uses(inner.result) > 1:
        return None
    left, right, result = split_spec(str(inner.attr("spec")))
    kept = without(range(len(result)), axes_of(equation))
    return graph.op("contract", *inner.operands, spec=join_spec(left, right, (result[axis] for axis in kept)))


def _of_padding(graph: Rewriter, equation: Equation) -> Var | None:
    """Zeros around the summed axes add nothing."""
    inner = graph.defined_by(equation.operands[0], "pad")
    if inner is None or inner.attr("value") != 0 or graph.uses(inner.result) > 1:
        return None
    axes, low, high = axes_of(equation), axes_of(inner, "low"), axes_of(inner, "high")
    if not any(low[axis] or high[axis] for axis in axes):
        return None
    total = reduced(graph, "reduce_sum", inner.operands[0], axes)
    low, high = without(low, axes), without(high, axes)
    return graph.op("pad", total, low=low, high=high) if any(low) or any(high) else total


RULES = (
    Rule("reduce-nothing", REDUCTIONS, "no axis", _nothing),
    Rule("reduce-units", REDUCTIONS, "an axis of size 1 has nothing to reduce", _of_units),
    Rule("reduce-reduce", REDUCTIONS, "one pass over both sets of axes", _of_reduction),
    Rule("reduce-broadcast", ("reduce_sum", "reduce_max", "reduce_min"), "repeated elements need not be read",
         _of_broadcast),
    Rule("reduce-added-units", REDUCTIONS, "reduce the value before it got axes of size 1", _of_added_units),
    Rule("reduce-transpose", REDUCTIONS, "permute the smaller value", _of_transpose),
    Rule("sum-neg", ("reduce_sum",), "one sign per sum", _of_negative),
    Rule("sum-scaled", ("reduce_sum",), "one product per sum", _of_scaled),
    Rule("sum-pad", ("reduce_sum",), "zeros add nothing", _of_padding),
    Rule("sum-contract", ("reduce_sum",), "the contraction sums over the letter itself", _of_contraction),
    Rule("sum-product", ("reduce_sum",), "a contraction runs on the matrix kernels", _of_product),
)
