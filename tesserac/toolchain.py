"""The C++ compiler and make: finding them, running them, and saying what went wrong when they fail."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tesserac.diagnostics import CompileError, Diagnostic, Diagnostics

COMPILERS = ("g++", "c++", "clang++")
INSTALL = "apt-get install g++ make   (or your system's packages of the same names)"
_ERROR_LINES = 8


class ToolchainError(CompileError):
    """A compiler or tool is missing or failed (exit status 4)."""

    exit_code = 4

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        super().__init__(diagnostics)


@dataclass(frozen=True, slots=True)
class Toolchain:
    """``compiler``: the words of $CXX, or the first C++ compiler on PATH; ``make``: the path of GNU make."""

    compiler: tuple[str, ...]
    make: str

    @property
    def variables(self) -> list[str]:
        """Variables for make's command line: none when its own default is what was found."""
        return [] if self.compiler == ("g++",) else [f"CXX={shlex.join(self.compiler)}"]


def find_compiler() -> tuple[str, ...] | None:
    """$CXX if it is set and can be run, else the first of COMPILERS on PATH."""
    given = os.environ.get("CXX", "").split()
    if given:
        return tuple(given) if shutil.which(given[0]) else None
    return next(((name,) for name in COMPILERS if shutil.which(name)), None)


def find_make() -> str | None:
    """GNU make."""
    return shutil.which("make") or shutil.which("gmake")


def find_toolchain() -> Toolchain:
    """Compiler and make; ToolchainError says what is missing and how to get it."""
    compiler, make = find_compiler(), find_make()
    if compiler is None:
        given = os.environ.get("CXX", "").strip()
        what = f"$CXX is `{given}`, which cannot be run" if given else f"none of {', '.join(COMPILERS)} is on PATH"
        raise _error(
            "T0801",
            "there is no C++ compiler",
            [what],
            [
                f"unset CXX, or install one: {INSTALL}" if given else f"install one: {INSTALL}",
                "--emit=cpp writes the sources without compiling them",
            ],
        )
    if make is None:
        raise _error(
            "T0803",
            "there is no make",
            ["neither make nor gmake is on PATH"],
            [f"install it: {INSTALL}", "--emit=cpp writes the sources without compiling them"],
        )
    return Toolchain(compiler, make)


def run_make(
    folder: Path, targets: Sequence[str], jobs: int, verbose: bool = False, variables: Sequence[str] = ()
) -> bool:
    """Makes targets of a project; whether anything had to be made. ToolchainError with the compiler's own words."""
    tools = find_toolchain()
    # An outer make (`make demo`) must not pass its flags or its job server on to ours.
    environment = {
        k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES")
    }
    environment["LC_ALL"] = "C.UTF-8"
    command = [tools.make, f"-j{jobs}", "--no-print-directory", *tools.variables, *variables, *targets]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if verbose else subprocess.PIPE,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise _error("T0803", f"make cannot be run: {error.strerror}", [tools.make], [INSTALL]) from error
    if verbose:
        print(done.stdout, end="")
    if done.returncode != 0:
        raise _failed(folder, done.stdout if verbose else done.stderr, tools)
    return any(line and not line.startswith("make") for line in done.stdout.splitlines())


def _failed(folder: Path, output: str, tools: Toolchain) -> ToolchainError:
    lines = [line for line in output.splitlines() if line.strip()]
    telling = [
        line for line in lines if re.search(r"\berror\b|Error\b|not found|No space|undefined reference|Killed", line)
    ]
    shown = (telling or lines)[:_ERROR_LINES] or ["(it printed nothing)"]
    return _error(
        "T0802",
        f"the C++ compiler `{shlex.join(tools.compiler)}` failed on the emitted project",
        ["\n".join(line[:400] for line in shown)],
        [f"make -C {shlex.quote(str(folder))}   shows everything", "tesserac doctor   checks the compiler"],
    )


def _error(code: str, message: str, notes: Sequence[str], help: Sequence[str]) -> ToolchainError:
    diagnostics = Diagnostics()
    diagnostics.error(code, message, None, notes=notes, help=help)
    return ToolchainError(diagnostics.items)
