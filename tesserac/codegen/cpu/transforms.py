"""Discrete Fourier transforms: the two functions the runtime calls for what goes in and what comes out, as text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tesserac.codegen.cpu.expressions import LONGEST, Expressions, literal
from tesserac.codegen.cpu.stores import Stores
from tesserac.codegen.names import CppNames
from tesserac.codegen.records import FftKernel, Node

FUNCTIONS = {"complex": "fft", "real": "fft_real", "forwards": "rfft", "backwards": "irfft"}

WORK = {"complex": "fft"}
"""Those between real numbers and a spectrum need the same memory."""


class TransformRenderer:
    """Prepares one transform for templates/cpu/fft.cpp.j2."""

    def __init__(self, kernel: FftKernel, slot_names: list[str], names: CppNames, real: str, parallel: bool) -> None:
        self.kernel, self.slot_names, self.names, self.real, self.parallel = kernel, slot_names, names, real, parallel
        self.loops = [names.fresh(f"outer{i}" if i else "outer") for i in range(len(kernel.outer))]

    def render(self) -> dict[str, Any]:
        """Values for the template."""
        k = self.kernel
        before, after = self._before(), self._after()
        return {
            "loops": list(zip(self.loops, k.outer, strict=True)),
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
        lines, known = _shared(text, scope, uses, {})
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
                known[number] = text.vector_name(number, scope)
                lines.append(f"const auto {known[number]} = {value} * {literal(k.scale, self.real)};")
        more, known = _shared(text, scope, uses, known)
        stores = Stores(text, k.stores, k.count if k.upright else k.size_out)
        return [*lines, *more, *(stores.columns(store, known) for store in k.stores)]


def _shared(
    text: Expressions, scope: CppNames, uses: dict[int, int], known: dict[int, str]
) -> tuple[list[str], dict[int, str]]:
    """Declarations of row values and of vectors that are used more than once, or long."""
    lines: list[str] = []
    for number, node in enumerate(text.nodes):
        if node.kind in ("constant", "transformed"):
            continue
        if node.extent == "row":
            lines.append(text.declare_row(number))
            continue
        value, _ = text.full(number, known)
        if uses.get(number, 0) > 1 or len(value) > LONGEST:
            known[number] = text.vector_name(number, scope)
            lines.append(f"const auto {known[number]} = {value};")
    return lines, known


def _row_and_columns(lines: Sequence[str]) -> str:
    """The parameters for a row and a vector of columns, named where the lines mention them."""
    row, columns = (any(re.search(rf"\b{name}\b", line) for line in lines) for name in "ic")
    return f"long{' i' if row else ''}, auto{' c' if columns else ''}"
