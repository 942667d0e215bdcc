"""Random programs of the subset parse to the same tree, at the same places, as Python's own parser finds."""

from __future__ import annotations

import ast

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tesserac.diagnostics import Diagnostics, render
from tesserac.parser import parse

from .oracle import Oracle, plain

FILE = "program.py"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::SyntaxWarning")


def assert_same_tree(text: str) -> None:
    """Compare the two parsers on one text (Python warns about unknown escapes, which is no matter here)."""
    bag = Diagnostics()
    unit = parse(text, FILE, bag)
    assert unit is not None, render(bag.items, {FILE: text}) + text
    assert plain(unit.body) == plain(Oracle(text, FILE).many(ast.parse(text).body))


NAMES = st.sampled_from(["x", "y", "Wq", "attn", "match", "print", "_", "naïve", "β1", "type", "f", "rb", "b0"])
SPACE = st.sampled_from(["", "", " ", "  "])
ATOMS = st.one_of(
    NAMES,
    st.sampled_from(["0", "17", "1_000", "0xfF", "0b101", "0o17", "1.", ".5", "1.5e-3", "2e10", "3j", "1_0.0_1"]),
    st.sampled_from(["None", "True", "False", "...", "()", "[]", "{}"]),
    st.sampled_from(["'a'", '"b\\n\\x41"', "r'\\d'", "'''p\nq'''", "\"a\" 'b'", "u'é'", "'\\u00e9\\101\\q'", "'#'"]),
    st.sampled_from(["f'{x}'", "f'a{x + 1}b{{c}}'", "rf'\\d{y[0]}'", "'p' f'{f(x, y=1)}' 'q'", "f''", "f'{x != y}'"]),
)
BINARY = ["+", "-", "*", "/", "//", "%", "@", "**", "&", "|", "^", "<<", ">>"]
COMPARISONS = ["==", "!=", "<", "<=", ">", ">=", " in ", " not in ", " is ", " is not "]


def joined(inner: st.SearchStrategy[str], opening: str, closing: str) -> st.SearchStrategy[str]:
    """Items between brackets, sometimes with a trailing comma or spread over lines."""
    separator = st.sampled_from([", ", ",", ",\n  ", " ,  # comment\n"])
    return st.tuples(st.lists(inner, min_size=1, max_size=3), separator, st.sampled_from(["", ","])).map(
        lambda t: opening + t[1].join(t[0]) + (t[2] or ("," if opening == "(" and len(t[0]) == 1 else "")) + closing
    )


def operators(inner: st.SearchStrategy[str], ops: list[str]) -> st.SearchStrategy[str]:
    """Chains of infix operators without parentheses, so that precedence decides the tree."""
    link = st.tuples(SPACE, st.sampled_from(ops), SPACE, inner).map("".join)
    return st.tuples(inner, st.lists(link, min_size=1, max_size=4)).map(lambda t: t[0] + "".join(t[1]))


def clauses(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """``for ... in ... if ...``."""
    target = st.sampled_from(["i", "i, j", "(i, j)", "i,", "[i, (j, k)]"])
    condition = st.sampled_from(["", " if i", " if i < 3 if j", " if not i or j"])
    one = st.tuples(target, st.sampled_from(["xs", "range(3)", "a or b"]), condition)
    text = one.map(lambda t: f" for {t[0]} in {t[1]}{t[2]}")
    return st.tuples(inner, st.lists(text, min_size=1, max_size=2)).map(lambda t: t[0] + "".join(t[1]))


PARAMETERS = st.sampled_from(["", "x", "x, y=1", "x, *, y", "*, k=2, m", "a, b=(1, 2), *, c=None, d,", "x,"])


def compound(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Larger expressions from smaller ones."""
    primary = st.one_of(NAMES, joined(inner, "[", "]"), inner.map(lambda e: f"({e})"))
    index = st.one_of(
        inner, st.sampled_from([":", "::", "1:", ":-1", "::2", "1:2, ...", "..., :", "0,"]), joined(inner, "", "")
    )
    argument = st.one_of(inner, st.tuples(NAMES, inner).map(lambda t: f"({t[1]})"))
    call = st.tuples(st.lists(argument, max_size=2), st.lists(inner, max_size=2), st.sampled_from(["", ", "]))
    pair = st.tuples(inner, inner).map(lambda t: f"{t[0]}: {t[1]}")
    return st.one_of(
        operators(inner, BINARY),
        operators(inner, COMPARISONS),
        operators(inner, [" and ", " or "]),
        inner.map(lambda e: f"( {e} )"),
        st.tuples(st.sampled_from(["-", "+", "~", "not ", "- -", "-~"]), inner).map("".join),
        joined(inner, "(", ")"),
        joined(inner, "[", "]"),
        joined(pair, "{", "}"),
        st.tuples(primary, NAMES).map(lambda t: f"{t[0]}.{t[1]}"),
        st.tuples(primary, index).map(lambda t: f"{t[0]}[{t[1]}]"),
        st.tuples(primary, call).map(
            lambda t: f"{t[0]}(" + ", ".join([*t[1][0], *(f"k{i}={e}" for i, e in enumerate(t[1][1]))]) + ")"
        ),
        st.tuples(primary, clauses(inner)).map(lambda t: f"{t[0]}({t[1]})"),
        clauses(inner).map(lambda e: f"[{e}]"),
        clauses(inner).map(lambda e: f"({e})"),
        clauses(pair).map(lambda e: "{" + e + "}"),
        st.tuples(inner, inner, inner).map(lambda t: f"{t[0]} if {t[1]} else {t[2]}"),
        st.tuples(PARAMETERS, inner).map(lambda t: f"lambda {t[0]}: {t[1]}"),
    )


def valid(text: str) -> bool:
    """Random text need not be Python: a lambda as an operand, for example, is not."""
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True


# An operand that ends in `lambda: ...` or `a if b else c` swallows what follows, which is Python as well; only operands
# that cannot start where they are put are left out.
EXPRESSIONS = st.recursive(ATOMS, compound, max_leaves=12)


def indented(lines: list[str]) -> list[str]:
    """A level deeper. Continuation lines of strings move as well, which both parsers see alike."""
    return ["    " + line for text in lines for line in text.split("\n")]


def simple() -> st.SearchStrategy[str]:
    """Statements of one line."""
    e = EXPRESSIONS
    bare = st.one_of(e, st.lists(e, min_size=2, max_size=3).map(", ".join), e.map(lambda t: t + ","))
    target = st.sampled_from(["x", "x, y", "(x, y)", "[x, (y, z)]", "x,", "((x))"])
    annotation = st.sampled_from(['Tensor["B", "S", bf16]', "tensor[(B, T, D), fp16]", "int"])
    return st.one_of(
        bare,
        st.tuples(st.lists(target, min_size=1, max_size=2), bare).map(lambda t: " = ".join([*t[0], t[1]])),
        st.tuples(annotation, bare).map(lambda t: f"x: {t[0]} = {t[1]}"),
        st.tuples(st.sampled_from(BINARY), bare).map(lambda t: f"x {t[0]}= {t[1]}"),
        st.tuples(e, e).map(lambda t: f"assert ({t[0]}) == 1, {t[1]}"),
        st.sampled_from(
            [
                "pass",
                "import tessera as ts",
                "import tessera.op",
                "from tessera import op, graph as g",
                "from tessera import (dist,\n  op,)",
                "pass; x = 1",
            ]
        ),
    )


def blocks(inner: st.SearchStrategy[list[str]]) -> st.SearchStrategy[list[str]]:
    """Compound statements around blocks of statements."""
    body = inner.map(indented)
    head = EXPRESSIONS
    function = st.tuples(
        st.lists(st.sampled_from(["@graph.module", '@graph.module("m")', "@f(x=1)  # why"]), max_size=2),
        st.sampled_from(["x, W", "x: int = 3, *, k: Tensor['B'] = 1", "", "a, b,"]),
        st.sampled_from(["", " -> Tensor[1, 'D']"]),
        st.sampled_from([[], ['    """Doc.\n\n    More."""'], ["    'a' 'b'"]]),
        body,
    ).map(lambda t: [*t[0], f"def f({t[1]}){t[2]}:", *t[3], *t[4], "    return x"])
    return st.one_of(
        function,
        st.tuples(head, body).map(lambda t: [f"if {t[0]}:", "", *t[1]]),
        st.tuples(head, body, head, body, body).map(
            lambda t: [f"if {t[0]}:", *t[1], f"elif {t[2]}:  # c", *t[3], "else:", "  # c", *t[4]]
        ),
        st.tuples(head, body).map(lambda t: [f"for i, j in {t[0]}:", *t[1]]),
        st.tuples(head, body).map(lambda t: [f"with policy({t[0]}) as p, numerics.x:", *t[1]]),
        st.just(["def f(x): return x", "if x: pass; y = 1", "else: z = 2", "x = 1 + \\", "  2"]),
        st.tuples(inner, inner).map(lambda t: t[0] + t[1]),
    )


PROGRAMS = st.recursive(simple().map(lambda line: [line]), blocks, max_leaves=6).map(lambda ls: "\n".join(ls) + "\n")
# Without shrinking: the texts are short, and shrinking such recursive strategies takes minutes.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
QUICK = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), phases=PHASES)


@QUICK
@given(EXPRESSIONS.filter(valid))
def test_random_expressions(text: str) -> None:
    """Precedence, chaining, displays and trailers."""
    assert_same_tree(text)


@QUICK
@given(PROGRAMS.filter(valid), st.sampled_from(["\n", "\r\n", "\r"]))
def test_random_programs(text: str, end: str) -> None:
    """Statements, blocks, indentation; the line end makes no difference."""
    assert_same_tree(text)
    first, second = Diagnostics(), Diagnostics()
    ours, theirs = parse(text, FILE, first), parse(text.replace("\n", end), FILE, second)
    assert ours is not None
    assert theirs is not None
    assert ours == theirs


@QUICK
@given(st.text(alphabet="ab01 \n\t()[]{}:,.=+-*@'\"\\#if\u00e9\uff08\u201c\u0430", max_size=80))
def test_random_text_never_raises(text: str) -> None:
    """Any text gives a tree or a diagnostic; a text with a tree is Python, with the same tree."""
    bag = Diagnostics()
    unit = parse(text, FILE, bag)
    assert (unit is None) == bag.has_errors
    rendered = render(bag.items, {FILE: text})
    assert "Traceback" not in rendered
    if unit is not None:
        assert plain(unit.body) == plain(Oracle(text, FILE).many(ast.parse(text).body))


@QUICK
@given(PROGRAMS.filter(valid), st.data())
def test_damaged_programs_never_raise(text: str, data: st.DataObject) -> None:
    """Removing or inserting a character leaves a tree or a diagnostic that points into the text."""
    at = data.draw(st.integers(0, len(text)))
    piece = data.draw(st.sampled_from(["", "(", ")", "]", "'", ":", "=", "\n", " ", "  ", "*", "if ", "\\", "else"]))
    damaged = text[:at] + piece + text[at + (not piece) :]
    bag = Diagnostics()
    unit = parse(damaged, FILE, bag)
    assert (unit is None) == bag.has_errors
    lines = damaged.split("\n")
    for item in bag.items:
        assert item.span is not None
        assert 1 <= item.span.line <= len(lines)
        assert 1 <= item.span.column <= len(lines[item.span.line - 1]) + 1
    render(bag.items, {FILE: damaged})


@pytest.mark.parametrize(
    "text",
    [
        "x = -y ** -z ** 2\n",
        "x = not a == b in c\n",
        "x = a if b else c if d else e\n",
        "x = lambda: (lambda y, *, k=1: y if y else k)\n",
        "x = a or b and not c | d ^ e & f << g + h * -i ** j\n",
        "x[1:2, ::3, ...] \n",
        "f(x for x in y)(a=1)[0].b\n",
        "x = (\n  # comment\n  1,\n\n  2\n)\n",
        "\n\n# only\nx = 1 # end",
        "if a:\n  if b:\n    x = 1\n  # odd comment\n # odder\nelse:\n\n   y = 2\n",
        "def f(a, b: 'T' = 1, *, c): return a, b\n",
        "{1: 2, 'a': [3]}\n",
        "\x0cx = 1\n",
        "x = 'a\\\nb'\n",
        "a = b = c, d = 1, 2\n",
        "pass; x = 1;\n",
        "from tessera import (dist,\n  op as o,)\nfrom tessera import (a)\n",
        "print (x)\n",
        "match = 1\nmatch[0]\n",
        "0_0 + 00\n",
        "1 if x else 2\n",
    ],
)
def test_corner_cases(text: str) -> None:
    """Texts worth naming."""
    assert_same_tree(text)
