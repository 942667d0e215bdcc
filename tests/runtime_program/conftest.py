"""Builds the toy programs once per session: plain, with sanitizers, and as a shared library."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
FLAGS = [
    *[
        "-std=c++17",
        "-march=native",
        "-fopenmp",
        "-fno-math-errno",
        "-fno-trapping-math",
        "-Wall",
        "-Wextra",
        "-Werror",
    ],
    *("-I", str(ROOT), "-I", str(HERE)),
]
SANITIZE = ["-O0", "-g1", "-DTSR_TRACE", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
PROGRAMS = ("Softmax", "Softmax64", "Wrong", "Bigram", "Points", "Valley", "Valley64", "Fold")


@dataclass(frozen=True)
class Programs:
    """One build of the toy programs."""

    folder: Path

    def start(
        self, program: str, *arguments: object, cwd: Path, env: dict[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Starts a program with two threads."""
        environment = {**os.environ, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive", **(env or {})}
        return subprocess.Popen(
            [str(self.folder / program), *map(str, arguments)],
            cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(
        self, program: str, *arguments: object, cwd: Path, env: dict[str, str] | None = None, code: int = 0
    ) -> subprocess.CompletedProcess[str]:
        """Runs a program and checks its exit code."""
        process = self.start(program, *arguments, cwd=cwd, env=env)
        out, err = process.communicate(timeout=120)
        assert process.returncode == code, (
            f"exit code {process.returncode}, expected {code}\n{out[-2000:]}\n{err[-4000:]}"
        )
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def fails(self, program: str, *arguments: object, cwd: Path, code: int = 1) -> str:
        """Runs a program that must fail, with one diagnostic and nothing else on standard error."""
        done = self.run(program, *arguments, cwd=cwd, code=code)
        assert done.stderr.startswith("error[T09"), done.stderr
        return done.stderr


@dataclass(frozen=True)
class Builds:
    """Everything that is compiled once."""

    plain: Programs
    checked: Programs
    library: Path


def _compile(source: str, output: Path, flags: Sequence[str]) -> subprocess.Popen[str]:
    command = ["g++", *FLAGS, *flags, str(HERE / "programs" / source), "-o", str(output)]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.fixture(scope="session")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Builds:
    """Compiles with warnings as errors, two compilers at a time; kept for the next session while no source changes."""
    digest = hashlib.sha256(repr((FLAGS, SANITIZE)).encode())
    for source in sorted([*(ROOT / "runtime").glob("*.h"), *(HERE / "programs").iterdir()]):
        digest.update(source.name.encode() + source.read_bytes())
    folder = Path(tempfile.gettempdir()) / f"tesserac-toys-{os.getuid()}-{digest.hexdigest()[:16]}"
    library = folder / "libtoys.so"
    done = Builds(Programs(folder / "plain"), Programs(folder / "checked"), library)
    if folder.exists():
        return done
    final, folder = folder, tmp_path_factory.mktemp("toys")
    for name in ("plain", "checked"):
        (folder / name).mkdir()
    library = folder / "libtoys.so"
    first = [
        _compile("toys.cpp", folder / "plain" / "toys", ["-O1"]),
        _compile("toys.cpp", folder / "checked" / "toys", SANITIZE),
    ]
    for process in first:
        text, _ = process.communicate()
        assert process.returncode == 0, text
    last = _compile("library.cpp", library, ["-O1", "-fPIC", "-shared", "-fvisibility=hidden"])
    text, _ = last.communicate()
    assert last.returncode == 0, text
    for name in ("plain", "checked"):
        for program in PROGRAMS:
            os.link(folder / name / "toys", folder / name / program)
    try:
        shutil.copytree(folder, final.with_suffix(f".{os.getpid()}"))
        final.with_suffix(f".{os.getpid()}").rename(final)
    except OSError:
        shutil.rmtree(final.with_suffix(f".{os.getpid()}"), ignore_errors=True)  # another session was faster
    return done


@pytest.fixture(scope="session")
def plain(builds: Builds) -> Programs:
    """The toy programs as users build them."""
    return builds.plain


@pytest.fixture(scope="session")
def checked(builds: Builds) -> Programs:
    """The toy programs under AddressSanitizer (leaks included) and UndefinedBehaviorSanitizer, with timing hooks."""
    return builds.checked


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with x.npy (40 x 5) and labels.npy (40) of a learnable problem, and text.txt."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(40, 5)).astype(np.float32)
    labels = (x @ rng.normal(size=(5, 4))).argmax(1)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "labels.npy", labels)
    (tmp_path / "text.txt").write_bytes(b"abcdefgh" * 60)
    return tmp_path
