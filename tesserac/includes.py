"""The runtime headers that emitted files need, found by following their ``#include "..."`` lines."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping

from tesserac.resources import runtime_dir

_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"\n]+)"', re.MULTILINE)


def runtime_headers(files: Mapping[str, str], also: Iterable[str] = ()) -> dict[str, str]:
    """``runtime/x.h`` with its text for every header that the files, or ``also``, reach."""
    folder = runtime_dir()
    found: dict[str, str] = {}
    waiting = [path for text in files.values() for path in _INCLUDE.findall(text)] + list(also)
    while waiting:
        path = posixpath.normpath(waiting.pop())
        if path in found or not path.startswith("runtime/"):
            continue
        text = (folder / path.removeprefix("runtime/")).read_text(encoding="utf-8")
        found[path] = text
        for name in _INCLUDE.findall(text):
            waiting.append(name if name.startswith("runtime/") else posixpath.join(posixpath.dirname(path), name))
    return dict(sorted(found.items()))
