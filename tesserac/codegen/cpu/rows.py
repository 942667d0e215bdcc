"""Row kernels: loops over the rows, and for each row as many passes over its columns as its reductions need."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from tesserac.codegen.cpu.expressions import Expressions, literal, mentions
from tesserac.codegen.cpu.stores import IDENTITY, Stores
from tesserac.codegen.names import CppNames
from tesserac.codegen.records import Node, RowKernel, Store, levels
from tesserac.codegen.sharing import LONGEST
from tesserac.ops.base import spec_of

MAX_ROW_BYTES = 32768
"""Largest row that a kernel holds on its stack to spare recomputing an expensive value in a later pass."""
SHARED_ROW = 16384
"""Elements from which the threads share a kernel that has no rows."""
EXPENSIVE = 8.0
LOOP_NAMES = ("i", "j", "k", "l", "m", "n", "o", "p")


@dataclass
class Pass:
    """``before``: row values, accumulators; ``columns``: lines per vector of columns; ``after``: ended reductions."""

    before: list[str] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)


def shared_row(kernel: RowKernel) -> RowKernel:
    """A long pointwise kernel without rows, cut into rows that threads can share; others stay as they are."""
    size = kernel.domain[0]
    walks_once = not any(n.kind in ("reduce", "take") for n in kernel.nodes)
    if len(kernel.domain) != 1 or size < SHARED_ROW or not walks_once or any(s.mode != "set" for s in kernel.stores):
        return kernel
    width = max((d for d in range(64, 1025, 64) if size % d == 0), default=0)
    if not width:
        return kernel

    def cut(strides: tuple[int, ...]) -> tuple[int, ...]:
        return (strides[0] * width, strides[0]) if strides else strides

    return replace(
        kernel,
        domain=(size // width, width),
        nodes=tuple(replace(node, strides=cut(node.strides)) for node in kernel.nodes),
        stores=tuple(replace(store, strides=cut(store.strides)) for store in kernel.stores),
    )


class RowRenderer:
    """Prepares one row kernel for templates/cpu/rows.cpp.j2."""

    def __init__(self, kernel: RowKernel, slot_names: list[str], names: CppNames, real: str, parallel: bool) -> None:
        kernel = shared_row(kernel) if parallel else kernel
        self.kernel, self.names, self.real, self.parallel = kernel, names, real, parallel
        self.slot_names = slot_names
        self.rows, self.width = kernel.domain[:-1], kernel.domain[-1]
        self.indices = [names.fresh(LOOP_NAMES[i]) for i in range(len(self.rows))]
        self.text = Expressions(kernel.nodes, kernel.slots, slot_names, names, self.indices, real)
        self.level = levels(kernel.nodes)
        self.saved: dict[int, str] = {}
        self.stores = Stores(self.text, kernel.stores, self.width)
        self.row_start: list[str] = []  # within the loops: every thread has its own
        self.row_end: list[str] = []

    def render(self) -> dict[str, Any]:
        """Values for the template."""
        self.stores.start_accumulators()
        last = max([self.level[s.node] for s in self.kernel.stores] + [0])
        self._choose_saved(last)
        passes = [self._pass(p) for p in range(last + 1)]
        self.row_end = self.stores.row_end()
        self._drop_unused(passes)
        return {
            "loops": self._loops(),
            "columns_shared": self._columns_shared(),
            "passes": passes,
            "row_end": self.row_end,
            "kernel_start": self.stores.kernel_start,
            "row_start": self.row_start,
            "kernel_end": self.stores.kernel_end,
            "width": self.width,
            "real": self.real,
            "parallel": self.parallel and self._rows_independent(),
        }

    def _loops(self) -> list[tuple[str, int | str]]:
        """Loop variables and their limits."""
        limits: list[int | str] = list(self.rows)
        if self.kernel.ragged:
            limits[0] = "rows"
        return list(zip(self.indices, limits, strict=True))

    def _columns_shared(self) -> bool:
        """Whether threads share the columns: rows are added up, and no value needs a whole row."""

        def within_columns(store: Store) -> bool:
            adds = store.mode == "sum" and not any(store.strides[:-1])
            full = self.kernel.nodes[store.node].extent == "full" and store.strides[-1] != 0
            return full and (adds or store.mode == "set")

        return (
            self.parallel
            and bool(self.rows)
            and any(store.mode == "sum" for store in self.kernel.stores)
            and all(node.kind != "reduce" for node in self.kernel.nodes)
            and all(within_columns(store) for store in self.kernel.stores)
        )

    def _rows_independent(self) -> bool:
        return (
            bool(self.rows)
            and not self.stores.kernel_end
            and all(s.mode == "set" and (not self.rows or s.strides[0] != 0) for s in self.kernel.stores)
        )

    # -- passes -------------------------------------------------------------------------------------------

    def _needed(self, number: int) -> tuple[list[Store], list[int]]:
        """Stores along columns and reductions that pass ``number`` carries out."""
        stores = [
            s for s in self.kernel.stores if self.kernel.nodes[s.node].extent == "full" and self.level[s.node] == number
        ]
        reduces = [i for i, n in enumerate(self.kernel.nodes) if n.kind == "reduce" and self.level[i] == number + 1]
        return stores, reduces

    def _closure(self, number: int) -> set[int]:
        """Values along the columns that pass ``number`` computes, or reads back from an earlier one."""
        stores, reduces = self._needed(number)
        found: set[int] = set()
        stack = [s.node for s in stores] + [self.kernel.nodes[i].args[0] for i in reduces]
        while stack:
            i = stack.pop()
            if i in found or self.kernel.nodes[i].extent != "full":
                continue
            found.add(i)
            if i not in self.saved or self.first_pass[i] == number:
                stack.extend(self.kernel.nodes[i].args)
        return found

    def _drop_unused(self, passes: list[Pass]) -> None:
        """Row values that nothing refers to are not declared."""
        while True:
            words = Counter(
                re.findall(
                    r"\w+",
                    "\n".join(
                        [
                            *(line for p in passes for part in (p.before, p.columns, p.after) for line in part),
                            *self.row_end,
                            *self.stores.kernel_end,
                        ]
                    ),
                )
            )
            unused = {name for name in self.text.row_names.values() if words[name] == 1}
            if not unused:
                return
            for item in passes:
                for part in (item.before, item.after):
                    part[:] = [line for line in part if not (line.startswith("const ") and line.split()[2] in unused)]
            self.text.row_names = {k: v for k, v in self.text.row_names.items() if v not in unused}

    def _choose_saved(self, last: int) -> None:
        self.first_pass: dict[int, int] = {}
        if self.width * (8 if self.real == "double" else 4) > MAX_ROW_BYTES:
            return
        seen: set[int] = set()
        for number in range(last + 1):
            closure = self._closure(number)
            for i in closure:
                self.first_pass.setdefault(i, number)
            for i in sorted(closure & seen):
                node = self.kernel.nodes[i]
                scalar = spec_of(node.op).scalar if node.kind == "op" else None
                if scalar is not None and scalar.flops >= EXPENSIVE and i not in self.saved:
                    self.saved[i] = self.names.fresh(f"{node.name or node.op}_row")
                    self.row_start.append(f"alignas(64) {self.real} {self.saved[i]}[{self.width}];")
            seen |= closure

    def _pass(self, number: int) -> Pass:
        result = Pass()
        for i, node in enumerate(self.kernel.nodes):
            if node.extent == "row" and node.kind not in ("constant", "reduce") and self.level[i] == number:
                result.before.append(self.text.declare_row(i))
        stores, reduces = self._needed(number)
        accumulators = {}
        for i in reduces:
            node = self.kernel.nodes[i]
            if self.kernel.nodes[node.args[0]].extent == "row":
                accumulators[i] = ""
                continue
            accumulators[i] = self.names.fresh(f"{node.name or node.op}_lanes")
            start = "{}" if node.op == "sum" else f" = broadcast({literal(IDENTITY[node.op], self.real)})"
            result.before.append(f"Vec<{self.real}> {accumulators[i]}{start};")
        self._columns(number, stores, accumulators, result)
        return result

    def _finished(self, accumulators: dict[int, str]) -> list[str]:
        """Row values of finished reductions."""
        lines = []
        for i, name in accumulators.items():
            node = self.kernel.nodes[i]
            if self.kernel.nodes[node.args[0]].extent == "row":  # one value for all columns
                value = self.text.row(node.args[0])
                same = node.op != "sum" or self.width == 1
                lines.append(self.text.declare_row(i, value if same else f"{value} * {self.width}"))
                continue
            lines.append(self.text.declare_row(i, f"h{node.op}({name})"))
        return lines

    def _columns(self, number: int, stores: list[Store], accumulators: dict[int, str], result: Pass) -> None:
        scope = CppNames(parent=self.names, reserved=("c",))
        known: dict[int, str] = {}
        closure = self._closure(number)
        uses: dict[int, int] = {}
        for i in closure:
            for arg in mentions(self.kernel.nodes[i]):
                uses[arg] = uses.get(arg, 0) + 1
        for root in [s.node for s in stores] + [self.kernel.nodes[i].args[0] for i in accumulators]:
            uses[root] = uses.get(root, 0) + 1
        for i in sorted(closure):
            if i in self.saved and self.first_pass[i] < number:
                known[i], line = self.text.declare_vector(i, f"c.load({self.saved[i]})", scope)
                result.columns.append(line)
                continue
            text, _ = self.text.full(i, known)
            if uses.get(i, 0) > 1 or len(text) > LONGEST or i in self.saved:
                known[i], line = self.text.declare_vector(i, text, scope)
                result.columns.append(line)
            if i in self.saved:
                result.columns.append(f"c.store({self.saved[i]}, {known[i]});")
        for i, name in accumulators.items():
            if name:
                result.columns.append(self._accumulate(self.kernel.nodes[i], name, known))
        for store in stores:
            result.columns.append(self.stores.columns(store, known))
        result.after = self._finished(accumulators)

    def _accumulate(self, node: Node, name: str, known: dict[int, str]) -> str:
        value, _ = self.text.full(node.args[0], known)
        if node.op == "sum":
            return f"{name} += c.keep({value}, 0);"
        identity = literal(IDENTITY[node.op], self.real)
        return f"{name} = v{node.op}({name}, c.keep({value}, {identity}));"
