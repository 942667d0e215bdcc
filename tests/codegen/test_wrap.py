"""Line breaks in emitted C++."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tesserac.codegen.wrap import CODE, wrap_cpp


def squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)


def test_short_lines_stay() -> None:
    text = "int main() {\n  return 0;  // nothing\n}\n"
    assert wrap_cpp(text) == text


def test_a_signature_breaks_between_parameters() -> None:
    line = f"static void f({', '.join(f'const float* parameter_{i}' for i in range(9))}) {{\n"
    first, second = wrap_cpp(line).splitlines()
    assert first.endswith(",")
    assert second.startswith("    const float* parameter_")
    assert len(first) <= CODE


def test_template_arguments_stay_together() -> None:
    call = f"  TSR_KERNEL(3, {'x' * 100}(one, at<float, Attention<1, 2, 3>>(scratch, kWork), another_argument));\n"
    assert "Attention<1, 2, 3>>(scratch, kWork)," in wrap_cpp(call)


def test_a_long_comment_behind_code_moves_above_it() -> None:
    line = "  int x = 0;  // " + "word " * 40
    assert wrap_cpp(line).splitlines()[-1] == "  int x = 0;"
    assert all(part.startswith("  // word") for part in wrap_cpp(line).splitlines()[:-1])


def test_formulas_continue_further_in() -> None:
    first, second = wrap_cpp("//   y = " + " + ".join(f"operand_{i}" for i in range(14))).splitlines()
    assert first.startswith("//   y = ")
    assert second.startswith("//     ")


def test_strings_are_never_broken() -> None:
    text = f'    {{"name", "{"a, b + c, " * 30}", 1, 2}},\n'
    assert f'"{"a, b + c, " * 30}"' in wrap_cpp(text)


def test_preprocessor_lines_stay() -> None:
    assert wrap_cpp("#define X " + "a, " * 80) == "#define X " + "a, " * 80 + "\n"


@pytest.mark.property
@given(st.lists(st.sampled_from(("f(", ")", "name, ", "at<float>(x, 1), ", " + ", "y ", '"s, t"')), max_size=80))
def test_breaking_changes_nothing_but_white_space(parts: list[str]) -> None:
    line = "  " + "".join(parts)
    wrapped = wrap_cpp(line)
    assert squeezed(wrapped) == squeezed(line)
    for part in wrapped.splitlines():
        assert len(part) <= CODE or '"' in part or not re.search(r", | \+ ", part[8:CODE])


def test_a_short_comment_stays_behind_the_last_line() -> None:
    line = f"  call({', '.join(f'argument_{i}' for i in range(11))});  // gpt.py:14"
    assert wrap_cpp(line).splitlines()[-1].endswith(");  // gpt.py:14")


@pytest.mark.parametrize("length", range(100, 160))
def test_a_short_comment_never_stands_alone(length: int) -> None:
    line = f"  call({'x' * (length - 30)}, argument, another);  // gpt.py:14"
    wrapped = wrap_cpp(line).splitlines()
    assert not wrapped[0].lstrip().startswith("//")
    assert all(len(part) <= CODE for part in wrapped)
