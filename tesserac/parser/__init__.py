"""From source text to the syntax tree.

`read_source` reads a file, `parse` turns its text into a `syntax.Unit`, `dump` shows one. The grammar is tessera.lark,
the automaton made from it is tables.json; characters become tokens in `lexer`, tokens become nodes in `driver` with the
actions of `build`, and `friendly` words what does not fit.
"""

from __future__ import annotations

import re

from tesserac.diagnostics import Diagnostics, Span
from tesserac.parser import syntax
from tesserac.parser.build import Builder
from tesserac.parser.check import check_unit
from tesserac.parser.driver import Parser, load_tables
from tesserac.parser.dump import dump
from tesserac.parser.lexer import Lexer
from tesserac.parser.lookalikes import check_names, describe
from tesserac.parser.report import Report, TooManyErrors
from tesserac.parser.source import MAX_BYTES, blocks, is_markdown, read_source
from tesserac.parser.tokens import Token

__all__ = ["MAX_BYTES", "dump", "parse", "read_source", "syntax"]

_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def parse(text: str, file: str, diagnostics: Diagnostics) -> syntax.Unit | None:
    """The unit that a source text describes, or None when it has errors, which are then in ``diagnostics``.

    ``file`` names the text in spans; a name ending in ``.md`` means Markdown, whose fenced python blocks are read in
    order as one unit, at the lines where they stand.
    """
    report = Report(file)
    unit: syntax.Unit | None = None
    try:
        unit = _parse(text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n"), file, report)
    except TooManyErrors:
        unit = None
    failed = report.has_errors
    report.flush(diagnostics)
    return None if failed else unit


def _parse(text: str, file: str, report: Report) -> syntax.Unit | None:
    if not _acceptable(text, file, report):
        return None
    tokens: list[Token] = []
    found = blocks(text, file)
    for block, offset in found:
        tokens.extend(Lexer(block.text, file, report, block.first_line, offset).tokens())
    if not tokens and not report.has_errors:
        _empty(text, file, bool(found), report)
        return None
    check_names(tokens, report)
    tokens.append(Token("$END", "", *_end_of(text)))
    body = Parser(load_tables(), Builder(file, report, _inline(file, report)), report).parse(tokens, "file")
    if report.has_errors:
        return None
    check_unit(body, report)
    return syntax.Unit(file, body, tuple(block for block, _ in found))


class _inline:
    """Parses the field of an f-string at its place in the file."""

    def __init__(self, file: str, report: Report) -> None:
        self._file = file
        self._report = report

    def __call__(self, text: str, line: int, column: int) -> syntax.Expr | None:
        """The expression, or None after reporting why there is none."""
        tokens = Lexer(text, self._file, self._report, line, column - 1).inline_tokens()
        tokens.append(Token("$END", "", line, column + len(text), line, column + len(text)))
        builder = Builder(self._file, self._report, self)
        value: syntax.Expr | None = Parser(load_tables(), builder, self._report).parse(tokens, "expression")
        return value


def _acceptable(text: str, file: str, report: Report) -> bool:
    if len(text) > MAX_BYTES:
        size = f"{len(text) / 2**20:.1f} million characters"
        limit = f"{MAX_BYTES // 2**20} million"
        help_text = "keep data in .npy, .safetensors or text files and the program in the source"
        report.error(
            "T0101", f"the source is too large: {size}, the limit is {limit}", Span.point(file, 1, 1), help=(help_text,)
        )
        return False
    found = _FORBIDDEN.search(text)
    if found is None:
        return True
    at = found.start()
    place = Span.point(file, text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at))
    if found[0] == "\0":
        help_text = "this looks like a binary file; name a .py or .md file"
    elif found[0] < " ":
        help_text = "remove it"
    else:
        help_text = "remove it; it makes text look different from what it means"
    report.error("T0103", f"the source contains {describe(found[0])}", place, help=(help_text,))
    return False


def _empty(text: str, file: str, has_blocks: bool, report: Report) -> None:
    place = Span.point(file, 1, 1)
    if is_markdown(file) and not has_blocks:
        message = "there is no python block in this file"
        report.error("T0146", message, place, help=("put the program between ```python and ```",))
    else:
        report.error("T0146", "the source has no statements", place, help=("define a module with `@graph.module`",))


def _end_of(text: str) -> tuple[int, int, int, int]:
    line = text.count("\n") + 1
    column = len(text) - text.rfind("\n")
    return line, column, line, column
