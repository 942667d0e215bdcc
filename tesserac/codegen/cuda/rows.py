"""Row kernels: a warp or a block walks the columns of a row as often as its reductions need."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tesserac.codegen.cuda.expressions import Expressions, at, nested, offset_text, scalar_type
from tesserac.codegen.cuda.layout import MAX_COLUMNS, Layout, count, index_type
from tesserac.codegen.cuda.passes import LOOP_NAMES, Extra, Pass, drop_unused, mentions, row_indices
from tesserac.codegen.names import CppNames
from tesserac.codegen.records import Node, RowKernel, Store, levels
from tesserac.codegen.sharing import LONGEST
from tesserac.ops.base import spec_of

EXPENSIVE = 8.0
REGISTERS = 48
"""Registers in which a thread may keep values of its columns from one pass to the next."""


class RowRenderer:
    """Prepares one row kernel for templates/cuda/rows.cu.j2."""

    def __init__(self, kernel: RowKernel, slot_names: list[str], names: CppNames, real: str, plan: Layout) -> None:
        self.kernel, self.names, self.real, self.plan = kernel, names, real, plan
        self.slot_names = slot_names
        self.rows, self.width = kernel.domain[:-1], kernel.domain[-1]
        self.index = index_type(kernel)
        self.indices = ["row"] if len(self.rows) == 1 else [names.fresh(LOOP_NAMES[i]) for i in range(len(self.rows))]
        self.text = Expressions(kernel.nodes, kernel.slots, slot_names, names, self.indices, real, index=self.index)
        self.level = levels(kernel.nodes)
        self.saved: dict[int, str] = {}
        self.first_pass: dict[int, int] = {}
        self.extras: dict[tuple[int, str], Extra] = {}
        self.start: list[str] = []
        self.finish: list[str] = []
        self.finish_columns: list[str] = []
        self.row_end: list[str] = []
        self.sums: dict[int, str] = {}

    def render(self) -> dict[str, Any]:
        """Values for the template."""
        self._two_phases()
        last = max([self.level[s.node] for s in self.kernel.stores] + [0])
        self._choose_saved(last)
        passes = [self._pass(p) for p in range(last + 1)]
        self._row_stores()
        declared = row_indices(self.rows, self.indices, self.index, "row")
        if self.repeated.columns:
            passes.append(self.repeated)
        names = [*self.text.row_names.values(), *(n for n in self.indices if n != "row")]
        drop_unused(names, passes, declared, [*self.row_end, *self.finish])
        unrolled = bool(self.saved or self.sums) and self.plan.team > 1
        return {
            "passes": passes,
            "row_end": self.row_end,
            "start": self.start,
            "finish": self.finish,
            "index": self.index,
            "finish_columns": self.finish_columns,
            "width": self.width,
            "rows": count(self.rows),
            "team": self.plan.team,
            "block": self.plan.block,
            "declared": declared,
            "unrolled": unrolled,
            "columns": self.plan.columns,
            "uses_lane": any(p.columns for p in passes)
            or mentions([*self.row_end, *self.finish], "lane")
            or bool(self.finish_columns),
            "lane": "threadIdx.x" if self.plan.team == self.plan.block else "lane",
        }

    # -- stores in two phases -----------------------------------------------------------------------------

    def _identity(self, mode: str, kind: str) -> str:
        return {"max": f"-infinity<{kind}>()", "min": f"infinity<{kind}>()"}.get(mode, "0")

    def _extra(self, number: int, role: str, kind: str, elements: int) -> str:
        store = self.kernel.stores[number]
        name = self.names.fresh(f"{self.slot_names[store.slot]}_{role}")
        self.extras[number, role] = Extra(kind, name, elements)
        return name

    def _two_phases(self) -> None:
        for number, (store, phase) in enumerate(zip(self.kernel.stores, self.plan.phases, strict=True)):
            if phase is None:
                continue
            full = self._is_full(store)
            if phase.kind == "total":
                kind = "double" if store.mode == "sum" else self.real
                name = self._extra(number, "partial", kind, self.plan.blocks)
                total = self.names.fresh(f"{self.slot_names[store.slot]}_{store.mode}")
                self.sums[number] = total
                identity = self._identity(store.mode, kind)
                self.start.append(f"{kind} {total} = {identity};")
                self._finish_total(store, name, total, identity)
            elif phase.kind == "columns":
                name = self._extra(number, "partial", self.real, self.plan.teams * self.width)
                total = self.names.fresh(f"{self.slot_names[store.slot]}_{store.mode}")
                self.sums[number] = total
                self.start.append(f"{self.real} {total}[{self.plan.columns}];")
                self.start.append(f"for ({self.real}& x : {total}) x = {self._identity(store.mode, self.real)};")
                self.finish_columns.append(f"{name}[team * {self.width} + c] = {total}[u];")
            elif phase.source < 0:
                self._extra(
                    number,
                    "terms",
                    self.real,
                    count(self.rows) * (self.width if full or phase.kind == "scatter" else 1),
                )
            if phase.kind == "scatter":
                self._extra(number, "place", "int", count(self.rows))

    def _finish_total(self, store: Store, name: str, total: str, identity: str) -> None:
        if self.plan.team == self.plan.block:
            self.finish.append(f"if (threadIdx.x == 0) {name}[blockIdx.x] = {total};")
            return
        value = total if self.plan.team == 1 else f"lane == 0 ? {total} : {identity}"
        whole = self.names.fresh(f"{total}_of_block")
        kind = "double" if store.mode == "sum" else self.real
        self.finish.append(f"const {kind} {whole} = block_{store.mode}<{self.plan.block}, {kind}>({value});")
        self.finish.append(f"if (threadIdx.x == 0) {name}[blockIdx.x] = {whole};")

    def _is_full(self, store: Store) -> bool:
        return self.kernel.nodes[store.node].extent == "full" or store.strides[-1] != 0

    # -- passes -------------------------------------------------------------------------------------------

    def _along_columns(self, number: int) -> list[tuple[int, Store]]:
        """Stores that pass ``number`` carries out column by column."""
        return [
            (i, s)
            for i, s in enumerate(self.kernel.stores)
            if self.kernel.nodes[s.node].extent == "full" and self.level[s.node] == number
        ]

    def _reduces(self, number: int) -> list[int]:
        return [i for i, n in enumerate(self.kernel.nodes) if n.kind == "reduce" and self.level[i] == number + 1]

    def _closure(self, number: int) -> set[int]:
        """Values along the columns that pass ``number`` computes, or reads back from an earlier one."""
        found: set[int] = set()
        stack = [s.node for _, s in self._along_columns(number)] + [
            self.kernel.nodes[i].args[0] for i in self._reduces(number)
        ]
        while stack:
            i = stack.pop()
            if i in found or self.kernel.nodes[i].extent != "full":
                continue
            found.add(i)
            if i not in self.saved or self.first_pass[i] == number:
                stack.extend(self.kernel.nodes[i].args)
        return found

    def _choose_saved(self, last: int) -> None:
        """Values of an earlier pass that a thread keeps in registers: what is dear to compute, then what was read."""
        if self.plan.columns > MAX_COLUMNS:
            return
        left = REGISTERS - sum(self.plan.columns for t in self.start if "[" in t and "for" not in t)
        cost = self.plan.columns * (2 if self.real == "double" else 1)
        for wanted in ("op", "load", "take"):
            seen: set[int] = set()
            for number in range(last + 1):
                closure = self._closure(number)
                for i in closure:
                    self.first_pass[i] = min(self.first_pass.get(i, number), number)
                for i in sorted(closure & seen):
                    if i not in self.saved and cost <= left and self._worth_saving(self.kernel.nodes[i], wanted):
                        left -= cost
                        node = self.kernel.nodes[i]
                        self.saved[i] = self.names.fresh(f"{node.name or node.op}_kept")
                        self.start.append(f"{scalar_type(node.dtype, self.real)} {self.saved[i]}[{self.plan.columns}];")
                seen |= closure

    def _worth_saving(self, node: Node, wanted: str) -> bool:
        if node.kind != wanted or not node.dtype.is_float:
            return False
        scalar = spec_of(node.op).scalar if node.kind == "op" else None
        return node.kind != "op" or (scalar is not None and scalar.flops >= EXPENSIVE)

    def _pass(self, number: int) -> Pass:
        result = Pass()
        for i, node in enumerate(self.kernel.nodes):
            if node.extent == "row" and node.kind not in ("constant", "reduce") and self.level[i] == number:
                result.before.append(self.text.declare_row(i))
        running: dict[int, str] = {}
        for i in self._reduces(number):
            node = self.kernel.nodes[i]
            if self.kernel.nodes[node.args[0]].extent == "row":
                running[i] = ""
                continue
            running[i] = self.names.fresh(f"{node.name or 'row'}_{node.op}")
            result.before.append(f"{self.real} {running[i]} = {self._identity(node.op, self.real)};")
        self._columns(number, running, result)
        return result

    def _finished(self, running: dict[int, str]) -> list[str]:
        """Row values of finished reductions."""
        lines = []
        for i, name in running.items():
            node = self.kernel.nodes[i]
            if not name:  # one value for all columns
                value = self.text.row(node.args[0])
                lines.append(
                    self.text.declare_row(
                        i, value if node.op != "sum" or self.width == 1 else f"{value} * {self.width}"
                    )
                )
                continue
            block = self.plan.block
            over = f"block_{node.op}<{block}>({name})" if self.plan.team == block else f"warp_{node.op}({name})"
            over = name if self.plan.team == 1 else over
            lines.append(self.text.declare_row(i, over))
        return lines

    def _columns(self, number: int, running: dict[int, str], result: Pass) -> None:
        scope = CppNames(parent=self.names, reserved=("c", "u", "lane", "row", "team", "x"))
        known: dict[int, str] = {}
        closure = self._closure(number)
        stores = self._along_columns(number)
        uses = Counter(a for i in closure for a in self.kernel.nodes[i].args)
        uses.update([s.node for _, s in stores] + [self.kernel.nodes[i].args[0] for i in running])
        for i in sorted(closure):
            node = self.kernel.nodes[i]
            name = scope.fresh(node.name or node.op)
            kind = f"const {scalar_type(node.dtype, self.real)}"
            if i in self.saved and self.first_pass[i] < number:
                known[i] = name
                result.columns.append(f"{kind} {name} = {self.saved[i]}[u];")
                continue
            text, _ = self.text.full(i, known)
            if uses[i] > 1 or len(text) > LONGEST or i in self.saved:
                known[i] = name
                result.columns.append(f"{kind} {name} = {text};")
            if i in self.saved:
                result.columns.append(f"{self.saved[i]}[u] = {known[i]};")
        for i, name in running.items():
            if name:
                node = self.kernel.nodes[i]
                result.columns.append(self._combined(name, node.op, *self.text.full(node.args[0], known)))
        for position, store in stores:
            result.columns.append(self._store(position, store, *self.text.full(store.node, known)))
        result.after = self._finished(running)

    def _combined(self, name: str, mode: str, value: str, level: int = 0) -> str:
        return f"{name} += {value};" if mode == "sum" else f"{name} = tsr_{mode}({name}, {nested(value, level, 11)});"

    def _store(self, number: int, store: Store, value: str, level: int) -> str:
        """One column's line of a store."""
        phase = self.plan.phases[number]
        if phase is None:
            return f"{at(self.slot_names[store.slot], store.strides, [*self.indices, 'c'])} = {value};"
        if phase.kind == "columns":
            return self._combined(f"{self.sums[number]}[u]", store.mode, value, level)
        if phase.source >= 0:
            return ""
        terms = self.extras[number, "terms"].name
        return f"{terms}[{offset_text((self.width, 1), ('row', 'c'))}] = {value};"

    def _row_stores(self) -> None:
        """What happens once the row's own values are known."""
        once = {1: "", self.plan.block: "if (threadIdx.x == 0) "}.get(self.plan.team, "if (lane == 0) ")
        repeated = Pass()
        for number, store in enumerate(self.kernel.stores):
            phase = self.plan.phases[number]
            if phase is not None and phase.kind == "scatter":
                self.row_end.append(
                    f"{once}{self.extras[number, 'place'].name}[row] = int({self.text.row(store.index)});"
                )
            if self.kernel.nodes[store.node].extent == "full":
                continue
            value = self.text.row(store.node)
            scatter = phase is not None and phase.kind == "scatter"
            if store.strides[-1] != 0 or scatter:
                repeated.columns.append(self._store(number, store, value, 0))
            elif phase is None:
                self.row_end.append(
                    f"{once}{at(self.slot_names[store.slot], store.strides[:-1], self.indices)} = {value};"
                )
            elif phase.kind == "total":
                self.row_end.append(self._combined(self.sums[number], store.mode, value))
            else:
                self.row_end.append(f"{once}{self.extras[number, 'terms'].name}[row] = {value};")
        self.repeated = repeated
