"""Losses: scalars that do not broadcast their operands."""

from __future__ import annotations

from tesserac.diagnostics import Label
from tesserac.elaborate.calls import Site
from tesserac.elaborate.catalogue.registry import surface
from tesserac.elaborate.catalogue.support import reciprocal_count, scaled_by
from tesserac.elaborate.operands import (
    cast,
    floating,
    indices,
    integer_refused,
    is_number,
    promoted,
    same_shape,
    tensor,
    weak,
)
from tesserac.elaborate.session import Session
from tesserac.elaborate.tensors import magnitude, squared_magnitude
from tesserac.elaborate.values import Slot, Value, describe
from tesserac.ir.program import Var
from tesserac.ir.types import DType


@surface(
    "cross_entropy(logits, labels=None, *, target=None, ignore_index=-100)",
    "Mean of -log softmax(logits)[label] over positions; floating labels of the logits' shape are probabilities",
    family="loss",
    aliases=("cross_entropy_loss",),
)
def cross_entropy(site: Site, logits: Value, labels: Value, target: Value, ignore_index: Value) -> Value:
    """Softmax cross-entropy over the last axis."""
    session = site.session
    if (labels is None) == (target is None):
        raise site.fail("T0504", "op.cross_entropy takes logits and labels")
    given = target if labels is None else labels
    scores = floating(session, logits, "the logits of op.cross_entropy")
    if not scores.type.rank:
        raise site.fail("T0404", "op.cross_entropy needs logits with at least one axis, the classes")
    if not isinstance(ignore_index, int):
        raise site.fail("T0504", f"ignore_index must be an integer, not {describe(ignore_index)}")
    session.predictions.append(scores)
    if _is_probability(session, given, scores):
        probabilities = floating(session, given, "the probabilities of op.cross_entropy")
        same_shape(session, scores, probabilities, "op.cross_entropy")
        return session.emit("cross_entropy_soft", scores, cast(session, probabilities, scores.type.dtype))
    ids = indices(session, given, "the labels of op.cross_entropy", scores.type.shape[:-1])
    if ids.type.rank != scores.type.rank - 1:
        raise site.fail(
            "T0403",
            f"the labels of op.cross_entropy have {ids.type.rank} axes ({session.type_text(ids.type)}); class ids for "
            f"logits {session.type_text(scores.type)} have {scores.type.rank - 1}",
            notes=(
                "the last axis of the logits holds the classes, and labels hold one class id per remaining position",
            ),
        )
    for axis, (a, b) in enumerate(zip(scores.type.shape, ids.type.shape, strict=False)):
        session.unify(a, b, f"axis {axis} of the logits and labels of op.cross_entropy", (scores, ids))
    return session.emit("cross_entropy", scores, ids, ignore_index=ignore_index)


def _is_probability(session: Session, labels: Value, logits: Var) -> bool:
    """Floating labels of the logits' rank; an input of unknown dtype is decided by its rank."""
    if isinstance(labels, Slot) and labels.var is None:
        if labels.dtype is not None:
            return labels.dtype.is_float
        return labels.shape is not None and len(labels.shape) == logits.type.rank
    return (
        isinstance(labels, Var | Slot)
        and (var := tensor(session, labels)).type.dtype.is_float
        and var.type.rank == logits.type.rank
    )


@surface(
    "mse(pred, target)",
    "Mean of |pred - target|^2 over all elements; target may be a number",
    family="loss",
    aliases=("mse_loss",),
)
def mse(site: Site, pred: Value, target: Value) -> Value:
    """Mean squared error."""
    session = site.session
    a, b = _pair(site, pred, target, "op.mse")
    session.predictions.append(a)
    return mean_of(session, squared_magnitude(session, session.emit("sub", a, b)))


@surface("mae(pred, target)", "Mean of |pred - target| over all elements", family="loss", aliases=("l1_loss",))
def mae(site: Site, pred: Value, target: Value) -> Value:
    """Mean absolute error."""
    session = site.session
    a, b = _pair(site, pred, target, "op.mae")
    session.predictions.append(a)
    return mean_of(session, magnitude(session, session.emit("sub", a, b)))


@surface(
    "kl_divergence(p, q)",
    "Sum of p * (log p - log q) over the last axis, averaged over the others; p and q are probabilities",
    family="loss",
)
def kl_divergence(site: Site, p: Value, q: Value) -> Value:
    """KL(p || q); terms with p = 0 count as 0."""
    session = site.session
    a, b = _pair(site, p, q, "op.kl_divergence")
    if not a.type.rank:
        raise site.fail("T0404", "op.kl_divergence needs at least one axis, the classes")
    session.predictions.append(b)
    zero = weak(session, 0.0, a, "op.kl_divergence")
    one = weak(session, 1.0, a, "op.kl_divergence")
    present = session.emit("gt", a, zero)
    # log(p) at p = 0 is replaced before it is taken, so that neither the value nor the gradient is NaN.
    safe = session.emit("select", present, a, one)
    terms = session.emit("mul", a, session.emit("sub", session.emit("log", safe), session.emit("log", b)))
    terms = session.emit("select", present, terms, zero)
    total = session.emit("reduce_sum", terms, axes=tuple(range(a.type.rank)))
    return scaled_by(session, total, reciprocal_count(session, a.type.shape[:-1], a.type.dtype))


def _pair(site: Site, a: Value, b: Value, what: str) -> tuple[Var, Var]:
    """Two floating tensors of one shape and dtype."""
    session = site.session
    if is_number(a):
        raise site.fail("T0503", f"{what} takes a tensor first, not {describe(a)}")
    if isinstance(a, Slot) and a.shape is None and not isinstance(b, Slot):
        b = floating(session, b, f"an operand of {what}") if not is_number(b) else b
        a = floating(session, a, f"an operand of {what}", b.type.shape if isinstance(b, Var) else None)
    first = floating(session, a, f"an operand of {what}")
    if isinstance(b, complex):
        raise site.fail("T0503", f"{what} takes a tensor or a real number as target, not {describe(b)}")
    if isinstance(b, int | float):
        return first, weak(session, float(b), first, what)
    kind = first.type.dtype if first.type.dtype.is_complex else None
    second = tensor(session, b, f"an operand of {what}", kind, first.type.shape)
    if not second.type.dtype.is_differentiable:
        raise integer_refused(session, second, f"an operand of {what}")
    _both_complex(site, first, second, what)
    same_shape(session, first, second, what)
    dtype = promoted(session, (first.type.dtype, second.type.dtype)) or DType.F32
    return cast(session, first, dtype), cast(session, second, dtype)


def _both_complex(site: Site, first: Var, second: Var, what: str) -> None:
    """A complex and a real operand: an error, since the imaginary part would be pulled to zero silently."""
    session = site.session
    for one, other in ((first, second), (second, first)):
        if one.type.dtype.is_complex and not other.type.dtype.is_complex:
            name, against = session.name_of(one), session.name_of(other)
            raise session.report.fail(
                "T0414",
                f"{what} of complex `{name}` and real `{against}` without op.real",
                session.span,
                labels=[
                    Label(d.span, f"`{session.name_of(v)}` is {session.type_text(v.type)}")
                    for v in (one, other)
                    if (d := session.definitions.get(v.name)) is not None and d.span != session.span
                ],
                notes=[f"the mean of |{name} - {against}|^2 would count the imaginary part of `{name}` as an error"],
                help=[
                    f"compare real parts: op.real({name})",
                    f"or say that the imaginary part shall vanish: op.complex({against}, 0.0)",
                ],
            )


def mean_of(session: Session, x: Var) -> Var:
    """Mean over all elements."""
    if not x.type.rank:
        return x
    total = session.emit("reduce_sum", x, axes=tuple(range(x.type.rank)))
    return scaled_by(session, total, reciprocal_count(session, x.type.shape, x.type.dtype))
