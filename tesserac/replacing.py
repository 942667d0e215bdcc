"""Writing one file of the user's: whatever happens meanwhile, there is the old content or all of the new."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from tesserac.diagnostics import CompileError, Diagnostics


@contextlib.contextmanager
def replacing(path: Path, *, suffix: str = "", synced: bool = True) -> Iterator[Path]:
    """A path beside ``path`` to write to; that file takes its place, and its mode, at the end. Raises OSError.

    ``suffix`` is what the path has behind its name (usual: one of this process); ``synced``: all is on disk before it
    moves. A link stays, and what it leads to is replaced; what is no file (a terminal, a pipe) is written to.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        yield target
        return
    temporary = target.with_name(f"{target.name}{suffix or f'.tmp-{os.getpid()}'}")
    try:
        yield temporary
        if target.exists():
            temporary.chmod(stat.S_IMODE(target.stat().st_mode))
        if synced:
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def replace_text(path: Path, text: str) -> None:
    """The same of a text, in UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def unwritable(path: Path, error: OSError) -> CompileError:
    """The error T0916 for a file that the system would not let be written."""
    diagnostics = Diagnostics()
    help_ = "choose a folder that exists and that you may write to"
    diagnostics.error("T0916", f"cannot write `{path}`: {error.strerror}", None, help=[help_])
    return CompileError(diagnostics.items)


def check_writable(path: Path) -> None:
    """T0916 before long work whose result could not be written to ``path``."""
    target = Path(os.path.realpath(path))
    fault = errno.EISDIR if target.is_dir() else 0 if target.parent.is_dir() else errno.ENOENT
    if not fault and not os.access(target if target.exists() else target.parent, os.W_OK):
        fault = errno.EACCES
    if fault:
        raise unwritable(path, OSError(fault, os.strerror(fault)))
