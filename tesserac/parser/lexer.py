"""From source text to tokens: line joining, indentation and every fault that shows in the characters alone.

A logical line with such a fault is reported once and reaches the parser as one ERROR token, which it steps over in
silence; the lines after it are read as usual.
"""

from __future__ import annotations

import re

from tesserac.parser.report import Report
from tesserac.parser.scanner import Scanner
from tesserac.parser.tokens import OPENERS, Token

__all__ = ["MAX_NESTING", "Lexer"]

MAX_NESTING = 100
"""Deepest nesting of brackets and of indented blocks."""

_SPACE = re.compile(r"[ \t\f]*")
_BLANK = re.compile(r"[ \t\f]*(?:#[^\n]*)?(?=\n|\Z)")
_STARTERS = frozenset(
    ["def", "return", "import", "from", "assert", "pass", "with", "while", "class", "try", "raise", "global"]
)
"""Token types that begin a statement and cannot begin a line inside brackets."""


class Lexer(Scanner):
    """Reads one block of source."""

    def __init__(self, text: str, file: str, report: Report, first_line: int = 1, offset: int = 0) -> None:
        super().__init__(text, file, report, first_line, offset)
        self._indents = [0]
        self._logical = 0
        self._tab_seen = False

    def tokens(self) -> list[Token]:
        """All tokens of the block, indentation closed, without an end marker."""
        while True:
            self._line_begin()
            if self._pos >= len(self._text):
                break
            if self._indentation_too_deep():
                break
            self._logical_line()
        self._indent_to(0)
        return self._tokens

    def inline_tokens(self) -> list[Token]:
        """The tokens of an expression on its own (a field of an f-string); newlines are space."""
        self._brackets.append(self._here("("))
        self._logical_line()
        return [t for t in self._tokens if t.type != "NEWLINE"]

    # ------------------------------------------------------------------------------------------------- lines

    def _line_begin(self) -> None:
        """Skip blank lines and handle the indentation of the next one."""
        while self._pos < len(self._text):
            match = _BLANK.match(self._text, self._pos)
            if match is None:
                break
            self._pos = match.end()
            if self._pos < len(self._text):
                self._newline()
        if self._pos >= len(self._text):
            return
        match = _SPACE.match(self._text, self._pos)
        assert match is not None
        space = match[0]
        if "\t" in space and not self._tab_seen:
            self._tab_seen = True
            self._report.error(
                "T0106",
                "indentation uses a tab",
                self._between(self._pos, match.end()),
                help=("indent with spaces only (four per level); most editors have a command that converts a file",),
            )
        self._pos = match.end()
        width = 0
        for char in space:
            width = 0 if char == "\f" else width // 8 * 8 + 8 if char == "\t" else width + 1
        self._indent_to(width)

    def _indent_to(self, width: int) -> None:
        if width > self._indents[-1]:
            self._indents.append(width)
            self._tokens.append(self._here("INDENT"))
        while width < self._indents[-1]:
            inner = self._indents.pop()
            if width <= self._indents[-1]:
                self._tokens.append(self._here("DEDENT"))
                continue
            if not self._tab_seen:
                self._report.error(
                    "T0107",
                    "this line's indentation matches no open block",
                    self._between(self._pos - 1, self._pos),
                    help=(f"indent it by {inner} columns to stay in the block, or by {self._indents[-1]} to leave it",),
                )
            self._indents.append(width)

    def _indentation_too_deep(self) -> bool:
        if len(self._indents) <= MAX_NESTING:
            return False
        self._report.error(
            "T0141",
            f"blocks are nested more than {MAX_NESTING} deep",
            self._between(self._pos, self._pos + 1),
            help=("move inner blocks into functions",),
        )
        return True

    def _logical_line(self) -> None:
        self._logical = len(self._tokens)
        self._broken = False
        while True:
            match = _SPACE.match(self._text, self._pos)
            if match:
                self._pos = match.end()
            if self._pos >= len(self._text):
                if not self._unclosed():
                    break
                return
            char = self._text[self._pos]
            if char == "\n":
                if not self._brackets:
                    break
                self._newline()
            elif char == "#":
                self._rest_of_line()
            elif char == "\\":
                self._continuation()
            else:
                self._token(char)
                if len(self._brackets) > MAX_NESTING:
                    self._too_nested()
                    return
        self._end_line()
        if self._pos < len(self._text):
            self._newline()

    def _end_line(self) -> None:
        if self._broken:
            first = self._tokens[self._logical] if self._logical < len(self._tokens) else self._here("")
            del self._tokens[self._logical :]
            self._tokens.append(Token("ERROR", first.text, first.line, first.column, first.end_line, first.end_column))
        self._tokens.append(self._here("NEWLINE"))

    def _continuation(self) -> None:
        """A backslash: joins lines when a line end follows."""
        if self._text.startswith("\\\n", self._pos):
            self._pos += 1
            self._newline()
            return
        self._fault(
            "T0103",
            "unexpected character `\\`",
            self._between(self._pos, self._pos + 1),
            "a backslash may only stand at the end of a line, with nothing behind it",
        )
        self._pos += 1

    # ------------------------------------------------------------------------------------------------ faults

    def _unclosed(self) -> bool:
        """At the end of the text: report an open bracket and resume at what reads like the next statement.

        Returns whether a bracket was open. A statement is recognised by starting a line no further right than the line
        the bracket's statement began on, with a word or an assignment that cannot occur inside brackets.
        """
        if not self._brackets or not self._brackets[0].text:
            return False
        first = self._tokens[self._logical]
        begin = self._tokens.index(self._brackets[0], self._logical) + 1
        resume: Token | None = None
        for i in range(begin, len(self._tokens)):
            token = self._tokens[i]
            new_line = token.line > self._tokens[i - 1].end_line
            if new_line and token.column <= first.column and self._starts_statement(i):
                resume = token
                del self._tokens[i:]
                break
        # Of the brackets open at that point the innermost is the likeliest to lack its partner.
        before = [b for b in self._brackets if resume is None or b.line < resume.line]
        opening = before[-1]
        self._brackets.clear()
        advice = f"add the matching `{OPENERS[opening.text]}`"
        self._fault("T0108", f"`{opening.text}` is never closed", opening.span(self._file), advice)
        if resume:
            self._move_back_to(resume.line)
        self._end_line()
        return True

    def _starts_statement(self, index: int) -> bool:
        token = self._tokens[index]
        follow = self._tokens[index + 1].type if index + 1 < len(self._tokens) else ""
        return token.type in _STARTERS or (token.type == "NAME" and follow in ("=", "AUGMENT"))

    def _too_nested(self) -> None:
        self._fault(
            "T0141",
            f"brackets are nested more than {MAX_NESTING} deep",
            self._between(self._pos - 1, self._pos),
            "name parts of the expression in assignments of their own",
        )
        # Nothing sensible can be said about the rest of such a text.
        self._brackets.clear()
        self._pos = len(self._text)
        self._end_line()
