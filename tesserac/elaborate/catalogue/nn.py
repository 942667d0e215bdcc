"""Attention, softmax, dropout, rotary positions and activations."""

from __future__ import annotations

import math

from tesserac.elaborate.calls import Site
from tesserac.elaborate.catalogue.registry import surface
from tesserac.elaborate.catalogue.support import boolean, constant_like, integer, number
from tesserac.elaborate.operands import broadcast_to, cast, floating, promoted, weak
from tesserac.elaborate.session import Session
from tesserac.elaborate.tensors import one_axis
from tesserac.elaborate.values import Slot, Value
from tesserac.ir.program import Equation, Var
from tesserac.ir.types import Dim, DType


@surface(
    "flash_attention(q, k, v, *, causal=False, heads=1, scale=None, kv_heads=None)",
    "Exact softmax attention without the S x S matrix: [B,S,n] with heads splitting n, or [B,H,S,Dh]",
    family="nn",
    aliases=("attention", "scaled_dot_product_attention"),
)
def flash_attention(
    site: Site, q: Value, k: Value, v: Value, causal: Value, heads: Value, scale: Value, kv_heads: Value
) -> Value:
    """softmax(q k^T * scale) v per head; scale is 1/sqrt(Dh) by default."""
    session = site.session
    parts = [floating(session, x, f"{name} of op.flash_attention") for x, name in ((q, "q"), (k, "k"), (v, "v"))]
    dtype = promoted(session, [p.type.dtype for p in parts])
    assert dtype is not None
    parts = [cast(session, p, dtype) for p in parts]
    ranks = {p.type.rank for p in parts}
    if len(ranks) != 1 or not ranks <= {2, 3, 4}:
        raise site.fail(
            "T0404",
            "q, k and v must all have rank 3 ([B,S,n]) or all rank 4 ([B,H,S,Dh]), not "
            + ", ".join(session.type_text(p.type) for p in parts),
        )
    count, groups = integer(site, heads, "heads"), None if kv_heads is None else integer(site, kv_heads, "kv_heads")
    rank = ranks.pop()
    if rank == 4:
        own = session.known(parts[0].type.shape[1], "the number of heads")
        if heads not in (1, own):
            raise site.fail("T0404", f"heads={count}, but axis 1 of q has {own} heads")
        count, groups = own, session.known(parts[1].type.shape[1], "the number of key heads")
        parts = [_merge_heads(session, p) for p in parts]
    elif rank == 2:
        parts = [session.emit("reshape", p, shape=(1, *p.type.shape)) for p in parts]
    for part in parts[: 2 if rank != 4 else 0]:
        _default_width(session, part)
    _default_width(session, parts[2])
    factor = None if scale is None else number(site, scale, "scale")
    mask = boolean(site, causal, "causal")
    if not mask:
        session.bidirectional.append(session.span)
    out, _ = session.emit_all(
        "attention",
        parts,
        {"heads": count, "kv_heads": groups or count, "causal": mask, "scale": 0.0 if factor is None else factor},
    )
    if factor is None:
        session.unscaled.add(out.name)
    if rank == 2:
        return session.emit("reshape", out, shape=out.type.shape[1:])
    return out if rank == 3 else _split_heads(session, out, count)


def _merge_heads(session: Session, x: Var) -> Var:
    """[B,H,S,Dh] as [B,S,H*Dh]."""
    moved = session.emit("transpose", x, perm=(0, 2, 1, 3))
    batch, length, heads, width = moved.type.shape
    return session.emit("reshape", moved, shape=(batch, length, session.solver.product((heads, width))))


def _split_heads(session: Session, x: Var, heads: int) -> Var:
    """[B,S,H*Dh] as [B,H,S,Dh]."""
    batch, length, width = x.type.shape
    split = session.emit(
        "reshape", x, shape=(batch, length, heads, session.divide(width, heads, "the last axis by heads", (x,)))
    )
    return session.emit("transpose", split, perm=(0, 2, 1, 3))


def _default_width(session: Session, x: Var) -> None:
    """A projection of unknown width keeps the width of what it projects, unless something settles it [A4]."""
    definition = session.definitions.get(x.name)
    width = session.solver.resolve(x.type.shape[-1])
    if isinstance(width, str) and isinstance(definition, Equation) and definition.op == "contract":
        session.defaults.append((width, definition.operands[0].type.shape[-1]))


@surface("softmax(x, axis=-1)", "exp(x) / sum(exp(x)) along an axis, computed without overflow", family="nn")
def softmax(site: Site, x: Value, axis: Value) -> Value:
    """Softmax along one axis."""
    return _along(site, "softmax", x, axis)


@surface("log_softmax(x, axis=-1)", "Logarithm of softmax along an axis", family="nn")
def log_softmax(site: Site, x: Value, axis: Value) -> Value:
    """Log-softmax along one axis."""
    return _along(site, "log_softmax", x, axis)


def _along(site: Site, op: str, x: Value, axis: Value) -> Var:
    session = site.session
    operand = floating(session, x, f"the operand of op.{op}")
    if not operand.type.rank:
        raise site.fail("T0404", f"op.{op} needs at least one axis")
    place, last = one_axis(session, operand.type.rank, axis), operand.type.rank - 1
    if place == last:
        return session.emit(op, operand)
    order = list(range(last + 1))
    order[place], order[last] = last, place
    moved = session.emit(op, session.emit("transpose", operand, perm=tuple(order)))
    return session.emit("transpose", moved, perm=tuple(order))


@surface(
    "dropout(x, p=0.5)",
    "Zeroes elements with probability p while training and scales the rest; nothing at inference",
    family="nn",
)
def dropout(site: Site, x: Value, p: Value) -> Value:
    """Inverted dropout; the mask is a pure function of (seed, step, place in the source, element)."""
    from tesserac.elaborate.catalogue.random import stream

    session = site.session
    operand = floating(session, x, "the operand of op.dropout")
    rate = number(site, p, "p")
    if not 0.0 <= rate < 1.0:
        raise site.fail("T0504", f"p must lie in [0, 1), not {rate}")
    if rate == 0.0:
        return operand
    draw = session.emit("random_uniform", shape=operand.type.shape, dtype=_exact(operand), stream=stream(session))
    keep = session.emit("ge", draw, constant_like(session, draw, rate))
    kept = session.emit("mul", operand, constant_like(session, operand, 1.0 / (1.0 - rate)))
    result = session.emit("select", keep, kept, constant_like(session, operand, 0.0))
    session.dropped[result.name] = operand
    return result


@surface(
    "rope(x, *, heads=1, theta=10000.0)",
    "Rotary position embedding of [B,S,n] (heads splitting n) or [B,H,S,Dh]; halves are paired, as in LLaMA",
    family="nn",
    aliases=("rotary",),
)
def rope(site: Site, x: Value, heads: Value, theta: Value) -> Value:
    """Rotates the pairs (i, i + Dh/2) of every head by position * theta^(-2i/Dh) (Su et al. 2021)."""
    session = site.session
    operand = floating(session, x, "the operand of op.rope")
    if operand.type.rank not in (3, 4):
        raise site.fail("T0404", f"op.rope takes [B,S,n] or [B,H,S,Dh], not {session.type_text(operand.type)}")
    count = integer(site, heads, "heads")
    value = operand if operand.type.rank == 4 else _split_heads(session, operand, count)
    batch, groups, length, width = value.type.shape
    head = session.known(width, "the width of a head")
    if head % 2:
        raise site.fail("T0404", f"op.rope needs heads of even width, not {head}")
    half, base = head // 2, number(site, theta, "theta")
    if base <= 0:
        raise site.fail("T0504", f"theta must be positive, not {base}")
    angles = _angles(session, length, half, base, _exact(value))
    cosine, sine = (
        broadcast_to(session, cast(session, session.emit(f, angles), value.type.dtype), (batch, groups, length, half))
        for f in ("cos", "sin")
    )
    low, high = (
        session.emit(
            "slice", value, starts=(0, 0, 0, start), limits=(batch, groups, length, start + half), strides=(1, 1, 1, 1)
        )
        for start in (0, half)
    )
    first = session.emit("sub", session.emit("mul", low, cosine), session.emit("mul", high, sine))
    second = session.emit("add", session.emit("mul", high, cosine), session.emit("mul", low, sine))
    rotated = session.emit("concat", first, second, axis=3)
    return rotated if operand.type.rank == 4 else _merge_heads(session, rotated)


def _exact(var: Var) -> DType:
    """The dtype of helpers that half precision is too coarse for: fp64 beside fp64, else fp32."""
    return DType.F64 if var.type.dtype is DType.F64 else DType.F32


def _angles(session: Session, length: Dim, half: int, base: float, dtype: DType) -> Var:
    """position * base^(-i/half) for every position and pair."""
    shape = (length, half)
    position = session.emit("iota", shape=shape, axis=0, dtype=dtype)
    pair = session.emit("iota", shape=shape, axis=1, dtype=dtype)
    frequency = session.emit("exp", session.emit("mul", pair, weak(session, -math.log(base) / half, pair, "rope")))
    return session.emit("mul", position, frequency)


def _activation(name: str, op: str, doc: str) -> None:
    @surface(f"{name}(x)", doc, family="nn")
    def build(site: Site, x: Value) -> Value:
        shape = None if not isinstance(x, Slot) else x.shape
        return site.session.emit(op, floating(site.session, x, f"the operand of op.{name}", shape))


for _name, _doc in (
    ("relu", "max(x, 0)"),
    ("gelu", "x * Phi(x), with the error function"),
    ("gelu_tanh", "The tanh form of gelu"),
    ("silu", "x * sigmoid(x)"),
    ("sigmoid", "1 / (1 + exp(-x))"),
    ("softplus", "log(1 + exp(x))"),
):
    _activation(_name, _name, _doc)
