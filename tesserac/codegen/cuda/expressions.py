"""Nodes as CUDA C++ expressions: one thread, one element."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tesserac.codegen.cpu.expressions import CALL, CPP_TYPE, address
from tesserac.codegen.names import CppNames, cpp_double
from tesserac.codegen.records import Node, Slot
from tesserac.diagnostics import InternalError
from tesserac.ir.types import DType
from tesserac.ops.attributes import integers
from tesserac.ops.base import spec_of

CUDA_TYPE = {**CPP_TYPE, DType.BF16: "__nv_bfloat16"}
"""Types in device memory."""


def literal(value: float, real: str) -> str:
    """A number as a literal of the kernel's floating type."""
    if math.isnan(value):
        return f"not_a_number<{real}>()"
    if math.isinf(value):
        return f"{'-' if value < 0 else ''}infinity<{real}>()"
    return cpp_double(value) + ("f" if real == "float" else "")


def scalar_type(dtype: DType, real: str) -> str:
    """The C++ type in which a thread holds one value."""
    if dtype.is_float:
        return real
    if dtype is DType.BOOL:
        return "bool"
    return "int64_t" if dtype is DType.I64 else "int"


def offset_text(strides: Sequence[int], indices: Sequence[str]) -> str:
    """``i * 272 + c``, or ``0``."""
    return address("", strides, indices).removeprefix(" + ") or "0"


def at(pointer: str, strides: Sequence[int], indices: Sequence[str]) -> str:
    """``x[i * 272 + c]``."""
    return f"{pointer}[{offset_text(strides, indices)}]"


@dataclass
class Expressions:
    """Texts of a kernel's nodes. ``indices`` are the variables of the rows, ``column`` that of the column.

    ``index`` is the type of both; ``vectors`` maps loads to local arrays of four columns
    (index ``u``) that were loaded at once.
    """

    nodes: Sequence[Node]
    slots: Sequence[Slot]
    slot_names: Sequence[str]
    names: CppNames
    indices: Sequence[str]
    real: str
    column: str = "c"
    index: str = "int64_t"
    row_names: dict[int, str] = field(default_factory=dict)
    vectors: dict[int, str] = field(default_factory=dict)

    def uses(self) -> dict[int, int]:
        """How many values each value is an operand of."""
        return Counter(a for node in self.nodes for a in node.args)

    def row(self, number: int) -> str:
        """A row value: its declared name, or a literal."""
        node = self.nodes[number]
        if node.kind == "constant":
            return self._constant(node)
        return self.row_names[number]

    def _constant(self, node: Node) -> str:
        if node.dtype is DType.BOOL:
            return "true" if node.value else "false"
        if node.dtype.is_float:
            return literal(node.value, self.real)
        return f"int64_t({int(node.value)})" if node.dtype is DType.I64 else str(int(node.value))

    def declare_row(self, number: int, value: str | None = None) -> str:
        """``const float mean = ...;``"""
        node = self.nodes[number]
        text = value if value is not None else self._text(number, {})[0]
        name = self.names.fresh((node.name or node.op or "value") + "_row")
        self.row_names[number] = name
        return f"const {scalar_type(node.dtype, self.real)} {name} = {text};"

    def declare_vector(self, number: int, value: str, scope: CppNames) -> tuple[str, str]:
        """A name for a thread's value of a column, and the line that declares it."""
        node = self.nodes[number]
        name = scope.fresh(node.name or node.op or "value")
        return name, f"const {scalar_type(node.dtype, self.real)} {name} = {value};"

    def full(self, number: int, known: dict[int, str]) -> tuple[str, int]:
        """Expression and precedence of any value in a thread's column; ``known`` maps nodes to variables."""
        node = self.nodes[number]
        if number in known:
            return known[number], CALL
        if node.extent != "full":
            return self.row(number), 3 if node.kind == "constant" and node.value < 0 else CALL
        return self._text(number, known)

    def _text(self, number: int, known: dict[int, str]) -> tuple[str, int]:
        node = self.nodes[number]
        full = node.extent == "full"
        strides = node.strides if full else node.strides[:-1]
        indices = [*self.indices, self.column]
        if node.kind == "load":
            if number in self.vectors:
                return self._loaded(f"{self.vectors[number]}[u]", node), CALL
            text = self._loaded(at(self.slot_names[node.slot], strides, indices), node)
            return (f"{text} != 0", 10) if self.slots[node.slot].dtype is DType.BOOL else (text, CALL)
        if node.kind == "take":
            line = f"int64_t({self.full(node.args[0], known)[0]}) * {node.row_stride}"
            column = offset_text(node.strides[-1:], [self.column])
            text = f"{self.slot_names[node.slot]}[{line}{'' if column == '0' else ' + ' + column}]"
            return self._loaded(text, node), CALL
        if node.kind == "iota":
            text = offset_text(strides, indices) + (f" + {int(node.value)}" if node.value else "")
            if scalar_type(node.dtype, self.real) == self.index:
                return text, CALL if re.fullmatch(r"\w+|\(c \+ u\)", text) else 6
            return f"{scalar_type(node.dtype, self.real)}({text})", CALL
        if node.kind == "random":
            steps = integers(dict(node.attrs), "steps") if node.args else ()
            begins = [f"int64_t({self.row(a)})" for a in node.args]
            index = offset_text((*steps, *strides), (*begins, *indices))
            stream = dict(node.attrs)["stream"]
            return f"{node.op}<{self.real}>(key->seed, {stream}u + key->step, uint64_t({index}))", CALL
        if node.kind != "op":
            raise InternalError(f"node {node.kind} as an expression")
        if node.op == "cast":
            text, level = self._cast(node, known)
            if node.dtype is DType.BF16 and self.uses().get(number, 0) > 0:  # a store rounds by itself
                return f"{self.real}({CUDA_TYPE[DType.BF16]}({text}))", CALL
            return text, level
        return self._apply(node, [self.full(a, known) for a in node.args])

    def _loaded(self, text: str, node: Node) -> str:
        """An element in the type in which threads compute."""
        return f"{self.real}({text})" if self.slots[node.slot].dtype is DType.BF16 else text

    def _cast(self, node: Node, known: dict[int, str]) -> tuple[str, int]:
        source = self.nodes[node.args[0]]
        text, level = self.full(node.args[0], known)
        if node.dtype is DType.BOOL:
            return (text, level) if source.dtype is DType.BOOL else (f"{nested(text, level, 10)} != 0", 10)
        if node.dtype is DType.BF16:
            return text, level
        if scalar_type(node.dtype, self.real) == scalar_type(source.dtype, self.real) and node.dtype.itemsize >= 4:
            return text, level
        narrow = {DType.I16: "int16_t", DType.I8: "int8_t", DType.U8: "uint8_t"}.get(node.dtype)
        return f"{narrow or scalar_type(node.dtype, self.real)}({text})", CALL

    def _apply(self, node: Node, args: list[tuple[str, int]]) -> tuple[str, int]:
        scalar = spec_of(node.op).scalar
        if scalar is None:
            raise InternalError(f"{node.op} has no scalar form")
        if scalar.precedence == CALL:
            # The text of select puts its operands beside ?: without parentheses of their own.
            texts = [nested(t, level, 11) if node.op == "select" else t for t, level in args]
        else:
            texts = [
                nested(t, level, scalar.precedence, left=i == 0 and len(args) > 1) for i, (t, level) in enumerate(args)
            ]
        return scalar.cuda.format(*texts), scalar.precedence


def nested(text: str, level: int, context: int, left: bool = False) -> str:
    """Parentheses where the operand binds no tighter than its context (a left operand may bind equally)."""
    if context >= 11 and level >= 9:
        return f"({text})"
    return f"({text})" if level > context or (level == context and level and not left) else text
