"""Builds the program of ranks once per state of the runtime."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.emulation.building import engine_object

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent


def compiled(name: str, compiler: str = "g++", *extra: str) -> Path:
    """The executable of a source file in this folder, by a compiler with further flags."""
    sources = [
        HERE / f"{name}.cpp",
        *sorted((ROOT / "runtime").glob("*.h")),
        *sorted((ROOT / "runtime/comm").glob("*.h")),
        *sorted((ROOT / "runtime/cuda").glob("nccl*")),
        ROOT / "runtime/emulation/nccl.h",
    ]
    state = hashlib.sha256(b"".join(path.read_bytes() for path in sources))
    state.update(" ".join((compiler, *extra)).encode())
    target = Path(tempfile.gettempdir()) / f"tesserac-{name}-{os.getuid()}-{state.hexdigest()[:16]}"
    if not target.exists():
        flags = ["-std=c++17", "-O1", "-march=native", "-fopenmp", "-pthread", "-Wall", "-Wextra", "-Werror"]
        made = f"{target}.{os.getpid()}"
        command = [compiler, *flags, "-I", str(ROOT), str(sources[0]), *extra, "-o", made]
        subprocess.run(command, check=True, timeout=300)
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
def gpu_ranks() -> Path:
    """The same as a CUDA program has it, under the emulation."""
    header = str(ROOT / "runtime/emulation/cuda.h")
    # A library that it loads asks for the emulated runtime's functions: -rdynamic.
    flags = ("-DTEST_GPUS", "-fPIC", "-rdynamic", "-Wno-unknown-pragmas", "-include", header)
    return compiled("ranks", "g++", *flags, str(engine_object("fast")), "-ldl")


@pytest.fixture(scope="session")
def fake_nccl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a libnccl.so.2 that needs no GPU."""
    folder = tmp_path_factory.mktemp("nccl")
    header = str(ROOT / "runtime/emulation/cuda.h")  # whose functions the program has
    flags = ("-fPIC", "-shared", "-Wno-unknown-pragmas", "-include", header)
    shutil.copy(compiled("fake_nccl", "g++", *flags), folder / "libnccl.so.2")
    return folder


@pytest.fixture(scope="session")
def parts() -> Path:
    """Checkpoints without a model."""
    return compiled("parts")
