"""From fused groups to kernel launches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tesserac.codegen.collapse import collapse
from tesserac.codegen.contract import lower_contract
from tesserac.codegen.filters import merge_filters
from tesserac.codegen.formula import origin_of
from tesserac.codegen.records import (
    Argument,
    ContractKernel,
    FftKernel,
    Kernel,
    Launch,
    Node,
    RowKernel,
    Store,
    accesses_of,
)
from tesserac.codegen.region import Region
from tesserac.codegen.singles import lower_single
from tesserac.codegen.stage_values import StageValues
from tesserac.codegen.transform import lower_transform
from tesserac.ir.program import Var
from tesserac.ops.base import flops_of

if TYPE_CHECKING:
    from tesserac.passes.grouping import Fused, Group

__all__ = ["collapse", "lower"]


def lower(fused: Fused, filters: bool = True) -> tuple[Launch, ...]:
    """The launches of a stage, in order; ``filters``: transforms that belong together become one kernel."""
    read = _read_elsewhere(fused)
    launches: list[Launch] = []
    for index, group in enumerate(fused.groups):
        if group.region is not None:
            launches.append(_lower_region(fused, index, group, group.region, read))
        else:
            launches.extend(lower_single(fused.values, group.lead))
    return merge_filters(fused.values, launches) if filters else tuple(launches)


def _read_elsewhere(fused: Fused) -> dict[Var, set[int]]:
    """For every value, the groups that read it from memory."""
    read: dict[Var, set[int]] = {}
    for index, group in enumerate(fused.groups):
        reads = list(group.region.reads) if group.region is not None else []
        reads += list(group.before[0].reads) if group.before is not None else []
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
        flops = 2.0 * kernel.m * kernel.n * kernel.k * math.prod(kernel.outer) + region.flops()
    elif group.before is not None:
        nodes, stores = _live(region.nodes, stores)
        kernel, pairs = lower_transform(group.lead, *group.before, nodes, stores, region)
        flops = flops_of(group.lead) + group.before[0].flops() + region.flops()
    else:
        nodes, stores = _live(region.nodes, stores)
        ragged = values.is_ragged(region.domain)
        domain, nodes, stores = collapse(region.domain, nodes, stores, ragged)
        kernel, pairs = RowKernel(tuple(slots), domain, tuple(nodes), tuple(stores), ragged), tuple(bound)
        flops = region.flops()
    arguments = tuple(Argument(var, offset) for var, offset in pairs)
    kernel, arguments = _only_used_slots(kernel, arguments)
    usual = _usual(kernel, values)
    share = 1.0 if usual is kernel else usual_rows(values) / (values.most or 1)
    return Launch(kernel, arguments, origin, flops * share, _bytes(usual))


def usual_rows(values: StageValues) -> float:
    """Rows of one expert when all have equally many: what costs are stated for."""
    experts = values.stage.experts
    return experts.rows / experts.count if experts is not None else 1.0


def _usual(kernel: Kernel, values: StageValues) -> Kernel:
    """The kernel with as many rows as it has on average."""
    rows = max(round(usual_rows(values)), 1)
    if isinstance(kernel, RowKernel) and kernel.ragged:
        return replace(kernel, domain=(rows, *kernel.domain[1:]))
    if isinstance(kernel, ContractKernel) and kernel.ragged in ("m", "k"):
        return replace(kernel, m=rows) if kernel.ragged == "m" else replace(kernel, k=rows)
    if isinstance(kernel, ContractKernel) and kernel.ragged:
        return replace(kernel, outer=(rows, *kernel.outer[1:]))
    return kernel


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
    if len(number) == len(nodes):
        return list(nodes), list(stores)
    kept = [replace(nodes[i], args=tuple(number[a] for a in nodes[i].args)) for i in sorted(needed)]
    moved = [replace(s, node=number[s.node], index=number[s.index] if s.index >= 0 else -1) for s in stores]
    return kept, moved


def _only_used_slots(kernel: Kernel, arguments: tuple[Argument, ...]) -> tuple[Kernel, tuple[Argument, ...]]:
    assert isinstance(kernel, (RowKernel, ContractKernel, FftKernel))
    before = kernel.before if isinstance(kernel, FftKernel) else ()
    used = {n.slot for n in (*before, *kernel.nodes) if n.slot >= 0} | {s.slot for s in kernel.stores}
    matrices = [kernel.a.slot, kernel.b.slot] if isinstance(kernel, ContractKernel) else []
    order = matrices + sorted((i for i in used if i not in matrices), key=lambda i: (kernel.slots[i].written, i))
    number = {old: new for new, old in enumerate(order)}
    slots = tuple(kernel.slots[i] for i in order)
    before, nodes = (
        tuple(n if n.slot < 0 or number[n.slot] == n.slot else replace(n, slot=number[n.slot]) for n in part)
        for part in (before, kernel.nodes)
    )
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
    if isinstance(kernel, FftKernel):
        return replace(kernel, slots=slots, before=before, nodes=nodes, stores=stores), picked
    return replace(kernel, slots=slots, nodes=nodes, stores=stores), picked


def _bytes(kernel: Kernel) -> float:
    """Bytes of the distinct elements that a kernel touches."""
    total = 0.0
    if isinstance(kernel, (RowKernel, ContractKernel)):
        domain = kernel.domain if isinstance(kernel, RowKernel) else (*kernel.outer, kernel.m, kernel.n)
        for item in accesses_of(kernel.nodes, kernel.stores):
            if item.slot >= 0:
                walked = math.prod(n for n, s in zip(domain, item.strides, strict=True) if s)
                total += walked * kernel.slots[item.slot].dtype.itemsize
        if isinstance(kernel, ContractKernel):
            outer = math.prod(kernel.outer)
            total += outer * kernel.k * (kernel.m + kernel.n) * kernel.slots[kernel.a.slot].dtype.itemsize
    if isinstance(kernel, FftKernel):
        rows = math.prod(kernel.outer) * kernel.count
        sides = (kernel.size_in, kernel.before, ()), (kernel.size_out, kernel.nodes, kernel.stores)
        for size, nodes, stores in sides:
            touched = (kernel.slots[item.slot] for item in accesses_of(nodes, stores) if item.slot >= 0)
            total += sum(rows * size * slot.dtype.itemsize for slot in touched)
    return total
