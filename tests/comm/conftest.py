"""Builds the program of ranks once per state of the runtime."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent


def compiled(name: str, compiler: str = "g++", *extra: str) -> Path:
    """The executable of a source file in this folder, by a compiler with further flags."""
    sources = [
        HERE / f"{name}.cpp",
        *sorted((ROOT / "runtime").glob("*.h")),
        *sorted((ROOT / "runtime/comm").glob("*.h")),
    ]
    state = hashlib.sha256(b"".join(path.read_bytes() for path in sources))
    state.update(" ".join((compiler, *extra)).encode())
    target = Path(tempfile.gettempdir()) / f"tesserac-{name}-{os.getuid()}-{state.hexdigest()[:16]}"
    if not target.exists():
        flags = ["-std=c++17", "-O1", "-march=native", "-fopenmp", "-pthread", "-Wall", "-Wextra", "-Werror"]
        made = f"{target}.{os.getpid()}"
        subprocess.run(
            [compiler, *flags, *extra, "-I", str(ROOT), str(sources[0]), "-o", made], check=True, timeout=300
        )
        os.replace(made, target)
    return target


@pytest.fixture(scope="session")
def ranks() -> Path:
    """Exchanges without a model."""
    return compiled("ranks")


@pytest.fixture(scope="session")
def mpi_ranks() -> Path:
    """The same with the MPI back end, as `make MPI=1` compiles it."""
    if shutil.which("mpicxx") is None or shutil.which("mpirun") is None:
        pytest.skip("no mpicxx and mpirun")
    return compiled("ranks", "mpicxx", "-DTSR_MPI", "-DOMPI_SKIP_MPICXX", "-DMPICH_SKIP_MPICXX")


@pytest.fixture(scope="session")
def parts() -> Path:
    """Checkpoints without a model."""
    return compiled("parts")
