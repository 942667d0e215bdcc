"""Long lines of emitted C++, broken where a reader would break them."""

from __future__ import annotations

import re
import textwrap

CODE = 140
"""Columns that a line of code may take."""
COMMENT = 120
SHORT = 40
"""Characters up to which a comment stays behind its code."""
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_BREAK = re.compile(r", | (?=[+?:] )| (?=&& )| (?=\|\| )")


def wrap_cpp(text: str) -> str:
    """The text with no line of code beyond CODE columns where it can be broken, no comment beyond COMMENT."""
    return "".join(f"{line}\n" for old in text.splitlines() for line in _lines(old))


def _lines(line: str) -> list[str]:
    stripped = line.lstrip()
    indent = line[: len(line) - len(stripped)]
    if stripped.startswith("//"):
        return [line] if len(line) <= COMMENT else _comment(line, indent)
    if len(line) <= CODE or stripped.startswith("#"):
        return [line]
    code, comment = _without_comment(line)
    if len(comment) > SHORT and len(code) <= CODE:
        return [*_lines(f"{indent}{comment}"), code]
    *first, last = _broken(code, indent + "    ", CODE - len(comment) - 2 if comment else CODE)
    if not comment or len(last) + 2 + len(comment) <= CODE:
        return [*first, f"{last}  {comment}".rstrip()]
    return [f"{indent}{comment}", *first, last]


def _comment(line: str, indent: str) -> list[str]:
    """A comment's words over several lines; those of an indented one (a formula) go two columns further in."""
    body = line.lstrip().removeprefix("//")
    inner = body[: len(body) - len(body.lstrip())]
    deeper = inner if len(inner) <= 1 else inner + "  "
    return textwrap.wrap(
        body.lstrip(),
        COMMENT,
        initial_indent=f"{indent}//{inner}",
        subsequent_indent=f"{indent}//{deeper}",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _without_comment(line: str) -> tuple[str, str]:
    """Code and the comment behind it."""
    at = _blanked(line).find("  // ")
    return (line, "") if at < 0 else (line[:at], line[at + 2 :])


def _blanked(code: str) -> str:
    """The code with the contents of strings replaced, so that positions stay."""
    return _STRING.sub(lambda match: '"' + "_" * (len(match[0]) - 2) + '"', code)


def _broken(code: str, indent: str, last: int) -> list[str]:
    """Breaks outside the innermost parentheses where there is a choice; at most ``last`` columns in the last line."""
    result: list[str] = []
    while len(code) > last:
        at = _best_break(_blanked(code), len(code) - len(code.lstrip()))
        if at is None:
            break
        result.append(code[:at].rstrip())
        code = indent + code[at:].lstrip()
    return [*result, code]


def _best_break(code: str, start: int) -> int | None:
    depth = _depths(code)
    places = [m.end() for m in _BREAK.finditer(code) if start < m.end() and len(code[: m.end()].rstrip()) <= CODE]
    late = [at for at in places if at > CODE // 2] or places[-1:]
    return min(late, key=lambda at: (depth[at - 1], -at), default=None)


def _depths(code: str) -> list[int]:
    """How many brackets are open at each position (``<`` counts right behind a name: template arguments)."""
    depth, result = 0, []
    for at, c in enumerate(code):
        before = code[at - 1] if at else " "
        if c in "([{" or (c == "<" and (before.isalnum() or before == "_")):
            depth += 1
        elif c in ")]}" or (c == ">" and before not in " -"):
            depth -= 1
        result.append(depth)
    return result
