"""Type annotations: ``Tensor["B", "S", bf16]``, ``tensor[(B, T), fp16]``, ``Tensor[B, N] @ shard(...)``.

Names inside an annotation are compile-time integers when they are bound, and dimension names otherwise; the same name
is the same size throughout the unit. ``"3*D"`` and ``"B*H"`` are products.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tesserac.diagnostics import Label
from tesserac.elaborate.layouts import pin
from tesserac.elaborate.operands import source_slot
from tesserac.elaborate.options import OPEN
from tesserac.elaborate.report import Failed
from tesserac.elaborate.scopes import Frame
from tesserac.elaborate.session import Restart
from tesserac.elaborate.values import Batch, Poison, Slot, TypeForm, Value, describe
from tesserac.ir.program import Var
from tesserac.ir.types import Dim, DType
from tesserac.parser import syntax

if TYPE_CHECKING:
    from tesserac.elaborate.interpreter import Interpreter

DTYPES: dict[str, DType] = {
    "fp64": DType.F64,
    "float64": DType.F64,
    "f64": DType.F64,
    "double": DType.F64,
    "fp32": DType.F32,
    "float32": DType.F32,
    "f32": DType.F32,
    "bf16": DType.BF16,
    "bfloat16": DType.BF16,
    "fp16": DType.F16,
    "float16": DType.F16,
    "f16": DType.F16,
    "half": DType.F16,
    "int8": DType.I8,
    "i8": DType.I8,
    "int16": DType.I16,
    "i16": DType.I16,
    "int32": DType.I32,
    "i32": DType.I32,
    "int64": DType.I64,
    "i64": DType.I64,
    "uint8": DType.U8,
    "u8": DType.U8,
    "bool": DType.BOOL,
    "complex64": DType.C64,
    "c64": DType.C64,
    "complex128": DType.C128,
    "c128": DType.C128,
}
"""Every spelling of an element type."""

FP8 = ("fp8", "fp8_e4m3", "fp8_e5m2")
"""Element types that parse and are not supported."""


def annotate(it: Interpreter, param: syntax.Param, value: Value, frame: Frame) -> None:
    """Applies a parameter's annotation to what was bound to it."""
    if param.annotation is None:
        return
    if isinstance(param.annotation, syntax.DictExpr):
        if isinstance(value, Batch):
            for key, form in param.annotation.items:
                slot = it.batch_key(value, it.eval(key, frame), key.span)
                apply(it, slot, type_form(it, form, frame), form)
        return
    form_value = type_form(it, param.annotation, frame)
    if form_value is not None:
        apply(it, value, form_value, param.annotation)


def apply_annotation(it: Interpreter, name: str, annotation: syntax.Expr, value: Value, frame: Frame) -> None:
    """Applies ``name: annotation = value``."""
    form = type_form(it, annotation, frame)
    if form is not None:
        apply(it, value, form, annotation)


def type_form(it: Interpreter, node: syntax.Expr, frame: Frame) -> TypeForm | None:
    """What an annotation says; None for ``int``, ``float``, ``dict`` and the like."""
    if isinstance(node, syntax.Binary) and node.op == "@":
        form = type_form(it, node.left, frame)
        return replace(form or TypeForm(), layout=_layout(it, node, frame))
    if isinstance(node, syntax.Name | syntax.Attribute | syntax.String | syntax.NoneLit):
        return None
    name = (
        node.value.id
        if isinstance(node, syntax.Subscript) and isinstance(node.value, syntax.Name)
        else node.value.attr
        if isinstance(node, syntax.Subscript) and isinstance(node.value, syntax.Attribute)
        else ""
    )
    if name in ("list", "tuple", "dict"):
        return None
    if not isinstance(node, syntax.Subscript) or name not in ("Tensor", "tensor"):
        raise it.report.fail(
            "T0408",
            "this annotation is not a tensor type",
            node.span,
            help=['write Tensor["B", "S", 64], Tensor[B, S, int32] or tensor[(B, S), bf16]'],
        )
    items = list(node.index.items) if isinstance(node.index, syntax.TupleExpr) else [node.index]
    if not items:
        return TypeForm((), None)
    layout = None
    if len(items) == 3 and isinstance(items[0], syntax.TupleExpr):  # tensor[(B, T), fp32, P("dp", None)]
        layout = it.eval(items.pop(), frame)
    dtype = _dtype(it, items[-1])
    if dtype is not None:
        items.pop()
    if len(items) == 1 and isinstance(items[0], syntax.TupleExpr):
        items = list(items[0].items)
    elif not items:
        return TypeForm(None, dtype)
    dims = tuple(_dim(it, item, frame) for item in items)
    it.session.dim_names.update(d for d in dims if isinstance(d, str))
    return TypeForm(dims, dtype, layout)


def _layout(it: Interpreter, node: syntax.Binary, frame: Frame) -> Value:
    """The layout in ``Tensor[B, N, D] @ shard({B: dp, D: tp})``, or in ``@ shard("dp", None, "tp")``."""
    call = node.right
    named = isinstance(call, syntax.Call) and getattr(call.func, "attr", getattr(call.func, "id", "")) == "shard"
    if not isinstance(call, syntax.Call) or not named or call.keywords or not call.args:
        raise it.report.fail("T0408", "behind a tensor type, `@` takes shard(...)", node.span,
                             help=['Tensor["B", "D"] @ shard({"B": "dp"}), or @ shard("dp", None)'])
    if not (len(call.args) == 1 and isinstance(call.args[0], syntax.DictExpr)):
        layout = tuple(_axis(it, arg, frame) for arg in call.args)
        return layout[0] if len(layout) == 1 and isinstance(layout[0], tuple | dict) else layout
    index = node.left.index if isinstance(node.left, syntax.Subscript) else None
    items = list(index.items) if isinstance(index, syntax.TupleExpr) else [index]
    if items and isinstance(items[0], syntax.TupleExpr):
        items = list(items[0].items)
    places = {name: at for at, item in enumerate(items) if (name := _word(item)) is not None}
    found: dict[object, Value] = {}
    for key, value in call.args[0].items:
        word = _word(key)
        at = places.get(word) if word is not None else it.eval(key, frame)
        if not isinstance(at, int) or isinstance(at, bool):
            raise it.report.fail("T0408", "a layout names dimensions of its type, or numbers them", key.span)
        found[at] = _axis(it, value, frame)
    return found


def _word(node: syntax.Expr | None) -> str | None:
    """The name that a dimension or an axis is."""
    return node.id if isinstance(node, syntax.Name) else node.value if isinstance(node, syntax.String) else None


def _axis(it: Interpreter, node: syntax.Expr, frame: Frame) -> Value:
    """A mesh axis: a string, or a bare name that stands for nothing else."""
    if isinstance(node, syntax.Name):
        try:
            return frame.lookup(node.id)
        except KeyError:
            return node.id
    if isinstance(node, syntax.TupleExpr):
        return tuple(_axis(it, item, frame) for item in node.items)
    return it.eval(node, frame)


def _dtype(it: Interpreter, node: syntax.Expr) -> DType | None:
    name = (
        node.id
        if isinstance(node, syntax.Name)
        else node.attr
        if isinstance(node, syntax.Attribute)
        else node.value
        if isinstance(node, syntax.String)
        else ""
    )
    if name in FP8 or (
        isinstance(node, syntax.Subscript) and isinstance(node.value, syntax.Name) and node.value.id in FP8
    ):
        raise it.report.fail(
            "T0409", f"{name or 'fp8'} is not supported on this target", node.span, help=["use bf16 or fp16"]
        )
    return DTYPES.get("fp32" if name == "float" else name)


def _dim(it: Interpreter, node: syntax.Expr, frame: Frame) -> Dim:
    solver = it.session.solver
    if isinstance(node, syntax.Name):
        try:
            value = frame.lookup(node.id)
        except KeyError:
            return node.id
    elif isinstance(node, syntax.String):
        return _dim_text(it, node)
    elif isinstance(node, syntax.Binary) and node.op == "*":
        return solver.product((_dim(it, node.left, frame), _dim(it, node.right, frame)))
    else:
        value = it.eval(node, frame)
    if isinstance(value, Poison):
        raise Failed
    if isinstance(value, str) and value.isidentifier():
        return value
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    raise it.report.fail("T0408", f"a dimension is a positive integer or a name, not {describe(value)}", node.span,
                         help=["Tensor[4, 8] or Tensor[\"B\", 8]: a size that is not known yet gets a name"])


def _dim_text(it: Interpreter, node: syntax.String) -> Dim:
    """``"B"``, ``"4"``, ``"3*D"``, ``"4D"``, ``"B*H"``."""
    factors: list[Dim] = []
    for part in (p.strip() for p in node.value.split("*")):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        rest = part[len(digits) :]
        if digits:
            factors.append(int(digits[:15]))
        if rest.isidentifier():
            factors.append(rest)
            it.session.dim_names.add(rest)
        elif rest or not digits:
            raise it.report.fail(
                "T0408",
                f"{node.value!r} is not a dimension",
                node.span,
                help=['a dimension is a name, a number or a product: "B", "64", "3*D"'],
            )
    return it.session.solver.product(tuple(factors))


def apply(it: Interpreter, value: Value, form: TypeForm | None, node: syntax.Expr) -> None:
    """Requires a value to have an annotated type; an input without one takes it. A layout becomes a pin."""
    if form is None:
        return
    _apply_type(it, value, form, node)
    if form.layout is not None and isinstance(value, Var | Slot):
        pin(it.session, value, form.layout, node.span)


def _apply_type(it: Interpreter, value: Value, form: TypeForm, node: syntax.Expr) -> None:
    if isinstance(value, Slot) and value.var is None:
        if form.dtype is not None:
            if value.declared_dtype and value.dtype != form.dtype:
                raise it.report.fail("T0407", f"`{value.path}` is {value.dtype} and {form.dtype}", node.span)
            value.dtype, value.declared_dtype = form.dtype, True
        if form.shape is not None and value.shape is None:
            value.shape, value.shape_text = form.shape, ""
            value.span = node.span
            return
        shape = value.shape
    elif isinstance(value, Var):
        if form.dtype is not None and form.dtype != value.type.dtype:
            _wrong_dtype(it, value, form.dtype, node)
        shape = value.type.shape
    elif isinstance(value, Slot):
        _apply_type(it, value.var, form, node)
        return
    else:
        return
    if form.shape is not None and shape is not None:
        with it.at(node.span):
            _same_shape(it, value, shape, form.shape, node)


def _same_shape(
    it: Interpreter, value: Var | Slot, shape: Sequence[Dim], wanted: Sequence[Dim], node: syntax.Expr
) -> None:
    """Unifies a shape with an annotated one."""
    session = it.session
    source = session.definitions.get(value.name) if isinstance(value, Var) else value
    name = session.name_of(value) if isinstance(value, Var) else value.path
    if len(shape) != len(wanted):
        labels = [Label(source.span, "it comes from here")] if source is not None and source.span != node.span else []
        message = f"`{name}` has {len(shape)} axes and is annotated with {len(wanted)}"
        session.report.error("T0403", message, node.span, labels=labels)
        return
    notes = []
    if isinstance(source, Slot) and source.shape_text:
        notes.append(f"`{name}` has the shape [{', '.join(map(str, shape))}] from {source.shape_text}")
    for axis, (a, b) in enumerate(zip(shape, wanted, strict=True)):
        try:
            session.unify(b, a, f"axis {axis} of this annotation", (value,) if isinstance(value, Var) else (), notes)
        except Failed:
            return


def _wrong_dtype(it: Interpreter, value: Var, dtype: DType, node: syntax.Expr) -> None:
    slot = source_slot(it.session, value)
    if slot is not None:
        raise Restart(slot.path, dtype)
    source = it.session.definitions.get(value.name)
    labels = (
        [Label(source.span, f"it is {value.type.dtype} because of this")]
        if source is not None and source.span != node.span
        else []
    )
    it.report.error(
        "T0407",
        f"`{it.session.name_of(value)}` has {value.type.dtype} and is annotated with {dtype}",
        node.span,
        labels=labels,
        help=[f"convert it: op.cast(x, {dtype})"],
    )


def flagged(it: Interpreter, path: str, value: Var | Slot, param: syntax.Param) -> None:
    """Applies ``--shape MODULE.INPUT=...`` to what a call binds to a module's input."""
    form = it.session.flag_shape(path)
    if form is not None and not (isinstance(value, Slot) and value.shape is not None and value.path == path):
        dims, text = form
        open_dims = tuple(it.session.solver.symbol(f"{path}.{i}") if d == OPEN else d for i, d in enumerate(dims))
        apply(it, value, TypeForm(open_dims), syntax.Name(param.name, param.span))
        if isinstance(value, Slot) and not value.shape_text:
            value.shape_text = text
