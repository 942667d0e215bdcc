"""Rules of arithmetic on elementwise ops.

What is left alone on purpose: ``x * 0`` (x may be infinite or NaN; a product of a gradient that is ``full 0`` with a
constant folds), ``x - x``, ``exp(log x)`` and ``(x + c) - c`` (cancellation). Signs of zero are not preserved.
"""

from __future__ import annotations

from tesserac.ir.program import Equation, Var
from tesserac.ir.types import DType
from tesserac.ops.attributes import element_type
from tesserac.passes.rules.build import on_axes, scaled, spread, varying_axes
from tesserac.passes.rules.constants import holds
from tesserac.passes.rules.pattern import Bindings, pattern
from tesserac.passes.rules.rewriter import Rewriter
from tesserac.passes.rules.rule import Rule

_EXACT = {
    DType.BOOL: frozenset(DType) - {DType.BOOL},
    DType.U8: frozenset({DType.I16, DType.I32, DType.I64, DType.F16, DType.BF16, DType.F32, DType.F64}),
    DType.I8: frozenset({DType.I16, DType.I32, DType.I64, DType.F16, DType.BF16, DType.F32, DType.F64}),
    DType.I16: frozenset({DType.I32, DType.I64, DType.F32, DType.F64}),
    DType.I32: frozenset({DType.I64, DType.F64}),
    DType.BF16: frozenset({DType.F32, DType.F64}),
    DType.F16: frozenset({DType.F32, DType.F64}),
    DType.F32: frozenset({DType.F64}),
    DType.C64: frozenset({DType.C128}),
}
"""Element types that hold every number of another one."""


def _is_float(graph: Rewriter, equation: Equation, bindings: Bindings) -> bool:
    return equation.result.type.dtype.is_float


def _has_inverse(graph: Rewriter, equation: Equation, bindings: Bindings) -> bool:
    value, dtype = graph.constant_of(bindings["C"]), equation.result.type.dtype
    return dtype.is_float and value is not None and value != 0 and holds(value, dtype) and holds(1 / value, dtype)


def _moderate(graph: Rewriter, equation: Equation, bindings: Bindings) -> bool:
    """A number that may move past another factor: it shifts the product by less than 2^20 on the way."""
    value, other = graph.constant_of(bindings["C"]), graph.constant_of(bindings["b"])
    return (equation.result.type.dtype.is_float and other is None and value is not None
            and 2.0 ** -20 <= abs(value) <= 2.0 ** 20)


def _outwards(graph: Rewriter, equation: Equation, bindings: Bindings) -> bool:
    """Both factors vary along the same axes, so that the number is not better off with a smaller one."""
    return (_moderate(graph, equation, bindings)
            and varying_axes(graph, bindings["a"]) == varying_axes(graph, bindings["b"]))


def _to_smaller(graph: Rewriter, equation: Equation, bindings: Bindings) -> bool:
    return (_moderate(graph, equation, bindings)
            and varying_axes(graph, bindings["b"]) < varying_axes(graph, bindings["a"]))


def _both_constants_hold(graph: Rewriter, equation: Equation, bindings: Bindings) -> bool:
    first, second = graph.constant_of(bindings["C"]), graph.constant_of(bindings["D"])
    dtype = equation.result.type.dtype
    if first is None or second is None or isinstance(first, bool):
        return False
    return dtype.is_integer or holds(first * second, dtype)


def _same_selection(graph: Rewriter, equation: Equation) -> Var | None:
    condition, yes, no = equation.operands
    if yes == no:
        return yes
    value = graph.constant_of(condition)
    return None if value is None else (yes if value else no)


def _cast(graph: Rewriter, equation: Equation) -> Var | None:
    operand, target = equation.operands[0], element_type(equation.attributes)
    if operand.type.dtype is target:
        return operand
    inner = graph.defined_by(operand, "cast")
    if inner is None:
        return None
    source = inner.operands[0]
    if operand.type.dtype not in _EXACT.get(source.type.dtype, ()):
        return None
    return source if source.type.dtype is target else graph.op("cast", source, dtype=target)


def _twice(graph: Rewriter, equation: Equation) -> Var | None:
    left, right = equation.operands
    return scaled(graph, left, 2) if left == right and left.type.dtype.is_float else None


def _before_broadcast(graph: Rewriter, equation: Equation) -> Var | None:
    """Elementwise of broadcasts that leave some axis constant: compute on the other axes, broadcast once."""
    shape = equation.result.type.sizes
    if not equation.operands or not shape or equation.result.type.dtype.is_complex:
        return None
    used: set[int] = set()
    for var in equation.operands:
        used |= varying_axes(graph, var)
        if len(used) == len(shape):
            return None
    if all(size == 1 for axis, size in enumerate(shape) if axis not in used):
        return None
    kept = sorted(used)
    smaller = [on_axes(graph, var, kept) for var in equation.operands]
    return spread(graph, graph.op(equation.op, *smaller, **equation.attributes), shape, kept)


RULES = (
    Rule("before-broadcast", ("kind:elementwise",), "compute each distinct element once", _before_broadcast),
    pattern("add-zero", "add(a, 0)", "a", "gradients begin as zeros"),
    pattern("sub-zero", "sub(a, 0)", "a", "taking away nothing"),
    pattern("zero-sub", "sub(0, a)", "neg(a)", "one operand less"),
    pattern("mul-one", "mul(a, 1)", "a", "the seed of a gradient is 1"),
    pattern("div-one", "div(a, 1)", "a", "dividing by one is exact"),
    pattern("mul-minus-one", "mul(a, -1)", "neg(a)", "one operand less"),
    pattern("div-minus-one", "div(a, -1)", "neg(a)", "one operand less"),
    pattern("neg-neg", "neg(neg(a))", "a", "signs cancel"),
    pattern("add-neg", "add(a, neg(b))", "sub(a, b)", "one op instead of two"),
    pattern("sub-neg", "sub(a, neg(b))", "add(a, b)", "one op instead of two"),
    pattern("neg-sub", "neg(sub!(a, b))", "sub(b, a)", "one op instead of two"),
    pattern("sub-of-neg", "sub(neg!(a), b)", "neg(add(a, b))", "signs move outwards until they meet a sum"),
    pattern("mul-neg-neg", "mul(neg(a), neg(b))", "mul(a, b)", "signs cancel"),
    pattern("div-neg-neg", "div(neg(a), neg(b))", "div(a, b)", "signs cancel"),
    pattern("neg-of-scaled", "neg(mul(a, C))", "mul(a, neg(C))", "the sign goes into the number"),
    pattern("mul-neg-scaled", "mul(neg(a), C)", "mul(a, neg(C))", "the sign goes into the number"),
    pattern("div-neg-scaled", "div(neg(a), C)", "div(a, neg(C))", "the sign goes into the number"),
    pattern("mul-neg", "mul(neg!(a), b)", "neg(mul(a, b))", "signs move outwards until they meet a sum"),
    pattern("div-neg", "div(neg!(a), b)", "neg(div(a, b))", "signs move outwards until they meet a sum"),
    pattern("div-by-neg", "div(a, neg!(b))", "neg(div(a, b))", "signs move outwards until they meet a sum"),
    pattern("scale-scale", "mul(mul(a, C), D)", "mul(a, mul(C, D))", "one product (rounds once less)",
            _both_constants_hold),
    pattern("scale-product", "mul(mul!(a, C), b)", "mul(mul(a, b), C)", "numbers move outwards until they meet",
            _outwards),
    pattern("scale-smaller", "mul(mul!(a, C), b)", "mul(a, mul(b, C))", "scale the value that is repeated",
            _to_smaller),
    pattern("scale-quotient", "div(mul!(a, C), b)", "mul(div(a, b), C)", "numbers move outwards until they meet",
            _outwards),
    pattern("divide-constant", "div(a, C)", "mul(a, div(1, C))",
            "a product is cheaper; rounds twice, within 1.5 units in the last place of the quotient", _has_inverse),
    pattern("square", "mul(a, a)", "square(a)", "reads one operand", _is_float),
    pattern("power-one", "pow(a, 1)", "a", "the first power"),
    pattern("power-two", "pow(a, 2)", "square(a)", "no logarithm", _is_float),
    pattern("power-three", "pow(a, 3)", "mul(square(a), a)", "no logarithm; two roundings", _is_float),
    pattern("power-minus-one", "pow(a, -1)", "reciprocal(a)", "no logarithm", _is_float),
    pattern("power-zero", "pow(a, 0)", "1", "the empty product (also of NaN, as in C)"),
    pattern("one-over", "div(1, a)", "reciprocal(a)", "the same quotient by name", _is_float),
    pattern("mul-reciprocal", "mul(a, reciprocal!(b))", "div(a, b)", "one op instead of two"),
    pattern("square-neg", "square(neg(a))", "square(a)", "a square has no sign"),
    pattern("square-abs", "square(abs(a))", "square(a)", "a square has no sign"),
    pattern("abs-neg", "abs(neg(a))", "abs(a)", "an absolute value has no sign"),
    pattern("abs-abs", "abs(abs(a))", "abs(a)", "idempotent"),
    pattern("relu-relu", "relu(relu(a))", "relu(a)", "idempotent"),
    pattern("maximum-same", "maximum(a, a)", "a", "idempotent"),
    pattern("minimum-same", "minimum(a, a)", "a", "idempotent"),
    pattern("not-not", "logical_not(logical_not(a))", "a", "negations cancel"),
    pattern("select-not", "select(logical_not(c), a, b)", "select(c, b, a)", "one op instead of two"),
    Rule("select-same", ("select",), "a choice that is known, or between equals", _same_selection),
    Rule("cast-chain", ("cast",), "a cast to the same type, or through a type that holds every number of the first",
         _cast),
    Rule("twice", ("add",), "a sum of equals is a scaling, which merges with others", _twice),
    pattern("stop-gradient", "stop_gradient(a)", "a", "after differentiation it is the identity"),
)
