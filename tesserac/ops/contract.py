"""Contraction of two operands, written as in einsum: ``bsd,dn->bsn``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tesserac.ir.dims import Dims, ShapeError
from tesserac.ir.program import Equation, Var
from tesserac.ir.types import Dim, DType, TensorType
from tesserac.ops.attributes import string
from tesserac.ops.base import REQUIRED, Array, Attrs, Factors, OpSpec, Sample, as_tuple, register
from tesserac.ops.reduce import widen
from tesserac.ops.rules import add_optional, need_float, same_dtype

if TYPE_CHECKING:
    from tesserac.ir.builder import Builder

Types = Sequence[TensorType]
Optional = Var | None


def parse_spec(spec: str) -> tuple[str, str, str]:
    """Letters of both operands and of the result; ShapeError when the text is not a contraction of two operands."""
    left, arrow, result = spec.partition("->")
    first, comma, second = left.partition(",")
    for part in (first, second, result):
        if len(set(part)) != len(part) or not (part == "" or (part.isascii() and part.isalpha())):
            raise ShapeError(f"contract: {spec!r} repeats a letter within {part!r} or holds something else")
    if not arrow or not comma or not set(result) <= set(first) | set(second):
        raise ShapeError(f"contract: {spec!r} is not of the form ab,bc->ac")
    return first, second, result


def extents(spec: str, types: Types) -> dict[str, int]:
    """Size of every letter."""
    first, second, _ = parse_spec(spec)
    return dict(zip(first + second, types[0].sizes + types[1].sizes, strict=True))


def _infer_wide(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    (narrow,) = _infer(types, attrs, dims)
    return (narrow.with_dtype(_wide(narrow.dtype)),)


def _wide(dtype: DType) -> DType:
    """The type in which products of a type are added."""
    return DType.F32 if dtype in (DType.BF16, DType.F16) else dtype


def _expand_wide(b: Builder, e: Equation) -> tuple[Var, ...]:
    x, y = (b.op("cast", v, dtype=_wide(v.type.dtype)) for v in e.operands)
    return (b.op("contract", x, y, spec=e.attr("spec")),)


def _infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    spec = string(attrs, "spec")
    first, second, result = parse_spec(spec)
    need_float("contract", types, (0, 1))
    dtype = same_dtype("contract", types, (0, 1))
    for position, letters in enumerate((first, second)):
        if len(letters) != types[position].rank:
            raise ShapeError(f"contract {spec}: {letters!r} names {len(letters)} axes of {types[position]}",
                             (position,))
    sizes: dict[str, Dim] = dict(zip(first, types[0].shape, strict=True))
    for letter, size in zip(second, types[1].shape, strict=True):
        if letter in sizes:
            size = dims.equal(sizes[letter], size, f"contraction over {letter} in {spec}", (0, 1))
        sizes[letter] = size
    return (TensorType(dtype, tuple(sizes[letter] for letter in result)),)


def _summed_alone(x: Array, letters: str, keep: set[str]) -> tuple[Array, str]:
    lonely = tuple(i for i, letter in enumerate(letters) if letter not in keep)
    return (x.sum(axis=lonely) if lonely else x), "".join(c for c in letters if c in keep)


def contraction(spec: str, a: Array, b: Array) -> Array:
    """The contraction as one batched matrix product (einsum alone would not reach BLAS with batch axes)."""
    first, second, result = parse_spec(spec)
    dtype = np.result_type(a.dtype, b.dtype)
    a, first = _summed_alone(widen(a), first, set(second + result))
    b, second = _summed_alone(widen(b), second, set(first + result))
    sizes = dict(zip(first + second, a.shape + b.shape, strict=True))
    batch = [c for c in first if c in second and c in result]
    inner = [c for c in first if c in second and c not in result]
    rows = [c for c in first if c not in second]
    columns = [c for c in second if c not in first]

    def arranged(x: Array, letters: str, *groups: list[str]) -> Array:
        order = [letters.index(c) for group in groups for c in group]
        shape = [sizes[c] for c in batch] + [int(np.prod([sizes[c] for c in g], dtype=int)) for g in groups[1:]]
        return x.transpose(order).reshape(shape)

    product = arranged(a, first, batch, rows, inner) @ arranged(b, second, batch, inner, columns)
    letters = [*batch, *rows, *columns]
    full: Array = product.reshape([sizes[c] for c in letters])
    return np.transpose(full, [letters.index(c) for c in result]).astype(dtype)


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
    return as_tuple(contraction(string(attrs, "spec"), arrays[0], arrays[1]))


def _jvp(b: Builder, e: Equation, tangents: Sequence[Optional]) -> tuple[Optional, ...]:
    (x, y), (s, t), spec = e.operands, tangents, e.attr("spec")
    first = None if s is None else b.op("contract", s, y, spec=spec)
    second = None if t is None else b.op("contract", x, t, spec=spec)
    return (add_optional(b, first, second),)


def _transpose(b: Builder, e: Equation, cts: Sequence[Optional], linear: Sequence[bool]) -> tuple[Optional, ...]:
    (ct,), (x, y) = cts, e.operands
    if ct is None:
        return (None, None)
    first, second, result = parse_spec(string(e.attributes, "spec"))
    if linear[0]:
        target = "".join(c for c in first if c in second + result)
        grad = b.op("contract", ct, y, spec=f"{result},{second}->{target}")
        return (_spread(b, grad, target, first, x), None)
    target = "".join(c for c in second if c in first + result)
    # The other operand first, as in dW = x^T dy.
    grad = b.op("contract", x, ct, spec=f"{first},{result}->{target}")
    return (None, _spread(b, grad, target, second, y))


def _spread(b: Builder, x: Var, letters: str, target: str, like: Var) -> Var:
    """Repeats along the axes that the contraction had summed alone."""
    if letters == target:
        return x
    return b.op("broadcast", x, shape=like.type.shape, axes=tuple(target.index(c) for c in letters))


def _factors(ins: Types, outs: Types, attrs: Attrs) -> Factors:
    first, second, result = parse_spec(string(attrs, "spec"))
    # A letter that one operand sums alone multiplies a whole other operand: still a sum over pieces.
    summed = tuple((c, "sum") for c in dict.fromkeys(first + second) if c not in result)
    return Factors((tuple(first), tuple(second)), (tuple(result),), summed)


def _flops(ins: Types, outs: Types, attrs: Attrs) -> float:
    count = 2.0
    for size in extents(string(attrs, "spec"), ins).values():
        count *= size
    return count


def _samples() -> tuple[Sample, ...]:
    def numbers(*shape: int) -> Array:
        n = int(np.prod(shape, dtype=int))
        return np.asarray(np.sin(1.0 + 1.7 * np.arange(n)).reshape(shape))

    return tuple(Sample((numbers(*x), numbers(*y) * 0.9), (("spec", spec),)) for spec, x, y in (
        ("bsd,dn->bsn", (2, 4, 6), (6, 2)), ("bhsd,bhtd->bhst", (2, 2, 4, 2), (2, 2, 6, 2)),
        ("ik,jk->ji", (2, 4), (6, 4)), ("ia,ib->i", (2, 4), (2, 2)), ("i,j->ij", (4,), (2,)), ("i,i->", (4,), (4,)),
        ("ab,->ba", (2, 4), ())))


register(OpSpec("contract", "sum of products over the letters that the result lacks", "contract", 2, _infer, _evaluate,
                attrs=(("spec", REQUIRED),), jvp=_jvp, transpose=_transpose, factors=_factors, flops=_flops,
                samples=_samples))
register(OpSpec("contract_wide", "contract of 16-bit operands whose sums stay in float32", "contract", 2, _infer_wide,
                _evaluate, attrs=(("spec", REQUIRED),), expand=_expand_wide, factors=_factors, flops=_flops,
                samples=_samples))
