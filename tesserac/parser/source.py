"""Reading source files, and finding the code in Markdown."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from tesserac.diagnostics import CompileError, Diagnostics, Span
from tesserac.parser.syntax import SourceBlock

__all__ = ["MAX_BYTES", "blocks", "is_markdown", "read_source"]

MAX_BYTES = 1024 * 1024
"""Largest source file accepted; a program that long was generated, and its data belongs in a data file."""

_FENCE = re.compile(r"^( {0,3})(`{3,}|~{3,})[ \t]*(.*?)[ \t]*$")
_PYTHON = re.compile(r"^\{?\.?(python3?|py|tessera)\b", re.IGNORECASE)


def read_source(path: str | Path) -> str:
    """The text of a source file, without a byte order mark.

    Raises `CompileError` when the path is missing, is not a regular file, cannot be read, is larger than `MAX_BYTES`
    or is not UTF-8; never waits for a device or a pipe.
    """
    name = str(path)
    try:
        # O_NONBLOCK: opening a named pipe must not hang before its type is known.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        raise _fault("T0100", f"cannot find source file `{name}`", "check the path") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise _fault(
            "T0100", f"cannot read source file `{name}`: {reason}", "check the path and its permissions"
        ) from None
    try:
        with os.fdopen(descriptor, "rb") as handle:
            status = os.fstat(handle.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise _fault("T0100", f"source path `{name}` is not a regular file", "save the source in a file")
            data = handle.read(MAX_BYTES + 1)
    except IsADirectoryError:
        raise _fault("T0100", f"source path `{name}` is a directory", "name the .py or .md file inside it") from None
    except OSError as error:
        raise _fault("T0100", f"cannot read source file `{name}`: {error.strerror}", "check the disk") from None
    if len(data) > MAX_BYTES:
        size = max(status.st_size, len(data)) / 2**20
        message = f"source file `{name}` is too large: {size:.1f} MiB, the limit is {MAX_BYTES // 2**20} MiB"
        raise _fault("T0101", message, "keep data in .npy, .safetensors or text files and the program in the source")
    return _decode(name, data)


def _decode(name: str, data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _fault("T0102", f"source file `{name}` is UTF-16, not UTF-8", "save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        start = data.rfind(b"\n", 0, error.start) + 1
        line = data.count(b"\n", 0, error.start) + 1
        column = len(data[start : error.start].decode("utf-8", "replace")) + 1
        message = f"source file `{name}` is not valid UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}"
        raise _fault("T0102", message, "save it as UTF-8", Span.point(name, line, column)) from None


def _fault(code: str, message: str, advice: str, span: Span | None = None) -> CompileError:
    bag = Diagnostics()
    bag.error(code, message, span, help=(advice,))
    return CompileError(bag.items)


def is_markdown(file: str) -> bool:
    """Whether a file name means Markdown with code in fences."""
    return file.lower().endswith((".md", ".markdown"))


def blocks(text: str, file: str) -> list[tuple[SourceBlock, int]]:
    """The stretches of code in a source text (line ends already normalised), each with its column offset.

    A ``.py`` text is one stretch. In Markdown each fenced block marked ``python`` (or ``py``, ``tessera``) is one, read
    as CommonMark does: up to three spaces before the fence, which are removed from the lines inside; the closing
    fence has at least as many marks; an open fence runs to the end of the file.
    """
    if not is_markdown(file):
        return [(SourceBlock(file, text, 1), 0)]
    found: list[tuple[SourceBlock, int]] = []
    fence = ""
    indent = first = 0
    wanted = False
    inside: list[str] = []
    for number, line in enumerate([*text.split("\n"), None], 1):
        match = _FENCE.match(line) if line is not None else None
        if not fence:
            if match and not (match[2][0] == "`" and "`" in match[3]):
                fence, indent, first, inside = match[2], len(match[1]), number + 1, []
                wanted = _PYTHON.match(match[3]) is not None
            continue
        if line is None or (match and match[2][0] == fence[0] and len(match[2]) >= len(fence) and not match[3]):
            if wanted:
                # All lines lose the same indent only when they have it; a block indented less keeps column 1.
                cut = indent if all(not s.strip() or s.startswith(" " * indent) for s in inside) else 0
                code = "".join(s[cut:] + "\n" for s in inside)
                found.append((SourceBlock(file, code, first), cut))
            fence = ""
        else:
            inside.append(line)
    return found
