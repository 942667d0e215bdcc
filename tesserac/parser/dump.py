"""A readable picture of a syntax tree."""

from __future__ import annotations

import dataclasses
from typing import Any

from tesserac.diagnostics import Span
from tesserac.parser import syntax as s

__all__ = ["dump"]


def dump(unit: s.Unit) -> str:
    """The tree of a unit: a node per line with its place, children indented, short leaves inline.

    The text is for reading and for comparing; ends with a newline.
    """
    lines = [f"Unit {unit.file}"]
    for stmt in unit.body:
        _node(stmt, "", 1, lines)
    return "\n".join(lines) + "\n"


def _node(node: Any, role: str, depth: int, lines: list[str]) -> None:
    inline: list[str] = []
    nested: list[tuple[str, Any]] = []
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        if isinstance(value, Span) or value is None or value == ():
            continue
        if field.name == "kw_only":
            inline.extend(["kw_only"] if value else [])
        elif isinstance(value, tuple) or dataclasses.is_dataclass(value):
            nested.append((field.name, value))
        else:
            inline.append(value if field.name in ("op", "id", "name", "attr", "module") else repr(value))
    head = "  " * depth + (f"{role}: " if role else "") + type(node).__name__
    place = f"  @{node.span.line}:{node.span.column}"
    lines.append(" ".join([head, *inline]) + place)
    for name, value in nested:
        _value(value, name, depth + 1, lines)


def _value(value: Any, role: str, depth: int, lines: list[str]) -> None:
    if dataclasses.is_dataclass(value):
        _node(value, role, depth, lines)
    elif isinstance(value, tuple):
        if all(isinstance(item, str) or item is None for item in value):
            lines.append("  " * depth + f"{role}: " + " ".join("-" if item is None else item for item in value))
            return
        lines.append("  " * depth + f"{role}:")
        for item in value:
            _value(item, "", depth + 1, lines)
    else:
        lines.append("  " * depth + (f"{role}: " if role else "") + ("-" if value is None else repr(value)))
