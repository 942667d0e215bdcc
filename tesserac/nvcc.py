"""The CUDA compiler: finding it, on PATH or among Python's packages, and what it can compile for."""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tesserac.diagnostics import Diagnostics
from tesserac.toolchain import ToolchainError

INSTALL = "pip install 'tesserac[cuda-compile]'   (or NVIDIA's toolkit, with nvcc on PATH)"
OLDEST = (12, 0)
"""The first nvcc that knows sm_90a."""

_ARCHITECTURE = re.compile(r"sm_\d{2,3}[af]?")


@dataclass(frozen=True, slots=True)
class Nvcc:
    """``path`` of the compiler and its version, (0, 0) if it does not tell."""

    path: str
    version: tuple[int, int]

    @property
    def variables(self) -> list[str]:
        """Variables for make's command line: none when nvcc is what `nvcc` on PATH is."""
        if shutil.which("nvcc") == self.path:
            return []
        toolkit = Path(self.path).resolve().parent.parent
        return [f"NVCC={self.path}", f"CUDA_INCLUDE={toolkit / 'include'}"]


def locate() -> str | None:
    """$NVCC, nvcc on PATH, or the one that pip installed; None when there is none that can be run."""
    given = os.environ.get("NVCC", "").strip()
    if given:
        return shutil.which(given)
    found = shutil.which("nvcc")
    if found is not None:
        return found
    return _of_pip("nvcc")


def _of_pip(name: str) -> str | None:
    """A program of one of NVIDIA's Python packages."""
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations or () if spec else ():
        for path in sorted(Path(folder).glob(f"*/bin/{name}")):
            return str(path)
    return None


def find_nvcc(architectures: Sequence[str] = ()) -> Nvcc:
    """The compiler, new enough and able to compile for ``architectures``. Raises T0810, T0811 or T0812."""
    path = locate()
    if path is None:
        given = os.environ.get("NVCC", "").strip()
        what = f"$NVCC is `{given}`, which cannot be run" if given else "it is neither on PATH nor installed by pip"
        raise _error(
            "T0810",
            "there is no nvcc",
            [what],
            [
                f"install it: {INSTALL}",
                "--emulate builds the same program for this processor, --emit=cuda writes the sources alone",
            ],
        )
    found = Nvcc(path, _version(path))
    if (0, 0) < found.version < OLDEST:
        raise _error(
            "T0811",
            f"nvcc {'.'.join(map(str, found.version))} is too old",
            [f"{path}; emitted CUDA needs nvcc {'.'.join(map(str, OLDEST))} or newer"],
            [f"install a newer one: {INSTALL}", "--emulate builds the same program for this processor"],
        )
    known = known_architectures(path)
    for name in architectures:
        if known and not _knows(known, name):
            near = difflib.get_close_matches(name, known, 2)
            raise _error(
                "T0812",
                f"nvcc {'.'.join(map(str, found.version))} does not know the architecture {name}",
                [f"it knows {', '.join(known)}"],
                [f"--arch {near[0] if near else known[0]}"],
            )
    return found


def find_disassembler(nvcc: Nvcc) -> str:
    """nvdisasm, which prints the machine code of a cubin (cuobjdump calls it, too). Raises T0815."""
    beside = Path(nvcc.path).resolve().with_name("nvdisasm")
    found = shutil.which("nvdisasm") or (str(beside) if beside.exists() else None) or _of_pip("nvdisasm")
    if found is not None:
        return found
    raise _error(
        "T0815",
        "there is no disassembler for --emit=sass",
        [f"nvdisasm is neither on PATH nor beside {nvcc.path} nor installed by pip"],
        ["pip install nvidia-cuda-nvdisasm", "--emit=ptx needs nvcc alone"],
    )


def _knows(known: Sequence[str], name: str) -> bool:
    """Whether one of ``known`` is ``name``, but for the letter of special features: a from 9.0 on, f from 10.0."""
    plain = name.rstrip("af")
    return plain in known and (name == plain or int(plain[3:]) >= (90 if name.endswith("a") else 100))


def known_architectures(path: str) -> list[str]:
    """What an nvcc compiles for, oldest first: ``sm_80``, ``sm_90a``...; empty when it does not tell."""
    lines = (line.strip() for line in _output(path, "--list-gpu-code").splitlines())
    return [line for line in lines if _ARCHITECTURE.fullmatch(line)]


def architectures(text: str | None) -> tuple[str, ...] | str:
    """The names in ``sm_80,sm_90a``, each once; a message when one is written wrongly."""
    names = tuple(dict.fromkeys(name.strip() for name in (text or "").split(",") if name.strip()))
    for name in names:
        if _ARCHITECTURE.fullmatch(name) is None:
            digits = re.sub(r"\D", "", name)
            return f"{name!r} is no architecture; they are written like sm_{digits or '80'}."
    return names


def _version(path: str) -> tuple[int, int]:
    found = re.search(r"release (\d+)\.(\d+)", _output(path, "--version"))
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _output(path: str, flag: str) -> str:
    try:
        done = subprocess.run([path, flag], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _error(code: str, message: str, notes: Sequence[str], help: Sequence[str]) -> ToolchainError:
    diagnostics = Diagnostics()
    diagnostics.error(code, message, None, notes=notes, help=help)
    return ToolchainError(diagnostics.items)
