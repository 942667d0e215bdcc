"""Builds the program of ranks once per state of the runtime."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent


def compiled(name: str) -> Path:
    """The executable of a source file in this folder."""
    sources = [
        HERE / f"{name}.cpp",
        *sorted((ROOT / "runtime").glob("*.h")),
        *sorted((ROOT / "runtime/comm").glob("*.h")),
    ]
    state = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    target = Path(tempfile.gettempdir()) / f"tesserac-{name}-{os.getuid()}-{state}"
    if not target.exists():
        flags = ["-std=c++17", "-O1", "-march=native", "-fopenmp", "-pthread", "-Wall", "-Wextra", "-Werror"]
        made = f"{target}.{os.getpid()}"
        subprocess.run(["g++", *flags, "-I", str(ROOT), str(sources[0]), "-o", made], check=True, timeout=300)
        os.replace(made, target)
    return target


@pytest.fixture(scope="session")
def ranks() -> Path:
    """Exchanges without a model."""
    return compiled("ranks")


@pytest.fixture(scope="session")
def parts() -> Path:
    """Checkpoints without a model."""
    return compiled("parts")
