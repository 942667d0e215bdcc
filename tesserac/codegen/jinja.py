"""The one Jinja environment of every code generator.

Templates hold the files that read well as a whole; they are rendered by name, relative to the templates folder
(``cpu/main.cpp.j2``). A name that a template uses and nobody supplied is an error, never an empty string.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tesserac.codegen.names import comment_text, cpp_double, cpp_string, identifier
from tesserac.resources import templates_dir


@lru_cache(maxsize=1)
def environment() -> Environment:
    """The environment, with the filters ``cpp_string``, ``comment_text``, ``cpp_double`` and ``identifier``.

    Output is C++, not HTML: nothing is escaped by itself, so text of the user's must pass through one of the filters.
    """
    env = Environment(
        loader=FileSystemLoader(templates_dir(), encoding="utf-8"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    env.filters.update(
        cpp_string=cpp_string, comment_text=comment_text, cpp_double=cpp_double, identifier=identifier
    )
    return env


def render_template(template: str, **values: Any) -> str:
    """The text of the template file ``template`` with ``values`` filled in."""
    return environment().get_template(template).render(values)
