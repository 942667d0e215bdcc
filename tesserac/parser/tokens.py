"""Tokens: what the lexer hands to the parser."""

from __future__ import annotations

from tesserac.diagnostics import Span

__all__ = ["AUGMENTED", "CLOSERS", "KEYWORDS", "OPENERS", "OPERATORS", "RESERVED", "Token"]


class Token:
    """A token. ``type`` is a terminal of tessera.lark, or a reserved word or operator that the grammar lacks.

    Columns count code points from 1; the end is exclusive.
    """

    __slots__ = ("column", "end_column", "end_line", "line", "text", "type")

    def __init__(self, type_: str, text: str, line: int, column: int, end_line: int, end_column: int) -> None:
        self.type = type_
        self.text = text
        self.line = line
        self.column = column
        self.end_line = end_line
        self.end_column = end_column

    def span(self, file: str) -> Span:
        """The token's place."""
        return Span(file, self.line, self.column, self.end_line, self.end_column)

    def __repr__(self) -> str:
        return f"Token({self.type}, {self.text!r}, {self.line}:{self.column})"


KEYWORDS = frozenset(
    [
        "False",
        "None",
        "True",
        "and",
        "as",
        "assert",
        "def",
        "elif",
        "else",
        "for",
        "from",
        "if",
        "import",
        "in",
        "is",
        "lambda",
        "not",
        "or",
        "pass",
        "return",
        "with",
    ]
)
"""Words with a meaning in Tessera."""

RESERVED = frozenset(
    [
        "async",
        "await",
        "break",
        "class",
        "continue",
        "del",
        "except",
        "finally",
        "global",
        "nonlocal",
        "raise",
        "try",
        "while",
        "yield",
    ]
)
"""Python's other keywords: never identifiers, always answered with a diagnostic."""

OPENERS = {"(": ")", "[": "]", "{": "}"}
CLOSERS = {closer: opener for opener, closer in OPENERS.items()}

_NAMED = {
    "+": "PLUS",
    "-": "MINUS",
    "/": "SLASH",
    "//": "DOUBLE_SLASH",
    "%": "PERCENT",
    "|": "BAR",
    "&": "AMPERSAND",
    "^": "CARET",
    "<<": "SHIFT",
    ">>": "SHIFT",
    "~": "TILDE",
    "not": "NOT",
}
AUGMENTED = {f"{op}=": op for op in ["+", "-", "*", "/", "//", "%", "@", "**", "&", "|", "^", "<<", ">>"]}
"""Augmented assignment operators and the binary operators they apply."""

OPERATORS: dict[str, str] = {
    **{
        op: op
        for op in [
            "(",
            ")",
            "[",
            "]",
            "{",
            "}",
            ",",
            ":",
            ";",
            ".",
            "...",
            "=",
            "==",
            "!=",
            "<",
            "<=",
            ">",
            ">=",
            "->",
            ":=",
            "!",
            "*",
            "**",
            "@",
            "?",
            "$",
            "`",
        ]
    },
    **_NAMED,
    **dict.fromkeys(AUGMENTED, "AUGMENT"),
}
"""Operator text to token type."""
