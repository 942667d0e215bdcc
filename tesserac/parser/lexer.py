"""From source text to tokens: line joining, indentation and every fault that shows in the characters alone.

A logical line with such a fault is reported once and reaches the parser as one ERROR token, which it steps over in
silence; the lines after it are read as usual.
"""

from __future__ import annotations

import re
import unicodedata

from tesserac.diagnostics import Label
from tesserac.parser.cursor import Cursor
from tesserac.parser.lookalikes import ascii_twin, describe
from tesserac.parser.report import Report
from tesserac.parser.tokens import CLOSERS, KEYWORDS, OPENERS, OPERATORS, RESERVED, Token

__all__ = ["MAX_NESTING", "Lexer"]

MAX_NESTING = 100
"""Deepest nesting of brackets and of indented blocks."""

_SPACE = re.compile(r"[ \t\f]*")
_BLANK = re.compile(r"[ \t\f]*(?:#[^\n]*)?(?=\n|\Z)")
_WORD = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")
_NUMBER = re.compile(
    r"0[xX](?:_?[0-9a-fA-F])+|0[bB](?:_?[01])+|0[oO](?:_?[0-7])+"
    r"|(?:(?:[0-9](?:_?[0-9])*)?\.[0-9](?:_?[0-9])*|[0-9](?:_?[0-9])*\.?)(?:[eE][+-]?[0-9](?:_?[0-9])*)?[jJ]?"
)
_NUMBER_TAIL = re.compile(r"[0-9A-Za-z_.]*")
_QUOTE = re.compile(r"(?:[rR][bBfF]?|[bBfF][rR]?|[uU])?('''|\"\"\"|'|\")")
_BODY = {
    "'": re.compile(r"(?:[^'\\\n]|\\.)*+'", re.DOTALL),
    '"': re.compile(r'(?:[^"\\\n]|\\.)*+"', re.DOTALL),
    "'''": re.compile(r"(?:[^'\\]|\\.|'(?!''))*+'''", re.DOTALL),
    '"""': re.compile(r'(?:[^"\\]|\\.|"(?!""))*+"""', re.DOTALL),
}
_OPERATOR = re.compile("|".join(re.escape(op) for op in sorted(OPERATORS, key=lambda op: (-len(op), op)) if op != "not"))
_STARTERS = frozenset("def return import from assert pass with while class try del raise global nonlocal @".split())


def _word_type(word: str) -> str:
    if word == "not":
        return "NOT"
    return word if word in KEYWORDS or word in RESERVED else "NAME"


def _number_advice(text: str) -> str:
    if text[:2].lower() in ("0x", "0b", "0o"):
        return "hexadecimal digits are 0-9 and a-f, octal digits 0-7, binary digits 0 and 1"
    if "__" in text or text.endswith("_"):
        return "an underscore may only stand between two digits"
    if text.lower().endswith("e"):
        return "write the exponent's digits, as in 1e-3"
    return "write a number such as 10, 1_000, 0.5 or 1e-3; a name cannot start with a digit"


class Lexer(Cursor):
    """Reads one block of source."""

    def __init__(self, text: str, file: str, report: Report, first_line: int = 1, offset: int = 0) -> None:
        super().__init__(text, file, report, first_line, offset)
        self._indents = [0]
        self._brackets: list[Token] = []
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
                    help=(f"indent it by {inner} columns as the lines above, or by {self._indents[-1]} to leave the block",),
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

    # ------------------------------------------------------------------------------------------------ tokens

    def _token(self, char: str) -> None:
        text, start = self._text, self._pos
        quote = _QUOTE.match(text, start) if char in "'\"rRbBfFuU" else None
        if quote:
            self._string(quote)
            return
        word = _WORD.match(text, start)
        if word or not char.isascii():
            end = word.end() if word else start
            if end < len(text) and not text[end].isascii():
                self._unicode_word(end)
                return
            assert word is not None
            name = word[0]
            self._push(_word_type(name), name, end)
            return
        if char.isdigit() or (char == "." and text[start + 1 : start + 2].isdigit()):
            self._number()
            return
        operator = _OPERATOR.match(text, start)
        if operator:
            self._operator(operator[0])
            return
        self._fault("T0103", f"unexpected character {describe(char)}", self._between(start, start + 1), "remove it")
        self._pos = start + 1

    def _unicode_word(self, end: int) -> None:
        """An identifier with a non-ASCII letter, or a stray non-ASCII character."""
        text, start = self._text, self._pos
        while end < len(text) and (("a" + text[end]).isidentifier() if end > start else text[end].isidentifier()):
            end += 1
        if end == start:
            self._stray(text[start])
            return
        if text[start:end].isascii():
            self._push(_word_type(text[start:end]), text[start:end], end)
            return
        name = unicodedata.normalize("NFKC", text[start:end])
        if name in KEYWORDS or name in RESERVED or not name.isidentifier():
            char = next(c for c in text[start:end] if not c.isascii())
            self._fault(
                "T0103",
                f"`{name}` is written with {describe(char)}",
                self._between(start, end),
                f"write `{name}` in ASCII letters",
            )
        self._push("NAME", name, end)

    def _stray(self, char: str) -> None:
        start = self._pos
        twin = ascii_twin(char)
        if twin is None:
            advice = "remove it, or put it in a string or a comment"
        elif not twin.strip():
            advice = "write an ordinary space (U+0020)" if twin else "remove it; it is invisible"
        else:
            advice = f"write `{twin}`" + (f" (U+{ord(twin):04X})" if len(twin) == 1 else "")
        self._fault("T0104", f"{describe(char)} is not part of the language", self._between(start, start + 1), advice)
        if twin in ("'", '"'):
            # The closing quote is as odd as the opening one; what stands between is text.
            self._rest_of_line()
            closing = [c for c in self._text[start + 1 : self._pos] if ascii_twin(c) == twin]
            if closing:
                self._pos = self._text.index(closing[-1], start + 1) + 1
        elif twin in OPENERS or twin in CLOSERS:
            self._operator(twin, 1)
        else:
            self._pos = start + 1

    def _number(self) -> None:
        match = _NUMBER.match(self._text, self._pos)
        end = match.end() if match else self._pos
        tail = _NUMBER_TAIL.match(self._text, end)
        rest = tail[0] if tail else ""
        if rest and not (rest.startswith(".") and not rest[1:2].isdigit()):
            end += len(rest)
            text = self._text[self._pos : end]
            self._fault("T0111", f"malformed number `{text[:40]}`", self._between(self._pos, end), _number_advice(text))
        self._push("NUMBER", self._text[self._pos : end], end)

    def _string(self, opening: re.Match[str]) -> None:
        quote = opening[1]
        body = _BODY[quote].match(self._text, opening.end())
        if body:
            self._push_lines("STRING", self._text[self._pos : body.end()])
            return
        closes = "the closing `" + quote + "` is missing"
        advice = f"add `{quote}`" + (" at the end of the text" if len(quote) == 1 else " after the text")
        self._fault("T0110", f"unterminated string: {closes}", self._between(self._pos, opening.end()), advice)
        if len(quote) == 1:
            self._rest_of_line()
            self._close_line_brackets()
        else:
            self._brackets.clear()
            self._pos = len(self._text)

    def _close_line_brackets(self) -> None:
        """Forget brackets whose closing may have been swallowed by an unterminated string on this line."""
        while self._brackets and self._brackets[-1].line == self._line:
            self._brackets.pop()

    def _operator(self, text: str, length: int | None = None) -> None:
        end = self._pos + (len(text) if length is None else length)
        self._push(OPERATORS[text], text, end)
        token = self._tokens[-1]
        if text in OPENERS:
            self._brackets.append(token)
        elif text in CLOSERS:
            if not self._brackets:
                advice = f"remove it, or add the missing `{CLOSERS[text]}`"
                self._fault("T0108", f"unmatched `{text}`", token.span(self._file), advice)
                return
            opening = self._brackets.pop()
            if opening.text and opening.text != CLOSERS[text]:
                expected = OPENERS[opening.text]
                self._fault(
                    "T0108",
                    f"`{text}` does not close `{opening.text}`",
                    token.span(self._file),
                    f"write `{expected}` here, or open with `{CLOSERS[text]}`",
                    (Label(opening.span(self._file), "opened here"),),
                )

    # ------------------------------------------------------------------------------------------------ faults

    def _unclosed(self) -> bool:
        """At the end of the text: report an open bracket and resume at what reads like the next statement.

        Returns whether a bracket was open. A statement is recognised by starting a line no further right than the line
        the bracket's statement began on, with a word or an assignment that cannot occur inside brackets.
        """
        if not self._brackets or not self._brackets[0].text:
            return False
        opening = self._brackets[-1]
        advice = f"add the matching `{OPENERS[opening.text]}`"
        self._fault("T0108", f"`{opening.text}` is never closed", opening.span(self._file), advice)
        self._brackets.clear()
        first = self._tokens[self._logical]
        begin = self._tokens.index(opening, self._logical)
        for i in range(begin + 1, len(self._tokens)):
            token = self._tokens[i]
            new_line = token.line > self._tokens[i - 1].end_line
            if new_line and token.column <= first.column and self._starts_statement(i):
                del self._tokens[i:]
                self._move_back_to(token.line)
                break
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
