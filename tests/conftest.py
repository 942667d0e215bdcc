"""What every test relies on: the same BLAS everywhere, hypothesis profiles, and the command line as a user runs it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent

# Some machines export settings that make OpenBLAS choose slower kernels; no test should depend on the machine's choice.
for _name in [name for name in os.environ if name.startswith(("OPENBLAS_", "NVPL_"))]:
    del os.environ[_name]

# Under `make test`, a make that a test runs would inherit the outer one's flags and announce the folders it enters.
for _name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
    os.environ.pop(_name, None)

# Tests share the cores with other tests: an OpenMP thread that spins while it waits costs its neighbour a time slice.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Emitted projects are compiled by a g++ that compiles the same text once.
KEPT_COMPILER = ROOT / "tests" / "tools" / "kept-g++"
if not any(c.isspace() for c in str(ROOT)):  # make and tesserac take $CXX for words
    os.environ.setdefault("CXX", str(KEPT_COMPILER))

_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile("ci", max_examples=200, deadline=None, derandomize=True, suppress_health_check=_SLOW)
settings.register_profile("fuzz", max_examples=5000, deadline=None, suppress_health_check=_SLOW, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

Command = Callable[..., subprocess.CompletedProcess[str]]


def command_environment(bin_folder: Path) -> dict[str, str]:
    """An environment in which `tesserac` and `python` are this checkout's and this interpreter's.

    Writes a launcher into `bin_folder`, so that tests need no installed package.
    """
    launcher = bin_folder / "tesserac"
    if not launcher.exists():
        bin_folder.mkdir(parents=True, exist_ok=True)
        launcher.write_text(f"#!{sys.executable}\nfrom tesserac.cli import main\n\nmain()\n", encoding="utf-8")
        launcher.chmod(0o755)
    path = os.pathsep.join([str(bin_folder), str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}


def pytest_sessionstart(session: pytest.Session) -> None:
    """Removes what the compiler of the tests kept and nobody used for three days."""
    kept = Path(tempfile.gettempdir()) / f"tesserac-objects-{os.getuid()}"
    for path in kept.glob("*.o*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > 3 * 24 * 3600:
                path.unlink()


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--update-golden``: rewrite the expected texts under tests/golden instead of comparing with them."""
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`golden("name.txt", text)` compares with tests/golden/name.txt."""

    def compare(name: str, text: str) -> None:
        path = ROOT / "tests" / "golden" / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8"), f"{name} changed; if that is right: pytest --update-golden"

    return compare


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def tesserac(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Runs the command line: `tesserac("check", path, cwd=folder)` gives the finished process, output as text."""
    environment = command_environment(tmp_path_factory.mktemp("bin"))

    def run(
        *arguments: str | Path, cwd: Path = ROOT, timeout: float = 300, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["tesserac", *map(str, arguments)],
            cwd=cwd,
            env=environment | dict(env or {}),
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run
