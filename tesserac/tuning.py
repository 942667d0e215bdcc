"""tuning.json: the schedules that `tesserac tune` found best, by what a kernel computes, for `build --tuning`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tesserac import __version__
from tesserac.diagnostics import CompileError, Diagnostics, some
from tesserac.foreign import parse_json

FORM = 1
"""Version of the file's form."""


_AGAIN = ("tune again with the flags of this build: tesserac tune FILE", "or build without --tuning")


@dataclass(frozen=True, slots=True)
class Tuned:
    """A kernel's best schedule; ``seconds`` with it, ``usual`` with the usual one (0: not measured).

    ``kernel`` and ``place``, its name and source line when it was tuned, are for the reader alone.
    """

    digest: str
    kernel: str
    place: str
    schedule: tuple[tuple[str, int], ...]
    seconds: float = 0.0
    usual: float = 0.0


@dataclass(frozen=True, slots=True)
class Tuning:
    """A file's content: ``device`` it was measured on (empty: on none), ``name`` of the file for messages."""

    name: str
    device: str
    kernels: tuple[Tuned, ...]

    @property
    def schedules(self) -> dict[str, dict[str, int]]:
        """What kernels choose, by digest."""
        return {k.digest: dict(k.schedule) for k in self.kernels}

    def text(self) -> str:
        """The file's content, the same for the same findings."""
        rows = {}
        for k in self.kernels:
            row: dict[str, Any] = {"kernel": k.kernel, "line": k.place, "schedule": dict(k.schedule)}
            if k.seconds:
                row |= {"microseconds": round(k.seconds * 1e6, 2), "usual": round(k.usual * 1e6, 2)}
            rows[k.digest] = row
        whole = {"tuning": FORM, "tesserac": __version__, "device": self.device, "kernels": rows}
        return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"

    def remarks(self, emitted: Mapping[str, str], architectures: Sequence[str]) -> Diagnostics:
        """How the file fits a program's kernels that have choices (names by digest).

        T0813 if it does not fit at all, T0814 for what it leaves out and for GPUs that it was not measured on.
        """
        bag = Diagnostics()
        known = self.schedules
        missing = [name for digest, name in emitted.items() if digest not in known]
        if emitted and len(missing) == len(emitted):
            raise misfit(f"{self.name} has none of this program's kernels",
                         ["a kernel is known by what it computes and on which sizes"])
        if missing:
            unknown = f"{len(missing)} of {len(emitted)} kernels: {some(missing)}"
            bag.warning("T0814", f"{self.name} does not know {unknown}", None,
                        notes=["they keep their usual schedules"], help=["tesserac tune with the same flags"])
        measured = re.search(r"sm_(\d+)", self.device)
        wanted = {re.sub(r"\D", "", a) for a in architectures}
        if measured and wanted and measured[1] not in wanted:
            bag.warning("T0814", f"{self.name} was measured on {self.device}, not on {', '.join(architectures)}", None,
                        notes=["results do not depend on it, times may"], help=["tesserac tune on such a machine"])
        return bag


def read_tuning(text: str, name: str) -> Tuning:
    """A file's content. CompileError T0813 if it is none, or another version's."""
    try:
        data = parse_json(text)
        form, version = data["tuning"], data["tesserac"]
        rows = data["kernels"].items()
        kernels = tuple(
            Tuned(str(digest), str(row["kernel"]), str(row["line"]), _schedule(row["schedule"]),
                  float(row.get("microseconds", 0)) / 1e6, float(row.get("usual", 0)) / 1e6)
            for digest, row in rows
        )
        device = str(data["device"])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise misfit(f"{name} is no tuning file of tesserac", [f"{type(error).__name__}: {error}"[:200]]) from None
    if (form, version) != (FORM, __version__):
        raise misfit(f"{name} is stale: tesserac {version} wrote it, and this is {__version__}", [])
    return Tuning(name, device, kernels)


def _schedule(row: Mapping[str, Any]) -> tuple[tuple[str, int], ...]:
    for name, value in row.items():
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(f"`{name}` is {value!r}, not an integer")
    return tuple((str(name), int(value)) for name, value in row.items())


def misfit(message: str, notes: Sequence[str], help: Sequence[str] = _AGAIN) -> CompileError:
    """T0813."""
    bag = Diagnostics()
    bag.error("T0813", message, None, notes=notes, help=help)
    return CompileError(bag.items)


def load_tuning(path: str | Path) -> Tuning:
    """Reads a file; CompileError when it cannot be read."""
    from tesserac.parser import read_source

    return read_tuning(read_source(Path(path)), str(path))


def earlier_tuning(path: Path) -> Tuning | None:
    """What ``tune`` may replace at a path: a tuning file, or None for one of another version or none at all.

    CompileError T0813 for anything else.
    """
    from tesserac.parser import read_source

    if not path.is_file():
        return None
    text = read_source(path)
    try:
        return read_tuning(text, str(path))
    except CompileError as error:
        if '"tuning":' in text:
            return None
        raise misfit(f"{path} is no tuning file of tesserac, and would be overwritten", [],
                     ["-o FILE with another path, or move it away"]) from error
