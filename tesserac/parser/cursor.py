"""A position in a source text that knows its line and column, makes tokens and reports faults."""

from __future__ import annotations

from tesserac.diagnostics import Label, Span
from tesserac.parser.report import Report
from tesserac.parser.tokens import Token

__all__ = ["Cursor"]


class Cursor:
    """The lexer's state. ``first_line`` and ``offset`` say where the text's lines and columns start in the file."""

    def __init__(self, text: str, file: str, report: Report, first_line: int = 1, offset: int = 0) -> None:
        self._text = text
        self._file = file
        self._report = report
        self._offset = offset
        self._pos = 0
        self._line = first_line
        self._line_start = -offset
        self._tokens: list[Token] = []
        self._broken = False

    def _column(self, position: int) -> int:
        return position - self._line_start + 1

    def _here(self, kind: str) -> Token:
        """An empty token at the current position."""
        column = self._column(self._pos)
        return Token(kind, "", self._line, column, self._line, column)

    def _push(self, kind: str, text: str, end: int) -> None:
        """Add a token that ends at ``end`` on this line, and move there."""
        line, start = self._line, self._line_start
        self._tokens.append(Token(kind, text, line, self._pos - start + 1, line, end - start + 1))
        self._pos = end

    def _push_lines(self, kind: str, text: str) -> None:
        """Add a token that may span lines, and move behind it."""
        line, column = self._line, self._column(self._pos)
        end = self._pos + len(text)
        breaks = text.count("\n")
        if breaks:
            self._line += breaks
            self._line_start = self._text.rfind("\n", 0, end) + 1 - self._offset
        self._pos = end
        self._tokens.append(Token(kind, text, line, column, self._line, self._column(end)))

    def _newline(self) -> None:
        """Step over the line end at the current position."""
        self._pos += 1
        self._line += 1
        self._line_start = self._pos - self._offset

    def _rest_of_line(self) -> None:
        """Move to the end of the physical line."""
        end = self._text.find("\n", self._pos)
        self._pos = len(self._text) if end < 0 else end

    def _move_back_to(self, line: int) -> None:
        """Move to the start of an earlier line."""
        start = self._pos
        for _ in range(self._line - line):
            start = self._text.rfind("\n", 0, start)
        self._pos = self._text.rfind("\n", 0, start) + 1
        self._line = line
        self._line_start = self._pos - self._offset

    def _between(self, start: int, end: int) -> Span:
        """The span of two positions on this line."""
        return Span(self._file, self._line, self._column(start), self._line, self._column(end))

    def _fault(self, code: str, message: str, span: Span, advice: str, labels: tuple[Label, ...] = ()) -> None:
        """Report an error in the current logical line, unless one was reported in it already."""
        if not self._broken:
            self._report.error(code, message, span, labels=labels, help=(advice,))
        self._broken = True
