"""Emitted programs on meshes, built once per state of the compiler and its runtime, and what their runs print."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tesserac.driver import CompileOptions, compile_source
from tesserac.elaborate import Options
from tesserac.includes import runtime_headers
from tesserac.launch import LOST, environment
from tesserac.passes.mesh.settings import read_settings
from tests.emulation.building import engine_object

slow = pytest.mark.skipif("TSR_TEST_MESH" not in os.environ, reason="slow: make test-mesh")
CLEAN = {k: v for k, v in os.environ.items() if not k.startswith(("TSR_", "SLURM_", "OMPI_", "PMI_", "MPI_"))}


def _folder(name: str, texts: Sequence[str]) -> Path:
    state = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"tesserac-{name}-{os.getuid()}-{state}"


def _make(folder: Path, *words: str) -> None:
    """Programs for the processor with the flags of tests/emitted, whose command line is then there already."""
    command, environment = ["make", "-s", "OPTIMIZE=-O1", *words], dict(os.environ)
    if not (folder / "emulation").exists():
        environment["CXXFLAGS"] = "-Werror"
    done = subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]


def build(
    source: str,
    mesh: str | None,
    *,
    name: str = "model.py",
    shapes: tuple[tuple[str, str], ...] = (),
    sets: tuple[tuple[str, str], ...] = (),
    words: tuple[str, ...] = (),
    entry: str | None = None,
    gpus: bool = False,
    literals: tuple[tuple[int, int], ...] = (),
    loss: str | None = None,
    toml: str = "",
    mode: str = "fast",
    precision: str = "fp32",
) -> Path:
    """The executable of a source with one entry, or of ``entry``. ``mesh`` None: its own; ``words``: for make.

    ``toml``: what stands in plan.toml; ``gpus``: the CUDA program, for the emulation in a ``mode``.
    """
    options = Options(mesh=mesh, shapes=shapes, sets=sets, set_literals=literals, entry=entry, loss=loss,
                      precision=precision)
    compiling = CompileOptions(elaboration=options, planning=read_settings(toml, "plan.toml"),
                               target="cuda" if gpus else "cpu", emulate=gpus)
    project = compile_source(source, name, compiling)
    words += (f"MODE={mode}", f"ENGINE={engine_object(mode)}", "KERNELS_fast=-O1") if gpus else ()
    (executable,) = project.executables.values()
    texts = [part for path in sorted(project.files) for part in (path, project.files[path])]
    folder = _folder("ranks", [*texts, *words])
    if not (folder / executable).exists():
        made = folder.with_name(f"{folder.name}.{os.getpid()}")
        shutil.rmtree(made, ignore_errors=True)
        for path, text in project.files.items():
            (made / path).parent.mkdir(parents=True, exist_ok=True)
            (made / path).write_text(text)
        shutil.copy(_command_line(made, project.files), made / "command_line.o")
        _make(made, executable, *words)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    return folder / executable


def _command_line(folder: Path, files: Mapping[str, str]) -> Path:
    """The object of the command line, which is the same for all programs of one state of the runtime."""
    own = {"command_line.cpp": files["command_line.cpp"]}
    target = _folder("command-line", [*own.values(), *runtime_headers(own).values()])
    if not target.exists():
        _make(folder, "command_line.o")
        made = target.with_name(f"{target.name}.{os.getpid()}")
        shutil.copy(folder / "command_line.o", made)
        os.replace(made, target)
    return target


def launch(
    program: Path, ranks: int, *arguments: object, cwd: Path | None = None, **env: str
) -> list[subprocess.Popen[str]]:
    """The ranks of a program as processes; one rank runs the program alone."""
    job = f"test.{os.getpid()}.{os.urandom(6).hex()}"
    command = [str(program), *map(str, arguments)]
    found = []
    for rank in range(ranks):
        mine = {**CLEAN, "OMP_NUM_THREADS": "1", **env}
        if ranks > 1:
            mine |= {k: v for k, v in environment(rank, ranks, job).items() if k.startswith("TSR_")} | env
        found.append(
            subprocess.Popen(command, cwd=cwd, env=mine, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        )
    return found


def run(program: Path, ranks: int, *arguments: object, cwd: Path | None = None, code: int = 0, **env: str) -> str:
    """Runs all ranks; what rank 0 prints. ``code``: of the job, as the launcher sees it."""
    from tesserac.launch import exit_code

    found = launch(program, ranks, *arguments, cwd=cwd, **env)
    texts = [process.communicate(timeout=240) for process in found]
    codes = [process.returncode for process in found]
    assert exit_code(codes) == code, (codes, "".join(out[-2000:] + err[-2000:] for out, err in texts))
    assert not any(out for out, _ in texts[1:]), "a rank other than 0 prints"
    return texts[0][0] if code == 0 else "".join(err for _, err in texts)


def losses(text: str) -> NDArray[np.float64]:
    """The losses that a training run printed."""
    return np.array([json.loads(line)["loss"] for line in text.splitlines() if line.startswith('{"step"')])


__all__ = ["LOST", "build", "launch", "losses", "run"]
