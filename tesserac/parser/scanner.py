"""Reads single tokens: names, numbers, strings, operators, and characters that are none of these."""

from __future__ import annotations

import re
import unicodedata

from tesserac.diagnostics import Label
from tesserac.parser.cursor import Cursor
from tesserac.parser.lookalikes import ascii_twin, describe
from tesserac.parser.report import Report
from tesserac.parser.tokens import CLOSERS, KEYWORDS, OPENERS, OPERATORS, RESERVED, Token

__all__ = ["Scanner"]

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
_OPERATOR = re.compile(
    "|".join(re.escape(op) for op in sorted(OPERATORS, key=lambda op: (-len(op), op)) if op != "not")
)


class Scanner(Cursor):
    """A cursor that reads tokens and tracks which brackets are open."""

    def __init__(self, text: str, file: str, report: Report, first_line: int = 1, offset: int = 0) -> None:
        super().__init__(text, file, report, first_line, offset)
        self._brackets: list[Token] = []

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
                self._pos = self._text.rindex(closing[-1], start, self._pos) + 1
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
