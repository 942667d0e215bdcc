"""Row kernels: loops over the rows, and for each row as many passes over its columns as its reductions need."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tesserac.codegen.cpu.expressions import CPP_TYPE, LONGEST, Expressions, address, literal
from tesserac.codegen.names import CppNames
from tesserac.codegen.records import Node, RowKernel, Store
from tesserac.ir.types import DType
from tesserac.ops.base import spec_of

MAX_ROW_BYTES = 32768
"""Largest row that a kernel holds on its stack to spare recomputing an expensive value in a later pass."""
EXPENSIVE = 8.0
LOOP_NAMES = ("i", "j", "k", "l", "m", "n", "o", "p")


@dataclass
class Pass:
    """``before``: row values, accumulators; ``columns``: lines per vector of columns; ``after``: ended reductions."""

    before: list[str] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)


def levels(kernel: RowKernel) -> list[int]:
    """The pass in which each node can first be computed: a reduction's value is there one pass after its operand."""
    result: list[int] = []
    for node in kernel.nodes:
        level = max((result[a] for a in node.args), default=0)
        result.append(level + 1 if node.kind == "reduce" else level)
    return result


class RowRenderer:
    """Prepares one row kernel for templates/cpu/rows.cpp.j2."""

    def __init__(self, kernel: RowKernel, slot_names: list[str], names: CppNames, real: str, parallel: bool) -> None:
        self.kernel, self.names, self.real, self.parallel = kernel, names, real, parallel
        self.slot_names = slot_names
        self.rows, self.width = kernel.domain[:-1], kernel.domain[-1]
        self.indices = [names.fresh(LOOP_NAMES[i]) for i in range(len(self.rows))]
        self.text = Expressions(kernel.nodes, kernel.slots, slot_names, names, self.indices, real)
        self.level = levels(kernel)
        self.saved: dict[int, str] = {}
        self.kernel_start: list[str] = []
        self.kernel_end: list[str] = []
        self.row_end: list[str] = []

    def render(self) -> dict[str, Any]:
        """Values for the template."""
        self._start_accumulators()
        last = max([self.level[s.node] for s in self.kernel.stores] + [0])
        self._choose_saved(last)
        passes = [self._pass(p) for p in range(last + 1)]
        self._row_stores()
        self._drop_unused(passes)
        return {
            "loops": list(zip(self.indices, self.rows, strict=True)),
            "passes": passes,
            "row_end": self.row_end,
            "kernel_start": self.kernel_start,
            "kernel_end": self.kernel_end,
            "width": self.width,
            "real": self.real,
            "parallel": self.parallel and self._rows_independent(),
        }

    def _rows_independent(self) -> bool:
        return (
            bool(self.rows)
            and not self.kernel_end
            and all(s.mode == "set" and (not self.rows or s.strides[0] != 0) for s in self.kernel.stores)
        )

    # -- what accumulates over rows -----------------------------------------------------------------------

    def _is_total(self, store: Store) -> bool:
        return (
            store.mode in ("sum", "max", "min")
            and not any(store.strides)
            and self.kernel.nodes[store.node].extent == "row"
        )

    def _start_accumulators(self) -> None:
        self.totals: dict[int, str] = {}
        for number, store in enumerate(self.kernel.stores):
            pointer = self.slot_names[store.slot]
            if self._is_total(store):
                name = self.names.fresh(f"{pointer}_total")
                self.totals[number] = name
                start = {"sum": "0", "max": literal(float("-inf"), "double"), "min": literal(float("inf"), "double")}[
                    store.mode
                ]
                self.kernel_start.append(f"double {name} = {start};")
                value = f"{self.real}({name})"
                self.kernel_end.append(
                    f"*{pointer} = first ? {value} : *{pointer} + {value};"
                    if store.across_tiles
                    else f"*{pointer} = {value};"
                )
            elif store.mode != "set":
                rows, columns = 1, store.extent[-1] if store.extent else 1
                for n in store.extent[:-1]:
                    rows *= n
                identity = {"max": float("-inf"), "min": float("inf")}.get(store.mode, 0.0)
                row = store.row_stride or columns
                clear = f"fill_rows({pointer}, {rows}, {columns}, {row}, {literal(identity, self.real)});"
                self.kernel_start.append(f"if (first) {clear}" if store.across_tiles else clear)

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
                            *self.kernel_end,
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
                    self.kernel_start.append(f"alignas(64) {self.real} {self.saved[i]}[{self.width}];")
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
            accumulators[i] = self.names.fresh(f"{node.name or 'row'}_{node.op}")
            start = {
                "sum": "{}",
                "max": f" = broadcast({literal(float('-inf'), self.real)})",
                "min": f" = broadcast({literal(float('inf'), self.real)})",
            }[node.op]
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
            for arg in self.kernel.nodes[i].args:
                uses[arg] = uses.get(arg, 0) + 1
        for root in [s.node for s in stores] + [self.kernel.nodes[i].args[0] for i in accumulators]:
            uses[root] = uses.get(root, 0) + 1
        for i in sorted(closure):
            node = self.kernel.nodes[i]
            if i in self.saved and self.first_pass[i] < number:
                known[i] = scope.fresh(node.name or node.op)
                result.columns.append(f"const auto {known[i]} = c.load({self.saved[i]});")
                continue
            text, _ = self.text.full(i, known)
            if uses.get(i, 0) > 1 or len(text) > LONGEST or i in self.saved:
                known[i] = scope.fresh(node.name or node.op)
                result.columns.append(f"const auto {known[i]} = {text};")
            if i in self.saved:
                result.columns.append(f"c.store({self.saved[i]}, {known[i]});")
        for i, name in accumulators.items():
            if name:
                result.columns.append(self._accumulate(self.kernel.nodes[i], name, known))
        for store in stores:
            result.columns.extend(self._store(store, known))
        result.after = self._finished(accumulators)

    def _accumulate(self, node: Node, name: str, known: dict[int, str]) -> str:
        value, _ = self.text.full(node.args[0], known)
        if node.op == "sum":
            return f"{name} += c.keep({value}, 0);"
        identity = literal(float("-inf") if node.op == "max" else float("inf"), self.real)
        return f"{name} = v{node.op}({name}, c.keep({value}, {identity}));"

    def _store(self, store: Store, known: dict[int, str]) -> list[str]:
        value, level = self.text.full(store.node, known)
        dtype = self.kernel.slots[store.slot].dtype
        pointer = self.slot_names[store.slot]
        if store.mode == "scatter":
            where = f"{pointer} + {self.text.row(store.index)} * {store.row_stride}"
        else:
            where = address(pointer, store.strides[:-1], self.indices)
        stride = store.strides[-1]
        tail = "" if stride == 1 or self.width == 1 else f"{stride}, "
        if not dtype.is_float:
            return [f"store_int(c, {where}, {value});"]
        old = f"c.load({where}{', ' + str(stride) if tail else ''})"
        if store.mode in ("sum", "scatter"):
            value = f"{old} + {value}" if level <= 6 else f"{old} + ({value})"
        elif store.mode in ("max", "min"):
            value = f"v{store.mode}({old}, {value})"
        elif store.across_tiles:
            value = f"first ? {value} : {old} + {value}" if level <= 6 else f"first ? ({value}) : {old} + ({value})"
        return [f"c.store({where}, {tail}{value});"]

    def _row_stores(self) -> None:
        for number, store in enumerate(self.kernel.stores):
            if self.kernel.nodes[store.node].extent != "row":
                continue
            if self._repeats_row(store):
                self._fill_columns(store)
                continue
            value = self.text.row(store.node)
            if store.mode == "scatter":
                self.row_end.append(
                    f"{self.slot_names[store.slot]}[{self.text.row(store.index)} * {store.row_stride}] += {value};"
                )
                continue
            if number in self.totals:
                total = self.totals[number]
                self.row_end.append(
                    f"{total} += {value};"
                    if store.mode == "sum"
                    else f"{total} = v{store.mode}({total}, double({value}));"
                )
                continue
            where = address("", store.strides[:-1], self.indices).removeprefix(" + ") or "0"
            target = f"{self.slot_names[store.slot]}[{where}]"
            if store.mode == "sum":
                self.row_end.append(f"{target} += {value};")
            elif store.mode in ("max", "min"):
                self.row_end.append(f"{target} = v{store.mode}({target}, {value});")
            elif store.across_tiles:
                self.row_end.append(f"{target} = first ? {value} : {target} + {value};")
            else:
                self.row_end.append(f"{target} = {value};")

    def _repeats_row(self, store: Store) -> bool:
        """A row value (a constant, a broadcast) written to every column."""
        return store.strides[-1] != 0 and self.width > 1

    def _fill_columns(self, store: Store) -> None:
        node = self.kernel.nodes[store.node]
        value = self.text.row(store.node)
        where = address(self.slot_names[store.slot], store.strides[:-1], self.indices)
        dtype = self.kernel.slots[store.slot].dtype
        stride = store.strides[-1]
        if store.mode == "scatter":
            where = f"{self.slot_names[store.slot]} + {self.text.row(store.index)} * {store.row_stride}"
        if not dtype.is_float:
            convert = (
                f"mask_of<{self.real}>({value})" if node.dtype is DType.BOOL else f"broadcast({self.real}({value}))"
            )
            body = f"store_int(c, {where}, {convert});"
        else:
            step = f", {stride}" if stride != 1 else ""
            repeated = f"broadcast({self.real}({value}))"
            old = f"c.load({where}{step})"
            if store.mode in ("sum", "scatter"):
                repeated = f"{old} + {repeated}"
            elif store.mode in ("max", "min"):
                repeated = f"v{store.mode}({old}, {repeated})"
            elif store.across_tiles:
                repeated = f"first ? {repeated} : {old} + {repeated}"
            body = f"c.store({where}{step}, {repeated});"
        self.row_end.append(f"columns<{self.real}, {self.width}>([&](auto c) {{ {body} }});")


def parameter_types(kernel: RowKernel) -> list[str]:
    """``const float*`` or ``float*`` per slot."""
    return [f"{'' if s.written else 'const '}{CPP_TYPE[s.dtype]}*" for s in kernel.slots]
