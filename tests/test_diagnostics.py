"""The diagnostics bag, the catalogue and the layout of reports."""

from __future__ import annotations

import pytest

from tesserac.diagnostics import CompileError, Diagnostic, Diagnostics, InternalError, Label, Span, render
from tesserac.diagnostics_catalogue import CATALOGUE

SOURCE = "x = a + b\ny = 1\nz = 2\n\tw = \x1b[31mx\n日本 = x\n"
SOURCES = {"m.py": SOURCE}


def at(line: int, start: int, end: int, file: str = "m.py") -> Span:
    """A span on one line."""
    return Span(file, line, start, line, end)


def shown(span: Span | None, *labels: Label, notes: tuple[str, ...] = (), help: tuple[str, ...] = ()) -> str:
    """A rendered error, without its first line."""
    text = render([Diagnostic("T0140", "error", "wrong", span, labels, notes, help)], SOURCES)
    first, _, rest = text.partition("\n")
    assert first == "error[T0140]: wrong"
    return rest


def test_bag() -> None:
    """Errors raise with everything found so far; warnings alone do not."""
    bag = Diagnostics()
    bag.warning("T0105", "w", None)
    bag.note("T0105", "n", None)
    bag.raise_if_errors()
    assert not bag.has_errors
    bag.error("T0140", "e", at(1, 1, 2), help=("h",))
    with pytest.raises(CompileError) as caught:
        bag.raise_if_errors()
    assert [d.severity for d in caught.value.diagnostics] == ["warning", "note", "error"]
    assert str(caught.value) == "T0105: w; T0105: n; T0140: e"


def test_misuse_is_an_internal_error() -> None:
    """An unknown code, or a string where a sequence is meant, is a fault of the compiler."""
    with pytest.raises(InternalError, match="T9999 is not in the catalogue"):
        Diagnostics().error("T9999", "m", None)
    with pytest.raises(InternalError, match="help must be a sequence"):
        Diagnostics().error("T0140", "m", None, help="oops")


def test_catalogue_is_complete_and_sorted() -> None:
    """Every entry has all its texts and lies under its own code."""
    assert list(CATALOGUE) == sorted(CATALOGUE)
    for code, entry in CATALOGUE.items():
        assert entry.code == code
        assert all([entry.title, entry.cause, entry.example, entry.fix])


def test_label_on_the_span_captions_the_carets() -> None:
    """One line, one caption, notes and help below."""
    span = at(1, 5, 10)
    assert shown(span, Label(span, "here"), notes=("n1\nn2",), help=("h",)) == (
        " --> m.py:1:5\n  |\n1 | x = a + b\n  |     ^^^^^ here\n  |\n  = note: n1\n          n2\n  = help: h\n"
    )


def test_two_lines() -> None:
    """Both lines that forced a contradiction; a gap is marked."""
    assert shown(at(1, 5, 6), Label(at(1, 5, 6), "fp32"), Label(at(3, 5, 6), "int32")) == (
        " --> m.py:1:5\n  |\n1 | x = a + b\n  |     ^ fp32\n2 | y = 1\n3 | z = 2\n  |     - int32\n"
    )
    assert shown(at(5, 1, 3), Label(at(1, 1, 2), "first")) == (
        " --> m.py:5:1\n  |\n1 | x = a + b\n  | - first\n...\n5 | 日本 = x\n  | ^^^^\n"
    )


def test_labels_on_one_line() -> None:
    """The rightmost caption follows its mark, the others hang below theirs."""
    assert shown(at(1, 7, 8), Label(at(1, 5, 6), "left"), Label(at(1, 9, 10), "right")) == (
        " --> m.py:1:7\n  |\n1 | x = a + b\n  |     - ^ - right\n  |     |\n  |     left\n"
    )


def test_other_file_and_unknown_source() -> None:
    """A label elsewhere gets its own place; a file without text is only named."""
    assert shown(at(2, 1, 2), Label(at(7, 3, 4, "model.toml"), "set here")) == (
        " --> m.py:2:1\n  |\n2 | y = 1\n  | ^\n ::: model.toml:7:3\n"
    )
    assert shown(None, notes=("n",)) == " = note: n\n"


def test_control_characters_and_tabs() -> None:
    """Nothing a terminal would act on; marks stay under what they mark."""
    assert shown(at(4, 2, 3)) == " --> m.py:4:2\n  |\n4 |     w = \\x1b[31mx\n  |     ^\n"
    text = render([Diagnostic("T0140", "error", "a\x1b[0m\u202eb", at(1, 1, 2, "\x07.py"), (), ("\x00",))], {})
    assert text == "error[T0140]: a\\x1b[0m\\u{202e}b\n --> \\x07.py:1:1\n  = note: \\x00\n"


def test_long_line_is_cut_around_the_mark() -> None:
    """The mark is in the middle of what is shown."""
    line = "x = " + "abcde+" * 500
    text = render([Diagnostic("T0140", "error", "m", at(1, 1001, 1003))], {"m.py": line})
    source, marks = text.split("\n")[3:5]
    assert source.startswith("1 | ...")
    assert source.endswith("...")
    assert len(source) < 120
    column = marks.index("^^")
    assert source[column : column + 2] == line[1000:1002]


def test_span_over_lines_and_past_the_end() -> None:
    """A long span marks its first line to the end; a place behind the text still has a caret."""
    assert shown(Span("m.py", 1, 5, 3, 2)) == " --> m.py:1:5\n  |\n1 | x = a + b\n  |     ^^^^^\n"
    assert shown(at(2, 6, 7)) == " --> m.py:2:6\n  |\n2 | y = 1\n  |      ^\n"
    assert shown(at(99, 1, 2)) == "  --> m.py:99:1\n   |\n99 |\n   | ^\n"


def test_color_only_when_asked() -> None:
    """Escape sequences are in the coloured form alone, and nothing else differs."""
    import re

    found = [Diagnostic("T0140", "error", "wrong", at(1, 5, 6), (Label(at(1, 9, 10), "l"),), (), ("h",))]
    plain, colored = render(found, SOURCES), render(found, SOURCES, color=True)
    assert "\x1b" not in plain
    assert colored.startswith("\x1b[1;31merror[T0140]\x1b[0m")
    assert re.sub(r"\x1b\[[0-9;]*m", "", colored) == plain
