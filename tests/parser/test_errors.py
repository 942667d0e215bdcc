"""Faults and the exact text that a user reads."""

from __future__ import annotations

import pytest

from tesserac.diagnostics import Diagnostics, render
from tesserac.diagnostics_catalogue import CATALOGUE
from tesserac.parser import parse

FILE = "m.py"


def findings(text: str, file: str = FILE) -> Diagnostics:
    """What a parse of faulty text reports."""
    bag = Diagnostics()
    unit = parse(text, file, bag)
    assert (unit is None) == bag.has_errors
    return bag


def codes(text: str) -> list[tuple[str, int, int]]:
    """Codes and places."""
    return [(d.code, d.span.line, d.span.column) for d in findings(text).items if d.span]


EXACT = {
    "while i < 3:\n    i = i + 1\n": """\
error[T0120]: `while` loops are not supported
 --> m.py:1:1
  |
1 | while i < 3:
  | ^^^^^
  |
  = help: use `for i in range(n)` with a compile-time n; it is unrolled
  = help: training steps repeat at run time: see `train --steps`
""",
    "import torch\n": """\
error[T0201]: cannot import `torch`
 --> m.py:1:1
  |
1 | import torch
  | ^^^^^^^^^^^^
  |
  = note: the source is compiled, not run, so no Python library can take part in it
  = help: use `op` functions on tensors and `@graph.module` for layers; `train` replaces the training loop
""",
    "def f(x)\n    return x\n": """\
error[T0112]: missing `:` after `def`
 --> m.py:1:9
  |
1 | def f(x)
  |         ^
  |
  = help: end the line with `:`
""",
    'x = 1\nprint "loss", x\n': """\
error[T0133]: this is Python 2's `print` statement, and a compiled program prints nothing
 --> m.py:2:1
  |
2 | print "loss", x
  | ^^^^^
  |
  = help: return the value as a metric: `return grads, {"loss": loss}`
  = help: to look at shapes, use `tesserac inspect`
""",
    "def f(x):\n\treturn x\n": """\
error[T0106]: indentation uses a tab
 --> m.py:2:1
  |
2 |     return x
  | ^^^^
  |
  = help: indent with spaces only (four per level); most editors have a command that converts a file
""",
    "x = [1, (2 + 3]\n": """\
error[T0108]: `]` does not close `(`
 --> m.py:1:15
  |
1 | x = [1, (2 + 3]
  |         -     ^
  |         |
  |         opened here
  |
  = help: write `)` here, or open with `[`
""",
    "def f(x):\nreturn x\n": """\
error[T0107]: expected an indented block after `def`
 --> m.py:2:1
  |
1 | def f(x):
  | --- this opens a block
2 | return x
  | ^^^^^^
  |
  = help: indent the statements that belong to it, or write `pass` if there are none
""",
    "y = op.mean（x）\n": """\
error[T0104]: '（' (U+FF08 FULLWIDTH LEFT PARENTHESIS) is not part of the language
 --> m.py:1:12
  |
1 | y = op.mean（x）
  |            ^^
  |
  = help: write `(` (U+0028)
""",
    "lоss = 1\n": """\
warning[T0105]: identifier `lоss` looks like `loss` but is a different name
 --> m.py:1:1
  |
1 | lоss = 1
  | ^^^^
  |
  = note: it contains 'о' (U+043E CYRILLIC SMALL LETTER O), which looks like 'o' (U+006F LATIN SMALL LETTER O)
  = help: write `loss` in ASCII if the same name is meant
""",
    "class Model:\n    def f(self): pass\n": """\
error[T0121]: classes are not supported
 --> m.py:1:1
  |
1 | class Model:
  | ^^^^^
  |
  = help: write a function with `@graph.module`; parameters a call leaves unbound belong to the module
""",
    "x = 1\0\n": """\
error[T0103]: the source contains U+0000
 --> m.py:1:6
  |
1 | x = 1\\x00
  |      ^^^^
  |
  = help: this looks like a binary file; name a .py or .md file
""",
    "": """\
error[T0146]: the source has no statements
 --> m.py:1:1
  |
1 |
  | ^
  |
  = help: define a module with `@graph.module`
""",
}


@pytest.mark.parametrize(("text", "expected"), list(EXACT.items()))
def test_exact_message(text: str, expected: str) -> None:
    """The whole rendered text."""
    assert render(findings(text).items, {FILE: text}) == expected


PLACES = {
    "if a = 3:\n    x = 1\n": [("T0113", 1, 6)],
    "assert a = 3\n": [("T0113", 1, 10)],
    "f(a.b = 1)\n": [("T0113", 1, 7)],
    "try:\n    x = 1\nexcept E:\n    x = 2\nfinally:\n    x = 3\n": [("T0122", 1, 1)],
    "with open('a') as f:\n    x = 1\n": [("T0123", 1, 6)],
    "with policy('mixed'), ts.numerics.x(), schedule.tile(1):\n    x = 1\n": [],
    "from tessera import numerics as nx\nwith nx.policy('mixed'):\n    x = 1\n": [],
    "def f(x):\n    global a\n    nonlocal b\n    return x\n": [("T0124", 2, 5), ("T0124", 3, 5)],
    "async def f(x):\n    return x\n": [("T0125", 1, 1)],
    "x = await f()\n": [("T0125", 1, 5)],
    "def f(x, *args, **kw):\n    return x\n": [("T0126", 1, 10)],
    "def f(**kw):\n    return x\n": [("T0126", 1, 7)],
    "f(x, *y)\n": [("T0126", 1, 6)],
    "f(**y)\n": [("T0126", 1, 3)],
    "f = lambda *a: a\n": [("T0126", 1, 12)],
    "a, *b = c\n": [("T0126", 1, 4)],
    "x = [*a]\n": [("T0126", 1, 6)],
    "def f(a, /, b): return a\n": [("T0126", 1, 10)],
    "def f(x):\n    yield x\n": [("T0127", 2, 5)],
    "y = (n := 3)\n": [("T0128", 1, 8)],
    "match x:\n    case 1:\n        y = 1\n": [("T0129", 1, 1)],
    "del x\n": [("T0130", 1, 1)],
    "raise E('x')\n": [("T0131", 1, 1)],
    "for i in x:\n    break\n": [("T0132", 2, 5)],
    "for i in x:\n    y = 1\nelse:\n    y = 2\n": [("T0119", 3, 1)],
    "if x:\n    y = 1\nelse if z:\n    y = 2\n": [("T0119", 3, 6)],
    "x = (1,\ny = 2\nz = [3\n": [("T0108", 1, 5), ("T0108", 3, 5)],
    "x = f(1, 2\n\ndef g(y):\n    return y y\n": [("T0108", 1, 6), ("T0140", 4, 14)],
    "x = 1)\n": [("T0108", 1, 6)],
    "x = 'abc\ny = 2 2\n": [("T0110", 1, 5), ("T0140", 2, 7)],
    'x = """abc\ny = 2 2\n': [("T0110", 1, 5)],
    "x = 1\n  y = 2\nz = 3 3\n": [("T0107", 2, 3), ("T0140", 3, 7)],
    "if x:\n        y = 1\n    z = 2\n": [("T0107", 3, 4)],
    "if x:\n": [("T0107", 1, 1)],
    "@graph.module\nx = 1\ny = 2 2\n": [("T0140", 2, 1), ("T0140", 3, 7)],
    "x = “a”\n": [("T0104", 1, 5)],
    "x = 3 − 1\n": [("T0104", 1, 7)],
    "x\u00a0= 1\n": [("T0104", 1, 2)],
    "x = a ? b : c\n": [("T0118", 1, 7)],
    "x = !a\n": [("T0118", 1, 5)],
    "x = a || b\n": [("T0118", 1, 7)],
    "x++\n": [("T0118", 1, 2)],
    "x = 1 # \u202e\n": [("T0103", 1, 9)],
    "x = 012\n": [("T0111", 1, 5)],
    "x = 1__0\n": [("T0111", 1, 5)],
    "x = 0xg\n": [("T0111", 1, 5)],
    "x = '\\x4'\n": [("T0111", 1, 6)],
    "x = '\\N{NO SUCH}'\n": [("T0111", 1, 6)],
    "x = b'a'\n": [("T0111", 1, 5)],
    "x = f'{a:.2f}'\n": [("T0111", 1, 9)],
    "x = f'{a!r}'\n": [("T0111", 1, 9)],
    "x = f'{a=}'\n": [("T0111", 1, 9)],
    "x = f'{}'\n": [("T0111", 1, 7)],
    "x = f'{a'\n": [("T0111", 1, 7)],
    "x = f'a}'\n": [("T0111", 1, 8)],
    "x = f'{a b}'\n": [("T0140", 1, 10)],
    "x = {1, 2}\n": [("T0135", 1, 5)],
    "x = 3 if y\n": [("T0140", 1, 11)],
    "x = [1 2]\n": [("T0140", 1, 8)],
    "x = 1 +\n": [("T0140", 1, 7)],
    "def = 3\n": [("T0140", 1, 1)],
    "x = y.lambda\n": [("T0140", 1, 7)],
    "x[0] = 1\nf.a = 2\n3 = x\nf() += 1\n": [("T0142", 1, 1), ("T0142", 2, 1), ("T0142", 3, 1), ("T0142", 4, 1)],
    "for f(x) in y:\n    pass\n": [("T0142", 1, 5)],
    "def f(x, x): return x\n": [("T0143", 1, 10)],
    "f(a=1, a=2)\n": [("T0143", 1, 8)],
    "f(a=1, 2)\n": [("T0144", 1, 8)],
    "def f(a=1, b): return b\n": [("T0144", 1, 12)],
    "def f(a, *): return a\n": [("T0144", 1, 10)],
    "return 1\n": [("T0145", 1, 1)],
    "x: int\n": [("T0116", 1, 1)],
    "from tessera import *\n": [("T0115", 1, 21)],
    "from . import x\n": [("T0201", 1, 6)],
    "import numpy as np, tessera\nfrom torch.nn import Linear\n": [("T0201", 1, 8), ("T0201", 2, 1)],
    "import torch\nwhile x:\n    y = 1 1\n": [("T0201", 1, 1), ("T0120", 2, 1), ("T0140", 3, 11)],
}


@pytest.mark.parametrize(("text", "expected"), list(PLACES.items()))
def test_code_and_place(text: str, expected: list[tuple[str, int, int]]) -> None:
    """Every construct gets its own code, at the place to look at, and the rest of the file is still read."""
    assert codes(text) == expected


def test_every_error_says_what_to_write() -> None:
    """No message of the parser is without help."""
    for text in [*EXACT, *PLACES]:
        assert all(d.help for d in findings(text).items)


@pytest.mark.parametrize("code", [c for c in CATALOGUE if c.startswith("T01") or c == "T0201"])
def test_examples_of_the_catalogue(code: str) -> None:
    """An explanation's example is source that produces the code; the fix is not empty."""
    entry = CATALOGUE[code]
    assert entry.fix.endswith(".")
    if not entry.example.startswith("$ "):
        assert code in {d.code for d in findings(entry.example).items}


def test_greek_is_no_lookalike() -> None:
    """Formulas may use Greek; only a name that has an ASCII twin in the unit is suspicious."""
    assert codes("α = ν * ρ\n") == []
    assert codes("Α = 1\n") == []
    assert codes("A = 1\nΑ = 2\n") == [("T0105", 2, 1)]


def test_errors_are_sorted_and_bounded() -> None:
    """Twenty errors, then one that says so."""
    items = findings("a b\n" * 50).items
    assert [d.span.line for d in items if d.span] == [*range(1, 21), 20]
    assert items[-1].code == "T0199"
