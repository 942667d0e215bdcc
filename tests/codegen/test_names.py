"""Identifiers, literals and comments of emitted code, whatever the source holds."""

from __future__ import annotations

import re
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tesserac.codegen.names import CppNames, comment_text, cpp_double, cpp_string, identifier

HOSTILE = ["class", "3d", "", "_", "__x", "a.b", "a_b", "a b", "α", "Λ", "λ", "x₁", "é", "e", "日本", "x-y", "x/*",
           "int", "NULL", "EOF", "a" * 300, "a" * 301, "M_PI", "linux", "\n", "min", "SIGINT", "INT_MAX", "E", "Wq",
           "_Bool", "a__b"]


@pytest.mark.parametrize(("name", "expected"), [
    ("Wq", "Wq"), ("transformer.Wq", "transformer_Wq"), ("h.1", "h_1"), ("α", "alpha"), ("Δx", "Deltax"), ("x₁", "x1"),
    ("naïve", "naive"), ("class", "class_"), ("3d", "v3d"), ("", "v"), ("_a__b_", "a_b"), ("EOF", "EOF_"),
    ("日", "u65e5"), ("λ", "lambda"), ("MLP", "MLP"), ("S", "S"), ("INT_MAX", "INT_MAX_"),
])
def test_identifiers_stay_readable(name: str, expected: str) -> None:
    assert identifier(name) == expected


def test_a_scope_never_gives_one_identifier_to_two_names() -> None:
    outer = CppNames(reserved=["call"])
    inner = CppNames(parent=outer)
    first = [outer.of(n) for n in HOSTILE]
    second = [inner.of(n) for n in [*HOSTILE, "call"]]
    assert [outer.of(n) for n in HOSTILE] == first
    assert len({*first, *second}) == len(first) + len(second)
    assert "call" not in {*first, *second}
    assert all(re.fullmatch(r"[A-Za-z](_?[A-Za-z0-9])*_?", n) for n in [*first, *second])


@given(st.lists(st.text(max_size=6), unique=True, max_size=30))
def test_any_names_are_kept_apart(names: list[str]) -> None:
    scope = CppNames()
    assert len({scope.of(n) for n in names}) == len(names)


def test_hostile_text_compiles_and_comes_back(tmp_path: object) -> None:
    strings = ['"', "\\", "*/", "/*", "??/", "a\nb", "é日", "\x01" + "1", "\u202e", "%s", "'", '")"', "x\\", "\r\t",
               "R\"(", "???"]
    comments = [*strings, "ends \\", "ends \\ ", "*//*/", "/*/", "/" * 9, "\u2028 #error", "\n#error x", "#error \\\\"]
    scope = CppNames(reserved=["main"])
    body = [f"  int {scope.of(n)} = {i}; (void){scope.of(n)};" for i, n in enumerate(HOSTILE)]
    body += [f"  check({cpp_string(s)}, {cpp_string(' '.join(str(b) for b in s.encode()))});  // {comment_text(s)}"
             for s in strings]
    for text in comments:
        body += [f"  ++count;  // {comment_text(text)}", "  ++count;", f"  /* {comment_text(text)} */ ++count;"]
    source = "\n".join([
        "#include <cfloat>", "#include <climits>", "#include <cmath>", "#include <csignal>", "#include <cstdio>",
        "#include <cstdint>", "#include <string>", "static int failures = 0, count = 0;",
        "static void check(const std::string& s, const std::string& bytes) {", "  std::string seen;",
        '  for (unsigned char c : s) seen += (seen.empty() ? "" : " ") + std::to_string(int(c));',
        "  failures += seen != bytes;", "}", "int main() {", *body,
        f"  return failures + (count != {3 * len(comments)});", "}", ""])
    path = f"{tmp_path}/hostile.cpp"
    with open(path, "w", encoding="utf-8") as file:
        file.write(source)
    for standard in ("-std=c++17", "-std=gnu++17", "-std=c++14"):
        subprocess.run(["g++", standard, "-Wall", "-Wextra", "-Werror", path, "-o", f"{tmp_path}/hostile"], check=True)
        assert subprocess.run([f"{tmp_path}/hostile"], check=False).returncode == 0


@given(st.text(max_size=40))
def test_no_text_leaves_a_comment(text: str) -> None:
    line = comment_text(text)
    assert "*/" not in line
    assert "/*" not in line
    assert "??/" not in line
    assert not line.endswith("\\")
    assert line.isprintable()


@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -1e300, 5e-324, 0.1, 3, 2.0**53, 1e22])
def test_doubles_are_exact(value: float) -> None:
    text = cpp_double(value)
    assert float(text).hex() == float(value).hex()
    assert "." in text or "e" in text


def test_doubles_that_are_not_finite() -> None:
    assert cpp_double(float("inf")) == "double(INFINITY)"
    assert cpp_double(float("-inf")) == "-double(INFINITY)"
    assert cpp_double(float("nan")) == "double(NAN)"
