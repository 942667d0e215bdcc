"""Terminal layout of diagnostics: header, place, source excerpt with carets and labels, notes and help."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

from tesserac.diagnostics import Diagnostic, Span

__all__ = ["Renderer", "escape"]

_WIDTH = 100
"""Columns of source shown per line."""
_LEAD = 40
"""Columns kept to the left of a mark when a line is cut."""
_TAB = "    "

_COLORS = {"error": "1;31", "warning": "1;33", "note": "1;36", "help": "1;36", "gutter": "1;34", "bold": "1"}


def escape(text: str, keep_newlines: bool = False) -> str:
    """Replace control, format and unpaired surrogate characters by visible escapes, so no terminal acts on them."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if keep_newlines and c == "\n" else _cell(c) for c in text)


def _cell(char: str) -> str:
    if char == "\t":
        return _TAB
    if char == " " or (char.isprintable() and unicodedata.category(char) not in ("Cf", "Cs", "Co")):
        return char
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{{{code:x}}}"


def _width(shown: str) -> int:
    if shown.isascii():
        return len(shown)
    total = 0
    for char in shown:
        if not unicodedata.combining(char):
            total += 2 if unicodedata.east_asian_width(char) in "WF" else 1
    return total


@dataclass(slots=True)
class _Mark:
    """One underlined stretch of one line: code point columns, end exclusive."""

    line: int
    start: int
    end: int
    primary: bool
    text: str


@dataclass(slots=True)
class _Placed:
    """A mark in display columns, counted from 0."""

    start: int
    width: int
    primary: bool
    text: str


class Renderer:
    """Renders diagnostics against the given texts (file name to whole text)."""

    def __init__(self, sources: Mapping[str, str], color: bool = False) -> None:
        self._sources = sources
        self._color = color
        self._lines: dict[str, list[str]] = {}

    def diagnostic(self, d: Diagnostic) -> str:
        """The text of one diagnostic, ending in a newline."""
        head = self._paint(d.severity, f"{d.severity}[{d.code}]") + self._paint("bold", ": " + escape(d.message, True))
        out = [head]
        marks = self._marks(d)
        gutter = max((len(str(m.line)) for group in marks.values() for m in group), default=0)
        for i, (file, group) in enumerate(marks.items()):
            first = next((m for m in group if m.primary), group[0])
            arrow = "-->" if i == 0 else ":::"
            place = f"{escape(file)}:{first.line}:{first.start}"
            out.append(f"{' ' * gutter}{self._paint('gutter', arrow)} {place}")
            if file in self._sources:
                out.extend(self._excerpt(file, group, gutter))
        tail = [("note", text) for text in d.notes] + [("help", text) for text in d.help]
        if marks and tail and any(file in self._sources for file in marks):
            out.append(self._bar(gutter, ""))
        for kind, text in tail:
            lead = " " * (gutter + 1)
            body = escape(text, True).replace("\n", "\n" + lead + " " * (len(kind) + 4))
            out.append(f"{lead}{self._paint('gutter', '=')} {self._paint('bold', kind)}: {body}")
        return "\n".join(line.rstrip() for line in out) + "\n"

    def _marks(self, d: Diagnostic) -> dict[str, list[_Mark]]:
        groups: dict[str, list[_Mark]] = {}
        if d.span is not None:
            captions = [label.text for label in d.labels if label.span == d.span]
            groups[d.span.file] = [self._mark(d.span, True, "; ".join(captions))]
        for label in d.labels:
            if label.span != d.span:
                groups.setdefault(label.span.file, []).append(self._mark(label.span, False, label.text))
        return groups

    def _mark(self, span: Span, primary: bool, text: str) -> _Mark:
        end = span.end_column
        if span.end_line != span.line:
            end = len(self._text(span.file, span.line)) + 1
        return _Mark(span.line, span.column, max(end, span.column + 1), primary, escape(text))

    def _text(self, file: str, line: int) -> str:
        if file not in self._lines:
            text = self._sources.get(file, "")
            self._lines[file] = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        lines = self._lines[file]
        return lines[line - 1] if 1 <= line <= len(lines) else ""

    def _excerpt(self, file: str, marks: list[_Mark], gutter: int) -> list[str]:
        by_line: dict[int, list[_Mark]] = {}
        for mark in marks:
            by_line.setdefault(mark.line, []).append(mark)
        out = [self._bar(gutter, "")]
        previous: int | None = None
        for line in sorted(by_line):
            if previous is not None and line == previous + 2:
                shown, _ = _layout(self._text(file, line - 1), [])
                out.append(self._bar(gutter, shown, line - 1))
            elif previous is not None and line > previous + 2:
                out.append(self._paint("gutter", "..."))
            shown, placed = _layout(self._text(file, line), by_line[line])
            out.append(self._bar(gutter, shown, line))
            out.extend(self._bar(gutter, text) for text in self._underlines(placed))
            previous = line
        return out

    def _underlines(self, placed: list[_Placed]) -> list[str]:
        placed = sorted(placed, key=lambda p: (p.start, not p.primary))
        cells: dict[int, str] = {}
        for mark in sorted(placed, key=lambda p: (-p.width, p.primary)):
            for column in range(mark.start, mark.start + mark.width):
                cells[column] = self._paint_mark(mark, "^" if mark.primary else "-")
        end = max(cells) + 1
        line = "".join(cells.get(column, " ") for column in range(end))
        last = placed[-1]
        hanging = [p for p in placed if p.text]
        if last.text and last.start + last.width == end:
            line += " " + self._paint_mark(last, last.text)
            hanging.remove(last)
        out = [line]
        if hanging:
            out.append(self._stems(hanging))
        while hanging:
            mark = hanging.pop()
            stems = [p for p in hanging if p.start < mark.start]
            lead = self._stems(stems)
            width = stems[-1].start + 1 if stems else 0
            out.append(lead + " " * (mark.start - width) + self._paint_mark(mark, mark.text))
        return out

    def _stems(self, marks: list[_Placed]) -> str:
        line, at = "", 0
        for mark in marks:
            if mark.start >= at:
                line += " " * (mark.start - at) + self._paint_mark(mark, "|")
                at = mark.start + 1
        return line

    def _bar(self, gutter: int, text: str, line: int | None = None) -> str:
        number = "" if line is None else str(line)
        return self._paint("gutter", f"{number:>{gutter}} |") + (f" {text}" if text else "")

    def _paint_mark(self, mark: _Placed, text: str) -> str:
        return self._paint("error" if mark.primary else "gutter", text)

    def _paint(self, kind: str, text: str) -> str:
        return f"\x1b[{_COLORS[kind]}m{text}\x1b[0m" if self._color else text


def _layout(text: str, marks: list[_Mark]) -> tuple[str, list[_Placed]]:
    """What to print for a source line, and where its marks fall on it.

    Only the neighbourhood of the first primary mark is looked at, so a line of any length costs the same.
    """
    focus = min((m.start for m in marks if m.primary), default=min((m.start for m in marks), default=1)) - 1
    low = 0
    if len(text) > _WIDTH or _width("".join(_cell(c) for c in text)) > _WIDTH:
        far = max((m.end for m in marks), default=1)
        low = 0 if far <= _WIDTH - 10 and text.isascii() else max(0, focus - _LEAD)
    shown = "..." if low else ""
    starts: dict[int, int] = {}
    column = len(shown)
    high = low
    for index in range(low, len(text)):
        cell = _cell(text[index])
        if column + _width(cell) > _WIDTH:
            break
        starts[index] = column
        shown += cell
        column += _width(cell)
        high = index + 1
    starts[high] = column
    if high < len(text):
        shown += "..."
    placed = []
    for mark in marks:
        begin = min(max(mark.start - 1, low), high)
        stop = min(max(mark.end - 1, low), high)
        beyond = max(0, mark.start - 1 - len(text)) if high == len(text) else 0
        width = max(1, starts[stop] - starts[begin])
        placed.append(_Placed(starts[begin] + beyond, width, mark.primary, mark.text))
    return shown, placed
