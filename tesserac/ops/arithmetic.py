"""Elementwise ops of several operands, all of one shape: arithmetic, comparisons, logic, select and cast."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tesserac.arrays import np
from tesserac.ir.dims import Dims, ShapeError
from tesserac.ir.program import Equation, Var
from tesserac.ir.types import DType, TensorType
from tesserac.ops.attributes import element_type
from tesserac.ops.base import (
    REQUIRED,
    Array,
    Attrs,
    InferRule,
    JvpRule,
    LinearRule,
    OpSpec,
    Sample,
    Scalar,
    TransposeRule,
    as_tuple,
    by_numpy,
    register,
)
from tesserac.ops.elementwise import pointwise_flops, unary, zero_jvp
from tesserac.ops.numerics import atan2, re
from tesserac.ops.planes import Pair, PlanarRule, Plane, each_plane, minus, plus, product, quotient
from tesserac.ops.rules import (
    PARTS,
    add_optional,
    conjugated,
    linear_in,
    need_field,
    need_integer,
    need_real,
    pointwise_factors,
    same_dtype,
    same_shape,
    shifted,
)

if TYPE_CHECKING:
    from tesserac.ir.builder import Builder

Optional = Var | None


_POWER = "a power of a complex tensor takes a compile-time integer exponent, as in z ** 3"
_ORDER = "complex numbers have no order: compare op.real(x), op.imag(x) or op.abs(x)"


def _infer(name: str, *, result: DType | None = None, floating: bool = False, logical: bool = False,
           refuse: str = "") -> InferRule:
    """Operands of one type; ``refuse``: what to do instead with complex ones, where they have no meaning."""

    def infer(types: Sequence[TensorType], attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
        shape = same_shape(name, types, range(len(types)), dims)
        dtype = same_dtype(name, types, range(len(types)))
        if refuse:
            need_real(name, types, (0,), refuse)
        if floating:
            need_field(name, types, (0,))
        if logical != (dtype is DType.BOOL) and name not in ("eq", "ne"):
            raise ShapeError(f"{name} needs {'bool operands' if logical else 'numbers'}, not {dtype}", (0,))
        return (TensorType(result or dtype, shape),)

    return infer


def _binary(name: str, doc: str, function: Callable[[Array, Array], Array], scalar: Scalar, infer: InferRule,
            jvp: JvpRule | None, transpose: TransposeRule | None = None, *, positive: bool = False,
            logical: bool = False, planar: PlanarRule | None = None,
            linear: LinearRule | None = None) -> OpSpec:
    def evaluate(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
        return as_tuple(function(arrays[0], arrays[1]))

    def samples() -> tuple[Sample, ...]:
        if logical:
            return (Sample((np.array([True, True, False, False]), np.array([True, False, True, False]))),)
        a = np.array([[0.7, -1.3, 0.4], [1.9, -0.6, 2.2]])
        b = np.array([[1.1, 0.8, -0.9], [-1.7, 1.4, 2.6]])
        real = (Sample((np.abs(a) if positive else a, b)), Sample((np.array(0.8), np.array(1.7))))
        return real if planar is None else (*real, Sample((a + 1j * b, b - 1j * np.cos(a))))

    return register(OpSpec(name, doc, "elementwise", 2, infer, evaluate, jvp=jvp, transpose=transpose, planar=planar,
                           factors=pointwise_factors, linear=linear, flops=pointwise_flops(scalar), scalar=scalar,
                           samples=samples))


def _add_jvp(b: Builder, e: Equation, tangents: Sequence[Optional]) -> tuple[Optional, ...]:
    return (add_optional(b, tangents[0], tangents[1]),)


def _add_transpose(b: Builder, e: Equation, cts: Sequence[Optional], linear: Sequence[bool]) -> tuple[Optional, ...]:
    return tuple(cts[0] if flag else None for flag in linear)


def _sub_jvp(b: Builder, e: Equation, tangents: Sequence[Optional]) -> tuple[Optional, ...]:
    s, t = tangents
    if t is None:
        return (s,)
    return (b.op("neg", t) if s is None else b.op("sub", s, t),)


def _sub_transpose(b: Builder, e: Equation, cts: Sequence[Optional], linear: Sequence[bool]) -> tuple[Optional, ...]:
    (ct,) = cts
    if ct is None:
        return (None, None)
    return (ct if linear[0] else None, b.op("neg", ct) if linear[1] else None)


def _mul_jvp(b: Builder, e: Equation, tangents: Sequence[Optional]) -> tuple[Optional, ...]:
    (x, y), (s, t) = e.operands, tangents
    first = None if s is None else b.op("mul", s, y)
    second = None if t is None else b.op("mul", t, x)
    return (add_optional(b, first, second),)


def _mul_transpose(b: Builder, e: Equation, cts: Sequence[Optional], linear: Sequence[bool]) -> tuple[Optional, ...]:
    (ct,), (x, y) = cts, e.operands
    if ct is None:
        return (None, None)
    if linear[0]:
        return b.op("mul", ct, conjugated(b, y)), None
    return None, b.op("mul", ct, conjugated(b, x))


def _div_jvp(b: Builder, e: Equation, tangents: Sequence[Optional]) -> tuple[Optional, ...]:
    # With q = x / y:  (s - t q) / y
    (_, y), (s, t) = e.operands, tangents
    if t is None:
        return (None if s is None else b.op("div", s, y),)
    slope = b.op("div", b.op("neg", e.result), y)
    return (add_optional(b, None if s is None else b.op("div", s, y), b.op("mul", t, slope)),)


def _div_transpose(b: Builder, e: Equation, cts: Sequence[Optional], linear: Sequence[bool]) -> tuple[Optional, ...]:
    (ct,) = cts
    return (None if ct is None else b.op("div", ct, conjugated(b, e.operands[1])), None)


def _pow_jvp(b: Builder, e: Equation, tangents: Sequence[Optional]) -> tuple[Optional, ...]:
    # x^(y-1) y is 0 at y = 0, and log x is taken as 0 at x = 0, so that 0^0 and 0^2 have finite derivatives.
    (x, y), (s, t) = e.operands, tangents
    first = second = None
    if s is not None:
        at_zero = b.op("eq", y, b.constant(0.0, y.type))
        power = b.op("select", at_zero, b.constant(1.0, y.type), shifted(b, y, -1.0))
        first = b.op("mul", s, b.op("mul", y, b.op("pow", x, power)))
    if t is not None:
        at_zero = b.op("eq", x, b.constant(0.0, x.type))
        log = b.op("log", b.op("select", at_zero, b.constant(1.0, x.type), x))
        second = b.op("mul", t, b.op("mul", e.result, log))
    return (add_optional(b, first, second),)


def _atan2_jvp(b: Builder, e: Equation, tangents: Sequence[Optional]) -> tuple[Optional, ...]:
    """(s x - t y) / (x^2 + y^2) for the tangents s of y and t of x."""
    (y, x), (s, t) = e.operands, tangents
    square = b.op("add", b.op("square", x), b.op("square", y))
    first = None if s is None else b.op("mul", s, b.op("div", x, square))
    second = None if t is None else b.op("mul", t, b.op("neg", b.op("div", y, square)))
    return (add_optional(b, first, second),)


def _choice_jvp(comparison: str) -> JvpRule:
    """Tangent of maximum and minimum: that of the operand which won; the first one at a tie."""

    def jvp(b: Builder, e: Equation, tangents: Sequence[Optional]) -> tuple[Optional, ...]:
        if tangents[0] is None and tangents[1] is None:
            return (None,)
        mask = b.op(comparison, *e.operands)
        s, t = (b.constant(0.0, e.result.type) if v is None else v for v in tangents)
        return (b.op("select", mask, s, t),)

    return jvp


def _select_infer(types: Sequence[TensorType], attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    if types[0].dtype is not DType.BOOL:
        raise ShapeError(f"select needs a bool condition, not {types[0].dtype}", (0,), "compare first, as in x > 0")
    return (TensorType(same_dtype("select", types, (1, 2)), same_shape("select", types, (0, 1, 2), dims)),)


def _select_jvp(b: Builder, e: Equation, tangents: Sequence[Optional]) -> tuple[Optional, ...]:
    if tangents[1] is None and tangents[2] is None:
        return (None,)
    s, t = (b.constant(0.0, e.result.type, named="zero") if v is None else v for v in tangents[1:])
    return (b.op("select", e.operands[0], s, t),)


def _select_transpose(b: Builder, e: Equation, cts: Sequence[Optional],
                      linear: Sequence[bool]) -> tuple[Optional, ...]:
    (ct,), mask = cts, e.operands[0]
    if ct is None:
        return (None, None, None)
    zero = b.constant(0.0, ct.type, named="zero")
    return (None, b.op("select", mask, ct, zero) if linear[1] else None,
            b.op("select", mask, zero, ct) if linear[2] else None)


def _cast_infer(types: Sequence[TensorType], attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    target = element_type(attrs)
    if types[0].dtype.is_complex and not target.is_complex:
        raise ShapeError(f"cast from {types[0].dtype} to {target} would drop the imaginary part", (0,),
                         "take op.real(x) or op.abs(x)")
    return (types[0].with_dtype(target),)


def _cast_evaluate(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
    target = element_type(attrs).numpy
    if np.iscomplexobj(arrays[0]) and target.kind == "f":
        return as_tuple(arrays[0])  # a complex step through a real cast
    return as_tuple(re(arrays[0]).astype(target) if target.kind in "iub" else arrays[0].astype(target))


def _cast_jvp(b: Builder, e: Equation, tangents: Sequence[Optional]) -> tuple[Optional, ...]:
    (t,), target = tangents, e.result.type.dtype
    return (b.op("cast", t, dtype=target) if t is not None and target.is_differentiable else None,)


def _cast_transpose(b: Builder, e: Equation, cts: Sequence[Optional], linear: Sequence[bool]) -> tuple[Optional, ...]:
    (ct,), source = cts, e.operands[0].type.dtype
    if ct is None:
        return (None,)
    if ct.type.dtype.is_complex and not source.is_complex:
        ct = b.op("real", ct)  # an imaginary part does not move a real number
    return (ct if ct.type.dtype is source else b.op("cast", ct, dtype=source),)


def _cast_linear(e: Equation) -> tuple[tuple[int, ...], ...]:
    """Where no digits are lost: a sum of rounded terms is not the rounded sum."""
    old, new = e.operands[0].type.dtype, e.result.type.dtype
    exact = old.is_differentiable and new.is_differentiable and new.real.itemsize >= old.real.itemsize
    return ((0,),) if exact else ()


def _stop_infer(types: Sequence[TensorType], attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    return (types[0],)


def _cast_planar(b: Builder, e: Equation, operands: Sequence[Pair]) -> tuple[Pair, ...]:
    target = e.result.type.dtype.real
    (x,) = operands

    def converted(plane: Plane | None) -> Plane | None:
        if plane is None or plane.var.type.dtype is target:
            return plane
        return Plane(b.op("cast", plane.var, dtype=target), plane.negative)

    return (Pair(converted(x.re), converted(x.im)),)


def _divide(a: Array, b: Array) -> Array:
    return np.asarray(np.true_divide(a, b))


def _register_arithmetic() -> None:
    _binary("add", "x + y", by_numpy("add"), Scalar("{0} + {1}", "{0} + {1}", "{0} + {1}", precedence=6), _infer("add"),
            _add_jvp, _add_transpose, planar=_sum_planar(plus), linear=linear_in((0, 1)))
    _binary("sub", "x - y", by_numpy("subtract"), Scalar("{0} - {1}", "{0} - {1}", "{0} - {1}", precedence=6),
            _infer("sub"), _sub_jvp, _sub_transpose, planar=_sum_planar(minus), linear=linear_in((0, 1)))
    _binary("mul", "x * y", by_numpy("multiply"), Scalar("{0} * {1}", "{0} * {1}", "{0}*{1}", precedence=5),
            _infer("mul"), _mul_jvp, _mul_transpose, planar=lambda b, e, x: (product(b, x[0], x[1]),),
            linear=linear_in((0,), (1,)))
    _binary("div", "x / y", _divide, Scalar("{0} / {1}", "{0} / {1}", "{0}/{1}", precedence=5),
            _infer("div", floating=True), _div_jvp, _div_transpose,
            planar=lambda b, e, x: (quotient(b, x[0], x[1], e.result.type),), linear=linear_in((0,)))
    _binary("pow", "x to the power y", by_numpy("power"), Scalar("vpow({0}, {1})", "pow({0}, {1})", "{0}^{1}", 20),
            _infer("pow", floating=True, refuse=_POWER), _pow_jvp, positive=True)
    _binary("atan2", "angle of the point with ordinate x and abscissa y, in (-pi, pi]", atan2,
            Scalar("vatan2({0}, {1})", "atan2({0}, {1})", "atan2({0}, {1})", 20),
            _infer("atan2", floating=True, refuse=PARTS), _atan2_jvp)
    _binary("maximum", "the larger; at a tie the derivative is the first operand's",
            lambda a, b: np.where(re(a) >= re(b), a, b),
            Scalar("vmax({0}, {1})", "tsr_max({0}, {1})", "max({0}, {1})"), _infer("maximum", refuse=_ORDER),
            _choice_jvp("ge"))
    _binary("minimum", "the smaller; at a tie the derivative is the first operand's",
            lambda a, b: np.where(re(a) <= re(b), a, b),
            Scalar("vmin({0}, {1})", "tsr_min({0}, {1})", "min({0}, {1})"), _infer("minimum", refuse=_ORDER),
            _choice_jvp("le"))


def _register_logic() -> None:
    comparisons = (("lt", "<", "less"), ("le", "<=", "less_equal"), ("gt", ">", "greater"),
                   ("ge", ">=", "greater_equal"), ("eq", "==", "equal"), ("ne", "!=", "not_equal"))
    for name, sign, function in comparisons:
        text = f"{{0}} {sign} {{1}}"
        compare = _on_real_parts(by_numpy(function))
        _binary(name, f"x {sign} y", compare, Scalar(text, text, text, precedence=10 if name in ("eq", "ne") else 9),
                _infer(name, result=DType.BOOL, refuse=_ORDER), zero_jvp)
    for name, sign, level in (("logical_and", "&", 11), ("logical_or", "|", 13)):
        text = f"{{0}} {sign} {{1}}"
        word = name.removeprefix("logical_")
        _binary(name, f"x {word} y", by_numpy(name), Scalar(text, text, f"{{0}} {word} {{1}}", precedence=level),
                _infer(name, logical=True), zero_jvp, logical=True)


def _on_real_parts(function: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    return lambda a, b: function(re(a), re(b))


def _sum_planar(combine: Callable[[Builder, Plane | None, Plane | None], Plane | None]) -> PlanarRule:
    def planar(b: Builder, e: Equation, operands: Sequence[Pair]) -> tuple[Pair, ...]:
        x, y = operands
        return (Pair(combine(b, x.re, y.re), combine(b, x.im, y.im)),)

    return planar


def _select_samples() -> tuple[Sample, ...]:
    mask = np.array([[True, False, True], [False, False, True]])
    x, y = np.arange(6.0).reshape(2, 3), -np.arange(6.0).reshape(2, 3) - 0.5
    return Sample((mask, x, y)), Sample((mask, x + 1j * y, y - 1j * x))


def _quotient_infer(types: Sequence[TensorType], attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    for position in (0, 1):
        need_integer("quotient", types, position)
    return (TensorType(same_dtype("quotient", types, (0, 1)), same_shape("quotient", types, (0, 1), dims)),)


def _register_rest() -> None:
    whole = Scalar("vquotient({0}, {1})", "tsr_quotient({0}, {1})", "{0} div {1}", precedence=0)
    register(OpSpec("quotient", "integers divided and rounded down; the divisor is positive", "elementwise", 2,
                    _quotient_infer, lambda a, _: as_tuple(np.floor_divide(a[0], a[1])), jvp=zero_jvp,
                    factors=pointwise_factors, flops=pointwise_flops(whole), scalar=whole,
                    samples=lambda: (Sample((np.array([7, -7, 6, 0]), np.array([2, 2, 3, 5]))),)))
    scalar = Scalar("select({0}, {1}, {2})", "({0} ? {1} : {2})", "{0} ? {1} : {2}")
    register(OpSpec("select", "x where the condition holds, else y", "elementwise", 3, _select_infer,
                    lambda a, _: as_tuple(np.where(a[0], a[1], a[2])), jvp=_select_jvp, transpose=_select_transpose,
                    planar=each_plane, linear=linear_in((1, 2)),
                    factors=pointwise_factors, flops=pointwise_flops(scalar), scalar=scalar,
                    samples=_select_samples))
    convert = Scalar("{0}", "{0}", "{0}", 0)
    register(OpSpec("cast", "conversion to another element type", "elementwise", 1, _cast_infer, _cast_evaluate,
                    attrs=(("dtype", REQUIRED),), jvp=_cast_jvp, transpose=_cast_transpose, planar=_cast_planar,
                    factors=pointwise_factors, linear=_cast_linear, flops=pointwise_flops(convert), scalar=convert,
                    samples=lambda: (Sample((np.array([0.5, -1.5, 2.0]),), (("dtype", DType.F64),)),
                                     Sample((np.array([3, -4]),), (("dtype", DType.F64),)),
                                     Sample((np.array([1.7, -2.7]),), (("dtype", DType.I32),)),
                                     Sample((np.array([0.5, -1.5]),), (("dtype", DType.C128),)),
                                     Sample((np.array([0.5 - 1.5j]),), (("dtype", DType.C128),)))))
    unary("stop_gradient", "the value itself, taken as a constant by differentiation", by_numpy("array"), convert,
          zero_jvp, infer=_stop_infer, planar=each_plane, linear=linear_in((0,)))
    register(OpSpec("logical_not", "not x", "elementwise", 1, _infer("logical_not", logical=True),
                    lambda a, _: as_tuple(np.logical_not(a[0])), jvp=zero_jvp, factors=pointwise_factors,
                    flops=pointwise_flops(Scalar("!{0}", "!{0}", "not {0}", precedence=3)),
                    scalar=Scalar("!{0}", "!{0}", "not {0}", precedence=3),
                    samples=lambda: (Sample((np.array([True, False, True]),)),)))


_register_arithmetic()
_register_logic()
_register_rest()
