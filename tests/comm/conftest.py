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


@pytest.fixture(scope="session")
def ranks() -> Path:
    """The executable of ranks.cpp."""
    sources = [
        HERE / "ranks.cpp",
        *sorted((ROOT / "runtime").glob("*.h")),
        *sorted((ROOT / "runtime/comm").glob("*.h")),
    ]
    state = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    target = Path(tempfile.gettempdir()) / f"tesserac-ranks-{os.getuid()}-{state}"
    if not target.exists():
        flags = ["-std=c++17", "-O1", "-fopenmp", "-pthread", "-Wall", "-Wextra", "-Werror", "-I", str(ROOT)]
        made = f"{target}.{os.getpid()}"
        subprocess.run(["g++", *flags, str(HERE / "ranks.cpp"), "-o", made], check=True, timeout=300)
        os.replace(made, target)
    return target
