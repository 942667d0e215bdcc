"""What a kernel record becomes: text, and the launches that carry it out."""

from __future__ import annotations

from dataclasses import dataclass, field

from tesserac.codegen.cuda.expressions import CUDA_TYPE
from tesserac.codegen.records import Slot

ALIGNMENT = 256
LINE = 120


def pointer_type(slot: Slot) -> str:
    """``const float*`` or ``float*``."""
    return f"{'' if slot.written else 'const '}{CUDA_TYPE[slot.dtype]}*"


def wrapped(items: list[str], before: int = 60, indent: str = "    ") -> str:
    """A comma-separated list, on lines of its own where one line would be too long; ``before`` is what precedes it."""
    whole = ", ".join(items)
    if before + len(whole) <= LINE + 20:
        return whole
    lines = [""]
    for part in (part for item in items for part in _parts(item)):
        if len(lines[-1]) + len(part) > LINE:
            lines.append("")
        lines[-1] += part + ", "
    return f"\n{indent}" + f"\n{indent}".join(line.rstrip() for line in lines).rstrip(",")


def _parts(item: str) -> list[str]:
    """An item, or the elements of a list in braces that is too long for a line."""
    pieces = item.split("}, {") if len(item) > LINE else [item]
    return [("{" if i else "") + p + ("}" if i < len(pieces) - 1 else "") for i, p in enumerate(pieces)]


def wrapped_call(statement: str, indent: str = "      ") -> str:
    """A call on several lines where one would be too long; arguments stay whole."""
    opened = statement.index("(", statement.find(">>>") + 1)
    if len(statement) <= LINE + 20 or not statement.endswith(");"):
        return statement
    arguments, depth = [""], 0
    for character in statement[opened + 1 : -2]:
        closes = character in ")]}" or (character == ">" and arguments[-1][-1:] != "-")  # no arrow
        depth += (character in "([{<") - closes
        if character == "," and depth == 0:
            arguments.append("")
        else:
            arguments[-1] += character
    return statement[: opened + 1] + wrapped([a.strip() for a in arguments], opened, indent) + ");"


CUFFT_HEADER = "fft_library"
"""That of transforms by cuFFT, which takes the place of the usual one."""


@dataclass
class Emitted:
    """``steps`` are statements over ``{0}``, ``{1}``... (the buffers of the record's slots), ``workspace``, ``stream``,
    ``context`` and ``key``.

    ``workspace`` is what they need of it in bytes; ``raw`` the buffer in which a product awaits its epilogue;
    ``headers`` those of runtime/cuda, by stem, that text and steps need beside the ones every program includes.
    """

    text: str
    steps: list[str]
    workspace: int = 0
    takes_key: bool = False
    raw: str = ""
    headers: tuple[str, ...] = ()


@dataclass
class Workspace:
    """Hands out pieces of the memory that lives only from one launch to the next."""

    size: int = 0
    _offsets: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, size: int) -> int:
        """The offset of a new piece of ``size`` bytes."""
        self._offsets[name] = self.size
        self.size += -(-size // ALIGNMENT) * ALIGNMENT
        return self._offsets[name]

    def of(self, name: str) -> int:
        """The offset of a piece."""
        return self._offsets[name]
