"""Exact softmax attention over packed heads, and its gradient as an op of its own.

Shapes: q [B,S,H*Dh], k [B,T,G*Dh], v [B,T,G*Dv] with G = kv_heads dividing H = heads; query head h reads
key head h // (H/G). ``causal`` lets query i see keys 0..i+T-S (queries are the last S positions). ``lse``
[B,H,S] is the logarithm of the sum of exponentials of a query's scores, from which the gradient recomputes
probabilities (Dao et al. 2022). A last operand ``first`` (i32 scalar), if there is one, says that the queries are part
of more, which begins there: a causal query i then sees keys 0..first+i. Of operands in 16 bits the results are float32,
as sums of their products are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tesserac.arrays import np
from tesserac.ir.dims import Dims, ShapeError
from tesserac.ir.program import Attr, Equation, Var
from tesserac.ir.types import DType, TensorType
from tesserac.ops.attributes import integer, number
from tesserac.ops.base import REQUIRED, Array, Attrs, Cuts, Factors, MeshRule, OpSpec, Sample, register
from tesserac.ops.contract import contraction
from tesserac.ops.mesh import start_of
from tesserac.ops.norm import row_exponentials
from tesserac.ops.numerics import re
from tesserac.ops.rules import along_last, fill, last_sum, masked, need_float, same_dtype, scaled

if TYPE_CHECKING:
    from tesserac.ir.builder import Builder

Types = Sequence[TensorType]
Optional = Var | None

SCORES, MIX = "bsgrd,btgd->bgrst", "bgrst,btgd->bsgrd"
ATTRS: tuple[tuple[str, Attr], ...] = (("heads", REQUIRED), ("kv_heads", REQUIRED), ("causal", REQUIRED),
                                       ("scale", REQUIRED))


def _infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    heads, groups = integer(attrs, "heads"), integer(attrs, "kv_heads")
    _check_first("attention", types, 3)
    for position, name in enumerate("qkv"):
        if types[position].rank != 3:
            raise ShapeError(f"attention: {name} must have the axes [batch, position, heads*width], not "
                             f"{types[position]}", (position,))
    need_float("attention", types, (0, 1, 2))
    dtype = same_dtype("attention", types, (0, 1, 2))
    if groups < 1 or heads % groups:
        raise ShapeError(f"attention: heads={heads} is not a multiple of kv_heads={groups}", (0, 1))
    q, k, v = (t.shape for t in types[:3])
    batch = dims.equal(dims.equal(q[0], k[0], "attention, batch", (0, 1)), v[0], "attention, batch", (0, 2))
    dims.equal(k[1], v[1], "attention, positions of k and v", (1, 2))
    width = dims.quotient(q[2], heads, "attention, last axis of q by heads", (0,))
    dims.equal(width, dims.quotient(k[2], groups, "attention, last axis of k by kv_heads", (1,)),
               "attention, width of a head in q and k", (0, 1))
    if attrs["causal"] and isinstance(q[1], int) and isinstance(k[1], int) and q[1] > k[1]:
        raise ShapeError(f"attention: a causal mask leaves some of the {q[1]} queries without any of the {k[1]} keys",
                         (0, 1))
    value = dims.quotient(v[2], groups, "attention, last axis of v by kv_heads", (2,))
    dtype = _wide(dtype)
    return TensorType(dtype, (batch, q[1], dims.product((value, heads)))), TensorType(dtype, (batch, heads, q[1]))


def _check_first(name: str, types: Types, at: int) -> None:
    if len(types) not in (at, at + 1):
        raise ShapeError(f"{name} has {at} or {at + 1} operands, not {len(types)}")
    if len(types) > at and types[at] != TensorType(DType.I32):
        raise ShapeError(f"{name}: the position of the first query must be i32[], not {types[at]}", (at,))


def _grad_infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    _check_first("attention_grad", types, 6)
    for position, expected in zip((3, 4, 5), _same_as_results(types, attrs, dims), strict=True):
        if types[position].rank != expected.rank:
            raise ShapeError(f"attention_grad: operand {position + 1} must be {expected}, not {types[position]}",
                             (position,))
        for axis, (a, b) in enumerate(zip(types[position].shape, expected.shape, strict=True)):
            dims.equal(a, b, f"attention_grad, axis {axis} of operand {position + 1}", (position,))
    return tuple(t.with_dtype(_wide(t.dtype)) for t in types[:3])


def _wide(dtype: DType) -> DType:
    """The type in which products of a type are added."""
    return DType.F32 if dtype in (DType.BF16, DType.F16) else dtype


def _widened(b: Builder, x: Var) -> Var:
    wide = _wide(x.type.dtype)
    return x if wide is x.type.dtype else b.op("cast", x, dtype=wide)


def _same_as_results(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    out, lse = _infer(types[:3], attrs, dims)
    return out, lse, out


def _split_type(t: TensorType, attrs: Attrs, query: bool) -> tuple[int, ...]:
    """[B,S,H*D] as [B,S,G,H/G,D] for queries, [B,T,G,D] for keys and values."""
    batch, length, width = t.sizes
    heads, groups = integer(attrs, "heads"), integer(attrs, "kv_heads")
    if query:
        return (batch, length, groups, heads // groups, width // heads)
    return (batch, length, groups, width // groups)


def _split(b: Builder, x: Var, e: Equation, query: bool) -> Var:
    return b.op("reshape", x, shape=_split_type(x.type, e.attributes, query))


def _scores(b: Builder, e: Equation, q: Var, k: Var, first: Var | None) -> tuple[Var, Var | None]:
    """Scaled scores [B,G,R,S,T] with masked ones at -inf, and the mask."""
    scores = scaled(b, b.op("contract", q, k, spec=SCORES, named="qk"), number(e.attributes, "scale"), "scores")
    if not e.attr("causal"):
        return scores, None
    shape = scores.type.shape
    row = b.op("iota", shape=shape, axis=3, dtype=DType.I32, named="query")
    if first is not None:
        row = b.op("add", row, fill(b, first, row.type))
    elif shape[3] != shape[4]:
        row = b.op("add", row, b.constant(scores.type.sizes[4] - scores.type.sizes[3], row.type))
    mask = b.op("ge", row, b.op("iota", shape=shape, axis=4, dtype=DType.I32, named="key"), named="seen")
    return b.op("select", mask, scores, b.constant(-math.inf, scores.type, "never"), named="scores"), mask


def _expand(b: Builder, e: Equation) -> tuple[Var, ...]:
    q, k, v = (_split(b, _widened(b, x), e, i == 0) for i, x in enumerate(e.operands[:3]))
    scores, _ = _scores(b, e, q, k, _first(e, 3))
    largest, _, powers, total = row_exponentials(b, scores)
    p = b.op("div", powers, along_last(b, total, powers.type, "totals"), named="p")
    o = b.op("reshape", b.op("contract", p, v, spec=MIX), shape=e.results[0].type.shape)
    lse = b.op("add", largest, b.op("log", total))
    return o, b.op("reshape", lse, shape=e.results[1].type.shape)


def _vjp(b: Builder, e: Equation, cts: Sequence[Optional]) -> tuple[Optional, ...] | None:
    do, dlse = cts
    if dlse is not None:
        return None
    if do is None:
        return (None,) * len(e.operands)
    found = b.ops("attention_grad", (*e.operands[:3], *e.results, do, *e.operands[3:]), e.attributes)
    return (*found, *(None for _ in e.operands[3:]))


def _first(e: Equation, at: int) -> Var | None:
    """The operand that says where the queries begin."""
    return e.operands[at] if len(e.operands) > at else None


def _grad_expand(b: Builder, e: Equation) -> tuple[Var, ...]:
    """P = exp(S - lse), dS = P (dO V^T - sum(dO O)) scale, dQ = dS K, dK = dS^T Q, dV = P^T dO."""
    q, k, v = (_split(b, _widened(b, x), e, i == 0) for i, x in enumerate(e.operands[:3]))
    o, do = (_split(b, _widened(b, e.operands[i]), e, True) for i in (3, 5))
    scores, mask = _scores(b, e, q, k, _first(e, 6))
    lse = b.op("reshape", e.operands[4], shape=scores.type.shape[:4])
    p = b.op("exp", b.op("sub", scores, along_last(b, lse, scores.type, "lses")), named="p")
    dp = b.op("contract", do, v, spec=SCORES, named="d_p")
    delta = b.op("transpose", last_sum(b, b.op("mul", o, do), "delta"), perm=(0, 2, 3, 1), named="delta")
    ds = b.op("mul", p, b.op("sub", dp, along_last(b, delta, dp.type, "deltas")))
    ds = scaled(b, ds if mask is None else masked(b, mask, ds), number(e.attributes, "scale"), "d_scores")
    dq = b.op("contract", ds, k, spec=MIX)
    dk = b.op("contract", ds, q, spec="bgrst,bsgrd->btgd")
    dv = b.op("contract", p, do, spec="bgrst,bsgrd->btgd")
    return tuple(b.op("reshape", g, shape=r.type.shape) for g, r in zip((dq, dk, dv), e.results, strict=True))


def _array_scores(q: Array, k: Array, attrs: Attrs, first: Sequence[Array]) -> Array:
    scores = contraction(SCORES, q, k) * number(attrs, "scale")
    if attrs["causal"]:
        rows, columns = np.indices(scores.shape[3:])
        start = int(first[0]) if first else scores.shape[4] - scores.shape[3]
        scores = np.where(rows + start >= columns, scores, -np.inf)
    return scores


def _split_array(x: Array, attrs: Attrs, query: bool) -> Array:
    split: Array = x.reshape(_split_type(TensorType(DType.F64, x.shape), attrs, query))
    return split


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
    q, k, v = (_split_array(x, attrs, i == 0) for i, x in enumerate(arrays[:3]))
    scores = _array_scores(q, k, attrs, arrays[3:])
    largest = re(scores).max(-1, keepdims=True)
    powers = np.exp(scores - largest)
    total = powers.sum(-1, keepdims=True)
    o = contraction(MIX, powers / total, v)
    lse = (largest + np.log(total))[..., 0]
    batch, length = o.shape[:2]
    return o.reshape(batch, length, -1), lse.reshape(batch, -1, length)


def _grad_evaluate(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
    q, k, v = (_split_array(x, attrs, i == 0) for i, x in enumerate(arrays[:3]))
    o, do = (_split_array(arrays[i], attrs, True) for i in (3, 5))
    scores = _array_scores(q, k, attrs, arrays[6:])
    p = np.exp(scores - arrays[4].reshape(scores.shape[:4])[..., None])
    delta = (o * do).sum(-1).transpose(0, 2, 3, 1)
    ds = p * (contraction(SCORES, do, v) - delta[..., None]) * number(attrs, "scale")
    grads = (contraction(MIX, ds, k), contraction("bgrst,bsgrd->btgd", ds, q), contraction("bgrst,bsgrd->btgd", p, do))
    return tuple(g.reshape(x.shape) for g, x in zip(grads, arrays[:3], strict=True))


def _factors(ins: Types, outs: Types, attrs: Attrs) -> Factors:
    """b batch, h heads (a cut must divide heads and kv_heads), s queries (whole under a causal mask), t keys."""
    return _cut_heads(len(ins), "h", "h", attrs)


def _cut_heads(count: int, of_queries: str, of_keys: str | None, attrs: Attrs) -> Factors:
    """The factors with these letters for packed heads."""
    q, k, lse = ("b", "s", of_queries), ("b", "t", of_keys), ("b", of_queries, "s")
    units = (("h", integer(attrs, "kv_heads")),)
    if count < 6:
        kinds = (("t", "blocked"), ("s", "blocked" if attrs["causal"] else "pass"))
        return Factors((q, k, k, ())[:count], (q, lse), kinds, units)
    return Factors((q, k, k, q, lse, q, ())[:count], (q, k, k), (("t", "blocked"), ("s", "blocked")), units)


def _cut(ins: Types, outs: Types, attrs: Attrs, size: int) -> tuple[Factors, ...]:
    """A rank knows where its queries begin, and which of the keys' heads (letter r) its queries' heads read."""
    heads, groups = integer(attrs, "heads"), integer(attrs, "kv_heads")
    plain = _cut_heads(len(ins), "h", "h", attrs)
    found = [Factors(plain.operands, plain.results, (("t", "blocked"), ("s", "pass")), plain.units)]
    if groups % size and heads % size == 0 and (heads // groups) % (heads // size) == 0:
        shared = _cut_heads(len(ins), "r", None, attrs)
        blocked = tuple((letter, "blocked") for letter in "bst")
        found.append(Factors(shared.operands, shared.results, blocked, (("r", heads),)))
    return tuple(found)


def _local(b: Builder, e: Equation, operands: Sequence[Var], attrs: dict[str, Attr], cuts: Cuts) -> tuple[Var, ...]:
    q, k, v = operands[:3]
    groups = integer(e.attributes, "kv_heads")
    for _, size in cuts.get("h", ()):
        groups //= size
    for axis, size in cuts.get("r", ()):
        if groups > 1:
            k, v = (b.op("shard_slice", x, axis=axis, size=size, dim=2, of="R*", parts=groups) for x in (k, v))
            groups = 1
    first = tuple(operands[3:])
    if attrs["causal"] and cuts.get("s"):
        begin = start_of(b, cuts["s"], q.type.sizes[1])
        before = e.operands[1].type.sizes[1] - e.operands[0].type.sizes[1]
        zero = first[0] if first else b.scalar(before, DType.I32)
        first = (b.op("add", begin, zero, named="first"),)
    return b.ops("attention", (q, k, v, *first), attrs)


def _pairs(q: TensorType, k: TensorType, attrs: Attrs) -> float:
    """Pairs of query and key that are not masked, over batch and heads."""
    batch, rows, _ = q.sizes
    keys = k.sizes[1]
    seen = rows * keys - rows * (rows - 1) // 2 if attrs["causal"] else rows * keys
    return float(batch * integer(attrs, "heads") * seen)


def _widths(ins: Types, attrs: Attrs) -> tuple[int, int]:
    groups = integer(attrs, "kv_heads")
    return ins[1].sizes[2] // groups, ins[2].sizes[2] // groups


def _flops(ins: Types, outs: Types, attrs: Attrs) -> float:
    width, value = _widths(ins, attrs)
    return _pairs(ins[0], ins[1], attrs) * (2 * (width + value) + 14)


def _grad_flops(ins: Types, outs: Types, attrs: Attrs) -> float:
    width, value = _widths(ins, attrs)
    return _pairs(ins[0], ins[1], attrs) * (2 * (3 * width + 2 * value) + 14)


def _cases() -> tuple[Sample, ...]:
    def numbers(seed: float, *shape: int) -> Array:
        return np.asarray(np.sin(seed + 1.37 * np.arange(int(np.prod(shape)))).reshape(shape))

    def attrs(heads: int, groups: int, causal: bool) -> tuple[tuple[str, Attr], ...]:
        return (("heads", heads), ("kv_heads", groups), ("causal", causal), ("scale", 0.6))

    return (Sample((numbers(0.1, 2, 2, 8), numbers(0.7, 2, 4, 4), numbers(1.9, 2, 4, 2)), attrs(4, 2, False)),
            Sample((numbers(0.3, 2, 4, 4), numbers(0.9, 2, 4, 4), numbers(2.2, 2, 4, 4)), attrs(2, 2, True)),
            Sample((numbers(0.2, 1, 2, 4), numbers(0.5, 1, 4, 2), numbers(1.4, 1, 4, 2)), attrs(2, 1, True)),
            Sample((numbers(0.4, 1, 3, 2), numbers(0.8, 1, 3, 2), numbers(2.9, 1, 3, 3)), attrs(1, 1, True)),
            Sample((numbers(0.4, 1, 2, 4), numbers(0.8, 1, 6, 4), numbers(2.9, 1, 6, 2), np.array(3, np.int32)),
                   attrs(2, 2, True)))


def _grad_samples() -> tuple[Sample, ...]:
    samples = []
    for case in _cases():
        o, lse = _evaluate(case.arrays, dict(case.attrs))
        do = np.cos(1.0 + np.arange(o.size)).reshape(o.shape)
        samples.append(Sample((*case.arrays[:3], o, lse, do, *case.arrays[3:]), case.attrs))
    return tuple(samples)


register(OpSpec("attention", "softmax(scale q k^T) v per head, and the log of the softmax's denominators", "fused",
                None, _infer, _evaluate, attrs=ATTRS, vjp=_vjp, expand=_expand, factors=_factors,
                mesh=MeshRule(_cut, _local), flops=_flops, samples=_cases))
register(OpSpec("attention_grad", "cotangents of q, k, v from that of attention's first result", "fused", None,
                _grad_infer, _grad_evaluate, attrs=ATTRS, expand=_grad_expand, factors=_factors, flops=_grad_flops,
                samples=_grad_samples))
