"""The parts of a row kernel's text: walks over the columns, indices, parameters into the workspace."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

LOOP_NAMES = ("i", "j", "k", "l", "m", "n", "o", "p")


@dataclass
class Pass:
    """``before``: row values and accumulators; ``columns``: lines per column; ``after``: finished reductions."""

    before: list[str] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)

    @property
    def uses_column(self) -> bool:
        """Whether the walk needs the number of its column."""
        return mentions(self.columns, "c")


@dataclass
class Extra:
    """A pointer parameter into the workspace: type, name, elements."""

    kind: str
    name: str
    elements: int


def mentions(lines: list[str], word: str) -> bool:
    """Whether a line holds the word."""
    return any(re.search(rf"\b{word}\b", line) for line in lines)


def row_indices(rows: tuple[int, ...], names: list[str], kind: str, flat: str) -> list[str]:
    """Declarations of the row variables from the number of the row."""
    if not rows:
        return []
    if len(rows) == 1:
        return [] if names[0] == flat else [f"const {kind} {names[0]} = {flat};"]
    lines, below = [], 1
    for position in range(len(rows) - 1, -1, -1):
        text = flat if below == 1 else f"{flat} / {below}"
        lines.append(f"const {kind} {names[position]} = {text}{f' % {rows[position]}' if position else ''};")
        below *= rows[position]
    return lines[::-1]


def drop_unused(names: Sequence[str], passes: Sequence[Pass], declared: list[str], rest: Sequence[str]) -> None:
    """Removes declarations of ``names`` that nothing refers to, one after another, and empty lines."""
    for item in passes:
        item.columns[:] = [line for line in item.columns if line]
    parts = [declared, *(part for item in passes for part in (item.before, item.after))]
    unused = set(names)
    while unused:
        lines = [line for part in parts for line in part] + [line for item in passes for line in item.columns]
        words = Counter(re.findall(r"\w+", "\n".join([*lines, *rest])))
        unused = {name for name in names if words[name] == 1}
        for part in parts:
            part[:] = [line for line in part if not (line.startswith("const ") and line.split()[2] in unused)]
