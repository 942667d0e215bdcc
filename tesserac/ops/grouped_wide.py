"""Products over the rows of experts whose operands have 16 bits and whose sums stay in float32.

Mixed precision makes them after derivatives have been taken; they mean the ops of ``grouped`` on wide operands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tesserac.ir.dims import Dims
from tesserac.ir.program import Equation, Var
from tesserac.ir.types import TensorType
from tesserac.ops import grouped  # noqa: F401  (registers what is widened here)
from tesserac.ops.base import Attrs, OpSpec, Sample, register, spec_of
from tesserac.ops.contract import wide_type

if TYPE_CHECKING:
    from tesserac.ir.builder import Builder

OFFSETS_AT = {"grouped_contract": 1, "grouped_outer": 2}
"""The operand that is no factor."""


def _expand(b: Builder, e: Equation) -> tuple[Var, ...]:
    narrow = e.op.removesuffix("_wide")
    at = OFFSETS_AT[narrow]
    operands = [v if i == at else b.op("cast", v, dtype=wide_type(v.type.dtype)) for i, v in enumerate(e.operands)]
    return b.ops(narrow, operands, e.attributes)


def _widened(narrow: OpSpec, doc: str) -> OpSpec:
    def infer(types: Sequence[TensorType], attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
        return tuple(t.with_dtype(wide_type(t.dtype)) for t in narrow.infer(types, attrs, dims))

    def samples() -> tuple[Sample, ...]:
        assert narrow.samples is not None
        return tuple(s for s in narrow.samples() if all(a.dtype.kind != "c" for a in s.arrays))

    return replace(narrow, name=f"{narrow.name}_wide", doc=doc, infer=infer, jvp=None, transpose=None, linear=None,
                   planar=None, expand=_expand, samples=samples)


register(_widened(spec_of("grouped_contract"), "grouped_contract of 16-bit operands whose sums stay in float32"))
register(_widened(spec_of("grouped_outer"), "grouped_outer of 16-bit operands whose sums stay in float32"))
