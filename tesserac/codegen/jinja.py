"""The one Jinja environment of every code generator.

Templates hold the files that read well as a whole; they are rendered by name, relative to the templates folder
(``cpu/main.cpp.j2``). A name that a template uses and nobody supplied is an error, never an empty string.

Jinja translates a template to Python before it renders it, which takes longer than rendering. What it made is kept
where Python keeps what it makes of modules, under Python's rules.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemBytecodeCache, FileSystemLoader, StrictUndefined
from jinja2 import __version__ as jinja_version
from jinja2.bccache import Bucket

from tesserac import __version__
from tesserac.codegen.names import comment_text, cpp_double, cpp_string, identifier
from tesserac.resources import templates_dir


class KeptTemplates(FileSystemBytecodeCache):
    """Translated templates in a folder, one file each. What cannot be read or written there is translated anew."""

    def __init__(self, folder: Path) -> None:
        # The text of a template is compared when a file is read, the versions of what translates it are in its name.
        super().__init__(str(folder), f"%s.{sys.implementation.cache_tag}-{jinja_version}-{__version__}.j2c")

    def load_bytecode(self, bucket: Bucket) -> None:
        """Fills the bucket, or leaves it empty."""
        try:
            super().load_bytecode(bucket)
        except Exception:  # a damaged file: unpickling raises whatever its bytes ask for
            bucket.reset()

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Keeps a translation where Python may keep its own (PYTHONDONTWRITEBYTECODE) and the folder can be written."""
        if sys.dont_write_bytecode:
            return
        try:
            Path(self.directory).mkdir(parents=True, exist_ok=True)
            super().dump_bytecode(bucket)
        except OSError:
            pass


@lru_cache(maxsize=1)
def environment() -> Environment:
    """The environment, with the filters ``cpp_string``, ``comment_text``, ``cpp_double`` and ``identifier``.

    Output is C++, not HTML: nothing is escaped by itself, so text of the user's must pass through one of the filters.
    """
    folder = templates_dir()
    env = Environment(
        loader=FileSystemLoader(folder, encoding="utf-8"),
        bytecode_cache=KeptTemplates(Path(cache_from_source(str(folder / "any.py"))).parent),
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
