"""Rules for Fourier and wavelet transforms: those that undo each other, and those of nothing."""

from __future__ import annotations

from tesserac.ir.program import Equation, Var
from tesserac.passes.rules.rewriter import Rewriter
from tesserac.passes.rules.rule import Rule

INVERSE = {"fft": "ifft", "ifft": "fft", "irfft": "rfft", "wavelet": "iwavelet", "iwavelet": "wavelet"}
_OWN = ("n",)
"""Attributes that only one direction has."""


def _undone(graph: Rewriter, equation: Equation) -> Var | None:
    inner = graph.defined_by(equation.operands[0], INVERSE[equation.op])
    if inner is None:
        return None
    x, result = inner.operands[0], equation.result.type
    mine, other = ({k: v for k, v in e.attributes.items() if k not in _OWN} for e in (equation, inner))
    factors = mine.pop("interior", 1.0), other.pop("interior", 1.0)
    if mine != other or factors != (1.0, 1.0) or x.type.shape != result.shape:
        return None
    return x if x.type == result else graph.op("cast", x, dtype=result.dtype)


def _of_zeros(graph: Rewriter, equation: Equation) -> Var | None:
    if graph.constant_of(equation.operands[0]) != 0:
        return None
    kind = equation.result.type
    zero = graph.constant(0.0, kind.with_dtype(kind.dtype.real))
    return graph.op("complex", zero, zero) if kind.dtype.is_complex else zero


RULES = (
    Rule("inverse-transform", tuple(INVERSE), "a transform and its inverse undo each other", _undone),
    Rule("transform-zeros", (*INVERSE, "rfft"), "the transform of zeros is zero", _of_zeros),
)
