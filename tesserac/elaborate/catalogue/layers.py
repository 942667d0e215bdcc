"""Layers with parameters of their own: linear, mlp, embedding, layernorm, rmsnorm.

With sizes first these are factories; with tensors first they apply at once, with tensors of the user's when those are
given and with parameters of their own otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from tesserac.diagnostics import Label
from tesserac.elaborate.calls import Site
from tesserac.elaborate.catalogue.registry import surface
from tesserac.elaborate.catalogue.support import (
    boolean,
    choice,
    fixed,
    initialiser,
    integer,
    is_operand,
    is_size,
    make_layer,
    number,
    uniform,
)
from tesserac.elaborate.operands import align, floating, indices, is_tensor
from tesserac.elaborate.session import Session
from tesserac.elaborate.tensors import product
from tesserac.elaborate.values import InitRule, Layer, Slot, UnknownDim, Value, describe
from tesserac.ir.program import Initializer, Var
from tesserac.ir.types import Dim, DType

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "tanh": "tanh",
    "sin": "sin",
    "sine": "sin",
    "sigmoid": "sigmoid",
    "softplus": "softplus",
    "none": "",
}
"""IR op of every activation name."""


def size(site: Site, value: Value, what: str) -> Dim:
    """A layer size: an integer, or a dimension that unification will settle."""
    return value.dim if isinstance(value, UnknownDim) else integer(site, value, what)


def activated(session: Session, function: str, x: Var) -> Var:
    """An activation; of a complex value on its real and its imaginary part separately ("split")."""
    if not x.type.dtype.is_complex:
        return session.emit(function, x)
    parts = [session.emit(function, session.emit(part, x)) for part in ("real", "imag")]
    return session.emit("complex", *parts)


def layer_parameters(session: Session, layer: Layer, x: Var) -> dict[str, Var]:
    """The parameters of a layer that is applied to ``x``; complex ones when that is complex, fp64 ones for fp64.

    The first application decides.
    """
    complex_, wide = x.type.dtype.is_complex, x.type.dtype in (DType.F64, DType.C128)
    for slot in layer.slots.values():
        if wide and slot.var is None and slot.dtype is DType.F32:
            slot.dtype = DType.F64
        if complex_ and slot.var is None and slot.dtype is not None and not slot.dtype.is_complex:
            slot.dtype = slot.dtype.complex
        elif complex_ and slot.dtype is not None and not slot.dtype.is_complex:
            raise session.report.fail(
                "T0414",
                f"`{slot.path}` is real, because its layer was applied to a real tensor first, and now meets "
                f"complex `{session.name_of(x)}`",
                session.span,
                labels=[Label(slot.span, "the layer is made here")],
                help=["make a second layer, or apply this one to op.complex(x, 0.0) where x is real"],
            )
    return {key: session.materialise(slot) for key, slot in layer.slots.items()}


def affine(session: Session, x: Var, weight: Var, bias: Var | None) -> Var:
    """``x @ weight + bias`` over the last axis."""
    y = product(session, x, weight)
    if bias is None:
        return y
    return session.emit("add", *align(session, (y, bias), "the bias"))


def bias_rule(site: Site, init: Value, fan_in: Dim) -> InitRule:
    """Biases start as the weights do by default (U(+-1/sqrt(fan_in))), and at zero under any other ``init``."""
    if init not in (None, "uniform"):
        return fixed("zeros")
    resolve = site.session.solver.size
    return lambda shape: uniform(resolve(fan_in) or 1)


@surface(
    "linear(x, out, bias=True, *, init=None, name=None)",
    "x @ weight + bias: op.linear(in, out) makes a layer, op.linear(x, W, b) applies given tensors",
    family="nn",
)
def linear(site: Site, x: Value, out: Value, bias: Value, init: Value, name: Value) -> Value:
    """A linear layer, or its application."""
    session = site.session
    if is_operand(x) and is_tensor(out):
        operand = _rows(site, x)
        if isinstance(out, Slot) and out.shape is None and out.is_parameter:
            out.shape = (operand.type.shape[-1], session.open_dim(out, 1))
        weight = floating(session, out, "the weight of op.linear", like=operand)
        return affine(
            session,
            operand,
            weight,
            None
            if isinstance(bias, bool) or bias is None
            else floating(session, bias, "the bias of op.linear", weight.type.shape[-1:], operand),
        )
    if is_tensor(x):
        operand = _rows(site, x)
        return _linear_layer(site, operand.type.shape[-1], out, bias, init, name).apply(site, operand)
    if not is_size(x):
        raise site.fail("T0504", f"op.linear takes sizes or a tensor first, not {describe(x)}")
    return _linear_layer(site, size(site, x, "the input width"), out, bias, init, name)


def _rows(site: Site, x: Value) -> Var:
    """An operand of op.linear, which has features along its last axis."""
    operand = floating(site.session, x, "the operand of op.linear")
    if not operand.type.rank:
        raise site.fail("T0404", "op.linear needs at least one axis, the last one holds the features")
    return operand


def _linear_layer(site: Site, rows: Dim, out: Value, bias: Value, init: Value, name: Value) -> Layer:
    columns = size(site, out, "the output width")
    parameters: dict[str, tuple[tuple[Dim, ...], InitRule]] = {
        "weight": ((rows, columns), initialiser(site, init, rows, columns))
    }
    if boolean(site, bias, "bias"):
        parameters["bias"] = ((columns,), bias_rule(site, init, rows))

    def apply(inner: Site, x: Value) -> Var:
        session = inner.session
        operand = floating(session, x, "the operand of a linear layer")
        tensors = layer_parameters(session, layer, operand)
        return affine(session, operand, tensors["weight"], tensors.get("bias"))

    layer = make_layer(site, "linear", (rows, columns, bias), parameters, apply, name=name)
    return layer


@surface(
    "mlp(x=None, hidden=None, out_dim=None, activation='gelu', *, "
    "in_dim=None, layers=None, init=None, bias=True, name=None)",
    "Perceptron: op.mlp(in, [hidden], out) makes a layer, op.mlp(x, hidden=[...], out_dim=n) applies one; "
    "a list of tensors is concatenated on the last axis",
    family="nn",
)
def mlp(
    site: Site,
    x: Value,
    hidden: Value,
    out_dim: Value,
    activation: Value,
    in_dim: Value,
    layers: Value,
    init: Value,
    bias: Value,
    name: Value,
) -> Value:
    """A multi-layer perceptron with the activation between layers and a linear output."""
    function = ACTIVATIONS[choice(site, activation, "activation", tuple(ACTIVATIONS))]
    widths = _widths(site, hidden, out_dim, layers)
    if x is None or is_size(x):
        first = size(site, in_dim if x is None else x, "the input width (in_dim)")
        return _mlp_layer(site, [first, *widths], function, init, bias, name)
    if not is_operand(x):
        raise site.fail("T0504", f"op.mlp takes sizes, a tensor or a list of tensors first, not {describe(x)}")
    operand = _features(site, x, "op.mlp")
    layer = _mlp_layer(site, [operand.type.shape[-1], *widths], function, init, bias, name)
    return layer.apply(site, operand)


def _features(site: Site, x: Value, what: str) -> Var:
    """An operand with features along its last axis; those of a list of tensors stand side by side."""
    from tesserac.elaborate.catalogue.shape import concatenated

    session = site.session
    if isinstance(x, list | tuple) and is_operand(x):
        parts = [floating(session, v, f"an operand of {what}") for v in x]
        operand = concatenated(site, session.columns.stood_up(x, parts), -1)
    else:
        operand = floating(session, x, f"the operand of {what}")
    if not operand.type.rank:
        raise site.fail("T0404", f"{what} needs at least one axis, the last one holds the features")
    return operand


def _widths(site: Site, hidden: Value, out_dim: Value, layers: Value) -> list[Dim]:
    if layers is not None:
        if hidden is not None or out_dim is not None or not isinstance(layers, list | tuple) or not layers:
            raise site.fail(
                "T0504", "layers=[..., out] replaces hidden and out_dim; it is a list that ends with the output width"
            )
        return [size(site, w, "a width in layers") for w in layers]
    if out_dim is None:
        raise site.fail("T0504", "op.mlp needs out_dim, the output width", help=("op.mlp(in_dim, [hidden], out_dim)",))
    inner = [] if hidden is None else list(hidden) if isinstance(hidden, list | tuple) else [hidden]
    return [*(size(site, w, "a hidden width") for w in inner), size(site, out_dim, "the output width")]


def _mlp_layer(site: Site, widths: list[Dim], function: str, init: Value, bias: Value, name: Value) -> Layer:
    with_bias = boolean(site, bias, "bias")
    parameters: dict[str, tuple[tuple[Dim, ...], InitRule]] = {}
    for index, (rows, columns) in enumerate(pairwise(widths), 1):
        parameters[f"w{index}"] = ((rows, columns), initialiser(site, init, rows, columns))
        if with_bias:
            parameters[f"b{index}"] = ((columns,), bias_rule(site, init, rows))

    def apply(inner: Site, x: Value) -> Var:
        session = inner.session
        value = _features(inner, x, "an mlp")
        tensors = layer_parameters(session, layer, value)
        for index in range(1, len(widths)):
            value = affine(session, value, tensors[f"w{index}"], tensors.get(f"b{index}"))
            if function and index < len(widths) - 1:
                value = activated(session, function, value)
        return value

    layer = make_layer(site, "mlp", (*widths, function, with_bias), parameters, apply, name=name)
    return layer


@surface(
    "embedding(ids, table, *, init=None, name=None)",
    "Rows of a table: op.embedding(V, D) makes a layer, op.embedding(ids, table) looks rows up",
    family="nn",
)
def embedding(site: Site, ids: Value, table: Value, init: Value, name: Value) -> Value:
    """A table of vectors, or a lookup in one."""
    session = site.session
    if is_tensor(ids) and is_tensor(table):
        if isinstance(table, Slot) and table.shape is None and table.is_parameter:
            table.shape = (session.open_dim(table, 0), session.open_dim(table, 1))
        if isinstance(table, Slot) and table.is_parameter and table.init is None:
            table.init = lambda shape: Initializer("normal", 0.0, 0.02)
        return session.emit(
            "take",
            floating(session, table, "the table of op.embedding"),
            indices(session, ids, "the ids of op.embedding"),
        )
    if not is_size(ids):
        raise site.fail(
            "T0504", f"op.embedding takes op.embedding(V, D) or op.embedding(ids, table), not {describe(ids)} first"
        )
    rows, columns = size(site, ids, "the number of rows"), size(site, table, "the width")

    def apply(inner: Site, x: Value) -> Var:
        looked_up = indices(inner.session, x, "the ids of an embedding")
        return inner.session.emit("take", inner.session.materialise(layer.slots["weight"]), looked_up)

    parameters = {"weight": ((rows, columns), initialiser(site, init, rows, columns, "normal"))}
    layer = make_layer(site, "embedding", (rows, columns), parameters, apply, "layer(ids)", name)
    return layer


def _norm(op: str, site: Site, x: Value, given: list[Value], eps: Value, affine_: Value, name: Value) -> Value:
    """Normalisation over the last axis with a gain (and for layernorm a bias)."""
    session = site.session
    epsilon = number(site, eps, "eps")
    keys = ("weight", "bias")[: len(given)]

    def normalise(inner: Session, value: Value, vectors: Callable[[Var], list[Var]]) -> Var:
        operand = floating(inner, value, f"the operand of {op}")
        if not operand.type.rank:
            raise inner.report.fail("T0404", f"{op} needs at least one axis", inner.span)
        return inner.emit(op, operand, *vectors(operand), eps=epsilon)

    def layer_of(width: Dim) -> Layer:
        parameters = {key: ((width,), fixed("ones" if key == "weight" else "zeros")) for key in keys}

        def apply(inner: Site, value: Value) -> Var:
            return normalise(
                inner.session, value, lambda _: [inner.session.materialise(layer.slots[key]) for key in keys]
            )

        layer = make_layer(site, op, (width,), parameters, apply, name=name)
        return layer

    if is_size(x):
        return layer_of(size(site, x, "the width"))
    if not is_tensor(x):
        raise site.fail("T0504", f"op.{op} takes a width or a tensor first, not {describe(x)}")
    operand = floating(session, x, f"the operand of op.{op}")
    if any(v is not None for v in given) or not boolean(site, affine_, "affine"):
        return normalise(session, operand, lambda v: _vectors(session, v, given, keys))
    if not operand.type.rank:
        raise site.fail("T0404", f"op.{op} needs at least one axis")
    return layer_of(operand.type.shape[-1]).apply(site, operand)


def _vectors(session: Session, x: Var, given: list[Value], keys: tuple[str, ...]) -> list[Var]:
    vectors = []
    for key, value in zip(keys, given, strict=True):
        if value is None:
            row = session.emit(
                "full", value=1.0 if key == "weight" else 0.0, shape=x.type.shape[-1:], dtype=x.type.dtype
            )
        else:
            if isinstance(value, Slot) and value.is_parameter and value.init is None:
                value.init = fixed("ones" if key == "weight" else "zeros")
            row = floating(session, value, f"the {key}", x.type.shape[-1:])
        vectors.append(row)
    return vectors


@surface(
    "layernorm(x, gain=None, bias=None, *, eps=1e-5, affine=True, name=None)",
    "Layer normalisation over the last axis: op.layernorm(D) makes a layer",
    family="nn",
    aliases=("layer_norm",),
)
def layernorm(site: Site, x: Value, gain: Value, bias: Value, eps: Value, affine_: Value, name: Value) -> Value:
    """(x - mean) / sqrt(var + eps) * gain + bias."""
    return _norm("layernorm", site, x, [gain, bias], eps, affine_, name)


@surface(
    "rmsnorm(x, gain=None, *, eps=1e-6, affine=True, name=None)",
    "Root-mean-square normalisation over the last axis: op.rmsnorm(D) makes a layer",
    family="nn",
    aliases=("rms_norm",),
)
def rmsnorm(site: Site, x: Value, gain: Value, eps: Value, affine_: Value, name: Value) -> Value:
    """x / sqrt(mean(x*x) + eps) * gain."""
    return _norm("rmsnorm", site, x, [gain], eps, affine_, name)
