"""Which values of a kernel get a name: those of rows, those that are used more than once, and long expressions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from tesserac.codegen.names import CppNames
from tesserac.codegen.records import Node

LONGEST = 60
"""Characters of an expression that is still written in the middle of another."""


class Texts(Protocol):
    """What the expressions of both back ends offer."""

    nodes: Sequence[Node]

    def declare_row(self, number: int, value: str | None = None) -> str:
        """The line that declares a row value."""

    def full(self, number: int, known: dict[int, str]) -> tuple[str, int]:
        """The expression of a value along the columns, and how tightly it binds."""

    def declare_vector(self, number: int, value: str, scope: CppNames) -> tuple[str, str]:
        """A name for a value along the columns, and the line that declares it."""


def declare_shared(text: Texts, scope: CppNames, uses: Mapping[int, int], known: dict[int, str]) -> list[str]:
    """Lines that declare what needs a name; ``known``, which holds the names of what came before, learns them."""
    lines: list[str] = []
    for number, node in enumerate(text.nodes):
        if number in known or node.kind == "constant":
            continue
        if node.extent == "row":
            lines.append(text.declare_row(number))
            continue
        value, _ = text.full(number, known)
        if uses.get(number, 0) > 1 or len(value) > LONGEST:
            known[number], line = text.declare_vector(number, value, scope)
            lines.append(line)
    return lines
