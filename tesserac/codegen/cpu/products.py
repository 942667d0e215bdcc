"""Products, attention and transpositions: sizes for the runtime's templates and epilogues as text."""

from __future__ import annotations

import math
import re
from typing import Any

from tesserac.codegen.cpu.expressions import CPP_TYPE, Expressions, address, literal
from tesserac.codegen.cpu.stores import Stores
from tesserac.codegen.names import CppNames
from tesserac.codegen.records import (
    AttentionKernel,
    ContractKernel,
    ExchangeKernel,
    LineKernel,
    RoutingKernel,
    TransposeKernel,
)
from tesserac.codegen.sharing import declare_shared
from tesserac.ir.types import DType

FEW_ROWS = 96
"""Rows of a product below which the right operand is read as often as it is computed with."""

MEMORY_BYTES = 1 << 20
"""Size from which a right operand is taken to lie outside of a core's own cache."""


class ProductRenderer:
    """Prepares one contraction for templates/cpu/product.cpp.j2."""

    def __init__(
        self, kernel: ContractKernel, slot_names: list[str], names: CppNames, real: str, parallel: bool
    ) -> None:
        self.kernel, self.slot_names, self.real, self.parallel = kernel, slot_names, real, parallel
        self.loops = [names.fresh(f"outer{i}" if i else "outer") for i in range(len(kernel.outer))]
        self.scope = CppNames(parent=names, reserved=("c", "i", "v"))
        self.text = Expressions(kernel.nodes, kernel.slots, slot_names, self.scope, [*self.loops, "i"], real)

    def render(self) -> dict[str, Any]:
        """Values for the template."""
        k = self.kernel
        shape = f"{k.m}, {k.n}, {k.k}, {k.a.stride}, {k.b.stride}" + (", kTransposed" if k.a.transposed else "")
        simple = self._plain()
        element = CPP_TYPE[k.slots[k.a.slot].dtype]
        lines = [] if simple else self._epilogue()
        return {
            "loops": self._loops(),
            "shape": shape,
            "ragged": k.ragged if k.ragged in ("m", "k") else "",
            "share": self._share(element),
            "real": self.real,
            "a": address(self.slot_names[k.a.slot], k.a.outer, self.loops),
            "b": address(self.slot_names[k.b.slot], k.b.outer, self.loops),
            "target": simple,
            "accumulates": bool(simple) and k.stores[0].across_tiles,
            "lines": lines,
            "row": "int i" if any(re.search(r"\bi\b", line) for line in lines) else "int",
            "parallel": self.parallel,
        }

    def _loops(self) -> list[tuple[str, int | str]]:
        """Variables and limits of the loops around the product."""
        limits: list[int | str] = list(self.kernel.outer)
        if self.kernel.ragged == "outer":
            limits[0] = "rows"
        return list(zip(self.loops, limits, strict=True))

    def _share(self, element: str) -> str:
        """What part of the product a call computes: a thread's own, or as many rows or terms as there are."""
        team = self.parallel and not self.loops
        part = "omp_get_thread_num(), omp_get_num_threads()" if team else "0, 1"
        if self.kernel.ragged in ("m", "k"):
            unit = "rows" if self.kernel.ragged == "m" else "terms"
            return f", share_of_{unit}<{element}, S>(rows, {part})"
        if self._streams_right():
            return f", share_of_rows<{element}, S>(S::m, {part})"
        return f", row_share<{element}, S>({part})" if team else ""

    def _streams_right(self) -> bool:
        """Whether the right operand comes from memory and is used by a few rows only.

        Then threads share its columns, so that each reads its own, and what comes next is fetched ahead: the strided
        walk down a panel of columns is one that hardware does not foresee.
        """
        k = self.kernel
        dtype = k.slots[k.b.slot].dtype
        large = k.k * k.n * dtype.itemsize >= MEMORY_BYTES
        return large and k.m <= FEW_ROWS and dtype is not DType.BF16

    def _plain(self) -> tuple[str, int] | None:
        """Destination and leading dimension when the product is only stored."""
        k = self.kernel
        if len(k.stores) != 1 or k.stores[0].node != 0:
            return None
        store = k.stores[0]
        if store.strides[-1] != 1 and k.n != 1:
            return None
        return address(self.slot_names[store.slot], store.strides[:-2], self.loops), store.strides[-2] or k.n

    def _epilogue(self) -> list[str]:
        known: dict[int, str] = {0: "v"}
        uses: dict[int, int] = dict(self.text.uses)
        for store in self.kernel.stores:
            uses[store.node] = uses.get(store.node, 0) + 1
        lines = declare_shared(self.text, self.scope, uses, known)
        stores = Stores(self.text, self.kernel.stores, self.kernel.n)
        lines += [stores.columns(store, known) for store in self.kernel.stores]
        return lines


def render_attention(kernel: AttentionKernel, slot_names: list[str], real: str) -> dict[str, Any]:
    """Values for templates/cpu/attention.cpp.j2."""
    width = kernel.heads * kernel.head_dim
    kv_width = kernel.kv_heads * kernel.head_dim
    least = (width, kv_width, kv_width, width, kernel.queries, width, width, kv_width, kv_width)
    rows = [max(s[1], n) for s, n in zip(kernel.strides, least, strict=False)]
    q, k, v, o, lse = rows[:5]
    sizes = (
        f"{kernel.queries}, {kernel.keys}, {kernel.head_dim}, {kernel.heads}, {kernel.kv_heads}, "
        f"{'kCausal' if kernel.causal else 'kFull'}, {q}, {k}, {v}, {o}"
    )
    gradients = [rows[6], rows[7], rows[8], rows[5]] if kernel.backward else [q, k, v, o]
    if gradients != [q, k, v, o]:
        sizes += f", {lse}, {', '.join(map(str, gradients))}"
    elif lse != kernel.queries:
        sizes += f", {lse}"

    def pointer(number: int) -> str:
        stride = kernel.strides[number][0]
        return slot_names[number] + (f" + b * {stride}" if kernel.batch > 1 and stride else "")

    return {
        "batch": kernel.batch,
        "backward": kernel.backward,
        "sizes": sizes,
        "scale": literal(kernel.scale, real),
        "real": real,
        "pointers": [pointer(i) for i in range(len(kernel.strides))],
        "first": f", *{slot_names[-1]}" if kernel.late else "",
        "value_dim": kernel.value_dim,
    }


def render_transpose(kernel: TransposeKernel, slot_names: list[str], names: CppNames, parallel: bool) -> dict[str, Any]:
    """Values for templates/cpu/transpose.cpp.j2."""
    loops = [names.fresh(f"outer{i}" if i else "outer") for i in range(len(kernel.outer))]
    source = address(slot_names[0], [s for _, s, _ in kernel.outer], loops)
    target = address(slot_names[1], [t for _, _, t in kernel.outer], loops)
    return {
        "loops": [(name, n) for name, (n, _, _) in zip(loops, kernel.outer, strict=True)],
        "source": source,
        "target": target,
        "rows": kernel.rows,
        "columns": kernel.columns,
        "lds": kernel.source,
        "ldd": kernel.target,
        "parallel": parallel,
    }


def render_routing(kernel: RoutingKernel, slot_names: list[str]) -> dict[str, Any]:
    """Values for templates/cpu/line.cpp.j2: one call, whose threads are the runtime's own."""
    read = [n for n, slot in zip(slot_names, kernel.slots, strict=True) if not slot.written]
    written = [n for n, slot in zip(slot_names, kernel.slots, strict=True) if slot.written]
    sizes = [str(n) for n in kernel.sizes]
    if kernel.function == "limit":
        arguments = [*read, written[0], *sizes, written[1]]
    else:
        arguments = [*read, *sizes, *written]
    return {"loops": [], "function": kernel.function, "arguments": arguments, "parallel": False}


def _render_in_place(kernel: ExchangeKernel, slot_names: list[str]) -> dict[str, Any]:
    """An exchange, or half of one, of tensors that lie one behind the other; the rest is copied there or back."""
    begins, ends = kernel.op == "all_reduce_begin", kernel.op == "all_reduce_end"
    bucket = slot_names[0] if ends else slot_names[-1]
    tensors = slot_names[1:] if ends else slot_names[:-1]
    slots = kernel.slots[1:] if ends else kernel.slots[:-1]
    away = [i for i, (_, there) in enumerate(kernel.lying) if not there]
    grids = [(f"{tensors[i]}_grid", _grid(*kernel.grids[i])) for i in away]
    given = [f"exchange::bring(ranks, {tensors[i]}_grid, {tensors[i]}, {bucket} + {kernel.lying[i][0]});"
             for i in away if not slots[i].written]
    made = [f"exchange::spread(ranks, {tensors[i]}_grid, {bucket} + {kernel.lying[i][0]}, {tensors[i]});"
            for i in reversed(away) if slots[i].written]
    half = kernel.lying[: len(kernel.lying) if begins or ends else len(kernel.lying) // 2]
    count = half[-1][0] + math.prod(kernel.grids[len(half) - 1][0])
    call = "ranks.all_reduce_end(number);" if ends else (
        f"ranks.{kernel.op}(number, axis, Reduce::{kernel.kind}, DType::{kernel.slots[0].dtype}, {bucket}, {count});")
    return {"grids": grids, "declared": given, "call": call, "after": made}


def _render_half(kernel: ExchangeKernel, slot_names: list[str]) -> dict[str, Any]:
    """An exchange's beginning or end: tensors into a bucket or out of it, and the call."""
    begins, shares = kernel.op.endswith("_begin"), kernel.op.startswith("reduce_shares")
    tensors, bucket = (slot_names[:-1], slot_names[-1]) if begins else (slot_names[1:], slot_names[0])
    grids = [(f"{name}_grid", _grid(*grid)) for name, grid in zip(tensors, kernel.grids, strict=True)]
    pairs = ", ".join(f"{{{name}, {name}_grid}}" for name in tensors)
    kind = CPP_TYPE[kernel.slots[0].dtype]
    declared = f"const exchange::{'Source' if begins else 'Target'}<{kind}> terms[] = {{{pairs}}};"
    arguments = ["axis", "number", f"Reduce::{kernel.kind}", "terms", bucket] if begins else [
        *(["axis"] if shares else []), "number", bucket, "terms"]
    return {"grids": grids, "declared": [declared], "arguments": arguments}


def _grid(shape: tuple[int, ...], strides: tuple[int, ...]) -> str:
    return f"{{{len(shape)}, {{{_listed(shape)}}}, {{{_listed(strides)}}}}}"


def render_exchange(kernel: ExchangeKernel, slot_names: list[str]) -> dict[str, Any]:
    """Values for templates/cpu/exchange.cpp.j2: the grids of operands and results, and one call."""
    if kernel.lying:
        return _render_in_place(kernel, slot_names)
    values = _render_packing(kernel, slot_names)
    call = f"exchange::{kernel.op}(ranks, {', '.join(values.pop('arguments'))});"
    return {**values, "call": call, "after": []}


def _render_packing(kernel: ExchangeKernel, slot_names: list[str]) -> dict[str, Any]:
    """The same of an exchange that packs and unpacks, with the call's arguments."""
    if kernel.op.endswith(("_begin", "_end")):
        return _render_half(kernel, slot_names)
    count = len(kernel.grids)
    grids = [_grid(*grid) for grid in kernel.grids]
    names = [f"{name}_grid" for name in slot_names[:count]]
    numbers = [str(n) for n in (*kernel.dims, *([kernel.parts] if kernel.parts else []))]
    if kernel.op in ("all_reduce", "reduce_shares"):
        half = count // 2
        terms = ", ".join(f"{{{slot_names[i]}, {names[i]}, {slot_names[half + i]}, {names[half + i]}}}"
                          for i in range(half))
        kind = CPP_TYPE[kernel.slots[0].dtype]
        arguments = ["axis", "number", f"Reduce::{kernel.kind}", "terms", slot_names[-1]]
        declared = [f"const exchange::Term<{kind}> terms[] = {{{terms}}};"]
        return {"grids": list(zip(names, grids, strict=True)), "declared": declared,
                "arguments": arguments}
    if kernel.op in ("own_experts", "spread_experts"):
        given = sum(not slot.written for slot in kernel.slots)
        kind = CPP_TYPE[kernel.slots[0].dtype]
        pairs = [f"{{{slot_names[i]}, {names[i]}}}" for i in range(count)]
        declared = [f"const exchange::Source<{kind}> in[] = {{{', '.join(pairs[:given])}}};",
                    f"const exchange::Target<{kind}> out[] = {{{', '.join(pairs[given:])}}};"]
        return {"grids": list(zip(names, grids, strict=True)), "declared": declared,
                "arguments": ["axis", "in", "out"]}
    tensors = [t for i in range(count) for t in (slot_names[i], names[i])]
    if kernel.op == "axis_index":
        tensors, names, grids = [slot_names[0]], [], []
    arguments = ["axis", *(["number"] if kernel.talks else []), *numbers, *tensors,
                 *([slot_names[-1]] if kernel.talks else [])]
    return {"grids": list(zip(names, grids, strict=True)), "declared": [], "arguments": arguments}


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))


def render_line(kernel: LineKernel, slot_names: list[str], names: CppNames, parallel: bool) -> dict[str, Any]:
    """Values for templates/cpu/line.cpp.j2."""
    loops = [names.fresh(f"outer{i}" if i else "outer") for i in range(len(kernel.outer))]
    arguments = []
    for number, name in enumerate(slot_names):
        arguments += [address(name, [strides[number] for _, strides in kernel.outer], loops), str(kernel.steps[number])]
    return {
        "loops": [(name, n) for name, (n, _) in zip(loops, kernel.outer, strict=True)],
        "function": kernel.function,
        "arguments": arguments + [str(n) for n in kernel.sizes],
        "parallel": parallel,
    }
