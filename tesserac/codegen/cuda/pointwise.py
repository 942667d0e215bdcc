"""Pointwise kernels: one thread per element, or per four neighbouring ones where memory allows."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from tesserac.codegen.cuda.expressions import CUDA_TYPE, Expressions, at, offset_text
from tesserac.codegen.cuda.layout import BLOCK, count, index_type
from tesserac.codegen.cuda.passes import LOOP_NAMES, row_indices
from tesserac.codegen.names import CppNames
from tesserac.codegen.records import RowKernel
from tesserac.codegen.sharing import LONGEST

POINTWISE_BLOCKS = 4096
"""Blocks of a kernel at most; beyond, threads go on with further elements."""

LANES = 4


def fits_vectors(kernel: RowKernel, lanes: int = LANES) -> bool:
    """Whether ``lanes`` neighbouring columns can be read and written at once."""
    if kernel.domain[-1] % lanes or any(n.kind == "take" for n in kernel.nodes):
        return False
    accesses = [n.strides for n in kernel.nodes if n.kind == "load" and n.extent == "full"] + [
        s.strides for s in kernel.stores
    ]
    return all(s[-1] == 1 and all(x % lanes == 0 for x in s[:-1]) for s in accesses)


class PointwiseRenderer:
    """Prepares one kernel without reductions for templates/cuda/pointwise.cu.j2."""

    def __init__(
        self,
        kernel: RowKernel,
        slot_names: list[str],
        names: CppNames,
        real: str,
        vectors: bool,
        lanes: int = LANES,
        block: int = BLOCK,
        most_blocks: int = POINTWISE_BLOCKS,
    ) -> None:
        self.kernel, self.slot_names, self.names, self.real, self.vectors = kernel, slot_names, names, real, vectors
        self.lanes = lanes
        self.rows, self.width = kernel.domain[:-1], kernel.domain[-1]
        self.index = index_type(kernel)
        self.indices = ["row"] if len(self.rows) == 1 else [names.fresh(LOOP_NAMES[i]) for i in range(len(self.rows))]
        column = "(c + u)" if vectors else "c"
        self.text = Expressions(kernel.nodes, kernel.slots, slot_names, names, self.indices, real, column, self.index)
        self.elements = count(kernel.domain) // (lanes if vectors else 1)
        self.block, self.blocks = block, min(-(-self.elements // block), most_blocks)

    def render(self) -> dict[str, Any]:
        """Values for the template."""
        lines = self._declare_position()
        loads, stores = self._vector_accesses() if self.vectors else ([], [])
        rows = [
            self.text.declare_row(i)
            for i, n in enumerate(self.kernel.nodes)
            if n.extent == "row" and n.kind != "constant"
        ]
        body = self._body()
        self._drop_unused(lines, rows, [*loads, *body, *stores])
        return {
            "position": lines,
            "rows": rows,
            "loads": loads,
            "body": body,
            "stores": stores,
            "elements": self.elements,
            "index": self.index,
            "block": self.block,
            "flat": not self.rows and not self.vectors,
            "vectors": self.vectors,
        }

    def _declare_position(self) -> list[str]:
        if not self.rows:
            return [f"const {self.index} c = at * {self.lanes};"] if self.vectors else []
        width = self.width // self.lanes if self.vectors else self.width
        column = f"at % {width}" + (f" * {self.lanes}" if self.vectors else "")
        lines = [f"const {self.index} c = {column};", f"const {self.index} row = at / {width};"]
        return lines + row_indices(self.rows, self.indices, self.index, "row")

    def _vector_accesses(self) -> tuple[list[str], list[str]]:
        loads, stores, lanes = [], [], self.lanes
        kinds = {2: "Two", 4: "Four"}
        self.targets: list[str] = []
        for i, node in enumerate(self.kernel.nodes):
            if node.kind == "load" and node.extent == "full":
                kind = CUDA_TYPE[self.kernel.slots[node.slot].dtype]
                name = self.names.fresh(f"{node.name or 'value'}_{lanes}")
                self.text.vectors[i] = name
                where = self._where(node.slot, node.strides)
                loads.append(f"const {kinds[lanes]}<{kind}> {name} = load{lanes}({where});")
        for store in self.kernel.stores:
            kind = CUDA_TYPE[self.kernel.slots[store.slot].dtype]
            name = self.names.fresh(f"{self.slot_names[store.slot]}_{lanes}")
            self.targets.append(name)
            loads.append(f"{kinds[lanes]}<{kind}> {name};")
            stores.append(f"store{lanes}({self._where(store.slot, store.strides)}, {name});")
        return loads, stores

    def _where(self, slot: int, strides: tuple[int, ...]) -> str:
        return f"{self.slot_names[slot]} + {offset_text(strides, [*self.indices, 'c'])}"

    def start(self) -> dict[int, str]:
        """Values that are there before the body, by node."""
        return {}

    def _body(self) -> list[str]:
        scope = CppNames(parent=self.names, reserved=("c", "u", "at", "row"))
        known = self.start()
        uses = Counter(a for n in self.kernel.nodes for a in n.args)
        uses.update(s.node for s in self.kernel.stores)
        lines = []
        for i, node in enumerate(self.kernel.nodes):
            if node.extent != "full" or i in known:
                continue
            text, _ = self.text.full(i, known)
            if (uses[i] > 1 or len(text) > LONGEST) and i not in self.text.vectors:
                known[i], line = self.text.declare_vector(i, text, scope)
                lines.append(line)
        for position, store in enumerate(self.kernel.stores):
            value, _ = self.text.full(store.node, known)
            target = (
                f"{self.targets[position]}[u]"
                if self.vectors
                else at(self.slot_names[store.slot], store.strides, [*self.indices, "c"])
            )
            lines.append(f"{target} = {value};")
        return lines

    def _drop_unused(self, position: list[str], rows: list[str], rest: list[str]) -> None:
        while True:
            words = Counter(re.findall(r"\w+", "\n".join([*position, *rows, *rest])))
            unused = [line for line in (*position, *rows) if words[line.split()[2]] == 1]
            if not unused:
                return
            for part in (position, rows):
                part[:] = [line for line in part if line not in unused]
