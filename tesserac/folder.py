"""Writing an emitted project: incrementally, all or nothing, and without ever touching a file of the user's.

A manifest, `.tesserac.json`, lists what tesserac wrote and from what. Files whose content would not change are left
alone, so that make has nothing to do; files of an earlier build that are no longer emitted are removed. New content
first goes to temporary files beside the old; only when all of it is on disk are they renamed into place.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tesserac.diagnostics import CompileError, Diagnostics, some
from tesserac.foreign import parse_json
from tesserac.replacing import replacing

MANIFEST = ".tesserac.json"
_TEMPORARY = ".tesserac-new"


def digest(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def encode(text: str) -> bytes:
    """The bytes of an emitted file."""
    return text.encode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a folder holds: digest of the inputs of the last build (empty: unfinished), digest of every file by path.

    A file with an empty digest is ours whatever it holds: its content may depend on more than the inputs.
    """

    inputs: str = ""
    files: Mapping[str, str] = field(default_factory=dict)

    def text(self) -> str:
        """The manifest as it is stored."""
        return (
            json.dumps({"format": 1, "inputs": self.inputs, "files": dict(sorted(self.files.items()))}, indent=0) + "\n"
        )


@dataclass(frozen=True, slots=True)
class Written:
    """What a write did: paths of new content, of removed files, and of files that had been edited by hand."""

    changed: tuple[str, ...]
    removed: tuple[str, ...]
    edited: tuple[str, ...]


class Folder:
    """An output folder. Methods raise CompileError T0804 or T0805 when the system or a foreign file is in the way."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def manifest(self) -> Manifest:
        """The manifest, an empty one where there is none that can be read."""
        try:
            data = parse_json((self.path / MANIFEST).read_text(encoding="utf-8"))
            files = {str(k): str(v) for k, v in data["files"].items() if _is_inside(str(k))}
            return Manifest(str(data["inputs"]), files)
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            return Manifest()

    def is_current(self, inputs: str) -> bool:
        """Whether the folder holds, untouched, what a build from these inputs would write."""
        manifest = self.manifest()
        return (
            manifest.inputs == inputs
            and bool(manifest.files)
            and all(_is_same(self._digest(path), known) for path, known in manifest.files.items())
        )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Makes the folder, and keeps other builds out of it meanwhile."""
        with self._explained():
            fresh = _first_missing(self.path)
            self.path.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with contextlib.suppress(OSError):  # not every file system has locks
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        except BaseException:
            _remove_empty(self.path, fresh)
            raise
        finally:
            os.close(handle)

    def write(self, files: Mapping[str, str], inputs: str, loose: Collection[str] = ()) -> Written:
        """Makes the folder hold these files and no others of ours.

        The content of ``loose`` ones does not count when `is_current` compares.
        """
        before = self.manifest()
        data = {path: encode(text) for path, text in files.items()}
        digests = {path: digest(content) for path, content in data.items()}
        on_disk = {path: self._digest(path) for path in {*digests, *before.files}}
        foreign = [p for p in sorted(digests) if p not in before.files and on_disk[p] not in (None, digests[p])]
        if foreign:
            self._refuse(foreign)
        edited = tuple(
            p for p in sorted(digests) if on_disk[p] not in (None, digests[p], before.files.get(p)) and p not in loose
        )
        changed = tuple(p for p in sorted(digests) if on_disk[p] != digests[p])
        # A file edited by hand after it left the project is the user's by now.
        stale = tuple(p for p in sorted(set(before.files) - set(digests)) if _is_same(on_disk[p], before.files[p]))
        known = {p: "" if p in loose else value for p, value in digests.items()}
        with self._explained():
            if changed or stale or before.inputs != inputs:
                self._replace({p: data[p] for p in changed}, {**before.files, **known})
                for path in stale:
                    (self.path / path).unlink(missing_ok=True)
                    _remove_empty((self.path / path).parent, self.path)
                self._put(MANIFEST, Manifest(inputs, known).text().encode())
        return Written(changed, stale, edited)

    def put_if_changed(self, name: str, text: str) -> None:
        """One loose file anew."""
        with self._explained():
            if self._digest(name) != digest(encode(text)):
                self._put(name, encode(text))

    def _replace(self, data: Mapping[str, bytes], owned: Mapping[str, str]) -> None:
        """New content for some files: all of it is on disk before the first file is replaced."""
        made: list[Path] = []
        try:
            for path, content in data.items():
                temporary = self.path / (path + _TEMPORARY)
                temporary.parent.mkdir(parents=True, exist_ok=True)
                made.append(temporary)
                temporary.write_bytes(content)
            # From here on all these files are ours, whenever this is interrupted.
            self._put(MANIFEST, Manifest("", owned).text().encode())
        except BaseException:
            for temporary in made:
                with contextlib.suppress(OSError):
                    temporary.unlink()
                _remove_empty(temporary.parent, self.path)
            raise
        for path, temporary in zip(data, made, strict=True):
            os.replace(temporary, self.path / path)

    def _put(self, name: str, content: bytes) -> None:
        with replacing(self.path / name, suffix=_TEMPORARY, synced=False) as temporary:
            temporary.write_bytes(content)

    def _digest(self, path: str) -> str | None:
        """Digest of a file's content; None where there is none; "?" for what cannot be read as a file."""
        try:
            return digest((self.path / path).read_bytes())
        except FileNotFoundError:
            return None
        except OSError:
            return "?"

    def _refuse(self, foreign: list[str]) -> None:
        diagnostics = Diagnostics()
        diagnostics.error(
            "T0805",
            f"`{self.path}` holds files that tesserac did not write and would overwrite",
            None,
            notes=[some(foreign)],
            help=["choose another folder with -o, or move these files away"],
        )
        diagnostics.raise_if_errors()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            raise _fault(self.path, error) from error


def _is_same(found: str | None, known: str) -> bool:
    return found == known or (found is not None and not known)


def _is_inside(path: str) -> bool:
    parts = Path(path).parts
    return bool(parts) and not Path(path).is_absolute() and ".." not in parts


def _first_missing(path: Path) -> Path | None:
    """The topmost folder that `mkdir -p` would make."""
    missing = None
    for folder in (path, *path.parents):
        if os.path.lexists(folder):
            break
        missing = folder
    return missing


def _remove_empty(path: Path, top: Path | None) -> None:
    """Removes empty folders from ``path`` up to ``top``, which stays if it is not empty or None."""
    if top is None:
        return
    for folder in (path, *path.parents):
        try:
            folder.rmdir()
        except OSError:
            return
        if folder == top:
            return


_ADVICE = {
    errno.EACCES: "choose a folder you may write to with -o",
    errno.EPERM: "choose a folder you may write to with -o",
    errno.EROFS: "choose a folder on another file system with -o",
    errno.ENOSPC: "make room on the disk, or choose a folder on another one with -o",
    errno.EDQUOT: "make room in your quota, or choose another folder with -o",
    errno.ENOTDIR: "a file is in the place of the folder: move it away, or choose another folder with -o",
    errno.EEXIST: "a file is in the place of the folder: move it away, or choose another folder with -o",
    errno.EISDIR: "a folder is in the place of a file: move it away, or choose another folder with -o",
}


def _fault(path: Path, error: OSError | ValueError) -> CompileError:
    diagnostics = Diagnostics()
    number = error.errno if isinstance(error, OSError) else None
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    notes = []
    if isinstance(error, OSError) and isinstance(error.filename, str) and Path(error.filename) != path:
        notes.append(f"at {error.filename.removesuffix(_TEMPORARY)}")
    diagnostics.error(
        "T0804",
        f"cannot write the output folder `{path}`: {reason}",
        None,
        notes=notes,
        help=[_ADVICE.get(number or 0, "choose another folder with -o")],
    )
    return CompileError(diagnostics.items)
