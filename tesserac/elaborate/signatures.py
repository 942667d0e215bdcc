"""Python-like signatures of the compiler's own functions, and binding arguments to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from tesserac.elaborate.values import Value


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter; ``kind`` is positional, keyword (after ``*``) or variadic (``*xs``)."""

    name: str
    kind: str
    required: bool
    default: Value = None


class BadArguments(Exception):
    """The arguments do not fit; the text says which."""


@cache
def parse_signature(text: str) -> tuple[Parameter, ...]:
    """Parameters of ``name(a, b=1, *, c=None)``; the text is ours, so it is valid."""
    inner = text[text.index("(") + 1 : text.rindex(")")].strip()
    parameters: list[Parameter] = []
    keyword = False
    for part in _split(inner):
        if part == "*":
            keyword = True
        elif part.startswith("*"):
            parameters.append(Parameter(part[1:], "variadic", False))
            keyword = True
        else:
            name, separator, default = part.partition("=")
            kind = "keyword" if keyword else "positional"
            parameters.append(
                Parameter(name.strip(), kind, not separator, _literal(default.strip()) if separator else None)
            )
    return tuple(parameters)


def _literal(text: str) -> Value:
    """A default: a number, a quoted string, a truth value or None."""
    if text[0] == "'":
        return text[1:-1]
    constants: dict[str, Value] = {"None": None, "True": True, "False": False}
    if text in constants:
        return constants[text]
    return int(text) if text.lstrip("-").isdigit() else float(text)


def _split(text: str) -> list[str]:
    parts: list[str] = []
    depth = start = 0
    for index, char in enumerate(text):
        depth += (char in "([") - (char in ")]")
        if char == "," and depth == 0:
            parts.append(text[start:index].strip())
            start = index + 1
    parts.append(text[start:].strip())
    return [p for p in parts if p]


def bind(parameters: Sequence[Parameter], args: Sequence[Value], keywords: Mapping[str, Value]) -> list[Value]:
    """Values in the order of the parameters (a tuple for ``*xs``); raises BadArguments."""
    values: list[Value] = []
    rest = list(args)
    named = dict(keywords)
    for parameter in parameters:
        if parameter.kind == "variadic":
            values.append(tuple(rest))
            rest = []
        elif parameter.kind == "positional" and rest:
            values.append(rest.pop(0))
            if parameter.name in named:
                raise BadArguments(f"`{parameter.name}` is given twice")
        elif parameter.name in named:
            values.append(named.pop(parameter.name))
        elif parameter.required:
            raise BadArguments(f"the argument `{parameter.name}` is missing")
        else:
            values.append(parameter.default)
    if rest:
        most = sum(p.kind == "positional" for p in parameters)
        raise BadArguments(f"{len(args)} arguments are given without a name, and it takes at most {most}")
    if named:
        raise BadArguments(f"there is no argument `{next(iter(named))}`")
    return values
