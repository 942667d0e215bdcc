"""The command line in this process, a model that compiles fast, and one build that many tests look at."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tesserac.cli import run
from tests.conftest import KEPT_COMPILER, ROOT

MODEL = """from tessera import graph, op

HIDDEN = 6


@graph.module
def net(x, W, V):
    return op.tanh(x @ W) @ V


@graph.training_step(module="net")
def step(batch):
    out = net(batch["x"])
    loss = op.mse(out, batch["y"])
    return graph.backward(loss), {"loss": loss}
"""
SIZES = ("--shape", "x=8x4", "--shape", "W=4x6", "--shape", "V=6x3")
GPT = ("examples/gpt.py", *(f"--set={s}" for s in ("L=1", "D=32", "H=2", "S=16", "B=4")))


@dataclass(frozen=True)
class Outcome:
    """Exit status and what was printed."""

    code: int
    out: str
    err: str


Cli = Callable[..., Outcome]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """``cli("check", path)``: one command line, in this process; no traceback may reach the user."""

    def call(*arguments: str | Path) -> Outcome:
        capsys.readouterr()
        code = run([str(a) for a in arguments])
        done = Outcome(code, *capsys.readouterr())
        assert "Traceback" not in done.out + done.err
        return done

    return call


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``model.py`` in an empty folder, which is the working folder."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.py"
    path.write_text(MODEL, encoding="utf-8")
    return Path("model.py")


@pytest.fixture
def in_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkout is the working folder."""
    monkeypatch.chdir(ROOT)


def tree(folder: Path) -> dict[str, bytes]:
    """Content of every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="session")
def fast_compiler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A C++ compiler that does not optimize: what is tested here is the build, not the code."""
    path = tmp_path_factory.mktemp("compiler") / "fast-g++"
    path.write_text(f'#!/bin/sh\nexec "{KEPT_COMPILER}" "$@" -O0\n', encoding="utf-8")
    path.chmod(0o755)
    return path


@dataclass(frozen=True)
class Built:
    """A finished build: the folder that holds model.py and out/, and what was printed."""

    folder: Path
    printed: str
    compiler: Path

    @property
    def out(self) -> Path:
        """The emitted folder."""
        return self.folder / "out"


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, fast_compiler: Path) -> Built:
    """``tesserac build model.py -o out``, once per session."""
    import contextlib
    import io

    folder = tmp_path_factory.mktemp("built")
    (folder / "model.py").write_text(MODEL, encoding="utf-8")
    before, printed = Path.cwd(), io.StringIO()
    old = os.environ.get("CXX")
    os.environ["CXX"] = str(fast_compiler)
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(printed):
            assert run(["build", "model.py", *SIZES, "-o", "out", "-j2"]) == 0
    finally:
        os.chdir(before)
        del os.environ["CXX"]
        if old is not None:
            os.environ["CXX"] = old
    return Built(folder, printed.getvalue(), fast_compiler)
