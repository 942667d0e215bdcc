"""Values of number and string literals, decoded by hand: source is data and is never evaluated."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

__all__ = ["Field", "LiteralFault", "decode", "fields", "number", "split"]

_MAX_DIGITS = 1000
_SIMPLE = {
    "\n": "", "\\": "\\", "'": "'", '"': '"',
    "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v",
}  # fmt: skip
_HEX = {"x": 2, "u": 4, "U": 8}
_ESCAPE = re.compile(r"\\(?:([0-7]{1,3})|(N\{[^{}\n]*\})|(.))", re.DOTALL)


class LiteralFault(Exception):
    """A literal that has no value; ``offset`` counts from the start of what was decoded."""

    def __init__(self, message: str, advice: str, offset: int = 0, length: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice
        self.offset = offset
        self.length = length


@dataclass(frozen=True, slots=True)
class Field:
    """The expression text of an f-string's ``{...}`` and where it starts in the literal's body."""

    text: str
    offset: int


def number(text: str) -> int | float | complex:
    """The value of a number token. Raises `LiteralFault`."""
    plain = text.replace("_", "").lower()
    if len(plain) > _MAX_DIGITS:
        raise LiteralFault(f"number with {len(plain)} characters", f"numbers may have at most {_MAX_DIGITS}")
    if plain[:2] in ("0x", "0b", "0o"):
        return int(plain, 0)
    if plain.endswith("j"):
        return complex(0.0, float(plain[:-1]))
    if plain.isdigit():
        if plain[0] == "0" and plain.strip("0"):
            stripped = plain.lstrip("0")
            advice = f"write {stripped}, or 0o{stripped} if octal was meant"
            raise LiteralFault(f"number `{text[:40]}` starts with 0", advice)
        return int(plain)
    return float(plain)


def split(text: str) -> tuple[str, str, int]:
    """Prefix (lower case), body and the body's offset of a string token."""
    quote_at = min(i for i in (text.find("'"), text.find('"')) if i >= 0)
    width = 3 if text[quote_at : quote_at + 3] in ("'''", '"""') else 1
    start = quote_at + width
    return text[:quote_at].lower(), text[start:-width], start


def decode(body: str, raw: bool, offset: int = 0) -> str:
    """The text that a string body stands for. ``offset`` is added to the offset of a fault. Raises `LiteralFault`."""
    if raw or "\\" not in body:
        return body
    parts: list[str] = []
    at = 0
    for match in _ESCAPE.finditer(body):
        parts.append(body[at : match.start()])
        at = match.end()
        octal, named, char = match.groups()
        if octal:
            parts.append(chr(int(octal, 8)))
        elif named:
            parts.append(_named(named[2:-1], offset + match.start(), len(named) + 1))
        elif char in _SIMPLE:
            parts.append(_SIMPLE[char])
        elif char in _HEX:
            digits = body[at : at + _HEX[char]]
            parts.append(_code_point(char, digits, offset + match.start()))
            at += len(digits)
        elif char == "N":
            advice = "write \\N{GREEK SMALL LETTER ALPHA}, or \\\\ for a backslash"
            raise LiteralFault("malformed escape `\\N`", advice, offset + match.start(), 2)
        else:
            parts.append("\\" + char)
    return "".join((*parts, body[at:]))


def _code_point(kind: str, digits: str, offset: int) -> str:
    length = _HEX[kind]
    if len(digits) < length or not re.fullmatch(r"[0-9a-fA-F]+", digits):
        message = f"escape `\\{kind}` needs {length} hexadecimal digits"
        raise LiteralFault(message, f"write \\{kind}{'0' * (length - 2)}41 for A, or \\\\ for a backslash", offset, 2)
    code = int(digits, 16)
    if code > 0x10FFFF or 0xD800 <= code < 0xE000:
        raise LiteralFault(f"escape `\\{kind}{digits}` is not a character", "remove it", offset, 2 + length)
    return chr(code)


def _named(name: str, offset: int, length: int) -> str:
    try:
        return unicodedata.lookup(name)
    except KeyError:
        message = f"there is no character named `{name}`"
        raise LiteralFault(message, "check the name in the Unicode tables", offset, length) from None


def fields(body: str, raw: bool) -> list[str | Field]:
    """The parts of an f-string body: decoded text and fields, in order. Raises `LiteralFault`."""
    parts: list[str | Field] = []
    text = ""
    at = 0
    while at < len(body):
        brace = _next_brace(body, at, raw)
        text += decode(body[at:brace].replace("{{", "{").replace("}}", "}"), raw, at) if brace > at else ""
        if brace == len(body):
            break
        if body[brace] == "}":
            raise LiteralFault("`}` in an f-string without `{`", "write `}}` for a brace", brace)
        if text:
            parts.append(text)
            text = ""
        field, at = _field(body, brace)
        parts.append(field)
    if text:
        parts.append(text)
    return parts


def _next_brace(body: str, at: int, raw: bool) -> int:
    """Index of the next brace that is not doubled, nor part of ``\\N{...}``."""
    while at < len(body):
        char = body[at]
        if char == "\\" and not raw:
            named = re.compile(r"\\N\{[^{}\n]*\}").match(body, at)
            at = named.end() if named else at + 2
        elif char in "{}":
            if body[at + 1 : at + 2] != char:
                return at
            at += 2
        else:
            at += 1
    return len(body)


def _field(body: str, brace: int) -> tuple[Field, int]:
    """The field that opens at ``brace`` and the index behind its closing brace."""
    depth = 0
    quote = ""
    for at in range(brace + 1, len(body)):
        char = body[at]
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char in "([{":
            depth += 1
        elif depth and char in ")]}":
            depth -= 1
        elif char == "}":
            text = body[brace + 1 : at]
            if not text.strip():
                raise LiteralFault("empty `{}` in an f-string", "put an expression between the braces", brace, 2)
            return Field(text, brace + 1), at + 1
        elif not depth and (char == ":" or _conversion(body, at)):
            what = {":": "a format specification", "!": "a conversion"}.get(char, "`=`")
            advice = "write the plain value, {x}; compile-time text has no formatting"
            raise LiteralFault(f"{what} in an f-string is not supported", advice, at)
    raise LiteralFault("`{` in an f-string is never closed", "write `{{` for a brace, or add `}`", brace)


def _conversion(body: str, at: int) -> bool:
    """Whether an f-string's ``!r`` or ``=`` starts here, as opposed to a comparison."""
    if body[at] == "!":
        return body[at + 1 : at + 2] != "="
    return body[at] == "=" and re.compile(r"=\s*[}!:]").match(body, at) is not None and body[at - 1] not in "=!<>"
