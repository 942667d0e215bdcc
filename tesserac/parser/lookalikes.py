"""Characters that look like ASCII and are not: in punctuation an error, in identifiers a warning."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from tesserac.parser.report import Report
from tesserac.parser.tokens import Token

__all__ = ["ascii_twin", "check_names", "describe"]

_PUNCTUATION = {
    "\u2018": "'", "\u2019": "'", "\u201a": "'", "\u201b": "'", "\u2032": "'", "\u00b4": "'",
    "\u201c": '"', "\u201d": '"', "\u201e": '"', "\u201f": '"', "\u2033": '"', "\u00ab": '"', "\u00bb": '"',
    "\u2010": "-", "\u2011": "-", "\u2012": "-", "\u2013": "-", "\u2014": "-", "\u2212": "-",
    "\u00d7": "*", "\u22c5": "*", "\u00b7": "*", "\u2217": "*", "\u00f7": "/", "\u2215": "/", "\u2044": "/",
    "\u2264": "<=", "\u2265": ">=", "\u2260": "!=", "\u2261": "==", "\u2192": "->", "\u2026": "...",
    "\u037e": ";", "\u3001": ",", "\u3002": ".", "\u060c": ",", "\u061b": ";", "\u05be": "-", "\u2236": ":",
    "\u00ac": "not", "\u2227": "and", "\u2228": "or", "\u2208": "in", "\u03bb": "lambda",
    "\u00a0": " ", "\u2002": " ", "\u2003": " ", "\u2009": " ", "\u202f": " ", "\u3000": " ",
    "\u200b": "", "\u200c": "", "\u200d": "", "\u2060": "", "\ufeff": "", "\u00ad": "",
}  # fmt: skip

# Cyrillic and Greek letters that most fonts draw exactly like a Latin one. Greek nu, alpha and rho are left out: they
# are common names in formulas and can be told apart.
_CYRILLIC = dict(zip("аеорсухѕіјһԁԛԝАВЕКМНОРСТХЅІЈ", "aeopcyxsijhdqwABEKMHOPCTXSIJ", strict=True))
_GREEK = dict(zip("οΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "oABEZHIKMNOPTYX", strict=True))


def describe(char: str) -> str:
    """A character with its code point and Unicode name: ``'а' (U+0430 CYRILLIC SMALL LETTER A)``."""
    code = f"U+{ord(char):04X}"
    name = unicodedata.name(char, "")
    shown = f"'{char}' " if char.isprintable() and not char.isspace() else ""
    inside = f"{code} {name}".strip()
    return f"{shown}({inside})" if shown else inside


def ascii_twin(char: str) -> str | None:
    """The ASCII text a stray character was probably meant to be (empty: remove it), or None."""
    if char in _PUNCTUATION:
        return _PUNCTUATION[char]
    plain = unicodedata.normalize("NFKC", char)
    if len(plain) == 1 and plain.isascii() and plain.isprintable() and not plain.isalnum():
        return plain
    return None


def check_names(tokens: Iterable[Token], report: Report) -> None:
    """Warn about identifiers that read like another, purely ASCII identifier.

    Cyrillic look-alikes always count; Greek ones only where the ASCII spelling occurs as well or the two are mixed,
    since Greek letters are legitimate names.
    """
    unusual = [t for t in tokens if t.type == "NAME" and not t.text.isascii()]
    if not unusual:
        return
    plain = {t.text for t in tokens if t.type == "NAME" and t.text.isascii()}
    seen: set[str] = set()
    for token in unusual:
        name = token.text
        twin = "".join(_CYRILLIC.get(c) or _GREEK.get(c) or c for c in name)
        if name in seen or twin == name or not twin.isascii():
            continue
        seen.add(name)
        cyrillic = any(c in _CYRILLIC for c in name)
        mixed = any(c.isascii() and c.isalpha() for c in name)
        if not (cyrillic or mixed or twin in plain):
            continue
        at = next(i for i, c in enumerate(name) if c in _CYRILLIC or c in _GREEK)
        report.warning(
            "T0105",
            f"identifier `{name}` looks like `{twin}` but is a different name",
            token.span(report.file),
            notes=(f"it contains {describe(name[at])}, which looks like {describe(twin[at])}",),
            help=(f"write `{twin}` in ASCII if the same name is meant",),
        )
