"""What happens when the compiler itself is at fault: a short message, and a file with everything a report needs."""

from __future__ import annotations

import os
import platform
import shlex
import sys
import tempfile
import traceback
from collections.abc import Sequence

from tesserac import __version__
from tesserac.console import Console

MESSAGE_LINES = 12
"""Lines of an internal error's text that are shown; an invalid IR comes with the lines around the fault."""


def report_crash(error: Exception, arguments: Sequence[str], console: Console) -> None:
    """Says what failed and where the details are; never raises."""
    console.error_line(f"internal error in tesserac {__version__}, during {console.stage}")
    text = (str(error) or type(error).__name__).splitlines()
    for line in text[:MESSAGE_LINES]:
        print(f"  {line[:300]}", file=sys.stderr)
    if len(text) > MESSAGE_LINES:
        print("  ...", file=sys.stderr)
    path = _write(error, arguments, console)
    print("This is a fault of the compiler, not of your program. Please report it", file=sys.stderr, end="")
    print(f" with your source and {path}" if path else " with your source and the command line.", file=sys.stderr)


def _write(error: Exception, arguments: Sequence[str], console: Console) -> str | None:
    """The crash file, or None where none can be written."""
    details = [
        f"tesserac {__version__}, Python {platform.python_version()}, {platform.platform()}",
        f"command: tesserac {shlex.join(arguments)}",
        f"folder: {os.getcwd()}",
        f"during: {console.stage}",
        "",
        "".join(traceback.format_exception(error, limit=-60)),
    ]
    try:
        handle, path = tempfile.mkstemp(prefix="tesserac-crash-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write("\n".join(details))
        return path
    except OSError:
        return None
