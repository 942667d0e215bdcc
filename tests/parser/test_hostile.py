"""Input made to break the parser ends in a diagnostic, soon."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tesserac.diagnostics import CompileError, Diagnostics, render
from tesserac.parser import MAX_BYTES, parse, read_source

FILE = "m.py"

HOSTILE = {
    "brackets": ("x = " + "(" * 10_000 + ")" * 10_000 + "\n", "T0141"),
    "open brackets": ("[" * 10_000, "T0141"),
    "open calls": ("def f(\n" * 10_000, "T0141"),
    "a long sum": ("x = " + "1+" * 20_000 + "1\n", "T0141"),
    "signs": ("x = " + "-" * 20_000 + "1\n", "T0141"),
    "nots": ("x = " + "not " * 20_000 + "1\n", "T0141"),
    "powers": ("x = " + "2**" * 20_000 + "1\n", "T0141"),
    "attributes": ("x" + ".a" * 20_000 + "\n", "T0141"),
    "calls": ("x" + "()" * 20_000 + "\n", "T0141"),
    "lambdas": ("x = " + "lambda: " * 5_000 + "1\n", "T0141"),
    "conditions": ("x = " + "1 if 1 else " * 10_000 + "1\n", "T0141"),
    "branches": ("if a: pass\n" + "elif a: pass\n" * 3_000, "T0141"),
    "blocks": ("".join(" " * i + "if a:\n" for i in range(1000)) + " " * 1000 + "pass\n", "T0141"),
    "quotes": ("x = 'a\n" * 5_000, "T0199"),
    "errors": ("a b\n" * 20_000, "T0199"),
    "ragged": ("".join(" " * (i * 7919 % 97) + "x\n" for i in range(3000)), "T0199"),
    "curly quotes": ("\u201c" * 50_000, "T0104"),
    "backslashes": ("'" + "\\" * 100_001, "T0110"),
    "digits": ("x = " + "1" * 100_000, "T0111"),
    "nul": ("x = 1\n" * 10 + "\0", "T0103"),
    "escape codes": ("x = 1 # \x1b[31m\n", "T0103"),
    "direction marks": ("x = 1 # \u202e\n", "T0103"),
    "a surrogate": ("x = '\ud800'\n", "T0103"),
    "large": ("x = 1\n" * (50 * 2**20 // 6), "T0101"),
    "blank": ("\n \n\t\n\f\n", "T0146"),
    "elses": ("else:\n" * 10_000, "T0199"),
    "one try": ("try:\n x\n" + "except:\n y\n" * 10_000 + "z z\n", "T0122"),
    "handlers": ("try:\n x\nexcept:\n y\n" * 3_000, "T0199"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text(name: str) -> None:
    """The code, within seconds, and a report of bounded size without control characters."""
    text, code = HOSTILE[name]
    bag = Diagnostics()
    begin = time.process_time()
    assert parse(text, FILE, bag) is None
    shown = render(bag.items, {FILE: text})
    assert time.process_time() - begin < 20
    assert code in {d.code for d in bag.items}
    assert len(shown) < 20_000
    assert max(len(line) for line in shown.split("\n")) < 200
    assert all(c == "\n" or c.isprintable() for c in shown)


@pytest.mark.parametrize(
    "text", ["x = [" + "1, " * 20_000 + "]\n", "x = 1\n" * 20_000, "x = " + "'a' " * 20_000 + "\n"]
)
def test_long_but_flat(text: str) -> None:
    """Length alone is no fault."""
    bag = Diagnostics()
    assert parse(text, FILE, bag) is not None
    assert not bag.items


def fault(path: str | Path) -> tuple[str, str]:
    """Code and message of the error that reading a path raises."""
    with pytest.raises(CompileError) as caught:
        read_source(path)
    (found,) = caught.value.diagnostics
    assert found.help
    return found.code, found.message.replace(str(path), "FILE")


def test_reading(tmp_path: Path) -> None:
    """What can be wrong with a file."""
    source = tmp_path / "a.py"
    source.write_bytes(b"\xef\xbb\xbfx = 1\r\n")
    assert read_source(source) == "x = 1\r\n"
    assert fault(tmp_path / "none.py") == ("T0100", "cannot find source file `FILE`")
    assert fault(tmp_path) == ("T0100", "source path `FILE` is a directory")
    assert fault("a\0b") == ("T0100", "cannot read source file `FILE`: embedded null byte")
    assert fault("/dev/zero") == ("T0100", "source path `FILE` is not a regular file")
    os.mkfifo(tmp_path / "pipe")
    assert fault(tmp_path / "pipe") == ("T0100", "source path `FILE` is not a regular file")
    source.write_bytes(b"x = 1\ny = '\xe9'\n")
    assert fault(source) == ("T0102", "source file `FILE` is not valid UTF-8: byte 0xe9 at offset 11")
    source.write_bytes("x = 1".encode("utf-16"))
    assert fault(source) == ("T0102", "source file `FILE` is UTF-16, not UTF-8")
    with source.open("wb") as handle:
        handle.truncate(50 * 2**20)
    assert fault(source) == ("T0101", "source file `FILE` is too large: 50.0 MiB, the limit is 1 MiB")
    source.write_bytes(b"#" * MAX_BYTES)
    assert len(read_source(source)) == MAX_BYTES


def test_line_ends_and_mark() -> None:
    """A byte order mark and Windows line ends change nothing, columns included."""
    first, second = Diagnostics(), Diagnostics()
    parse("x = 1\ny = 2 2\n", FILE, first)
    parse("\ufeffx = 1\r\ny = 2 2\r\n", FILE, second)
    assert first.items == second.items
