"""How results reach memory: written once, added up over rows or tiles, scattered, or repeated along a row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tesserac.codegen.cpu.expressions import CPP_TYPE, Expressions, address, literal
from tesserac.codegen.records import Store
from tesserac.ir.types import DType

IDENTITY = {"max": -math.inf, "min": math.inf}
"""What an accumulator starts from; other modes start from zero."""


class Stores:
    """Text of a kernel's stores; ``width`` is the number of columns.

    ``kernel_start`` and ``kernel_end`` are the lines before and after the loops over the rows: accumulators in memory
    are cleared first, and a total of everything is kept in double precision until it is written.
    """

    def __init__(self, text: Expressions, stores: Sequence[Store], width: int) -> None:
        self.text, self.stores, self.width = text, stores, width
        self.kernel_start: list[str] = []
        self.kernel_end: list[str] = []
        self.totals: dict[int, str] = {}

    # -- before and after the loops -----------------------------------------------------------------------

    def start_accumulators(self) -> None:
        """Declares totals and clears what the kernel adds to."""
        for number, store in enumerate(self.stores):
            if self._is_total(store):
                self._start_total(number, store)
            elif store.mode != "set":
                self._clear(store)

    def _is_total(self, store: Store) -> bool:
        accumulates = store.mode in ("sum", "max", "min")
        return accumulates and not any(store.strides) and self.text.nodes[store.node].extent == "row"

    def _start_total(self, number: int, store: Store) -> None:
        pointer = self.text.slot_names[store.slot]
        name = self.text.names.fresh(f"{pointer}_total")
        self.totals[number] = name
        start = literal(IDENTITY[store.mode], "double") if store.mode in IDENTITY else "0"
        self.kernel_start.append(f"double {name} = {start};")
        value = f"{self._type(store)}({name})"
        new = f"first ? {value} : *{pointer} + {value}" if store.across_tiles else value
        self.kernel_end.append(f"*{pointer} = {new};")

    def _clear(self, store: Store) -> None:
        pointer, kind = self.text.slot_names[store.slot], self._type(store)
        columns = store.extent[-1] if store.extent else 1
        rows = math.prod(store.extent[:-1])
        distance = store.row_stride if rows > 1 and store.row_stride else columns
        identity = IDENTITY.get(store.mode, 0.0)
        if self.text.slots[store.slot].dtype.is_float:
            value = literal(identity, kind)
        else:
            limit = "lowest" if identity < 0 else "max"
            value = f"std::numeric_limits<{kind}>::{limit}()" if identity else f"{kind}(0)"
        clear = f"fill_rows({pointer}, {rows}, {columns}, {distance}, {value});"
        self.kernel_start.append(f"if (first) {clear}" if store.across_tiles else clear)

    def _type(self, store: Store) -> str:
        return CPP_TYPE[self.text.slots[store.slot].dtype]

    # -- along the columns --------------------------------------------------------------------------------

    def columns(self, store: Store, known: Mapping[int, str]) -> str:
        """The statement that stores a value along the columns, one vector of them."""
        value, level = self.text.full(store.node, dict(known))
        return self._store(store, value, level)

    def _store(self, store: Store, value: str, level: int) -> str:
        where = self._row_start(store)
        stride = store.strides[-1]
        step = "" if stride == 1 or self.width == 1 else str(stride)
        is_float = self.text.slots[store.slot].dtype.is_float
        load = "load" if is_float else "load_int"
        value = self._combined(store, f"c.{load}({where}{', ' + step if step else ''})", value, level)
        if is_float:
            return f"c.store({where}, {step + ', ' if step else ''}{value});"
        return f"store_int(c, {where}, {step + ', ' if step else ''}{value});"

    def _row_start(self, store: Store) -> str:
        pointer = self.text.slot_names[store.slot]
        if store.mode == "scatter":
            return f"{pointer} + {self.text.row(store.index)} * {store.row_stride}"
        return address(pointer, store.strides[:-1], self.text.indices)

    def _combined(self, store: Store, old: str, value: str, level: int) -> str:
        """``value`` put together with what memory holds."""
        term = value if level <= 6 else f"({value})"
        if store.mode in ("sum", "scatter"):
            return f"{old} + {term}"
        if store.mode in ("max", "min"):
            return f"v{store.mode}({old}, {value})"
        return f"first ? {term} : {old} + {term}" if store.across_tiles else value

    # -- at the end of a row ------------------------------------------------------------------------------

    def row_end(self) -> list[str]:
        """Statements that store row values: one element, or the same value in every column."""
        lines = []
        for number, store in enumerate(self.stores):
            if self.text.nodes[store.node].extent == "row":
                repeats = store.strides[-1] != 0 and self.width > 1
                lines.append(self._repeated(store) if repeats else self._element(number, store))
        return lines

    def _element(self, number: int, store: Store) -> str:
        value = self.text.row(store.node)
        pointer = self.text.slot_names[store.slot]
        if number in self.totals:
            total = self.totals[number]
            if store.mode == "sum":
                return f"{total} += {value};"
            return f"{total} = v{store.mode}({total}, double({value}));"
        if store.mode == "scatter":
            return f"{pointer}[{self.text.row(store.index)} * {store.row_stride}] += {value};"
        where = address("", store.strides[:-1], self.text.indices).removeprefix(" + ") or "0"
        target = f"{pointer}[{where}]"
        if store.mode == "sum":
            return f"{target} += {value};"
        if store.mode in ("max", "min") and not self.text.slots[store.slot].dtype.is_float:
            kind = self._type(store)
            return f"{target} = {kind}(v{store.mode}(double({target}), double({value})));"
        return f"{target} = {self._combined(store, target, value, 0)};"

    def _repeated(self, store: Store) -> str:
        node, value, real = self.text.nodes[store.node], self.text.row(store.node), self.text.real
        to_mask = node.dtype is DType.BOOL and self.text.slots[store.slot].dtype is DType.BOOL
        vector = f"mask_of<{real}>({value})" if to_mask else f"broadcast({real}({value}))"
        return f"columns<{real}, {self.width}>([&](auto c) {{ {self._store(store, vector, 0)} }});"
