"""Cross entropy, against class ids and against probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tesserac.arrays import np
from tesserac.ir.dims import Dims, ShapeError
from tesserac.ir.program import Equation, Var
from tesserac.ir.types import TensorType
from tesserac.ops.attributes import integer
from tesserac.ops.base import Array, Attrs, Factors, OpSpec, Sample, as_tuple, register
from tesserac.ops.norm import log_softmax, row_exponentials
from tesserac.ops.rules import (
    LETTERS,
    along_last,
    everything_sum,
    fill,
    last_sum,
    masked,
    need_float,
    need_integer,
    need_rank,
    same_dtype,
    same_shape,
    scaled,
)

if TYPE_CHECKING:
    from tesserac.ir.builder import Builder

Types = Sequence[TensorType]
Optional = Var | None


def _hard_infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    need_rank("cross_entropy", types, 0, 1)
    need_float("cross_entropy", types, (0,))
    need_integer("cross_entropy", types, 1)
    logits, labels = types
    if labels.rank != logits.rank - 1:
        raise ShapeError(f"cross_entropy: labels {labels} must have the shape of the logits {logits} without the last "
                         "axis", (0, 1))
    for axis, (a, b) in enumerate(zip(logits.shape, labels.shape, strict=False)):
        dims.equal(a, b, f"cross_entropy, axis {axis}", (0, 1))
    return (TensorType(logits.dtype),)


def _one_hot(b: Builder, logits: Var, labels: Var) -> Var:
    """Mask of the labelled class."""
    classes = b.op("iota", shape=logits.type.shape, axis=logits.type.rank - 1, dtype=labels.type.dtype,
                   named="classes")
    return b.op("eq", classes, along_last(b, labels, logits.type, "labels"), named="hit")


def _kept(b: Builder, e: Equation) -> tuple[Var | None, Var]:
    """Mask of the positions that count (None: all of them) and their number."""
    (logits, labels), ignore = e.operands, e.attr("ignore_index")
    scalar = TensorType(logits.type.dtype)
    if ignore is None:
        return None, b.constant(float(max(labels.type.size, 1)), scalar, "count")
    keep = b.op("ne", labels, b.constant(integer(e.attributes, "ignore_index"), labels.type, "ignored"), named="keep")
    count = everything_sum(b, b.op("cast", keep, dtype=scalar.dtype), "kept")
    # Nothing to predict: loss and gradient 0 instead of 0/0.
    return keep, b.op("maximum", count, b.constant(1.0, scalar, "one"), named="count")


def _hard_expand(b: Builder, e: Equation) -> tuple[Var, ...]:
    logits, labels = e.operands
    _, lowered, _, total = row_exponentials(b, logits)
    picked = last_sum(b, masked(b, _one_hot(b, logits, labels), lowered), "picked")
    each = b.op("sub", b.op("log", total), picked, named="each")
    keep, count = _kept(b, e)
    if keep is not None:
        each = masked(b, keep, each, "each")
    return (b.op("div", everything_sum(b, each, "sum"), count),)


def _hard_vjp(b: Builder, e: Equation, cts: Sequence[Optional]) -> tuple[Optional, ...]:
    """(softmax - one_hot) times ct / count at the positions that count."""
    (ct,), (logits, labels) = cts, e.operands
    if ct is None:
        return (None, None)
    _, _, powers, total = row_exponentials(b, logits)
    hot = b.op("cast", _one_hot(b, logits, labels), dtype=logits.type.dtype, named="hot")
    keep, count = _kept(b, e)
    weight = fill(b, b.op("div", ct, count), total.type)
    if keep is not None:
        weight = masked(b, keep, weight, "weight")
    probabilities = b.op("div", powers, along_last(b, total, powers.type, "totals"), named="p")
    return (b.op("mul", b.op("sub", probabilities, hot), along_last(b, weight, powers.type, "weights")), None)


def _hard(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
    logits, labels = arrays
    keep = np.full(labels.shape, True) if attrs["ignore_index"] is None else labels != attrs["ignore_index"]
    valid = np.where(keep, labels, 0)
    if valid.size and (valid.min() < 0 or valid.max() >= logits.shape[-1]):
        raise IndexError(f"cross_entropy: a label lies outside the {logits.shape[-1]} classes")
    picked = np.take_along_axis(log_softmax(logits), valid[..., None].astype(np.int64), -1)[..., 0]
    return as_tuple(np.asarray(-np.where(keep, picked, 0).sum() / max(int(keep.sum()), 1)).astype(logits.dtype))


def _soft_infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
    need_rank("cross_entropy", types, 0, 1)
    need_float("cross_entropy", types, (0, 1))
    same_shape("cross_entropy", types, (0, 1), dims)
    return (TensorType(same_dtype("cross_entropy", types, (0, 1))),)


def _mean_factor(logits: Var) -> float:
    return 1.0 / max(logits.type.size // max(logits.type.sizes[-1], 1), 1)


def _soft_expand(b: Builder, e: Equation) -> tuple[Var, ...]:
    logits, probabilities = e.operands
    _, lowered, _, total = row_exponentials(b, logits)
    logs = b.op("sub", lowered, along_last(b, b.op("log", total), lowered.type))
    return (scaled(b, everything_sum(b, b.op("mul", probabilities, logs)), -_mean_factor(logits)),)


def _soft_vjp(b: Builder, e: Equation, cts: Sequence[Optional]) -> tuple[Optional, ...]:
    """d logits = (softmax * sum(p) - p) ct / rows;  d p = -log_softmax ct / rows."""
    (ct,), (logits, p) = cts, e.operands
    if ct is None:
        return (None, None)
    _, lowered, powers, total = row_exponentials(b, logits)
    weight = fill(b, scaled(b, ct, _mean_factor(logits)), powers.type)
    spread = b.op("mul", powers, along_last(b, b.op("div", last_sum(b, p), total), powers.type))
    logs = b.op("sub", along_last(b, b.op("log", total), lowered.type), lowered)
    return (b.op("mul", b.op("sub", spread, p), weight), b.op("mul", logs, weight))


def _soft(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
    logits, probabilities = arrays
    return as_tuple(-(probabilities * log_softmax(logits)).sum(-1).mean())


def _factors(ins: Types, outs: Types, attrs: Attrs) -> Factors:
    # A mean over a cut axis needs the global count, which only the expanded form has.
    axes = tuple(LETTERS[: ins[0].rank])
    return Factors((axes, axes[: ins[1].rank]), ((),), tuple((letter, "blocked") for letter in axes))


def _flops(ins: Types, outs: Types, attrs: Attrs) -> float:
    return 14.0 * ins[0].size


def _hard_samples() -> tuple[Sample, ...]:
    logits = np.cos(0.4 + 1.9 * np.arange(24.0)).reshape(2, 3, 4) * 2
    labels = np.array([[0, 3, -100], [2, 2, 1]], dtype=np.int32)
    return (Sample((logits, labels), (("ignore_index", -100),)),
            Sample((logits[1], labels[1]), (("ignore_index", None),)),
            Sample((logits[0, 0], np.array(3)), (("ignore_index", -100),)),
            Sample((logits[1], np.full(3, -1)), (("ignore_index", -1),)))


def _soft_samples() -> tuple[Sample, ...]:
    logits = np.cos(0.4 + 1.9 * np.arange(24.0)).reshape(2, 3, 4) * 2
    weights = np.abs(np.sin(1.0 + np.arange(24.0))).reshape(2, 3, 4)
    return (Sample((logits, weights / weights.sum(-1, keepdims=True))), Sample((logits[0], weights[0])))


register(OpSpec("cross_entropy", "mean over positions of -log softmax(logits) at the label; ignored positions do not "
                "count", "fused", 2, _hard_infer, _hard, attrs=(("ignore_index", -100),), vjp=_hard_vjp,
                expand=_hard_expand, factors=_factors, flops=_flops, samples=_hard_samples))
register(OpSpec("cross_entropy_soft", "mean over positions of -sum of p log softmax(logits)", "fused", 2, _soft_infer,
                _soft, vjp=_soft_vjp, expand=_soft_expand, factors=_factors, flops=_flops, samples=_soft_samples))
