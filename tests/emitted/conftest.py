"""Emitted projects, each built once for all workers and kept until the compiler, a header or a source changes."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT, Command

ZOO = "tests/programs/zoo.py"
TAILS = [part for setting in ("L=1", "D=24", "H=3", "S=17", "V=123", "B=3") for part in ("--set", setting)]
LISTING1 = ("--mesh", "none", "--shape", "input=3x17x24", "--shape", "Wo=24x19")
SANITIZE = "-g1 -fsanitize=address,undefined -fno-sanitize-recover=undefined"
WARNINGS = "-Werror"


@dataclass(frozen=True)
class Project:
    """A folder with built programs."""

    folder: Path

    def start(
        self, program: str, *arguments: object, cwd: Path, env: dict[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Starts a program, with two threads unless ``env`` says otherwise."""
        environment = {**os.environ, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive", **(env or {})}
        return subprocess.Popen(
            [str(self.folder / program), *map(str, arguments)],
            cwd=cwd, env=environment, encoding="utf-8", errors="replace",
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, program: str, *arguments: object, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Runs a program and checks its exit code."""
        process = self.start(program, *arguments, cwd=cwd)
        out, err = process.communicate(timeout=120)
        assert process.returncode == code, f"exit code {process.returncode}\n{out[-2000:]}\n{err[-4000:]}"
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def fails(self, program: str, *arguments: object, cwd: Path, code: int = 1) -> str:
        """Standard error of a program that must fail with one diagnostic and nothing else."""
        text = self.run(program, *arguments, cwd=cwd, code=code).stderr
        assert text.startswith("error[T09"), text
        return text


def _digest() -> str:
    """Of everything a build depends on."""
    digest = hashlib.sha256()
    patterns = ("tesserac/**/*.py", "tesserac/**/*.lark", "templates/**/*.j2", "runtime/*.h", "tests/programs/*.py")
    paths = [path for pattern in patterns for path in ROOT.glob(pattern)]
    examples = [*ROOT.glob("examples/*.py"), ROOT / "examples/chapter6/listing1.py"]
    for path in sorted([*paths, *examples, Path(__file__)]):
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Waits until no other process holds the lock."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True)
class Builder:
    """Builds projects into one folder per state of the compiler."""

    folder: Path
    tesserac: Command

    def emit(self, folder: Path, source: str, *flags: str) -> None:
        """Writes a project without compiling it."""
        done = self.tesserac("build", source, *flags, "--emit=cpp", "-o", folder)
        assert done.returncode == 0, done.stderr

    def build(self, name: str, source: str, *flags: str, cxx: str = WARNINGS, goals: Sequence[str] = ()) -> Project:
        """The project of this name; ``cxx`` are more flags of the C++ compiler, ``goals`` what make shall make."""
        folder = self.folder / name
        with _alone(self.folder / f"{name}.lock"):
            if folder.exists():
                return Project(folder)
            temporary = self.folder / f"{name}.{os.getpid()}"
            shutil.rmtree(temporary, ignore_errors=True)
            self.emit(temporary, source, *flags)
            make(temporary, cxx, *goals)
            temporary.rename(folder)
        return Project(folder)


def make(folder: Path, cxx: str, *goals: str) -> None:
    """Runs make with two jobs. Under sanitizers only kernels are worth optimizing: the rest takes no time to run."""
    kernels = sorted(path.with_suffix(".o").name for path in folder.glob("*.program.cpp"))
    run_make(folder, cxx, "-O1", *kernels)
    run_make(folder, cxx, "-O0" if "sanitize" in cxx else "-O1", *goals)


def run_make(folder: Path, cxx: str, optimize: str, *goals: str) -> None:
    """One run of make, which must succeed. `CXXFLAGS` in the environment come before the Makefile's own."""
    command = ["make", "-j2", f"OPTIMIZE={optimize}", *goals]
    environment = os.environ | {"CXXFLAGS": cxx}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:4000]


@pytest.fixture(scope="session")
def builder(tesserac: Command) -> Builder:
    """Where emitted projects are built; what earlier states of the compiler left there is removed."""
    top = Path(tempfile.gettempdir()) / f"tesserac-emitted-{os.getuid()}"
    folder = top / _digest()
    folder.mkdir(parents=True, exist_ok=True)
    for old in top.iterdir():
        if old != folder:
            shutil.rmtree(old, ignore_errors=True)
    return Builder(folder, tesserac)


@pytest.fixture(scope="session")
def zoo(builder: Builder) -> Project:
    """The models of tests/programs/zoo.py: one executable each and libzoo.so."""
    return builder.build("zoo", ZOO)


@pytest.fixture(scope="session")
def gpt(builder: Builder) -> Project:
    """The example, with sizes that fit no vector, over 123 characters."""
    return builder.build("gpt", "examples/gpt.py", *TAILS)


@pytest.fixture(scope="session")
def routed(builder: Builder) -> Project:
    """tests/programs/routed.py with products of bf16."""
    return builder.build("routed", "tests/programs/routed.py", "--precision", "bf16", goals=("routed",))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with text.txt, which a GPT can learn, and arrays for the models of the zoo."""
    rng = np.random.default_rng(11)
    (tmp_path / "text.txt").write_bytes(b"the whale and the sea, " * 40)
    for name, rows in (("x13", 13), ("x1000", 1000)):
        np.save(tmp_path / f"{name}.npy", rng.normal(size=(rows, 9)).astype(np.float32))
    np.save(tmp_path / "classes.npy", rng.integers(0, 4, 13))
    return tmp_path
