"""Nodes as C++ expressions over tsr::Vec (values along the columns) and scalars (values of a row)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tesserac.codegen.names import CppNames, cpp_double
from tesserac.codegen.records import Node, Slot
from tesserac.diagnostics import InternalError
from tesserac.ir.types import DType
from tesserac.ops.attributes import integers
from tesserac.ops.base import spec_of

CPP_TYPE = {
    DType.F32: "float",
    DType.F64: "double",
    DType.BF16: "bf16",
    DType.I64: "int64_t",
    DType.I32: "int32_t",
    DType.I16: "int16_t",
    DType.I8: "int8_t",
    DType.U8: "uint8_t",
    DType.BOOL: "uint8_t",
}
CALL = 0


def literal(value: float, real: str) -> str:
    """A number as a literal of the kernel's floating type."""
    if math.isnan(value):
        return f"std::numeric_limits<{real}>::quiet_NaN()"
    if math.isinf(value):
        return f"{'-' if value < 0 else ''}kInfinity<{real}>"
    return cpp_double(value) + ("f" if real == "float" else "")


def address(name: str, strides: Sequence[int], indices: Sequence[str]) -> str:
    """``name + i * 272 + j`` over the loop variables of the rows."""
    parts = [name]
    for stride, index in zip(strides, indices, strict=False):
        if stride:
            parts.append(index if stride == 1 else f"{index} * {stride}")
    return " + ".join(parts)


def mentions(node: Node) -> list[int]:
    """The node's arguments, each as often as its text has it (a square has its argument twice)."""
    scalar = spec_of(node.op).scalar if node.kind == "op" else None
    times = [max(scalar.cpu.count(f"{{{i}}}"), 1) if scalar else 1 for i in range(len(node.args))]
    return [arg for arg, n in zip(node.args, times, strict=True) for _ in range(n)]


@dataclass
class Expressions:
    """Texts of a kernel's nodes. ``indices``: loop variables of the rows; ``column``: name of the Columns object."""

    nodes: Sequence[Node]
    slots: Sequence[Slot]
    slot_names: Sequence[str]
    names: CppNames
    indices: Sequence[str]
    real: str
    column: str = "c"
    uses: dict[int, int] = field(default_factory=dict)
    row_names: dict[int, str] = field(default_factory=dict)
    accumulator: str = "v"

    def __post_init__(self) -> None:
        self.uses = dict(Counter(arg for node in self.nodes for arg in mentions(node)))

    def declare_vector(self, number: int, value: str, scope: CppNames) -> tuple[str, str]:
        """A name for a value along the columns, and the line that declares it.

        The name is the value's own, or with the ``c`` of columns if a pointer has that.
        """
        stem = self.nodes[number].name or self.nodes[number].op
        name = scope.fresh(stem, instead=f"{stem}_{self.column}")
        return name, f"const auto {name} = {value};"

    # -- rows -----------------------------------------------------------------------------------------

    def row(self, number: int) -> str:
        """A row value: its declared name, or a literal."""
        node = self.nodes[number]
        if node.kind == "constant":
            return self._constant(node)
        return self.row_names[number]

    def _constant(self, node: Node) -> str:
        if node.dtype is DType.BOOL:
            return "true" if node.value else "false"
        return literal(node.value, self.real) if node.dtype.is_float else str(int(node.value))

    def declare_row(self, number: int, value: str | None = None) -> str:
        """``const float mean = ...;``"""
        node = self.nodes[number]
        text = value if value is not None else self.row_text(number)
        stem = node.name or node.op or "row"
        name = self.names.fresh(f"{stem}_{self.indices[-1] if self.indices else 'value'}")
        self.row_names[number] = name
        kind = self.real if node.dtype.is_float else "bool" if node.dtype is DType.BOOL else "long"
        return f"const {kind} {name} = {text};"

    def row_text(self, number: int) -> str:
        """The expression that computes a row value."""
        node = self.nodes[number]
        if node.kind == "load":
            where = address("", node.strides[:-1], self.indices).removeprefix(" + ") or "0"
            return f"{self.slot_names[node.slot]}[{where}]"
        if node.kind == "take":
            step = f" * {node.row_stride}" if node.row_stride != 1 else ""
            return f"{self.slot_names[node.slot]}[{self.row(node.args[0])}{step}]"
        if node.kind == "iota":
            text = address("", node.strides[:-1], self.indices).removeprefix(" + ") or "0"
            return text if not node.value else f"{text} + {int(node.value)}"
        if node.kind == "random":
            return f"tsr::{node.op}<{self.real}>({self._random_args(node)})"
        if node.op == "cast":
            return self._row_cast(node)
        return self._apply(node, [(self.row(a), self._row_precedence(a)) for a in node.args])

    def _row_precedence(self, number: int) -> int:
        node = self.nodes[number]
        return 3 if node.kind == "constant" and node.value < 0 else CALL

    def _row_cast(self, node: Node) -> str:
        source = self.row(node.args[0])
        if node.dtype is DType.BOOL:
            return f"{source} != 0"
        if node.dtype is DType.BF16:
            return f"round_bf16({source})"
        return f"{self.real}({source})" if node.dtype.is_float else f"long({source})"

    def _random_args(self, node: Node, column: str = "") -> str:
        """Seed, stream and global index: a tile's values follow those of the tiles before it."""
        steps = integers(dict(node.attrs), "steps") if node.args else ()
        index = address(f"tile * {node.row_stride}", steps, [self.row(a) for a in node.args])
        index = address(index, node.strides, [*self.indices, column] if column else self.indices)
        step = node.strides[-1]
        apart = f", {step}" if column and step != 1 else ""
        return f"key.seed, {dict(node.attrs)['stream']}u + key.step, uint64_t({index}){apart}"

    # -- columns --------------------------------------------------------------------------------------

    def full(self, number: int, known: dict[int, str]) -> tuple[str, int]:
        """Expression and precedence of a value along the columns; ``known``: nodes that have a variable already."""
        if number in known:
            return known[number], CALL
        node = self.nodes[number]
        if node.kind == "sum_of_products":
            return self.accumulator, CALL
        if node.kind == "load":
            return self._load(node), CALL
        if node.kind == "take":
            table = f"{self.slot_names[node.slot]} + {self.row(node.args[0])} * {node.row_stride}"
            return self._from(table, node.strides[-1], self.slots[node.slot].dtype), CALL
        if node.kind == "iota":
            start = address("", node.strides[:-1], self.indices).removeprefix(" + ")
            text = f"{self.column}.index()" + (f" * {self.real}({node.strides[-1]})" if node.strides[-1] != 1 else "")
            offset = " + ".join(p for p in (start, str(int(node.value)) if node.value else "") if p)
            return (f"{text} + {self.real}({offset})", 6) if offset else (text, CALL if node.strides[-1] == 1 else 5)
        if node.kind == "random":
            return f"tsr::{node.op}_vec<{self.real}>({self._random_args(node, f'{self.column}.begin')})", CALL
        if node.kind != "op":
            raise InternalError(f"node {node.kind} along columns")
        if node.op == "cast":
            return self._full_cast(number, known)
        args = [self._argument(a, known) for a in node.args]
        return self._apply(node, args), self._precedence(node)

    def _load(self, node: Node) -> str:
        return self._from(
            address(self.slot_names[node.slot], node.strides[:-1], self.indices),
            node.strides[-1],
            self.slots[node.slot].dtype,
        )

    def _from(self, pointer: str, stride: int, dtype: DType) -> str:
        arguments = pointer if stride == 1 else f"{pointer}, {stride}"
        if dtype.is_float:
            return f"{self.column}.load({arguments})"
        loaded = f"{self.column}.load_int({arguments})"
        return f"({loaded} != 0)" if dtype is DType.BOOL else loaded

    def _full_cast(self, number: int, known: dict[int, str]) -> tuple[str, int]:
        node = self.nodes[number]
        source = self.nodes[node.args[0]]
        text, level = self._argument(node.args[0], known)
        if source.dtype is DType.BOOL and node.dtype is not DType.BOOL:
            return f"select({text}, broadcast({literal(1, self.real)}), broadcast({literal(0, self.real)}))", CALL
        if node.dtype is DType.BOOL and source.dtype is not DType.BOOL:
            return f"{_nested(text, level, 10)} != 0", 10
        if source.dtype.is_float and node.dtype.is_integer:
            return f"to_float<{self.real}>(to_int({text}))", CALL
        if node.dtype is DType.BF16 and self.uses.get(number, 0) > 0:  # a store rounds by itself
            return f"round_bf16({text})", CALL
        return text, level

    def _argument(self, number: int, known: dict[int, str]) -> tuple[str, int]:
        node = self.nodes[number]
        if node.extent == "full":
            return self.full(number, known)
        text = self.row(number)
        if node.dtype is DType.BOOL:
            return f"mask_of<{self.real}>({text})", CALL
        if node.dtype.is_integer:
            return (f"{self.real}({text})" if node.kind != "constant" else literal(node.value, self.real)), CALL
        return text, self._row_precedence(number)

    def _precedence(self, node: Node) -> int:
        scalar = spec_of(node.op).scalar
        return scalar.precedence if scalar else CALL

    def _apply(self, node: Node, args: list[tuple[str, int]]) -> str:
        scalar = spec_of(node.op).scalar
        if scalar is None:
            raise InternalError(f"{node.op} has no scalar form")
        if scalar.precedence == CALL and node.extent == "full":
            texts = [
                t if self.nodes[a].extent == "full" or self.nodes[a].dtype is DType.BOOL else f"broadcast({t})"
                for a, (t, _) in zip(node.args, args, strict=True)
            ]
        elif scalar.precedence == CALL:
            texts = [t for t, _ in args]
        else:
            texts = [_nested(t, level, scalar.precedence, left=i == 0) for i, (t, level) in enumerate(args)]
        return scalar.cpu.format(*texts)


def _nested(text: str, level: int, context: int, left: bool = False) -> str:
    """Parentheses where the operand binds no tighter than its context (a left operand may bind equally)."""
    if context >= 11 and level:
        return f"({text})"  # inside logic: what compilers ask for
    return f"({text})" if level > context or (level == context and level and not left) else text
