"""Operands: from values to tensors, dtype promotion, and NumPy broadcasting made explicit.

Rules: Python numbers are weak (they take the tensor's dtype; a fractional number never turns integers into floats, and
a complex one turns floats into complex numbers); float widths promote to the wider, fp16 with bf16 to fp32; beside a
complex tensor floats become complex; integer widths promote to the wider; integers and floats meet only through
``op.cast``. Comparison results are bool.
"""

from __future__ import annotations

from collections.abc import Sequence

from tesserac.diagnostics import Label
from tesserac.elaborate.report import Failed
from tesserac.elaborate.session import Restart, Session
from tesserac.elaborate.values import Poison, Slot, Value, describe
from tesserac.ir.program import Equation, Initializer, Var
from tesserac.ir.types import Dim, DType, TensorType

Number = int | float | complex

VIEWS = frozenset({"reshape", "transpose", "slice", "broadcast", "concat", "stop_gradient"})
"""Ops that hand on the elements of their operands."""

_INTEGER_ORDER = (DType.U8, DType.I8, DType.I16, DType.I32, DType.I64)
_FLOAT_ORDER = (DType.F16, DType.BF16, DType.F32, DType.F64)


def is_tensor(value: Value) -> bool:
    """Whether a value is a tensor or an input that will be one."""
    return isinstance(value, Var | Slot)


def is_number(value: Value) -> bool:
    """Whether a value is a compile-time number."""
    return isinstance(value, int | float | complex)


def tensor(
    session: Session,
    value: Value,
    what: str = "this operand",
    dtype: DType | None = None,
    shape: Sequence[Dim] | None = None,
) -> Var:
    """The tensor that ``value`` is or becomes; ``dtype`` and ``shape`` serve inputs that declare none."""
    if isinstance(value, Var):
        return value
    if isinstance(value, Slot):
        return session.materialise(value, shape, dtype)
    if isinstance(value, Poison):
        raise Failed
    if isinstance(value, int | float):
        kind = DType.BOOL if isinstance(value, bool) else dtype or session.float
        return session.emit("full", value=value, shape=(), dtype=kind)
    if isinstance(value, complex):
        return complex_constant(session, value, (), dtype or session.float.complex)
    raise session.report.fail("T0503", f"{what} must be a tensor, not {describe(value)}", session.span)


def complex_constant(session: Session, number: complex, shape: Sequence[Dim], dtype: DType) -> Var:
    """A tensor filled with a complex number."""
    parts = (session.emit("full", value=p, shape=tuple(shape), dtype=dtype.real) for p in (number.real, number.imag))
    return session.emit("complex", *parts)


def floating(
    session: Session, value: Value, what: str, shape: Sequence[Dim] | None = None, like: Var | None = None
) -> Var:
    """A tensor of floating or complex elements; integers are an error that names the cast.

    A parameter of no declared dtype is complex where ``like``, what it is multiplied with, is.
    """
    complex_ = like is not None and like.type.dtype.is_complex and isinstance(value, Slot) and value.is_parameter
    var = tensor(session, value, what, like.type.dtype if like is not None and complex_ else None, shape)
    if var.type.dtype.is_differentiable:
        return var
    raise integer_refused(session, var, what)


def integer_refused(session: Session, var: Var, what: str) -> Failed:
    """Reports integers where floats are needed."""
    source = session.definitions.get(var.name)
    labels = (
        [Label(source.span, f"`{session.name_of(var)}` is {session.type_text(var.type)}")]
        if source is not None and source.span != session.span
        else []
    )
    return session.report.fail(
        "T0405",
        f"{what} needs floating-point elements, but `{session.name_of(var)}` has {var.type.dtype}",
        session.span,
        labels=labels,
        help=[
            "integers become floats only by op.cast(x, float32)",
            "rows of a table are looked up with op.embedding(ids, table)",
        ],
    )


def indices(session: Session, value: Value, what: str, shape: Sequence[Dim] | None = None) -> Var:
    """A tensor of integers. An input whose dtype nothing fixed becomes int32, by starting over when it is too late."""
    var = tensor(session, value, what, DType.I32, shape)
    if var.type.dtype.is_integer:
        return var
    slot = source_slot(session, var)
    if slot is not None and not slot.declared_dtype and slot.path not in session.forced and var.type.dtype.is_float:
        raise Restart(slot.path, DType.I32)
    raise session.report.fail(
        "T0406",
        f"{what} must be integers, but `{session.name_of(var)}` has {var.type.dtype}",
        session.span,
        help=[
            "declare the input with an integer dtype, as in ids: Tensor[B, S, int32], or convert with op.cast(x, int32)"
        ],
    )


_KEEP_INTEGERS = VIEWS | {"select", "add", "sub", "mul", "maximum", "minimum", "neg", "abs", "pad", "sort"}
"""Ops whose result is integral when their operands are."""


def source_slot(session: Session, var: Var) -> Slot | None:
    """A data input of unfixed dtype whose elements reach ``var`` through ops that keep integers."""
    stack, seen = [var], {var.name}
    while stack:
        definition = session.definitions.get(stack.pop().name)
        if isinstance(definition, Equation):
            if definition.op in _KEEP_INTEGERS:
                fresh = [v for v in definition.operands if v.name not in seen]
                seen.update(v.name for v in fresh)
                stack.extend(fresh)
        elif definition is not None and not (
            definition.is_parameter or definition.declared_dtype or definition.path in session.forced
        ):
            return definition
    return None


def promoted(session: Session, dtypes: Sequence[DType]) -> DType | None:
    """The common dtype, or None where only a cast can bring them together."""
    first = dtypes[0]
    if all(d == first for d in dtypes):
        return first
    if all(d.is_float for d in dtypes):
        if set(dtypes) == {DType.F16, DType.BF16}:
            return DType.F32
        return max(dtypes, key=_FLOAT_ORDER.index)
    if all(d.is_integer for d in dtypes):
        if DType.U8 in dtypes and DType.I8 in dtypes:
            return max((DType.I16, *dtypes), key=_INTEGER_ORDER.index)
        return max(dtypes, key=_INTEGER_ORDER.index)
    if all(d.is_differentiable for d in dtypes):
        wide = any(d.real is DType.F64 for d in dtypes)
        return DType.C128 if wide else DType.C64
    return None


def cast(session: Session, var: Var, dtype: DType) -> Var:
    """``var`` with another element type (a complex number of real parts of that type, where it is complex)."""
    return var if var.type.dtype == dtype else session.emit("cast", var, dtype=dtype)


def weak(session: Session, number: Number, like: Var, what: str) -> Var:
    """A Python number as a tensor of ``like``'s type."""
    dtype = like.type.dtype
    if isinstance(number, complex):
        assert dtype.is_complex, "align chose the type"
        return complex_constant(session, number, like.type.shape, dtype)
    if dtype == DType.BOOL and not isinstance(number, bool):
        raise session.report.fail(
            "T0407",
            f"{what} of a bool tensor and the number {number!r}",
            session.span,
            help=["convert the mask with op.cast(mask, float32), or choose with op.where(mask, a, b)"],
        )
    if dtype.is_integer and isinstance(number, float):
        raise session.report.fail(
            "T0407",
            f"{what} of {dtype} elements and the fractional number {number!r}",
            session.span,
            help=["a fractional number does not turn integers into floats: write op.cast(x, float32)"],
        )
    return session.emit(
        "full", value=float(number) if dtype.is_differentiable else number, shape=like.type.shape, dtype=dtype
    )


def broadcast_shape(session: Session, operands: Sequence[Var], what: str) -> tuple[Dim, ...]:
    """The shape NumPy broadcasting gives; dimensions that are not known to be 1 are unified."""
    rank = max(v.type.rank for v in operands)
    shape: list[Dim] = []
    for axis in range(rank):
        wide: Dim = 1
        holder: Var | None = None
        for var in operands:
            index = axis - rank + var.type.rank
            if index < 0 or session.solver.is_one(var.type.shape[index]):
                continue
            dim = var.type.shape[index]
            if holder is None:
                wide, holder = dim, var
            elif dim != wide:
                wide = session.unify(wide, dim, f"{what}: axis {axis - rank} of the operands", (holder, var))
        shape.append(wide)
    return tuple(shape)


def broadcast_to(session: Session, var: Var, shape: Sequence[Dim]) -> Var:
    """``var`` stretched to ``shape`` from the right, as NumPy does; itself when nothing changes."""
    own = var.type.shape
    if len(own) == len(shape):
        resolve = session.solver.resolve
        if all(a == b or resolve(a) == resolve(b) for a, b in zip(own, shape, strict=True)):
            return var
    offset = len(shape) - len(own)
    return session.emit("broadcast", var, shape=tuple(shape), axes=tuple(range(offset, len(shape))))


def align(session: Session, values: Sequence[Value], what: str) -> list[Var]:
    """Tensors of one shape and dtype from tensors, untyped inputs and numbers."""
    known = [
        v for v in values if isinstance(v, Var) or (isinstance(v, Slot) and (v.var is not None or v.shape is not None))
    ]
    if not known:
        unknown = [v for v in values if isinstance(v, Slot)]
        if unknown:
            session.materialise(unknown[0], None, _hint_dtype(session, values))
            return align(session, values, what)
    like = tensor(session, known[0], what, _hint_dtype(session, values)) if known else None
    operands: list[Var] = []
    for value in values:
        if isinstance(value, Slot) and value.var is None:
            operands.append(_pending(session, value, like, what))
        elif not is_number(value):
            operands.append(tensor(session, value, f"an operand of {what}"))
        elif like is not None:
            operands.append(like)
    if not operands:
        raise session.report.fail("T0503", f"{what} needs at least one tensor, not only numbers", session.span)
    dtype = promoted(session, [v.type.dtype for v in operands])
    if dtype is not None and any(isinstance(v, complex) for v in values):
        dtype = dtype.complex if dtype.is_differentiable else None
    if dtype is None:
        raise _mixed(session, operands, what)
    operands = [cast(session, v, dtype) for v in operands]
    shape = broadcast_shape(session, operands, what)
    operands = [broadcast_to(session, v, shape) for v in operands]
    return [
        weak(session, v, operands[0], what) if isinstance(v, Number) else o
        for v, o in zip(values, operands, strict=True)
    ]


def _hint_dtype(session: Session, values: Sequence[Value]) -> DType | None:
    """An integer dtype for an untyped input that meets an integer tensor."""
    for value in values:
        if isinstance(value, Var) and not value.type.dtype.is_differentiable:
            return value.type.dtype
    return None


def _pending(session: Session, slot: Slot, like: Var | None, what: str) -> Var:
    """An input of unknown shape beside a tensor: a parameter becomes a vector over the last axis."""
    assert like is not None
    dtype = like.type.dtype
    if not slot.is_parameter and dtype.is_complex:
        dtype = dtype.real  # data is real unless the source says complex
    if slot.shape is not None or not slot.is_parameter:
        return session.materialise(slot, None, dtype)
    if slot.init is None and what == "multiplication":
        slot.init = lambda shape: Initializer("ones")
    return session.materialise(slot, like.type.shape[-1:], dtype)


def _mixed(session: Session, operands: Sequence[Var], what: str) -> Failed:
    labels = []
    seen = {session.span}
    for var in operands:
        definition = session.definitions.get(var.name)
        if definition is not None and definition.span not in seen:
            seen.add(definition.span)
            labels.append(Label(definition.span, f"`{session.name_of(var)}` is {session.type_text(var.type)}"))
    kinds = " and ".join(dict.fromkeys(str(v.type.dtype) for v in operands))
    if len({v.type.dtype for v in operands}) == 1:
        kinds += " elements and a complex number"
    return session.report.fail(
        "T0407",
        f"{what} of {kinds} needs a cast",
        session.span,
        labels=labels,
        help=["convert one operand, for example op.cast(x, float32)"],
    )


def same_shape(session: Session, a: Var, b: Var, what: str) -> None:
    """Requires equal shapes without broadcasting (losses)."""
    if a.type.rank != b.type.rank:
        labels = [
            Label(d.span, f"`{session.name_of(v)}` is {session.type_text(v.type)}")
            for v in (a, b)
            if (d := session.definitions.get(v.name)) is not None and d.span != session.span
        ]
        raise session.report.fail(
            "T0403",
            f"{what}: {session.type_text(a.type)} and {session.type_text(b.type)} have different ranks",
            session.span,
            labels=labels,
            notes=["losses do not broadcast: a [N] beside a [N,1] would compare every pair"],
            help=["reshape one of them, for example y.reshape(N, 1) or y[:, None]"],
        )
    for axis, (left, right) in enumerate(zip(a.type.shape, b.type.shape, strict=True)):
        session.unify(left, right, f"{what}: axis {axis}", (a, b))


def scalar_type(session: Session, var: Var) -> TensorType:
    """The type of one element."""
    return TensorType(var.type.dtype)
