"""Which results of a kernel may lie where an operand lies: what the memory plan may do, and kernels must bear."""

from __future__ import annotations

from tesserac.codegen.records import ContractKernel, Kernel, Node, RowKernel, Store, levels


def in_place_pairs(kernel: Kernel) -> list[tuple[int, int]]:
    """(read slot, written slot) that may be one buffer: nobody reads an element of it once another is written there.

    Within a pass over the columns, results are stored one after another, and what only one of them needs is read when
    that one is: so nothing that is stored later, in this pass or in another, may read the slot. Reductions of a pass
    come before its results.
    """
    if isinstance(kernel, ContractKernel):
        matrices: set[int] = {kernel.a.slot, kernel.b.slot}
    elif isinstance(kernel, RowKernel) and not any(n.kind == "take" for n in kernel.nodes):
        matrices = set()
    else:
        return []
    level = levels(kernel.nodes)
    reads = _reads(kernel, level)
    pairs = []
    for position, store in enumerate(kernel.stores):
        if store.mode != "set" or store.across_tiles:
            continue
        for slot in range(len(kernel.slots)):
            at = level[store.node], position
            loads = [n for n in kernel.nodes if n.slot == slot]
            same = loads and all(n.kind == "load" and n.strides == store.strides for n in loads)
            if not same or slot in matrices or kernel.slots[slot].dtype != kernel.slots[store.slot].dtype:
                continue
            if max(reads.get(slot, [at])) <= at and _in_turn(kernel, store, loads, reads.get(slot, [at])):
                pairs.append((slot, store.slot))
    return pairs


def _in_turn(kernel: RowKernel | ContractKernel, store: Store, loads: list[Node], reads: list[tuple[int, int]]) -> bool:
    """Whether those that share a row of a kernel do not disturb each other.

    Values of a whole row are read by all, each at its own time. In kernels with reductions, what the pass that writes
    is the first to read stays apart too: there every load would wait for the store before it, in the other passes none
    does. And so does what is summed over the rows afterwards, from memory.
    """
    reduces = any(n.kind == "reduce" for n in kernel.nodes)
    others = any(s.mode != "set" for s in kernel.stores)
    if isinstance(kernel, ContractKernel) or (kernel.domain[-1] == 1 and not reduces and not others):
        return True  # every element is computed by itself
    if any(node.extent != "full" for node in (*loads, kernel.nodes[store.node])):
        return False
    summed = any(s.mode != "set" and kernel.nodes[s.node] in loads for s in kernel.stores)
    return not reduces or (not summed and min(reads)[0] < max(reads)[0])


def _reads(kernel: RowKernel | ContractKernel, level: list[int]) -> dict[int, list[tuple[int, int]]]:
    """By slot: where it is read on the way to a reduction or a result, as (pass, position of the store or -1)."""
    roots = [(level[s.node], at, [s.node, *([s.index] if s.index >= 0 else [])]) for at, s in enumerate(kernel.stores)]
    reduced = [(i, node) for i, node in enumerate(kernel.nodes) if node.kind == "reduce"]
    roots += [(level[i] - 1, -1, list(node.args)) for i, node in reduced]
    found: dict[int, list[tuple[int, int]]] = {}
    for number, position, stack in roots:
        seen: set[int] = set()
        while stack:
            at = stack.pop()
            node = kernel.nodes[at]
            if at in seen or node.kind == "reduce":
                continue
            seen.add(at)
            found.setdefault(node.slot, []).append((number, position))
            stack.extend(node.args)
    return found
