"""Reductions, running sums, ordering."""

from __future__ import annotations

from tesserac.elaborate.calls import Site
from tesserac.elaborate.catalogue.registry import surface
from tesserac.elaborate.catalogue.support import boolean, integer, reciprocal_count, scaled_by
from tesserac.elaborate.operands import floating, is_tensor, tensor
from tesserac.elaborate.session import Session
from tesserac.elaborate.tensors import elementwise, magnitude, one_axis, reduce_axes, squared_magnitude
from tesserac.elaborate.values import Value
from tesserac.ir.program import Var
from tesserac.ir.types import DType


def reduced(session: Session, op: str, x: Var, axes: tuple[int, ...], keepdims: bool) -> Var:
    """A reduction; reduced axes stay with size 1 under ``keepdims``."""
    if not axes:
        return x
    result = session.emit(op, x, axes=axes)
    if keepdims:
        shape = tuple(1 if i in axes else d for i, d in enumerate(x.type.shape))
        result = session.emit("reshape", result, shape=shape)
    return result


def _declare(name: str, op: str, doc: str) -> None:
    @surface(f"{name}(x, axis=None, keepdims=False)", doc, family="reduce", aliases=(f"reduce_{name}",))
    def build(site: Site, x: Value, axis: Value, keepdims: Value) -> Value:
        session = site.session
        if name in ("max", "min") and (is_tensor(axis) or isinstance(axis, float)):
            # op.max(x, 0.0) is the elementwise form [A47]; an integer second argument is an axis.
            return elementwise(session, f"{name}imum", f"op.{name}", x, axis)
        operand = tensor(session, x, f"the operand of op.{name}")
        if operand.type.dtype == DType.BOOL:
            raise site.fail("T0407", f"op.{name} of bool elements", help=("count with op.sum(op.cast(mask, float32))",))
        return reduced(session, op, operand, reduce_axes(session, operand, axis), boolean(site, keepdims, "keepdims"))


for _name, _doc in (
    ("sum", "Sum over axes (all by default)"),
    ("max", "Largest element over axes"),
    ("min", "Smallest element over axes"),
    ("prod", "Product over axes"),
):
    _declare(_name, f"reduce_{_name}", _doc)


@surface(
    "mean(x, axis=None, keepdims=False)", "Mean over axes (all by default)", family="reduce", aliases=("reduce_mean",)
)
def mean(site: Site, x: Value, axis: Value, keepdims: Value) -> Value:
    """Sum divided by the number of elements."""
    session = site.session
    return averaged(session, floating(session, x, "the operand of op.mean"), axis, boolean(site, keepdims, "keepdims"))


def averaged(session: Session, x: Var, axis: Value, keepdims: bool) -> Var:
    """Mean over axes."""
    axes = reduce_axes(session, x, axis)
    total = reduced(session, "reduce_sum", x, axes, keepdims)
    if not axes:
        return x
    return scaled_by(session, total, reciprocal_count(session, [x.type.shape[a] for a in axes], x.type.dtype))


@surface("var(x, axis=None, keepdims=False)", "Mean squared distance from the mean over axes", family="reduce")
def var(site: Site, x: Value, axis: Value, keepdims: Value) -> Value:
    """Population variance in two passes."""
    session = site.session
    operand = floating(session, x, "the operand of op.var")
    centre = averaged(session, operand, axis, True)
    distance = elementwise(session, "sub", "op.var", operand, centre)
    return averaged(session, squared_magnitude(session, distance), axis, boolean(site, keepdims, "keepdims"))


@surface(
    "norm(x, axis=None, keepdims=False, *, p=2)",
    "Norm over axes: p=1 sums magnitudes, p=2 is Euclidean",
    family="reduce",
)
def norm(site: Site, x: Value, axis: Value, keepdims: Value, p: Value) -> Value:
    """Vector norm."""
    session = site.session
    operand = floating(session, x, "the operand of op.norm")
    axes, keep = reduce_axes(session, operand, axis), boolean(site, keepdims, "keepdims")
    if p == 1:
        return reduced(session, "reduce_sum", magnitude(session, operand), axes, keep)
    if p == 2:
        return session.emit("sqrt", reduced(session, "reduce_sum", squared_magnitude(session, operand), axes, keep))
    raise site.fail("T0504", "p must be 1 or 2")


@surface(
    "argmax(x, axis=-1)", "Position of the largest element along an axis, the lowest of equals (int64)", family="reduce"
)
def argmax(site: Site, x: Value, axis: Value) -> Value:
    """Position of the maximum."""
    operand = tensor(site.session, x, "the operand of op.argmax")
    return site.session.emit("argmax", operand, axis=one_axis(site.session, operand.type.rank, axis))


@surface("cumsum(x, axis=-1, *, reverse=False)", "Running sum along an axis", family="reduce")
def cumsum(site: Site, x: Value, axis: Value, reverse: Value) -> Value:
    """Inclusive running sum."""
    operand = tensor(site.session, x, "the operand of op.cumsum")
    return site.session.emit(
        "cumsum",
        operand,
        axis=one_axis(site.session, operand.type.rank, axis),
        reverse=boolean(site, reverse, "reverse"),
    )


@surface(
    "topk(x, k, *, softmax=False)",
    "The k largest of the last axis and their positions, ties to the lowest",
    family="reduce",
)
def topk(site: Site, x: Value, k: Value, softmax: Value) -> Value:
    """(values, positions); ``softmax=True`` normalises the values."""
    session = site.session
    values, positions = session.emit_all(
        "topk", (tensor(session, x, "the operand of op.topk"),), {"k": integer(site, k, "k")}
    )
    if boolean(site, softmax, "softmax"):
        values = session.emit("softmax", values)
    return values, positions


@surface("sort(x)", "The last axis in ascending order", family="reduce")
def sort(site: Site, x: Value) -> Value:
    """Sorted last axis."""
    return site.session.emit("sort", tensor(site.session, x, "the operand of op.sort"))
