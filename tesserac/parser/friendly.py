"""What to say about a token that does not fit.

`report` tries a list of recognisers, most specific first; each looks at the tokens around the error and at what the
automaton would have accepted, and names the construct that was probably meant and what to write instead.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import NamedTuple

from tesserac.diagnostics import Label, Span
from tesserac.parser.constructs import CONSTRUCTS, SOFT
from tesserac.parser.report import Report
from tesserac.parser.tokens import CLOSERS, KEYWORDS, OPENERS, RESERVED, Token

__all__ = ["Site", "report", "skips_block"]

_BREAKS = frozenset(["NEWLINE", "INDENT", "DEDENT"])
_HEADERS = frozenset(["if", "elif", "else", "for", "def", "with"])
_OPERANDS = frozenset(["NAME", "NUMBER", "STRING", "True", "False", "None", ")", "]", "}", "..."])
_OPERAND_STARTS = frozenset(["NAME", "NUMBER", "STRING", "True", "False", "None", "lambda"])
_AFTER_COLON = frozenset(["NEWLINE", "return", "pass", "assert", "import", "from"])
_BEFORE_NAME = frozenset(["def", ".", "as", "import", "from", "for", ",", "(", "lambda"])


class Site(NamedTuple):
    """An error: the tokens, the index of the offending one, and what would have been accepted there."""

    tokens: list[Token]
    at: int
    accepts: Callable[[str], bool]
    report: Report

    @property
    def token(self) -> Token:
        """The offending token."""
        return self.tokens[self.at]

    @property
    def previous(self) -> Token | None:
        """The token before it on the same logical line."""
        if self.at == 0 or self.tokens[self.at - 1].type in _BREAKS:
            return None
        return self.tokens[self.at - 1]

    @property
    def first(self) -> int:
        """Index of the first token of the logical line."""
        return _line_start(self.tokens, self.at)

    def span(self, token: Token) -> Span:
        """Where a token stands."""
        return token.span(self.report.file)

    def behind(self, token: Token) -> Span:
        """The place right behind a token."""
        return Span.point(self.report.file, token.end_line, token.end_column)

    def opening(self) -> Token | None:
        """The innermost bracket open at the error."""
        stack: list[Token] = []
        for token in self.tokens[self.first : self.at]:
            if token.type in OPENERS:
                stack.append(token)
            elif token.type in CLOSERS and stack:
                stack.pop()
        return stack[-1] if stack else None

    def error(self, code: str, message: str, span: Span, *advice: str, labels: tuple[Label, ...] = ()) -> bool:
        """Report, and say so."""
        self.report.error(code, message, span, labels=labels, help=advice)
        return True


def report(site: Site) -> None:
    """Report the error at a site."""
    for recogniser in _RECOGNISERS:
        if recogniser(site):
            return
    _generic(site)


def skips_block(tokens: list[Token], index: int) -> bool:
    """Whether the block below the line of a failed token means nothing without its header."""
    return tokens[_line_start(tokens, index)].text in ("class", "match", "case", "async", "except", "finally")


def _line_start(tokens: list[Token], index: int) -> int:
    while index > 0 and tokens[index - 1].type not in _BREAKS:
        index -= 1
    return index


# ------------------------------------------------------------------------------------------------------ recognisers


def _construct(site: Site) -> bool:
    """Python statements and operators that the language leaves out."""
    token = site.token
    if token.type in ("except", "finally") and any(t.type == "try" for t in islice(site.tokens, site.at)):
        return True  # the `try` above has been reported and says it all
    entry = CONSTRUCTS.get(token.type)
    if entry is None and site.previous is not None and site.at == site.first + 1:
        soft = SOFT.get(site.previous.text)
        if soft and token.type in _OPERAND_STARTS | {"[", "(", "{", "MINUS"}:
            entry, token = soft, site.previous
    if entry is None:
        return False
    if token.type in RESERVED and site.previous is not None and site.previous.type in (".", "def", "as", "import"):
        return False
    code, message, advice = entry
    return site.error(code, message, site.span(token), *advice)


def _indentation(site: Site) -> bool:
    token = site.token
    if token.type == "INDENT":
        follow = site.tokens[site.at + 1]
        advice = "align it with the line above, or end that line with `:` if it opens a block"
        return site.error("T0107", "unexpected indentation", site.span(follow), advice)
    if site.accepts("INDENT"):
        header = site.tokens[_line_start(site.tokens, site.at - 1)] if site.at else token
        place = token if token.type not in ("DEDENT", "$END") else header
        labels = (Label(site.span(header), "this opens a block"),) if place is not header else ()
        return site.error(
            "T0107",
            f"expected an indented block after `{header.text}`",
            site.span(place),
            "indent the statements that belong to it, or write `pass` if there are none",
            labels=labels,
        )
    return False


def _orphan_branch(site: Site) -> bool:
    token = site.token
    if token.type in ("elif", "else") and site.previous is None:
        advice = "align it with its `if`; a loop has no `else`"
        return site.error("T0119", f"`{token.text}` without an `if` before it", site.span(token), advice)
    if token.type == "if" and site.previous is not None and site.previous.type == "else" and site.accepts(":"):
        return site.error("T0119", "`else if` is written as one word", site.span(token), "write `elif`")
    return False


def _stars(site: Site) -> bool:
    token, previous = site.token, site.previous
    place = token if token.type in ("*", "**") else previous
    if place is None or place.type not in ("*", "**") or (place is previous and not _bare_star(site)):
        return _position_marker(site)
    first = site.tokens[site.first]
    if first.type == "from":
        advice = "name what you import: `from tessera import op, graph`"
        return site.error("T0115", "`import *` is not supported", site.span(place), advice)
    before = site.tokens[site.tokens.index(place, site.first) - 1] if place is not first else None
    if before is not None and before.type not in ("(", ",", "=", "lambda", "[", "{", "return", "in", ":"):
        return False
    opening = site.opening()
    if opening is not None and opening.type == "(":
        advice = "write every parameter or argument out; pass several values as one list"
        return site.error("T0126", f"star-arguments (`{place.text}`) are not supported", site.span(place), advice)
    advice = "name every element; concatenate lists with `+`"
    return site.error("T0126", f"starred expressions (`{place.text}x`) are not supported", site.span(place), advice)


def _bare_star(site: Site) -> bool:
    """Whether the star before the error was read as the marker of keyword-only parameters."""
    before = site.tokens[site.at - 2]
    return site.token.type == "NAME" and before.type in ("(", ",", "lambda") and site.accepts(",")


def _position_marker(site: Site) -> bool:
    previous = site.previous
    if site.token.type != "SLASH" or previous is None or previous.type not in (",", "("):
        return False
    advice = "remove it; any parameter may be passed by position"
    return site.error("T0126", "positional-only parameters (`/`) are not supported", site.span(site.token), advice)


def _missing_colon(site: Site) -> bool:
    first, previous = site.tokens[site.first], site.previous
    if previous is None or first.type not in _HEADERS or site.token.type not in _AFTER_COLON:
        return False
    if not site.accepts(":") or site.opening() is not None:
        return False
    return site.error("T0112", f"missing `:` after `{first.text}`", site.behind(previous), "end the line with `:`")


def _assignment(site: Site) -> bool:
    token = site.token
    if token.type not in ("=", ":=", "AUGMENT"):
        return False
    if token.type == ":=":
        advice = "assign on a line of its own before"
        return site.error("T0128", "assignment expressions (`:=`) are not supported", site.span(token), advice)
    first = site.tokens[site.first]
    opening = site.opening()
    if token.type == "=" and opening is None and first.type in ("if", "elif", "assert", "return"):
        return site.error("T0113", "`=` assigns; it does not compare", site.span(token), "write `==` to compare")
    if token.type == "=" and opening is not None and opening.type == "(" and site.previous is not None:
        message = "the name of a keyword argument must be a plain name"
        advice = "write `name=value` to pass by name, or `==` to compare"
        return site.error("T0113", message, site.span(token), advice)
    if token.type == "=" and opening is not None:
        return site.error("T0113", "`=` is not an operator inside brackets", site.span(token), "write `==` to compare")
    return False


def _foreign_operator(site: Site) -> bool:
    token, previous = site.token, site.previous
    pairs = {"AMPERSAND": ("&&", "and"), "BAR": ("||", "or"), "PLUS": ("++", "+= 1"), "MINUS": ("--", "-= 1")}
    if token.type in pairs and previous is not None and previous.type == token.type:
        wrong, right = pairs[token.type]
        return site.error(
            "T0118", f"there is no operator `{wrong}`", site.span(previous).to(site.span(token)), f"write `{right}`"
        )
    if token.type == "NEWLINE" and previous is not None and previous.type in ("PLUS", "MINUS"):
        before = site.tokens[site.at - 2]
        if before.type == previous.type:
            span = site.span(before).to(site.span(previous))
            wrong, right = pairs[previous.type]
            return site.error("T0118", f"there is no operator `{wrong}`", span, f"write `{right}`")
    advice = {
        "!": "write `not` to negate and `!=` to compare",
        "?": "a conditional expression is written `a if test else b`",
        "$": "remove it",
        "`": "text is written in quotes",
        "->": "attributes are written `x.name`; `->` only gives a function's result type",
    }
    if token.type in advice and not (token.type == "->" and site.tokens[site.first].type == "def"):
        return site.error("T0118", f"`{token.text}` is not an operator here", site.span(token), advice[token.type])
    return False


def _relative_import(site: Site) -> bool:
    if site.tokens[site.first].type != "from" or site.token.type not in (".", "..."):
        return False
    advice = "put the program in one file, or in the code blocks of one .md file"
    return site.error("T0201", "a Tessera source cannot import other files", site.span(site.token), advice)


def _keyword_as_name(site: Site) -> bool:
    token, previous = site.token, site.previous
    if token.type == "=" and previous is not None and site.at == site.first + 1:
        token = previous
    elif previous is None or previous.type not in _BEFORE_NAME or not site.accepts("NAME"):
        return False
    if token.text not in KEYWORDS | RESERVED:
        return False
    message = f"`{token.text}` is a keyword and cannot be a name"
    return site.error("T0140", message, site.span(token), f"choose another name, such as `{token.text}_`")


def _incomplete(site: Site) -> bool:
    token, previous = site.token, site.previous
    if token.type not in ("NEWLINE", "$END") or previous is None:
        return False
    if site.accepts("else"):
        message = "a conditional expression needs an `else`"
        return site.error("T0140", message, site.behind(previous), "write `a if test else b`")
    if site.accepts("NAME"):
        message = f"the line ends after `{_shown(previous)}`, where something must follow"
        return site.error("T0140", message, site.span(previous), "complete it, or join lines with brackets")
    return False


def _adjacent(site: Site) -> bool:
    token, previous = site.token, site.previous
    if previous is None or token.type not in _OPERAND_STARTS or previous.type not in _OPERANDS:
        return False
    opening = site.opening()
    what = "an operator or `,`" if opening else "an operator"
    message = f"expected {what} between `{_shown(previous)}` and `{_shown(token)}`"
    advice = (
        "separate the two with `,`, or combine them with an operator" if opening else "combine the two with an operator"
    )
    return site.error("T0140", message, site.span(token), advice)


def _generic(site: Site) -> None:
    token = site.token
    expected = [
        kind for kind in ("NAME", ":", ")", "]", "}", ",", "=", "in", "import", "NEWLINE") if site.accepts(kind)
    ]
    words = {"NAME": "a name or an expression", "NEWLINE": "the end of the line"}
    if expected and "NAME" not in expected[1:]:
        listed = [words.get(kind, f"`{kind}`") for kind in expected[:3]]
        hint = "expected " + (" or ".join(listed) if len(listed) < 3 else f"{listed[0]}, {listed[1]} or {listed[2]}")
    else:
        hint = "check the spelling of this line"
    where = site.span(token)
    if token.type in ("NEWLINE", "$END", "DEDENT"):
        where = site.behind(site.previous) if site.previous else where
        site.error("T0140", "the line ends too early", where, hint)
        return
    site.error("T0140", f"unexpected `{_shown(token)}`", where, hint)


def _shown(token: Token) -> str:
    """A token's text on one line, shortened."""
    text = token.text.split("\n", 1)[0]
    return text if len(text) <= 30 else text[:27] + "..."


_RECOGNISERS: tuple[Callable[[Site], bool], ...] = (
    _indentation,
    _relative_import,
    _orphan_branch,
    _stars,
    _missing_colon,
    _construct,
    _keyword_as_name,
    _assignment,
    _foreign_operator,
    _incomplete,
    _adjacent,
)
