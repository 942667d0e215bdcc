"""The environment that templates are rendered in."""

from __future__ import annotations

import pytest
from jinja2 import StrictUndefined, UndefinedError

from tesserac.codegen.jinja import environment


def test_a_missing_value_is_an_error() -> None:
    assert environment().undefined is StrictUndefined
    with pytest.raises(UndefinedError):
        environment().from_string("{{ nobody.gave.this }}").render()


def test_blocks_leave_no_blank_lines_and_filters_quote() -> None:
    text = "{% for s in items %}\n  f({{ s | cpp_string }});  // {{ s | comment_text }}\n{% endfor %}\n"
    rendered = environment().from_string(text).render(items=['a"', "*/"])
    assert rendered == '  f("a\\"");  // a"\n  f("*/");  // * /\n'
