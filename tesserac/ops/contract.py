"""Contraction of two operands, written as in einsum: ``bsd,dn->bsn``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from tesserac.arrays import np
from tesserac.ir.dims import Dims, ShapeError
from tesserac.ir.program import Equation, Var
from tesserac.ir.types import Dim, DType, TensorType
from tesserac.ops.attributes import string
from tesserac.ops.base import REQUIRED, Array, Attrs, Factors, OpSpec, Sample, as_tuple, register
from tesserac.ops.planes import Pair, Plane, minus, plus
from tesserac.ops.reduce import widen
from tesserac.ops.rules import add_optional, conjugated, linear_in, need_field, same_dtype

if TYPE_CHECKING:
    from tesserac.ir.builder import Builder

Types = Sequence[TensorType]
Optional = Var | None


@lru_cache(maxsize=4096)
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
    return (narrow.with_dtype(wide_type(narrow.dtype)),)


def wide_type(dtype: DType) -> DType:
    """The type in which products of a type are added."""
    return DType.F32 if dtype in (DType.BF16, DType.F16) else dtype


def _expand_wide(b: Builder, e: Equation) -> tuple[Var, ...]:
    x, y = (b.op("cast", v, dtype=wide_type(v.type.dtype)) for v in e.operands)
    return (b.op("contract", x, y, spec=e.attr("spec")),)


def _infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    spec = string(attrs, "spec")
    first, second, result = parse_spec(spec)
    need_field("contract", types, (0, 1))
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
        grad = b.op("contract", ct, conjugated(b, y), spec=f"{result},{second}->{target}")
        return (_spread(b, grad, target, first, x), None)
    target = "".join(c for c in second if c in first + result)
    # The other operand first, as in dW = x^T dy.
    grad = b.op("contract", conjugated(b, x), ct, spec=f"{first},{result}->{target}")
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


@dataclass(frozen=True, slots=True)
class ComplexForm:
    """How a complex contraction is computed: ``products`` real ones, and why so many."""

    products: int
    reason: str


SUMS_ARE_WORTH = 24.0
"""Operations that three products must save per element that their sums read or write (measured: docs/language.md)."""


def form_of(e: Equation, operands: Sequence[Pair]) -> ComplexForm:
    """The form of a contraction of these pairs."""
    planes = [sum(p is not None for p in (pair.re, pair.im)) for pair in operands]
    if planes != [2, 2]:
        return ComplexForm(planes[0] * planes[1], "an operand is real or imaginary")
    return complex_form(string(e.attributes, "spec"), [v.type for v in e.operands])


def complex_form(spec: str, types: Types) -> ComplexForm:
    """The cheaper form of a contraction of complex operands.

    Four products is the definition. Three are enough (Gauss; Knuth, The Art of Computer Programming 2, 4.6.4) at the
    price of sums of the operands' planes, which pay where every element takes part in many products.
    """
    first, second, result = parse_spec(spec)
    sizes = extents(spec, types)

    def count(letters: str) -> float:
        total = 1.0
        for letter in letters:
            total *= sizes[letter]
        return total

    a, b, c = count(first), count(second), count(result)
    if c > max(a, b):
        return ComplexForm(4, "the result is larger than the operands: products are added where they lie")
    passed = max(a, b) + 2 * min(a, b) + c
    saved = 2 * count("".join(sizes)) / max(passed, 1.0)
    if saved > SUMS_ARE_WORTH:
        return ComplexForm(3, f"{saved:.0f} operations saved per element of the sums, more than {SUMS_ARE_WORTH:.0f}")
    return ComplexForm(4, f"{saved:.0f} operations saved per element of the sums, at most {SUMS_ARE_WORTH:.0f}")


def _product(b: Builder, e: Equation, p: Plane | None, q: Plane | None, negative: bool = False) -> Plane | None:
    """The contraction of two planes, or its negative.

    The sign of a result that is larger than an operand (the gradient of a weight) goes to that operand: then the
    products that make it up are added where they lie.
    """
    if p is None or q is None:
        return None
    negative ^= p.negative != q.negative
    x, y = p.var, q.var
    if negative and e.result.type.size > min(x.type.size, y.type.size):
        negative = False
        if x.type.size <= y.type.size:
            x = b.op("neg", x)
        else:
            y = b.op("neg", y)
    return Plane(b.op("contract", x, y, spec=e.attr("spec")), negative)


def by_definition(b: Builder, e: Equation, operands: Sequence[Pair]) -> tuple[Pair, ...]:
    """(re, im) = (x y - z w, x w + z y) for operands x + i z and y + i w."""
    left, right = operands
    re = plus(b, _product(b, e, left.re, right.re), _product(b, e, left.im, right.im, True))
    return (Pair(re, plus(b, _product(b, e, left.re, right.im), _product(b, e, left.im, right.re))),)


def _planar(b: Builder, e: Equation, operands: Sequence[Pair]) -> tuple[Pair, ...]:
    """In the form that ``complex_form`` chooses."""
    (left, right), types = operands, [v.type for v in e.operands]

    if form_of(e, operands).products != 3:
        return by_definition(b, e, operands)
    if types[0].size > types[1].size:  # the larger operand is summed once, the smaller one twice
        shared = plus(b, left.re, left.im), right.re
        first = left.im, plus(b, right.re, right.im)
        second = left.re, minus(b, right.im, right.re)
    else:
        shared = left.re, plus(b, right.re, right.im)
        first = plus(b, left.re, left.im), right.im
        second = minus(b, left.im, left.re), right.re
    total = _product(b, e, *shared)
    return (Pair(plus(b, total, _product(b, e, *first, True)), plus(b, total, _product(b, e, *second))),)


def _samples() -> tuple[Sample, ...]:
    def numbers(*shape: int) -> Array:
        n = int(np.prod(shape, dtype=int))
        return np.asarray(np.sin(1.0 + 1.7 * np.arange(n)).reshape(shape))

    return tuple(Sample((numbers(*x), numbers(*y) * 0.9), (("spec", spec),)) for spec, x, y in (
        ("bsd,dn->bsn", (2, 4, 6), (6, 2)), ("bhsd,bhtd->bhst", (2, 2, 4, 2), (2, 2, 6, 2)),
        ("ik,jk->ji", (2, 4), (6, 4)), ("ia,ib->i", (2, 4), (2, 2)), ("i,j->ij", (4,), (2,)), ("i,i->", (4,), (4,)),
        ("ab,->ba", (2, 4), ())))


def _complex_samples() -> tuple[Sample, ...]:
    real = _samples()
    first = real[0]
    x, y = first.arrays
    return (*real, Sample((x + 1j * np.cos(x), 1j * y - np.sin(3 * y)), first.attrs))


register(OpSpec("contract", "sum of products over the letters that the result lacks", "contract", 2, _infer, _evaluate,
                attrs=(("spec", REQUIRED),), jvp=_jvp, transpose=_transpose, planar=_planar, factors=_factors,
                linear=linear_in((0,), (1,)),
                flops=_flops, samples=_complex_samples))
register(OpSpec("contract_wide", "contract of 16-bit operands whose sums stay in float32", "contract", 2, _infer_wide,
                _evaluate, attrs=(("spec", REQUIRED),), expand=_expand_wide, factors=_factors, flops=_flops,
                samples=_samples))
