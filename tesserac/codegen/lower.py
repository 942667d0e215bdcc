"""From fused groups to kernel launches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tesserac.codegen.contract import lower_contract
from tesserac.codegen.formula import origin_of
from tesserac.codegen.records import (
    Argument,
    AttentionKernel,
    ContractKernel,
    Kernel,
    Launch,
    LineKernel,
    Node,
    RowKernel,
    Slot,
    Store,
    TransposeKernel,
    accesses_of,
)
from tesserac.codegen.region import NeedsCopy, Region
from tesserac.codegen.stage_values import LINE_OPS, StageValues, chained
from tesserac.codegen.views import View
from tesserac.diagnostics import InternalError
from tesserac.ir.program import Equation, Var

if TYPE_CHECKING:
    from tesserac.passes.fuse import Fused, Group


def lower(fused: Fused) -> tuple[Launch, ...]:
    """The launches of a stage, in order."""
    read = _read_elsewhere(fused)
    launches: list[Launch] = []
    for index, group in enumerate(fused.groups):
        if group.region is not None:
            launches.append(_lower_region(fused, index, group, group.region, read))
        else:
            launches.extend(_lower_single(fused.values, group.lead))
    return tuple(launches)


def _read_elsewhere(fused: Fused) -> dict[Var, set[int]]:
    """For every value, the groups that read it from memory."""
    read: dict[Var, set[int]] = {}
    for index, group in enumerate(fused.groups):
        reads = list(group.region.reads) if group.region is not None else []
        if group.kind in ("contract", "single"):
            reads += [fused.values.through_views(v, ())[0] for v in group.lead.operands]
        for var in reads:
            read.setdefault(var, set()).add(index)
    return read


def _lower_region(fused: Fused, index: int, group: Group, region: Region, read: dict[Var, set[int]]) -> Launch:
    values = fused.values
    stores = list(region.stores)
    slots, bound = region.slots, region.bound
    for var, (extent, node) in region.members.items():
        if var not in values.exports and not read.get(var, set()) - {index}:
            continue
        view = values.storage(var)
        across = values.is_partial(var)
        slot = region.slot(values.root(var), view.offset, written=True)
        stores.append(Store(node, slot, region.over_domain(view, extent), "set", across, extent=var.type.sizes))
    origin = origin_of(values, group.roots)
    kernel: Kernel
    if group.kind == "contract":
        nodes, stores = _live(region.nodes, stores, keep_first=True)
        kernel, pairs = lower_contract(region, group.lead, nodes, stores, values)
        flops = 2.0 * kernel.m * kernel.n * kernel.k * _count(kernel.outer) + region.flops()
    else:
        nodes, stores = _live(region.nodes, stores)
        domain, nodes, stores = collapse(region.domain, nodes, stores)
        kernel, pairs = RowKernel(tuple(slots), domain, tuple(nodes), tuple(stores)), tuple(bound)
        flops = region.flops()
    arguments = tuple(Argument(var, offset) for var, offset in pairs)
    kernel, arguments = _only_used_slots(kernel, arguments)
    return Launch(kernel, arguments, origin, flops, _bytes(kernel))


def _count(sizes: Sequence[int]) -> int:
    result = 1
    for n in sizes:
        result *= n
    return result


def _live(nodes: Sequence[Node], stores: Sequence[Store], keep_first: bool = False) -> tuple[list[Node], list[Store]]:
    """Drops nodes that no store needs and renumbers the rest."""
    needed: set[int] = {0} if keep_first else set()
    for store in stores:
        needed.add(store.node)
        if store.index >= 0:
            needed.add(store.index)
    for i in range(len(nodes) - 1, -1, -1):
        if i in needed:
            needed.update(nodes[i].args)
    number = {old: new for new, old in enumerate(sorted(needed))}
    kept = [replace(nodes[i], args=tuple(number[a] for a in nodes[i].args)) for i in sorted(needed)]
    moved = [replace(s, node=number[s.node], index=number[s.index] if s.index >= 0 else -1) for s in stores]
    return kept, moved


def _only_used_slots(kernel: Kernel, arguments: tuple[Argument, ...]) -> tuple[Kernel, tuple[Argument, ...]]:
    assert isinstance(kernel, (RowKernel, ContractKernel))
    used = {n.slot for n in kernel.nodes if n.slot >= 0} | {s.slot for s in kernel.stores}
    matrices = [kernel.a.slot, kernel.b.slot] if isinstance(kernel, ContractKernel) else []
    order = matrices + sorted((i for i in used if i not in matrices), key=lambda i: (kernel.slots[i].written, i))
    number = {old: new for new, old in enumerate(order)}
    slots = tuple(kernel.slots[i] for i in order)
    nodes = tuple(replace(n, slot=number[n.slot]) if n.slot >= 0 else n for n in kernel.nodes)
    stores = tuple(replace(s, slot=number[s.slot]) for s in kernel.stores)
    picked = tuple(arguments[i] for i in order)
    if isinstance(kernel, ContractKernel):
        return replace(
            kernel,
            slots=slots,
            nodes=nodes,
            stores=stores,
            a=replace(kernel.a, slot=number[kernel.a.slot]),
            b=replace(kernel.b, slot=number[kernel.b.slot]),
        ), picked
    return replace(kernel, slots=slots, nodes=nodes, stores=stores), picked


def collapse(
    domain: tuple[int, ...], nodes: Sequence[Node], stores: Sequence[Store]
) -> tuple[tuple[int, ...], list[Node], list[Store]]:
    """Merges neighbouring axes that every access walks as one, and drops axes of size 1."""
    rows_matter = any(n.kind in ("reduce", "take") or (n.extent == "row" and n.kind in ("load", "iota")) for n in nodes)
    rows_matter = rows_matter or any(s.mode != "set" for s in stores)
    last = len(domain) - 1
    accesses = [item.strides for item in accesses_of(nodes, stores) if item.strides]
    groups: list[list[int]] = []
    for axis in range(len(domain)):
        if domain[axis] == 1 and axis != last:
            continue
        if groups and not (axis == last and rows_matter):
            before = groups[-1][-1]
            if all(s[before] == s[axis] * domain[axis] for s in accesses):
                groups[-1].append(axis)
                continue
        groups.append([axis])
    if len(groups) > 1 and groups[-1] == [last] and domain[last] == 1 and not rows_matter:
        groups.pop()
    sizes = tuple(_count([domain[a] for a in g]) for g in groups)

    def pick(strides: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(strides[g[-1]] for g in groups) if strides else strides

    def moved(node: Node) -> Node:
        strides = pick(node.strides)
        if node.kind in ("load", "iota", "random") and strides:
            return replace(node, strides=strides, extent="full" if strides[-1] else "row")
        return replace(node, strides=strides)

    new_nodes: list[Node] = []
    for node in map(moved, nodes):
        if node.kind == "op":
            full = any(new_nodes[a].extent == "full" for a in node.args)
            node = replace(node, extent="full" if full else "row")
        new_nodes.append(node)
    return sizes, new_nodes, [replace(s, strides=pick(s.strides)) for s in stores]


def _bytes(kernel: Kernel) -> float:
    """Bytes of the distinct elements that a kernel touches."""
    total = 0.0
    if isinstance(kernel, (RowKernel, ContractKernel)):
        domain = kernel.domain if isinstance(kernel, RowKernel) else (*kernel.outer, kernel.m, kernel.n)
        for item in accesses_of(kernel.nodes, kernel.stores):
            if item.slot >= 0:
                walked = _count([n for n, s in zip(domain, item.strides, strict=True) if s])
                total += walked * kernel.slots[item.slot].dtype.itemsize
        if isinstance(kernel, ContractKernel):
            outer = _count(kernel.outer)
            total += outer * kernel.k * (kernel.m + kernel.n) * kernel.slots[kernel.a.slot].dtype.itemsize
    return total


# -- ops that are a kernel of their own -------------------------------------------------------------------


def _lower_single(values: StageValues, equation: Equation) -> list[Launch]:
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
    raise InternalError(f"no lowering for {equation.op}")


def check_rows(values: StageValues, equation: Equation) -> None:
    """Raises NeedsCopy when attention cannot read an operand as rows of consecutive elements."""
    for var in equation.operands:
        _, view = _stored(values, var)
        strides, width = view.normalized().strides, var.type.sizes[-1]
        if (width > 1 and strides[-1] != 1) or (var.type.sizes[1] > 1 and strides[1] < width):
            raise NeedsCopy(var)


def check_stored(values: StageValues, equation: Equation) -> None:
    """Raises NeedsCopy when an operand of a kernel of its own is a view that no strides express."""
    for var in equation.operands:
        _stored(values, var)


def _stored(values: StageValues, var: Var) -> tuple[Argument, View]:
    leaf, chain = values.through_views(var, ())
    view = chained(values.storage(leaf), chain)
    if view is None:
        raise NeedsCopy(var)
    return Argument(values.root(leaf), view.offset), view


def _lower_attention(values: StageValues, equation: Equation) -> Launch:
    backward = equation.op == "attention_grad"
    read, written = equation.operands, equation.results
    q, k, v = (x.type.sizes for x in read[:3])
    attrs = equation.attributes
    heads, kv_heads = int(attrs["heads"]), int(attrs["kv_heads"])  # type: ignore[arg-type]
    slots, arguments, strides = [], [], []
    for var in (*read, *written):
        argument, view = _stored(values, var)
        slots.append(Slot(var.name, var.type.dtype, var in written))
        arguments.append(argument)
        normal = view.normalized().strides
        strides.append((normal[0], normal[1]))
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
    )
    pairs = q[0] * heads * q[1] * k[1] * (0.5 if kernel.causal else 1.0)
    flops = 2.0 * pairs * (head_dim + kernel.value_dim) * (2.5 if backward else 1.0)
    size = sum(float(x.type.bytes) for x in (*read, *written))
    return Launch(kernel, tuple(arguments), origin_of(values, [equation]), flops, size)


def _lower_relayout(values: StageValues, equation: Equation) -> Launch:
    perm = equation.attr("perm")
    assert isinstance(perm, tuple)
    source_argument, source = _stored(values, equation.operands[0])
    target_argument, target = _stored(values, equation.result)
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
    argument, stored = _stored(values, source)
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
        argument, view = _stored(values, var)
        strides = list(view.normalized().strides)
        if var.type.rank < rank:
            strides.insert(axis, 0)
        slots.append(Slot(var.name, var.type.dtype, var != source))
        arguments.append(argument)
        walks.append(strides)
    extra = tuple(int(attrs[k]) for k in ("reverse", "k") if k in attrs)  # type: ignore[arg-type]
    outer = tuple((n, tuple(w[i] for w in walks)) for i, n in enumerate(source.type.sizes) if i != axis and n > 1)
    kernel = LineKernel(
        tuple(slots),
        f"line_{equation.op.removeprefix('reduce_')}",
        (source.type.sizes[axis], *extra),
        tuple(w[axis] for w in walks),
        outer,
    )
    size = float(sum(v.type.bytes for v in (source, *equation.results)))
    return Launch(kernel, tuple(arguments), origin_of(values, [equation]), float(source.type.size), size)
