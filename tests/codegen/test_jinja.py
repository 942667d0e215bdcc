"""The environment that templates are rendered in."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from jinja2 import DictLoader, Environment, StrictUndefined, UndefinedError

from tesserac.codegen.jinja import KeptTemplates, environment


def test_a_missing_value_is_an_error() -> None:
    assert environment().undefined is StrictUndefined
    with pytest.raises(UndefinedError):
        environment().from_string("{{ nobody.gave.this }}").render()


def test_blocks_leave_no_blank_lines_and_filters_quote() -> None:
    text = "{% for s in items %}\n  f({{ s | cpp_string }});  // {{ s | comment_text }}\n{% endfor %}\n"
    rendered = environment().from_string(text).render(items=['a"', "*/"])
    assert rendered == '  f("a\\"");  // a"\n  f("*/");  // * /\n'


def test_translated_templates_are_kept_and_never_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"a": "{{ x }} and {{ x }}"}

    def rendered() -> str:
        made = Environment(loader=DictLoader(texts), bytecode_cache=KeptTemplates(tmp_path / "kept"))
        return made.get_template("a").render(x=1)

    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert rendered() == "1 and 1"
    assert not (tmp_path / "kept").exists()
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    assert rendered() == "1 and 1"
    (file,) = (tmp_path / "kept").iterdir()
    whole = file.read_bytes()
    with monkeypatch.context() as patch:  # a second start translates nothing
        patch.setattr(Environment, "_parse", None)
        assert rendered() == "1 and 1"
    for damaged in (b"", whole[:30], whole[:-9], b"\x80garbage" * 20):
        file.write_bytes(damaged)
        assert rendered() == "1 and 1"
    texts["a"] = "{{ x }}, changed"
    assert rendered() == "1, changed"
    monkeypatch.setattr("tempfile.NamedTemporaryFile", _full)
    texts["a"] = "{{ x }} on a full disk"
    assert rendered() == "1 on a full disk"


def _full(*_: object, **__: object) -> None:
    raise OSError("no space left on device")
