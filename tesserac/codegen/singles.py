"""Ops that are a kernel of their own: attention, relayouts, data movement and functions along one axis."""

from __future__ import annotations

from tesserac.codegen.collapse import collapse
from tesserac.codegen.exchange import lower_exchange
from tesserac.codegen.formula import origin_of
from tesserac.codegen.records import (
    Argument,
    AttentionKernel,
    GroupedKernel,
    Launch,
    LineKernel,
    Node,
    RoutingKernel,
    RowKernel,
    Slot,
    Store,
    TransposeKernel,
)
from tesserac.codegen.region import NeedsCopy, buffer_of
from tesserac.codegen.stage_values import GROUPED_OPS, LINE_OPS, PIECE, ROUTING_OPS, StageValues
from tesserac.codegen.views import View, dense
from tesserac.diagnostics import InternalError
from tesserac.ir.program import Equation, Var
from tesserac.ir.types import DType, TensorType
from tesserac.ops.attributes import integers
from tesserac.ops.base import flops_of, spec_of


def lower_single(values: StageValues, equation: Equation) -> list[Launch]:
    """The launches of an op that reads its operands from memory."""
    if equation.op in ("attention", "attention_grad"):
        return [_lower_attention(values, equation)]
    if equation.op == "relayout":
        return [_lower_relayout(values, equation)]
    if equation.op == "concat":
        return _lower_concat(values, equation)
    if equation.op == "pad":
        return _lower_pad(values, equation)
    if equation.op in LINE_OPS:
        return [_lower_line(values, equation)]
    if equation.op in ROUTING_OPS:
        return [_lower_routing(values, equation)]
    if equation.op in GROUPED_OPS:
        return [_lower_grouped(values, equation)]
    if spec_of(equation.op).kind in ("collective", "rank"):
        return [lower_exchange(values, equation)]
    raise InternalError(f"no lowering for {equation.op}")


def check_rows(values: StageValues, equation: Equation) -> None:
    """Raises NeedsCopy when attention or an op of experts cannot read an operand as rows of consecutive elements."""
    for var in equation.operands:
        _, view = buffer_of(values, var)
        if var.type.rank == 0:
            continue
        if equation.op in GROUPED_OPS:
            if _row_distance(view) is None:
                raise NeedsCopy(var)
            continue
        strides, width = view.normalized().strides, var.type.sizes[-1]
        if (width > 1 and strides[-1] != 1) or (var.type.sizes[1] > 1 and strides[1] < width):
            raise NeedsCopy(var)
        if var.type.dtype is DType.BF16 and any(n % PIECE for n in (view.offset, *strides[:-1])):
            raise NeedsCopy(var)


def check_stored(values: StageValues, equation: Equation) -> None:
    """Raises NeedsCopy when an operand of a kernel of its own is a view that no strides express."""
    for var in equation.operands:
        buffer_of(values, var)


def _lower_attention(values: StageValues, equation: Equation) -> Launch:
    backward = equation.op == "attention_grad"
    count = 6 if backward else 3
    read, begins, written = equation.operands[:count], equation.operands[count:], equation.results
    q, k, v = (x.type.sizes for x in read[:3])
    attrs = equation.attributes
    heads, kv_heads = int(attrs["heads"]), int(attrs["kv_heads"])  # type: ignore[arg-type]
    slots, arguments, strides = [], [], []
    for var in (*read, *written):
        argument, view = buffer_of(values, var)
        slots.append(Slot(var.name, var.type.dtype, var in written))
        arguments.append(argument)
        normal = view.normalized().strides
        strides.append((normal[0], normal[1]))
    for var in begins:
        slots.append(Slot(var.name, var.type.dtype))
        arguments.append(buffer_of(values, var)[0])
    scale = attrs["scale"]
    head_dim = q[2] // heads
    kernel = AttentionKernel(
        tuple(slots),
        backward,
        q[0],
        q[1],
        k[1],
        heads,
        kv_heads,
        head_dim,
        v[2] // kv_heads,
        bool(attrs["causal"]),
        float(scale) if isinstance(scale, (int, float)) else head_dim**-0.5,
        tuple(strides),
        bool(begins),
    )
    pairs = q[0] * heads * q[1] * k[1] * (0.5 if kernel.causal else 1.0)
    flops = 2.0 * pairs * (head_dim + kernel.value_dim) * (2.5 if backward else 1.0)
    size = sum(float(x.type.bytes) for x in (*read, *written))
    return Launch(kernel, tuple(arguments), origin_of(values, [equation]), flops, size)


def _lower_relayout(values: StageValues, equation: Equation) -> Launch:
    perm = equation.attr("perm")
    assert isinstance(perm, tuple)
    source_argument, source = buffer_of(values, equation.operands[0])
    target_argument, target = buffer_of(values, equation.result)
    order = [int(p) for p in perm if isinstance(p, int)]
    strides = [source.normalized().strides[p] for p in order]
    last = len(order) - 1
    unit = next((i for i in range(last) if strides[i] == 1), None)
    slots = (
        Slot(equation.operands[0].name, equation.result.type.dtype),
        Slot(equation.result.name, equation.result.type.dtype, True),
    )
    origin = origin_of(values, [equation])
    arguments = (source_argument, target_argument)
    size = 2.0 * equation.result.type.bytes
    if unit is None:  # nothing to gain from blocks: a plain strided copy
        load = Node(
            "load", "full", equation.result.type.dtype, slot=0, strides=tuple(strides), name=equation.operands[0].name
        )
        store = Store(0, 1, target.normalized().strides)
        domain, nodes, stores = collapse(target.shape, [load], [store])
        return Launch(RowKernel(slots, domain, tuple(nodes), tuple(stores)), arguments, origin, 0.0, size)
    outer = tuple(
        (target.shape[i], strides[i], target.strides[i]) for i in range(last) if i != unit and target.shape[i] > 1
    )
    kernel = TransposeKernel(slots, target.shape[last], target.shape[unit], strides[last], target.strides[unit], outer)
    return Launch(kernel, arguments, origin, 0.0, size)


def _copy(values: StageValues, source: Var, target: Argument, view: View, equation: Equation) -> Launch:
    """Copies a value into a part of another buffer."""
    argument, stored = buffer_of(values, source)
    slots = (Slot(source.name, source.type.dtype), Slot(equation.result.name, source.type.dtype, True))
    load = Node("load", "full", source.type.dtype, slot=0, strides=stored.normalized().strides, name=source.name)
    domain, nodes, stores = collapse(view.shape, [load], [Store(0, 1, view.normalized().strides)])
    kernel = RowKernel(slots, domain, tuple(nodes), tuple(stores))
    return Launch(kernel, (argument, target), origin_of(values, [equation]), 0.0, 2.0 * source.type.bytes)


def _lower_concat(values: StageValues, equation: Equation) -> list[Launch]:
    axis, start = equation.attr("axis"), 0
    assert isinstance(axis, int)
    whole, root = values.storage(equation.result), values.root(equation.result)
    launches = []
    for var in equation.operands:
        view = View(var.type.sizes, whole.strides, whole.offset + start * whole.strides[axis])
        start += var.type.sizes[axis]
        if values.aliases.get(var, (None,))[0] != equation.result:
            launches.append(_copy(values, var, Argument(root, view.offset), View(view.shape, view.strides), equation))
    return launches


def _lower_pad(values: StageValues, equation: Equation) -> list[Launch]:
    low = equation.attr("low")
    assert isinstance(low, tuple)
    whole, root = values.storage(equation.result), values.root(equation.result)
    dtype = equation.result.type.dtype
    fill = Node("constant", "row", dtype, value=values.constant(equation))
    domain, nodes, stores = collapse(whole.shape, [fill], [Store(0, 0, whole.normalized().strides)])
    slots = (Slot(equation.result.name, dtype, True),)
    first = Launch(
        RowKernel(slots, domain, tuple(nodes), tuple(stores)),
        (Argument(root, whole.offset),),
        origin_of(values, [equation]),
        0.0,
        float(equation.result.type.bytes),
    )
    offset = whole.offset + sum(int(n) * s for n, s in zip(low, whole.strides, strict=True) if isinstance(n, int))
    source = equation.operands[0]
    inner = View(source.type.sizes, whole.strides)
    return [first, _copy(values, source, Argument(root, offset), inner, equation)]


def _line_function(equation: Equation, n: int) -> str:
    """The runtime's function; a wavelet is a type, and the length a constant, for memory on the stack."""
    name = f"line_{equation.op.removeprefix('reduce_')}"
    kind = equation.attributes.get("type")
    return f"{name}<{str(kind).capitalize()}, {n}>" if kind is not None else name


def _lower_routing(values: StageValues, equation: Equation) -> Launch:
    """Slots sorted by expert, or cut to the experts' capacity, which takes memory for sorting them first."""
    attrs, indices = equation.attributes, equation.operands[0]
    experts, count = int(attrs["experts"]), indices.type.size  # type: ignore[arg-type]
    sizes = [count, experts]
    work: list[Var] = []
    if equation.op == "limit":
        sizes.append(int(attrs["capacity"]))  # type: ignore[arg-type]
        work.append(Var(f"{equation.result.name}_work", TensorType(DType.I32, (2 * count + experts + 1,))))
    slots, arguments = [], []
    for var in (*equation.operands, *work, *equation.results):
        argument, view = (Argument(var), dense(var.type.sizes)) if var in work else buffer_of(values, var)
        if view.normalized() != dense(var.type.sizes, view.shape[-1]).normalized():
            raise InternalError(f"{equation.op} reads {var} in a layout that is not dense")
        slots.append(Slot(var.name, var.type.dtype, var not in equation.operands))
        arguments.append(argument)
    size = float(sum(v.type.bytes for v in (*equation.operands, *work, *equation.results)))
    kernel = RoutingKernel(tuple(slots), equation.op, tuple(sizes))
    return Launch(kernel, tuple(arguments), origin_of(values, [equation]), 3.0 * count, size)


def _row_distance(view: View) -> int | None:
    """Distance of the rows of a matrix of consecutive elements, or of a vector's elements that follow one another."""
    strides, width = view.normalized().strides, (view.shape or (1,))[-1]
    if width > 1 and strides[-1] != 1:
        return None
    if len(strides) < 2:
        return width
    if view.shape[0] > 1 and strides[0] < width:
        return None
    return max(strides[0], width)


def _lower_grouped(values: StageValues, equation: Equation) -> Launch:
    """Products and sums over the rows of every expert, which the kernel finds by the experts' first rows."""
    slots, arguments, distances = [], [], []
    for var in (*equation.operands, *equation.results):
        argument, view = buffer_of(values, var)
        distance = _row_distance(view)
        if distance is None:
            raise InternalError(f"{equation.op} touches {var} in a layout without rows")
        slots.append(Slot(var.name, var.type.dtype, var not in equation.operands))
        arguments.append(argument)
        distances.append(distance)
    function = equation.op.removeprefix("grouped_").removesuffix("_wide")  # the types of the slots tell the rest
    rows, width, columns, count = _grouped_sizes(function, equation)
    kernel = GroupedKernel(
        tuple(slots),
        function,
        rows,
        integers(equation.attributes, "experts") if "experts" in equation.attributes else (),
        count,
        width,
        columns,
        tuple(distances),
        bool(equation.attributes.get("transposed", False)),
    )
    size = float(sum(v.type.bytes for v in (*equation.operands, *equation.results)))
    return Launch(kernel, tuple(arguments), origin_of(values, [equation]), flops_of(equation), size)


def _grouped_sizes(function: str, equation: Equation) -> tuple[int, int, int, int]:
    """Rows, their width, columns of the result, and the number of experts."""
    first, result = equation.operands[0].type, equation.results[0].type
    if function == "table":
        return result.sizes[0], result.sizes[1], result.sizes[1], result.sizes[0] - 1
    if function == "number":
        return result.size, 1, 1, first.size - 1
    count = equation.operands[2 if function == "outer" else 1].type.size - 1
    rows, width = first.sizes
    return rows, width, result.sizes[-1], count


def _lower_line(values: StageValues, equation: Equation) -> Launch:
    """An op along one axis: every tensor is walked with its own stride; results without the axis stand still."""
    attrs = equation.attributes
    source = equation.operands[0]
    rank = source.type.rank
    given = attrs.get("axis", attrs.get("axes", rank - 1))
    axis = given[0] if isinstance(given, tuple) else given
    assert isinstance(axis, int)
    slots, arguments, walks = [], [], []
    for var in (source, *equation.results):
        argument, view = buffer_of(values, var)
        strides = list(view.normalized().strides)
        if var.type.rank < rank:
            strides.insert(axis, 0)
        slots.append(Slot(var.name, var.type.dtype, var != source))
        arguments.append(argument)
        walks.append(strides)
    extra = tuple(int(attrs[k]) for k in ("reverse", "k", "level") if k in attrs)  # type: ignore[arg-type]
    outer = tuple((n, tuple(w[i] for w in walks)) for i, n in enumerate(source.type.sizes) if i != axis and n > 1)
    kernel = LineKernel(
        tuple(slots),
        _line_function(equation, source.type.sizes[axis]),
        (source.type.sizes[axis], *extra),
        tuple(w[axis] for w in walks),
        outer,
        str(attrs.get("type", "")),
    )
    size = float(sum(v.type.bytes for v in (source, *equation.results)))
    return Launch(kernel, tuple(arguments), origin_of(values, [equation]), float(source.type.size), size)
