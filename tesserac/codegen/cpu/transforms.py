"""Discrete Fourier transforms: the two functions the runtime calls for what goes in and what comes out, as text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tesserac.codegen.cpu.expressions import Expressions, literal
from tesserac.codegen.cpu.stores import Stores
from tesserac.codegen.names import CppNames
from tesserac.codegen.records import FftKernel, FilterKernel, Node, Store
from tesserac.codegen.sharing import declare_shared

FUNCTIONS = {"complex": "fft", "real": "fft_real", "forwards": "rfft", "backwards": "irfft"}

WORK = {"complex": "fft"}
"""Those between real numbers and a spectrum need the same memory."""


def outer_loops(kernel: FftKernel, names: CppNames) -> list[str]:
    """Names of the variables of the loops around the lines."""
    return [names.fresh(f"outer{i}" if i else "outer") for i in range(len(kernel.outer))]


class TransformRenderer:
    """Prepares one transform for templates/cpu/fft.cpp.j2."""

    def __init__(
        self, kernel: FftKernel, slot_names: list[str], names: CppNames, real: str, parallel: bool,
        loops: Sequence[str] | None = None,
    ) -> None:
        self.kernel, self.slot_names, self.names, self.real, self.parallel = kernel, slot_names, names, real, parallel
        self.loops = loops if loops is not None else outer_loops(kernel, names)

    def render(self) -> dict[str, Any]:
        """Values for the template."""
        k = self.kernel
        before, after = self._before(), self._after()
        return {
            "loops": list(zip(self.loops, k.outer, strict=False)),
            "function": f"{FUNCTIONS[k.form]}_{'columns' if k.upright else 'rows'}",
            "n": k.n,
            "count": k.count,
            "real": self.real,
            "work": WORK.get(k.form, "rfft") + ("_columns" if k.upright else "_rows") + "_work",
            "interior": "" if k.form in ("complex", "real") else f"{self.real}({literal(k.interior, self.real)}), ",
            "value_type": f"Vec<{self.real}>" if k.form == "backwards" else f"Planes<Vec<{self.real}>>",
            "before": before,
            "after": after,
            "before_parameters": _row_and_columns(before),
            "after_parameters": _row_and_columns(after),
            "grain": f"lanes<{self.real}>" if k.upright or k.count >= 64 else 1,
            "parallel": self.parallel and not any(s.across_tiles for s in k.stores),
        }

    def _text(self, nodes: Sequence[Node]) -> tuple[Expressions, CppNames]:
        scope = CppNames(parent=self.names, reserved=("c", "i", "v"))
        return Expressions(nodes, self.kernel.slots, self.slot_names, scope, [*self.loops, "i"], self.real), scope

    def _before(self) -> list[str]:
        """The lines that compute what is transformed; the inverse is the same transform of swapped parts.

        Of real numbers it is the conjugate of the transform.
        """
        k = self.kernel
        text, scope = self._text(k.before)
        uses = dict(text.uses)
        for part in k.parts:
            uses[part] = uses.get(part, 0) + 1
        known: dict[int, str] = {}
        lines = declare_shared(text, scope, uses, known)
        values = [self._vector(text, part, known) for part in k.parts]
        if k.form in ("forwards", "real"):
            return [*lines, f"return {values[0]};"]
        re_part, im_part = values
        pair = f"{im_part}, {re_part}" if k.inverse and k.form == "complex" else f"{re_part}, {im_part}"
        return [*lines, f"return Planes<Vec<{self.real}>>{{{pair}}};"]

    def _vector(self, text: Expressions, node: int, known: dict[int, str]) -> str:
        if text.nodes[node].extent == "full":
            return text.full(node, known)[0]
        return f"broadcast({self.real}({text.row(node)}))"

    def _after(self) -> list[str]:
        """The lines that scale the results and do what follows them."""
        k = self.kernel
        text, scope = self._text(k.nodes)
        uses = dict(text.uses)
        for store in k.stores:
            uses[store.node] = uses.get(store.node, 0) + 1
        lines: list[str] = []
        known: dict[int, str] = {}
        turned = k.inverse and k.form == "complex"
        members = {"re": "v.im", "im": "v.re"} if turned else {"re": "v.re", "im": "v.im"}
        if k.inverse and k.form == "real":
            members["im"] = "(-v.im)"
        for number, node in enumerate(k.nodes):
            if node.kind != "transformed":
                continue
            value = "v" if k.form == "backwards" else members[node.op]
            known[number] = value
            if k.scale != 1.0:
                scaled = f"{value} * {literal(k.scale, self.real)}"
                known[number], line = text.declare_vector(number, scaled, scope)
                lines.append(line)
        more = declare_shared(text, scope, uses, known)
        stores = Stores(text, k.stores, k.count if k.upright else k.size_out)
        return [*lines, *more, *(stores.columns(store, known) for store in k.stores)]


def _row_and_columns(lines: Sequence[str]) -> str:
    """The parameters for a row and a vector of columns, named where the lines mention them."""
    row, columns = (any(re.search(rf"\b{name}\b", line) for line in lines) for name in "ic")
    return f"long{' i' if row else ''}, auto{' c' if columns else ''}"


LINE_BYTES = 64
"""Of columns that are transformed together: a cache line, and no less than a register."""


class FilterRenderer:
    """Prepares two transforms of the same lines for templates/cpu/filter.cpp.j2.

    Some lines at a time are transformed, kept in working memory and transformed again. Lines within such a group are
    counted from its first, ``line``, which is one more loop variable for what lies outside the kernel.
    """

    def __init__(self, kernel: FilterKernel, slot_names: list[str], names: CppNames, real: str, parallel: bool) -> None:
        self.kernel, self.real, self.parallel = kernel, real, parallel
        first = kernel.first
        outside = len(kernel.slots)
        made = {s.slot: first.nodes[s.node].name for s in first.stores if s.slot >= outside}
        self.lines = [names.fresh(made[outside + i] or "spectrum") for i in range(kernel.between)]
        self.names, self.slot_names = names, [*slot_names, *self.lines]
        self.loops = outer_loops(first, names)
        itemsize = 8 if real == "double" else 4
        self.together = LINE_BYTES // itemsize
        lanes = LINE_BYTES // itemsize
        # Rows of a spectrum are an odd number of cache lines apart.
        self.pitch = self.together if first.upright else (first.size_out + lanes - 1) // lanes // 2 * 2 * lanes + lanes

    def render(self) -> dict[str, Any]:
        """Values for the template."""
        first, second = (self._transform(k) for k in (self.kernel.first, self.kernel.second))
        k = self.kernel.first
        together = str(self.together) if k.upright else f"rows_together<{self.real}, {k.n}>"
        size = f"{k.size_out} * together" if k.upright else f"together * {self.pitch}"
        return {**first, "transforms": [first, second], "lines": self.lines, "together": together, "size": size}

    def _transform(self, kernel: FftKernel) -> dict[str, Any]:
        lined = replace(
            kernel,
            before=tuple(replace(n, strides=self._strides(n)) if n.strides else n for n in kernel.before),
            nodes=tuple(replace(n, strides=self._strides(n)) if n.strides else n for n in kernel.nodes),
            stores=tuple(replace(s, strides=self._strides(s)) for s in kernel.stores),
        )
        loops = [*self.loops, "line"]
        return TransformRenderer(lined, self.slot_names, self.names, self.real, self.parallel, loops).render()

    def _strides(self, item: Node | Store) -> tuple[int, ...]:
        """Strides over (outer loops, first line, rows, columns)."""
        *outer, row, column = item.strides
        if item.slot >= len(self.kernel.slots):
            return (*(0 for _ in outer), 0, self.pitch, 1)
        return (*outer, column if self.kernel.first.upright else row, row, column)
