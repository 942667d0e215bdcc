"""Contractions: a matrix product of the runtime, and a pointwise kernel for what it cannot take along."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tesserac.codegen.cuda.layout import count
from tesserac.codegen.in_place import in_place_pairs
from tesserac.codegen.lower import collapse
from tesserac.codegen.records import ContractKernel, Node, RowKernel, Slot, Store
from tesserac.codegen.views import dense_strides
from tesserac.ir.types import DType


@dataclass(frozen=True, slots=True)
class Axis:
    """A loop around products: how often, and how far each matrix moves."""

    size: int
    a: int
    b: int
    c: int


@dataclass(frozen=True, slots=True)
class Product:
    """One matrix product as runtime/cuda/matmul.cuh takes it; ``loops`` are what its single batch axis leaves over."""

    m: int
    n: int
    k: int
    lda: int
    ldb: int
    ldc: int
    transposed: bool
    batch: Axis
    loops: tuple[Axis, ...]
    epilogue: str


@dataclass(frozen=True, slots=True)
class Split:
    """A contraction taken apart.

    ``target`` is the slot of the raw product (-1: the workspace), ``bias`` the slot of a fused
    bias (-1: none), ``pointwise`` the epilogue with the raw product as its last slot (None: nothing left to do)."""

    product: Product
    target: int
    bias: int
    pointwise: RowKernel | None


def split(kernel: ContractKernel) -> Split:
    """Takes a contraction apart."""
    fused = _fused_epilogue(kernel)
    if fused is not None:
        epilogue, bias = fused
        store = kernel.stores[0]
        return Split(_product(kernel, store.strides, epilogue), store.slot, bias, None)
    for raw in _raw_stores(kernel):
        parts = _split_with(kernel, raw)
        # What the product is in memory for is read before the result that takes its place is written.
        place = (len(kernel.slots), raw.slot)
        if raw.node == 0 or (parts.pointwise is not None and place in in_place_pairs(parts.pointwise)):
            return parts
    return _split_with(kernel, None)


def _split_with(kernel: ContractKernel, raw: Store | None) -> Split:
    """The product goes to where ``raw`` does, or to the workspace."""
    domain = (*kernel.outer, kernel.m, kernel.n)
    strides = raw.strides if raw is not None else dense_strides(domain)
    target = raw.slot if raw is not None else -1
    slots = (*kernel.slots, Slot("product", kernel.nodes[0].dtype))
    load = Node(
        "load", "full", kernel.nodes[0].dtype, slot=len(kernel.slots), strides=strides, name=kernel.nodes[0].name
    )
    stores = [s for s in kernel.stores if s is not raw or s.node != 0]
    new_domain, nodes, moved = collapse(domain, [load, *kernel.nodes[1:]], stores)
    return Split(
        _product(kernel, strides, "none"), target, -1, RowKernel(slots, new_domain, tuple(nodes), tuple(moved))
    )


def _takes_product(kernel: ContractKernel, store: Store, dtype: DType | None = None) -> bool:
    """Whether a product can be written where a store goes, in its own type or in ``dtype``."""
    return (
        kernel.slots[store.slot].dtype is (dtype or kernel.nodes[0].dtype)
        and store.mode == "set"
        and (store.strides[-1] == 1 or kernel.n == 1)
        and (kernel.m == 1 or store.strides[-2] >= kernel.n)
        and all(s >= kernel.n for s, n in zip(store.strides[:-2], kernel.outer, strict=True) if n > 1)
    )


def _raw_stores(kernel: ContractKernel) -> list[Store]:
    """Stores whose memory may hold the raw product until the epilogue has read it; first the one that keeps it."""
    shared = {written for _, written in in_place_pairs(kernel)}
    candidates = [s for s in kernel.stores if _takes_product(kernel, s) and s.slot not in shared]
    return sorted(candidates, key=lambda store: store.node != 0)


def keeps_product(kernel: ContractKernel) -> bool:
    """Whether the raw product is one of the results."""
    return any(s.node == 0 and _takes_product(kernel, s) for s in kernel.stores)


def _fused_epilogue(kernel: ContractKernel) -> tuple[str, int] | None:
    """Name of the product's own epilogue and slot of the bias, where that does all there is to do."""
    if len(kernel.stores) != 1:
        return None
    nodes, node, activation = kernel.nodes, kernel.nodes[kernel.stores[0].node], ""
    rounded = node.op == "cast" and node.dtype is DType.BF16
    if not _takes_product(kernel, kernel.stores[0], node.dtype):
        return None
    if rounded:
        node = nodes[node.args[0]]
    if node.op in ("relu", "gelu_tanh"):
        activation, node = node.op, nodes[node.args[0]]
    if node is nodes[0]:
        return activation or "none", -1
    if rounded or node.op != "add" or 0 not in node.args:
        return None  # a bias would have to have the type of the result
    other = nodes[node.args[1] if node.args[0] == 0 else node.args[0]]
    if (
        other.kind != "load"
        or other.strides[-1] != 1
        or any(other.strides[:-1])
        or kernel.slots[other.slot].dtype is not node.dtype
    ):
        return None
    if (other.slot, kernel.stores[0].slot) in in_place_pairs(kernel):
        return None  # a single row: the plan may have put the result where the bias lies
    return f"bias_{activation}".rstrip("_"), other.slot


def _product(kernel: ContractKernel, strides: Sequence[int], epilogue: str) -> Product:
    m, k = kernel.m, kernel.k
    ldc = max(strides[-2], kernel.n)
    axes = [
        Axis(n, a, b, c)
        for n, a, b, c in zip(kernel.outer, kernel.a.outer, kernel.b.outer, strides[:-2], strict=True)
        if n > 1
    ]
    next_row = 1 if kernel.a.transposed else kernel.a.stride
    while axes and axes[-1].b == 0 and axes[-1].a == m * next_row and axes[-1].c == m * ldc:
        m *= axes.pop().size
    lda = max(kernel.a.stride, m if kernel.a.transposed else k)
    merged: list[Axis] = []
    for axis in axes:
        if merged and all(
            x == y * axis.size
            for x, y in zip((merged[-1].a, merged[-1].b, merged[-1].c), (axis.a, axis.b, axis.c), strict=True)
        ):
            axis = replace(axis, size=axis.size * merged.pop().size)
        merged.append(axis)
    merged.sort(key=lambda axis: axis.size)
    batch = merged.pop() if merged else Axis(1, 0, 0, 0)
    return Product(
        m, kernel.n, k, lda, max(kernel.b.stride, kernel.n), ldc, kernel.a.transposed, batch, tuple(merged), epilogue
    )


def product_elements(kernel: ContractKernel) -> int:
    """Elements of the raw product, for the workspace."""
    return count((*kernel.outer, kernel.m, kernel.n))
