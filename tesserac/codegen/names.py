"""How text from a user's program enters emitted C++: identifiers, string literals, comments and numbers.

A name, a path or a source line may hold anything that a file can: keywords, Unicode, quotes, comment ends, line
continuations. Every back end passes such text through this file, so nothing a source contains can change what the
emitted code means.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable

_KEYWORDS = """
alignas alignof and and_eq asm auto bitand bitor bool break case catch char char8_t char16_t char32_t class compl
concept const consteval constexpr constinit const_cast continue co_await co_return co_yield decltype default delete
do double dynamic_cast else enum explicit export extern false final float for friend goto if import inline int long
module mutable namespace new noexcept not not_eq nullptr operator or or_eq override private protected public
register reinterpret_cast requires restrict return short signed sizeof static static_assert static_cast struct
switch template this thread_local throw true try typedef typeid typename typeof union unsigned using virtual void
volatile wchar_t while xor xor_eq
"""

# Macros of the C library, of compilers in GNU mode and of CUDA: no scope hides them.
_MACROS = """
assert errno linux unix i386 stdin stdout stderr major minor makedev offsetof setjmp va_arg va_copy va_end va_start
signbit isnan isinf isfinite isnormal fpclassify isgreater isless isunordered I NULL EOF NAN INFINITY HUGE_VAL
HUGE_VALF RAND_MAX BUFSIZ FILENAME_MAX FOPEN_MAX TMP_MAX EXIT_SUCCESS EXIT_FAILURE CLOCKS_PER_SEC DOMAIN SING
OVERFLOW UNDERFLOW MAP_FAILED PATH_MAX NAME_MAX PAGE_SIZE CHAR_BIT complex imaginary
"""
_OTHERS = re.compile(r"[^A-Za-z0-9]+")
_MACRO_PATTERN = re.compile(
    r"[A-Z0-9]+_(?:MIN|MAX|WIDTH|BIT|DIG|EPSILON)|(?:U?INT|FLT|DBL|LDBL|SIG|SEEK|CLOCK|FP|TSR|CUDA|M|E|O|S)_[A-Z0-9_]+"
    r"|E[A-Z0-9]{3,}|SIG[A-Z0-9]+|U?INT[0-9]+_[A-Z]+|PRI[douxX][A-Z0-9]+"
)
_RESERVED = frozenset((_KEYWORDS + _MACROS).split())
_LONGEST = 60


class CppNames:
    """One C++ scope: maps names of the source to identifiers that are readable, legal and all different.

    The same names asked for in the same order give the same identifiers. ``reserved`` are identifiers that the
    emitted code uses itself; identifiers of ``parent`` (an enclosing scope) are not shadowed.
    """

    def __init__(self, reserved: Iterable[str] = (), parent: CppNames | None = None) -> None:
        self._taken: set[str] = set(reserved)
        self._parent = parent
        self._known: dict[str, str] = {}
        self._numbers: dict[str, int] = {}

    def of(self, name: str) -> str:
        """The identifier of ``name``: always the same one for the same name."""
        known = self._known.get(name)
        if known is None:
            known = self._known[name] = self.fresh(name)
        return known

    def fresh(self, stem: str, instead: str = "") -> str:
        """An identifier like ``stem`` that no other call returned; the scope does not remember ``stem``.

        Where ``stem`` itself is taken, ``instead`` comes before numbers.
        """
        base = identifier(stem)
        if instead and self._is_taken(base):
            base = identifier(instead)
        chosen, count = base, self._numbers.get(base, 1)
        while self._is_taken(chosen):
            count += 1
            chosen = f"{base.rstrip('_')}_{count}"
        self._numbers[base] = count  # smaller numbers stay taken
        self._taken.add(chosen)
        return chosen

    def _is_taken(self, candidate: str) -> bool:
        return candidate in self._taken or (self._parent is not None and self._parent._is_taken(candidate))


def identifier(name: str) -> str:
    """``name`` as a legal C++ identifier in ASCII; different names may give the same one (:class:`CppNames` does not).

    Accents are dropped, subscripts become digits, Greek letters are spelled out, other characters become ``_`` or
    their code point; ``__`` and a leading ``_``, which C++ reserves, do not occur.
    """
    spelled = name if name.isascii() else "".join(_spell(c) for c in unicodedata.normalize("NFKD", name))
    text = _OTHERS.sub("_", spelled).strip("_")
    if len(text) > _LONGEST:
        text = text[:_LONGEST].rstrip("_")
    if not text or not text[0].isalpha():
        text = f"v{text}"
    if text in _RESERVED or _MACRO_PATTERN.fullmatch(text):
        text += "_"
    return text


def _spell(character: str) -> str:
    if character.isascii():
        return character
    category = unicodedata.category(character)
    if category.startswith("M"):
        return ""
    greek = re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER (?:FINAL )?([A-Z]+)", unicodedata.name(character, ""))
    if greek:
        letter = greek[2].lower().replace("lamda", "lambda")
        return letter if greek[1] == "SMALL" else letter.capitalize()
    return f"u{ord(character):04x}" if category[0] in "LN" else "_"


_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def cpp_string(text: str) -> str:
    """A C++ string literal, quotes included, whose bytes are ``text`` in UTF-8.

    Printable characters stand as they are; others (controls, bidirectional marks) are octal escapes, which, unlike
    hexadecimal ones, cannot run into the characters after them. ``??`` is broken up against trigraphs.
    """
    parts = []
    for index, character in enumerate(text):
        if character in _ESCAPES:
            parts.append(_ESCAPES[character])
        elif character == "?" and index > 0 and text[index - 1] == "?":
            parts.append("\\?")
        elif character.isprintable():
            parts.append(character)
        else:
            parts.extend(f"\\{byte:03o}" for byte in _utf8(character))
    return f'"{"".join(parts)}"'


def _utf8(character: str) -> bytes:
    try:
        return character.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return character.encode("utf-8", "surrogatepass")


def comment_text(text: str, limit: int = 160) -> str:
    """``text`` on one line, safe inside ``// ...`` and ``/* ... */``; at most ``limit`` characters.

    No comment delimiter, trigraph or control character survives, and no backslash ends the line (it would continue
    the comment on the next one).
    """
    line = re.sub(r"\s+", " ", text).strip()
    line = "".join(c if c.isprintable() else f"<U+{ord(c):04X}>" for c in line)
    line = re.sub(r"\?(?=\?)", "? ", line)
    line = re.sub(r"\*(?=/)", "* ", re.sub(r"/(?=[*/])", "/ ", line))
    line = re.sub(r"\*(?=/)", "* ", line)
    if len(line) > limit:
        line = line[: max(limit - 3, 0)].rstrip() + "..."
    return line + " ." if line.endswith("\\") else line


def cpp_double(value: float) -> str:
    """A C++ expression of type double with exactly this value (not finite ones through ``<cmath>`` and its macros)."""
    if math.isnan(value):
        return "double(NAN)"
    if math.isinf(value):
        return "double(INFINITY)" if value > 0 else "-double(INFINITY)"
    text = repr(float(value))
    return text if "." in text or "e" in text else text + ".0"
