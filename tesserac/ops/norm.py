"""Fused ops over the last axis: layernorm, rmsnorm, softmax, log_softmax.

``expand`` and ``vjp`` emit the row statistics in the same form, so that common-subexpression elimination
merges them when both end up in one program.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tesserac.arrays import np
from tesserac.ir.dims import Dims, ShapeError
from tesserac.ir.program import Equation, Var
from tesserac.ir.types import TensorType
from tesserac.ops.attributes import number
from tesserac.ops.base import Array, Attrs, FactorRule, Factors, FlopRule, InferRule, OpSpec, Sample, as_tuple, register
from tesserac.ops.numerics import re
from tesserac.ops.rules import (
    LETTERS,
    along_last,
    along_rows,
    last_mean,
    last_sum,
    need_float,
    need_rank,
    row_sum,
    same_dtype,
    shifted,
)

if TYPE_CHECKING:
    from tesserac.ir.builder import Builder

Types = Sequence[TensorType]
Optional = Var | None


def _row_infer(name: str, vectors: int) -> InferRule:
    def infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
        need_rank(name, types, 0, 1)
        need_float(name, types, range(1 + vectors))
        same_dtype(name, types, range(1 + vectors))
        for position in range(1, 1 + vectors):
            if types[position].rank != 1:
                raise ShapeError(f"{name}: operand {position + 1} must be a vector, not {types[position]}", (position,))
            dims.equal(types[0].shape[-1], types[position].shape[0], f"{name}, last axis", (0, position))
        return (types[0],)

    return infer


def _row_factors(vectors: int) -> FactorRule:
    def factors(ins: Types, outs: Types, attrs: Attrs) -> Factors:
        axes = tuple(LETTERS[: ins[0].rank])
        return Factors((axes, *((axes[-1],) for _ in range(vectors))), (axes,), ((axes[-1], "blocked"),))

    return factors


def _per_element(work: float) -> FlopRule:
    def flops(ins: Types, outs: Types, attrs: Attrs) -> float:
        return work * ins[0].size

    return flops


def normalized(b: Builder, x: Var, eps: float) -> tuple[Var, Var]:
    """(x - mean) * rstd over the last axis, and rstd per row."""
    centered = b.op("sub", x, along_last(b, last_mean(b, x, "mean"), x.type, "means"), named="centered")
    variance = last_mean(b, b.op("square", centered), "variance")
    rstd = b.op("rsqrt", shifted(b, variance, eps), named="rstd")
    return b.op("mul", centered, along_last(b, rstd, x.type, "rstds"), named="unit"), rstd


def _layernorm_expand(b: Builder, e: Equation) -> tuple[Var, ...]:
    x, gain, bias = e.operands
    unit, _ = normalized(b, x, number(e.attributes, "eps"))
    stretched = b.op("mul", unit, along_rows(b, gain, x.type, "gains"), named="stretched")
    return (b.op("add", stretched, along_rows(b, bias, x.type, "biases")),)


def _layernorm_vjp(b: Builder, e: Equation, cts: Sequence[Optional]) -> tuple[Optional, ...]:
    """With g = ct gain and n = (x - mean) rstd:  dx = rstd (g - mean g - n mean(g n)); two independent row sums."""
    (ct,), (x, gain, _) = cts, e.operands
    if ct is None:
        return (None, None, None)
    unit, rstd = normalized(b, x, number(e.attributes, "eps"))
    weighted = b.op("mul", ct, along_rows(b, gain, x.type, "gains"), named="d_unit")
    mean = along_last(b, last_mean(b, weighted, "d_mean"), x.type, "d_means")
    slope = along_last(b, last_mean(b, b.op("mul", weighted, unit), "d_slope"), x.type, "d_slopes")
    inner = b.op("sub", b.op("sub", weighted, mean), b.op("mul", unit, slope))
    return (b.op("mul", inner, along_last(b, rstd, x.type, "rstds")), row_sum(b, b.op("mul", ct, unit)), row_sum(b, ct))


def _layernorm(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
    x, gain, bias = arrays
    centered = x - x.mean(-1, keepdims=True)
    variance = (centered * centered).mean(-1, keepdims=True)
    return as_tuple(centered / np.sqrt(variance + number(attrs, "eps")) * gain + bias)


def _root(b: Builder, x: Var, eps: float) -> Var:
    """1 / root mean square of the last axis, per row."""
    return b.op("rsqrt", shifted(b, last_mean(b, b.op("square", x), "mean_square"), eps), named="rstd")


def _rmsnorm_expand(b: Builder, e: Equation) -> tuple[Var, ...]:
    x, gain = e.operands
    rstd = along_last(b, _root(b, x, number(e.attributes, "eps")), x.type, "rstds")
    return (b.op("mul", b.op("mul", x, rstd, named="unit"), along_rows(b, gain, x.type, "gains")),)


def _rmsnorm_vjp(b: Builder, e: Equation, cts: Sequence[Optional]) -> tuple[Optional, ...]:
    """With g = ct gain and n = x r:  dx = r (g - n mean(g n))."""
    (ct,), (x, gain) = cts, e.operands
    if ct is None:
        return (None, None)
    rstd = along_last(b, _root(b, x, number(e.attributes, "eps")), x.type, "rstds")
    unit = b.op("mul", x, rstd, named="unit")
    weighted = b.op("mul", ct, along_rows(b, gain, x.type, "gains"), named="d_unit")
    slope = along_last(b, last_mean(b, b.op("mul", weighted, unit), "d_slope"), x.type, "d_slopes")
    inner = b.op("sub", weighted, b.op("mul", unit, slope))
    return (b.op("mul", inner, rstd), row_sum(b, b.op("mul", ct, unit)))


def _rmsnorm(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
    x, gain = arrays
    return as_tuple(x / np.sqrt((x * x).mean(-1, keepdims=True) + number(attrs, "eps")) * gain)


def row_exponentials(b: Builder, x: Var) -> tuple[Var, Var, Var, Var]:
    """Over the last axis: the maximum per row, x - max, its exponentials, and their sum per row.

    The maximum only guards against overflow: results do not depend on it, so it is a constant to differentiation.
    """
    largest = b.op("stop_gradient", b.op("reduce_max", x, axes=(x.type.rank - 1,), named="row_max"), named="max")
    lowered = b.op("sub", x, along_last(b, largest, x.type, "maxima"), named="lowered")
    powers = b.op("exp", lowered, named="exp")
    return largest, lowered, powers, last_sum(b, powers, "total")


def _softmax_expand(b: Builder, e: Equation) -> tuple[Var, ...]:
    _, _, powers, total = row_exponentials(b, e.operands[0])
    return (b.op("div", powers, along_last(b, total, powers.type, "totals")),)


def _softmax_vjp(b: Builder, e: Equation, cts: Sequence[Optional]) -> tuple[Optional, ...]:
    (ct,), y = cts, e.result
    if ct is None:
        return (None,)
    mean = along_last(b, last_sum(b, b.op("mul", ct, y), "d_mean"), y.type, "d_means")
    return (b.op("mul", y, b.op("sub", ct, mean)),)


def softmax(x: Array) -> Array:
    """Softmax over the last axis."""
    powers = np.exp(x - re(x).max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def log_softmax(x: Array) -> Array:
    """Logarithm of softmax over the last axis."""
    lowered = x - re(x).max(-1, keepdims=True)
    return np.asarray(lowered - np.log(np.exp(lowered).sum(-1, keepdims=True)))


def _log_softmax_expand(b: Builder, e: Equation) -> tuple[Var, ...]:
    _, lowered, _, total = row_exponentials(b, e.operands[0])
    return (b.op("sub", lowered, along_last(b, b.op("log", total), lowered.type, "logs")),)


def _log_softmax_vjp(b: Builder, e: Equation, cts: Sequence[Optional]) -> tuple[Optional, ...]:
    (ct,), y = cts, e.result
    if ct is None:
        return (None,)
    return (b.op("sub", ct, b.op("mul", b.op("exp", y), along_last(b, last_sum(b, ct), y.type))),)


def _rows() -> Array:
    return np.sin(0.5 + 1.3 * np.arange(16.0)).reshape(2, 2, 4) * 1.5


def _norm_samples() -> tuple[Sample, ...]:
    gain, bias = np.array([1.2, -0.7, 0.9, 0.4]), np.array([0.1, -0.2, 0.3, 0.05])
    return (Sample((_rows(), gain, bias), (("eps", 1e-5),)), Sample((_rows()[0, 0], gain, bias), (("eps", 1e-3),)))


def _rmsnorm_samples() -> tuple[Sample, ...]:
    return tuple(Sample(s.arrays[:2], s.attrs) for s in _norm_samples())


def _softmax_samples() -> tuple[Sample, ...]:
    return Sample((_rows(),)), Sample((_rows()[0, 1] * 3,))


register(OpSpec("layernorm", "rows of the last axis to mean 0 and variance 1, times gain plus bias", "fused", 3,
                _row_infer("layernorm", 2), _layernorm, attrs=(("eps", 1e-5),), vjp=_layernorm_vjp,
                expand=_layernorm_expand, factors=_row_factors(2), flops=_per_element(8), samples=_norm_samples))
register(OpSpec("rmsnorm", "rows of the last axis to mean square 1, times gain", "fused", 2, _row_infer("rmsnorm", 1),
                _rmsnorm, attrs=(("eps", 1e-6),), vjp=_rmsnorm_vjp, expand=_rmsnorm_expand, factors=_row_factors(1),
                flops=_per_element(5), samples=_rmsnorm_samples))
register(OpSpec("softmax", "exp(x) / sum of exp(x) over the last axis", "fused", 1, _row_infer("softmax", 0),
                lambda a, _: as_tuple(softmax(a[0])), vjp=_softmax_vjp, expand=_softmax_expand,
                factors=_row_factors(0), flops=_per_element(14), samples=_softmax_samples))
register(OpSpec("log_softmax", "logarithm of softmax over the last axis", "fused", 1, _row_infer("log_softmax", 0),
                lambda a, _: as_tuple(log_softmax(a[0])), vjp=_log_softmax_vjp, expand=_log_softmax_expand,
                factors=_row_factors(0), flops=_per_element(14), samples=_softmax_samples))
