"""Complex numbers: between them and their real parts. Arithmetic on them is that of the real ops of the same names.

Gradients follow one convention: the cotangent of z is dL/dRe z + i dL/dIm z, which is what PyTorch hands to its
optimizers. The product that transposition refers to is therefore Re(sum of conj(a) b), and the transpose of a product
with a is one with conj(a). These ops exist until the planar pass replaces complex values by pairs of real ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tesserac.arrays import np
from tesserac.ir.dims import Dims, ShapeError
from tesserac.ir.program import Equation, Var
from tesserac.ir.types import TensorType
from tesserac.ops.base import Array, Attrs, JvpRule, LinearRule, OpSpec, Sample, TransposeRule, as_tuple, register
from tesserac.ops.planes import Pair, PlanarRule, Plane, larger_part, negated, whole
from tesserac.ops.rules import linear_in, linear_jvp, need_float, pointwise_factors, same_dtype, same_shape, zeros

if TYPE_CHECKING:
    from tesserac.ir.builder import Builder

Types = Sequence[TensorType]
Optional = Var | None


def need_complex(name: str, types: Types, position: int = 0) -> None:
    """ShapeError unless the operand is complex."""
    if not types[position].dtype.is_complex:
        raise ShapeError(f"{name} needs a complex operand, not {types[position].dtype}", (position,))


def _to_real_infer(name: str) -> Callable[[Types, Attrs, Dims], tuple[TensorType, ...]]:
    def infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
        need_complex(name, types)
        return (types[0].with_dtype(types[0].dtype.real),)

    return infer


def _conj_infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    need_complex("conj", types)
    return (types[0],)


def _complex_infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    need_float("complex", types, (0, 1))
    dtype = same_dtype("complex", types, (0, 1))
    shape = same_shape("complex", types, (0, 1), dims)
    if dtype not in (dtype.complex.real,):
        raise ShapeError(f"complex: there are no complex numbers of {dtype}", (0, 1), "op.cast both parts to float32")
    return (TensorType(dtype.complex, shape),)


def _complex(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
    # Not re + 1j * im: an infinite imaginary part would put NaN into the real one.
    re, im = arrays
    result = np.empty(re.shape, np.result_type(re.dtype, np.complex64))
    result.real, result.imag = re, im
    return as_tuple(result)


def as_complex(b: Builder, re: Var | None, im: Var | None) -> Var:
    """The complex value with these parts, of which at least one is given."""
    if im is None:
        assert re is not None
        return b.op("cast", re, dtype=re.type.dtype.complex)
    return b.op("complex", zeros(b, im.type) if re is None else re, im)


def _complex_jvp(b: Builder, e: Equation, tangents: Sequence[Optional]) -> tuple[Optional, ...]:
    re, im = tangents
    return (None if re is None and im is None else as_complex(b, re, im),)


def _complex_transpose(b: Builder, e: Equation, cts: Sequence[Optional],
                       linear: Sequence[bool]) -> tuple[Optional, ...]:
    (ct,) = cts
    if ct is None:
        return (None, None)
    return (b.op("real", ct) if linear[0] else None, b.op("imag", ct) if linear[1] else None)


def _real_transpose(b: Builder, e: Equation, cts: Sequence[Optional], linear: Sequence[bool]) -> tuple[Optional, ...]:
    (ct,) = cts
    return (None if ct is None else as_complex(b, ct, None),)


def _imag_transpose(b: Builder, e: Equation, cts: Sequence[Optional], linear: Sequence[bool]) -> tuple[Optional, ...]:
    (ct,) = cts
    return (None if ct is None else as_complex(b, None, ct),)


def _conj_transpose(b: Builder, e: Equation, cts: Sequence[Optional], linear: Sequence[bool]) -> tuple[Optional, ...]:
    (ct,) = cts
    return (None if ct is None else b.op("conj", ct),)


def _unit(b: Builder, z: Var, size: Var) -> Var:
    """z / |z|, and 0 at 0: PyTorch's subgradient."""
    at_zero = b.op("eq", size, zeros(b, size.type))
    safe = b.op("select", at_zero, b.constant(1.0, size.type, named="one"), size)
    return b.op("div", z, b.op("cast", safe, dtype=z.type.dtype))


def _magnitude_jvp(b: Builder, e: Equation, tangents: Sequence[Optional]) -> tuple[Optional, ...]:
    """Re(conj(z) t) / |z|."""
    (t,) = tangents
    if t is None:
        return (None,)
    return (b.op("real", b.op("mul", t, b.op("conj", _unit(b, e.operands[0], e.result)))),)


def _angle_jvp(b: Builder, e: Equation, tangents: Sequence[Optional]) -> tuple[Optional, ...]:
    """Im(t / z)."""
    (t,) = tangents
    return (None if t is None else b.op("imag", b.op("div", t, e.operands[0])),)


def _magnitude_planar(b: Builder, e: Equation, operands: Sequence[Pair]) -> tuple[Pair, ...]:
    """m sqrt((re/m)^2 + (im/m)^2) with m the larger part, so that squares do not overflow."""
    (z,) = operands
    if z.re is None or z.im is None:
        return (Pair(Plane(larger_part(b, z, e.operands[0].type))),)
    most = larger_part(b, z, e.operands[0].type)
    at_zero = b.op("eq", most, zeros(b, most.type))
    scale = b.op("select", at_zero, b.constant(1.0, most.type, named="one"), most)
    squares = [b.op("square", b.op("div", p.var, scale)) for p in (z.re, z.im)]
    return (Pair(Plane(b.op("mul", scale, b.op("sqrt", b.op("add", *squares))))),)


def _angle_planar(b: Builder, e: Equation, operands: Sequence[Pair]) -> tuple[Pair, ...]:
    (z,), kind = operands, e.operands[0].type
    return (Pair(Plane(b.op("atan2", whole(b, z.im, kind), whole(b, z.re, kind)))),)


def _flops(count: float) -> Callable[[Types, Types, Attrs], float]:
    return lambda ins, outs, attrs: count * outs[0].size


def _numbers() -> Array:
    t = np.arange(8.0).reshape(2, 4)
    return np.asarray(np.sin(0.4 + 1.7 * t) + 1j * np.cos(0.9 + 2.3 * t))


def _pointwise(name: str, doc: str, arity: int, infer: Callable[[Types, Attrs, Dims], tuple[TensorType, ...]],
               evaluate: Callable[[Sequence[Array], Attrs], tuple[Array, ...]], jvp: JvpRule, planar: PlanarRule,
               transpose: TransposeRule | None = None, flops: float = 0.0, linear: LinearRule | None = None) -> None:
    def samples() -> tuple[Sample, ...]:
        return (Sample((_numbers().real, _numbers().imag)),) if arity == 2 else (Sample((_numbers(),)),)

    register(OpSpec(name, doc, "complex", arity, infer, evaluate, jvp=jvp, transpose=transpose,
                    factors=pointwise_factors,
                    linear=linear, flops=_flops(flops), samples=samples, planar=planar))


def _register() -> None:
    _pointwise("real", "the real part", 1, _to_real_infer("real"), lambda a, _: as_tuple(np.array(a[0].real)),
               linear_jvp, lambda b, e, x: (Pair(x[0].re),), _real_transpose, linear=linear_in((0,)))
    _pointwise("imag", "the imaginary part", 1, _to_real_infer("imag"), lambda a, _: as_tuple(np.array(a[0].imag)),
               linear_jvp, lambda b, e, x: (Pair(x[0].im),), _imag_transpose, linear=linear_in((0,)))
    _pointwise("conj", "the complex conjugate", 1, _conj_infer, lambda a, _: as_tuple(np.conj(a[0])), linear_jvp,
               lambda b, e, x: (Pair(x[0].re, negated(x[0].im)),), _conj_transpose, linear=linear_in((0,)))
    _pointwise("complex", "the number with this real and this imaginary part", 2, _complex_infer, _complex,
               _complex_jvp, lambda b, e, x: (Pair(x[0].re, x[1].re),), _complex_transpose,
               linear=linear_in((0, 1)))
    _pointwise("magnitude", "absolute value of a complex number; derivative 0 at 0", 1, _to_real_infer("magnitude"),
               lambda a, _: as_tuple(np.abs(a[0])), _magnitude_jvp, _magnitude_planar, flops=25.0)
    _pointwise("angle", "argument of a complex number, in (-pi, pi]", 1, _to_real_infer("angle"),
               lambda a, _: as_tuple(np.angle(a[0])), _angle_jvp, _angle_planar, flops=20.0)


_register()
