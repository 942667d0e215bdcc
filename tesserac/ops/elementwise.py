"""Elementwise ops of one operand: each is a formula, its derivative and its text in emitted code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tesserac.arrays import np
from tesserac.ir.dims import Dims, ShapeError
from tesserac.ir.program import Equation, Var
from tesserac.ir.types import DType, TensorType
from tesserac.ops import numerics
from tesserac.ops.base import (
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
from tesserac.ops.planes import Pair, PlanarRule, Plane, negated, product, quotient, whole
from tesserac.ops.rules import linear_in, masked, need_field, need_float, one_minus, pointwise_factors, scaled, shifted

if TYPE_CHECKING:
    from tesserac.ir.builder import Builder

Derivative = Callable[["Builder", Var, Var], Var]


def derivative_jvp(derivative: Derivative) -> JvpRule:
    """tangent = tangent of x times derivative(x, y)."""

    def jvp(b: Builder, e: Equation, tangents: Sequence[Var | None]) -> tuple[Var | None, ...]:
        (t,) = tangents
        if t is None:
            return (None,)
        return (b.op("mul", t, derivative(b, e.operands[0], e.result)),)

    return jvp


def zero_jvp(b: Builder, e: Equation, tangents: Sequence[Var | None]) -> tuple[Var | None, ...]:
    """Derivative zero wherever it exists."""
    return (None,)


PRINCIPAL = {
    "log": "op.complex(op.log(op.abs(x)), op.angle(x))",
    "sqrt": "op.sqrt(op.abs(x)) * op.exp(0.5j * op.angle(x))",
}
"""What the principal value of a function with several values is made of."""


def float_infer(name: str) -> InferRule:
    """The operand's type, which must be floating point."""
    instead = f"act on the parts, op.complex(op.{name}(op.real(x)), op.{name}(op.imag(x)))"
    if name in PRINCIPAL:
        instead = f"the principal value is {PRINCIPAL[name]}"

    def infer(types: Sequence[TensorType], attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
        need_float(name, types, (0,), f"{instead}, or take a real number such as op.abs(x)")
        return (types[0],)

    return infer


def field_infer(name: str) -> InferRule:
    """The operand's type, which must be floating point or complex (the function has one complex derivative)."""

    def infer(types: Sequence[TensorType], attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
        need_field(name, types, (0,))
        return (types[0],)

    return infer


def number_infer(name: str) -> InferRule:
    """The operand's type, which must not be bool."""

    def infer(types: Sequence[TensorType], attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
        if types[0].dtype is DType.BOOL:
            raise ShapeError(f"{name} needs a number, not bool", (0,))
        return (types[0],)

    return infer


def pointwise_flops(scalar: Scalar) -> Callable[[Sequence[TensorType], Sequence[TensorType], Attrs], float]:
    """The scalar's work times the number of elements."""

    def flops(ins: Sequence[TensorType], outs: Sequence[TensorType], attrs: Attrs) -> float:
        return scalar.flops * outs[0].size

    return flops


def unary(name: str, doc: str, function: Callable[[Array], Array], scalar: Scalar, jvp: JvpRule, *,
          low: float = -2.0, high: float = 2.0, infer: InferRule | None = None,
          transpose: TransposeRule | None = None, planar: PlanarRule | None = None,
          linear: LinearRule | None = None) -> OpSpec:
    """Registers an elementwise op of one operand, tested on 2x5 numbers spread over [low, high]."""

    def evaluate(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
        return as_tuple(function(arrays[0]))

    def samples() -> tuple[Sample, ...]:
        # Irregular spacing keeps the points off the kinks of relu, abs, sign and floor.
        points = np.linspace(low, high, 10) + 0.013
        real = (Sample((points.reshape(2, 5),)), Sample((np.array(0.3 * low + 0.7 * high),)))
        return real if planar is None else (*real, Sample((points.reshape(2, 5) + 1j * points[::-1].reshape(2, 5),)))

    return register(OpSpec(name, doc, "elementwise", 1, infer or float_infer(name), evaluate, jvp=jvp,
                           transpose=transpose, planar=planar, factors=pointwise_factors, linear=linear,
                           flops=pointwise_flops(scalar), scalar=scalar, samples=samples))


def _negate_transpose(b: Builder, e: Equation, cts: Sequence[Var | None],
                      linear: Sequence[bool]) -> tuple[Var | None, ...]:
    (ct,) = cts
    return (None if ct is None else b.op("neg", ct),)


def _negate_jvp(b: Builder, e: Equation, tangents: Sequence[Var | None]) -> tuple[Var | None, ...]:
    (t,) = tangents
    return (None if t is None else b.op("neg", t),)


def _relu_jvp(b: Builder, e: Equation, tangents: Sequence[Var | None]) -> tuple[Var | None, ...]:
    # By the result's sign: the operand need not outlive the forward pass.
    (t,) = tangents
    return (None if t is None else masked(b, b.op("gt", e.result, b.constant(0.0, e.result.type)), t),)


def _square_jvp(b: Builder, e: Equation, tangents: Sequence[Var | None]) -> tuple[Var | None, ...]:
    (t,) = tangents
    return (None if t is None else b.op("mul", t, scaled(b, e.operands[0], 2.0)),)


def _square_planar(b: Builder, e: Equation, operands: Sequence[Pair]) -> tuple[Pair, ...]:
    (x,) = operands
    return (product(b, x, x),)


def _reciprocal_planar(b: Builder, e: Equation, operands: Sequence[Pair]) -> tuple[Pair, ...]:
    like = e.result.type
    one = Plane(b.constant(1.0, like.with_dtype(like.dtype.real), named="one"))
    return (quotient(b, Pair(one), operands[0], like),)


def _exp_planar(b: Builder, e: Equation, operands: Sequence[Pair]) -> tuple[Pair, ...]:
    """e^re (cos im + i sin im)."""
    (x,), like = operands, e.result.type
    size = b.op("exp", whole(b, x.re, like))
    if x.im is None:
        return (Pair(Plane(size)),)
    turn = x.im.var
    return (Pair(Plane(b.op("mul", size, b.op("cos", turn))),
                 Plane(b.op("mul", size, b.op("sin", turn)), x.im.negative)),)


def _d_erf(b: Builder, x: Var, y: Var) -> Var:
    return scaled(b, b.op("exp", b.op("neg", b.op("square", x))), numerics.TWO_OVER_SQRT_PI)


def _d_rsqrt(b: Builder, x: Var, y: Var) -> Var:
    return scaled(b, b.op("mul", y, b.op("square", y)), -0.5)


def _d_sqrt(b: Builder, x: Var, y: Var) -> Var:
    return b.op("div", b.constant(0.5, y.type), y)


def _d_gelu_grad(b: Builder, x: Var, y: Var) -> Var:
    square = b.op("square", x)
    density = scaled(b, b.op("exp", scaled(b, square, -0.5)), numerics.INV_SQRT_2PI)
    return b.op("mul", density, b.op("sub", b.constant(2.0, x.type), square))


def _d_gelu_tanh_grad(b: Builder, x: Var, y: Var) -> Var:
    # With u = c (x + a x^3) and T = tanh u:  (1 - T^2) (u' (1 - x T u') + x u'' / 2),  u'' = 6 a c x.
    c, a = numerics.GELU_C, numerics.GELU_A
    square = b.op("square", x)
    u = b.op("mul", x, shifted(b, scaled(b, square, c * a), c))
    slope = shifted(b, scaled(b, square, 3 * a * c), c)
    t = b.op("tanh", u)
    bend = scaled(b, square, 3 * a * c)
    first = b.op("mul", slope, one_minus(b, b.op("mul", b.op("mul", x, t), slope)))
    return b.op("mul", one_minus(b, b.op("square", t)), b.op("add", first, bend))


def _d_silu_grad(b: Builder, x: Var, y: Var) -> Var:
    # s (1 - s) (2 + x (1 - 2 s))
    s = b.op("sigmoid", x)
    inner = shifted(b, b.op("mul", x, one_minus(b, scaled(b, s, 2.0))), 2.0)
    return b.op("mul", b.op("mul", s, one_minus(b, s)), inner)


def _reciprocal(x: Array) -> Array:
    return np.asarray(1.0 / x)


def _rsqrt(x: Array) -> Array:
    return np.asarray(1.0 / np.sqrt(x))


def _relu(x: Array) -> Array:
    return np.where(numerics.re(x) < 0, np.zeros_like(x), x)  # NaN stays


def _sign(x: Array) -> Array:
    return np.asarray(np.sign(numerics.re(x)))


def _floor(x: Array) -> Array:
    return np.asarray(np.floor(numerics.re(x)))


def _register_smooth() -> None:
    d = derivative_jvp
    unary("exp", "e to the power x", by_numpy("exp"), Scalar("vexp({0})", "exp({0})", "exp({0})", 10),
          d(lambda b, x, y: y), infer=field_infer("exp"), planar=_exp_planar)
    unary("sin", "sine", by_numpy("sin"), Scalar("vsin({0})", "sin({0})", "sin({0})", 10),
          d(lambda b, x, y: b.op("cos", x)))
    unary("cos", "cosine", by_numpy("cos"), Scalar("vcos({0})", "cos({0})", "cos({0})", 10),
          d(lambda b, x, y: b.op("neg", b.op("sin", x))))
    unary("tanh", "hyperbolic tangent", by_numpy("tanh"), Scalar("vtanh({0})", "tanh({0})", "tanh({0})", 10),
          d(lambda b, x, y: one_minus(b, b.op("square", y))))
    unary("sqrt", "square root", by_numpy("sqrt"), Scalar("vsqrt({0})", "sqrt({0})", "sqrt({0})", 10), d(_d_sqrt),
          low=0.3)
    unary("rsqrt", "1 / square root", _rsqrt, Scalar("vrsqrt({0})", "rsqrt({0})", "1/sqrt({0})", 10), d(_d_rsqrt),
          low=0.3)
    unary("erf", "error function", numerics.erf, Scalar("verf({0})", "erf({0})", "erf({0})", 10), d(_d_erf))
    unary("sigmoid", "1 / (1 + exp(-x))", numerics.sigmoid,
          Scalar("vsigmoid({0})", "tsr_sigmoid({0})", "sigmoid({0})", 10),
          d(lambda b, x, y: b.op("mul", y, one_minus(b, y))), high=4.0)
    unary("softplus", "log(1 + exp(x))", numerics.softplus,
          Scalar("vsoftplus({0})", "tsr_softplus({0})", "softplus({0})", 20),
          d(lambda b, x, y: b.op("sigmoid", x)), high=4.0)
    unary("reciprocal", "1 / x", _reciprocal, Scalar("1 / {0}", "1 / {0}", "1/{0}", 1, precedence=5),
          d(lambda b, x, y: b.op("neg", b.op("square", y))), low=0.5, infer=field_infer("reciprocal"),
          planar=_reciprocal_planar)


def _d_log() -> JvpRule:
    def jvp(b: Builder, e: Equation, tangents: Sequence[Var | None]) -> tuple[Var | None, ...]:
        (t,) = tangents
        return (None if t is None else b.op("div", t, e.operands[0]),)

    return jvp


def _register_activations() -> None:
    d = derivative_jvp
    unary("gelu", "x times the normal distribution function (erf form)", numerics.gelu,
          Scalar("vgelu({0})", "tsr_gelu({0})", "gelu({0})", 14), d(lambda b, x, y: b.op("gelu_grad", x)))
    unary("gelu_grad", "derivative of gelu", numerics.gelu_grad,
          Scalar("vdgelu({0})", "tsr_dgelu({0})", "gelu'({0})", 25), d(_d_gelu_grad))
    unary("gelu_tanh", "tanh form of gelu", numerics.gelu_tanh,
          Scalar("vgelu_tanh({0})", "tsr_gelu_tanh({0})", "gelu_tanh({0})", 17),
          d(lambda b, x, y: b.op("gelu_tanh_grad", x)))
    unary("gelu_tanh_grad", "derivative of gelu_tanh", numerics.gelu_tanh_grad,
          Scalar("vdgelu_tanh({0})", "tsr_dgelu_tanh({0})", "gelu_tanh'({0})", 25), d(_d_gelu_tanh_grad))
    unary("silu", "x times sigmoid(x)", numerics.silu, Scalar("vsilu({0})", "tsr_silu({0})", "silu({0})", 11),
          d(lambda b, x, y: b.op("silu_grad", x)))
    unary("silu_grad", "derivative of silu", numerics.silu_grad,
          Scalar("vdsilu({0})", "tsr_dsilu({0})", "silu'({0})", 15), d(_d_silu_grad))
    unary("relu", "max(x, 0); derivative 0 at 0", _relu,
          Scalar("vrelu({0})", "tsr_relu({0})", "max({0}, 0)"), _relu_jvp)


def _register_simple() -> None:
    unary("neg", "-x", by_numpy("negative"), Scalar("-{0}", "-{0}", "-{0}", precedence=3), _negate_jvp,
          infer=number_infer("neg"), transpose=_negate_transpose, linear=linear_in((0,)),
          planar=lambda b, e, x: (Pair(negated(x[0].re), negated(x[0].im)),))
    unary("log", "natural logarithm", by_numpy("log"), Scalar("vlog({0})", "log({0})", "log({0})", 10), _d_log(),
          low=0.3)
    unary("square", "x * x", by_numpy("square"), Scalar("{0} * {0}", "{0} * {0}", "{0}^2", precedence=5), _square_jvp,
          infer=number_infer("square"), planar=_square_planar)
    unary("abs", "absolute value; derivative sign(x)", numerics.absolute,
          Scalar("vabs({0})", "fabs({0})", "|{0}|"), derivative_jvp(lambda b, x, y: b.op("sign", x)))
    unary("sign", "-1, 0 or 1; derivative 0", _sign, Scalar("vsign({0})", "tsr_sign({0})", "sign({0})"), zero_jvp)
    unary("floor", "largest integer not above x; derivative 0", _floor,
          Scalar("vfloor({0})", "floor({0})", "floor({0})"), zero_jvp)


_register_smooth()
_register_activations()
_register_simple()
