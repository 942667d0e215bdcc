"""Builds CUDA sources for the emulation. The engine is compiled once per mode and kept among temporary files."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tesserac.codegen.cuda.emulate import FOLDER, emulated_files
from tesserac.inspection.resources import Resources, parse
from tesserac.resources import runtime_dir

MODES = ("fast", "asan", "race")
SELECTED = tuple(os.environ.get("TSR_EMULATION_MODE", ",".join(MODES)).split(","))
"""The modes that tests run in (`make test-emulation MODE=...`)."""

ARCHITECTURES = ("sm_80", "sm_90a")
"""Those that everything is compiled for."""

_COMMON = ("-std=c++17", "-fPIC", "-pthread", "-Wall", "-Wextra", "-Wno-unknown-pragmas")
_ENGINE = {
    "fast": ("-O2",),
    "asan": ("-O1", "-g", "-fsanitize=address"),
    "race": ("-O2", "-DTSR_EMULATION_RACE"),
}
_KERNELS = {
    "fast": ("-O1", "-march=native"),
    "asan": ("-O1", "-g", "-march=native", "-fsanitize=address"),
    "race": ("-O1", "-g", "-march=native", "-fsanitize=thread", "-Wno-tsan", "-DTSR_EMULATION_RACE"),
}
_QUICK = {
    "fast": "-Og",
    "asan": "-Og -fsanitize=address",
    "race": "-Og -fsanitize=thread -Wno-tsan -DTSR_EMULATION_RACE",
}
"""Flags for whole programs, which take longest to compile: without source lines, which make MODE=... adds."""

_LINK = {"fast": (), "asan": ("-fsanitize=address",), "race": ()}


def run(command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> None:
    """Runs a compiler; what it printed is the message when it fails."""
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr[:6000]}"


def engine_object(mode: str) -> Path:
    """The engine as an object file, from a cache by content."""
    flags = [*_COMMON, *_ENGINE[mode]]
    whole = hashlib.sha256(" ".join(flags).encode())
    for file in sorted([*runtime_dir().glob("emulation/*"), *runtime_dir().glob("cuda/*_api.h")]):
        whole.update(file.name.encode() + file.read_bytes())
    found = cache_folder() / f"{whole.hexdigest()[:24]}.o"
    if not found.exists():
        fresh = found.with_suffix(f".{os.getpid()}.o")
        run(["g++", *flags, "-c", "-o", str(fresh), "emulation/engine.cpp"], runtime_dir())
        fresh.replace(found)
    return found


def cache_folder() -> Path:
    """Where objects are kept between tests and sessions, by content."""
    cache = Path(tempfile.gettempdir()) / f"tesserac-emulation-{os.getuid()}"
    cache.mkdir(mode=0o700, exist_ok=True)
    return cache


def make_programs(folder: Path, mode: str, goals: Sequence[str]) -> None:
    """Makes an emitted folder, for the emulation or (``mode`` cpu) for the processor, with little optimization.

    The command line, which takes longest and is the same in every program, comes from the cache.
    """
    emulated = mode in MODES
    variables = [f"MODE={mode}", f"ENGINE={engine_object(mode)}", f"KERNELS_{mode}={_QUICK[mode]}"] if emulated else []
    rest = [*variables, "OPTIMIZE=-O1"]
    whole = hashlib.sha256(f"{emulated} {(folder / 'command_line.cpp').read_text()}".encode())
    lines = (folder / "Makefile").read_text(encoding="utf-8").splitlines()
    for text in (line for line in lines if line.startswith(("CXXFLAGS", "PLAIN"))):
        whole.update(text.encode())
    for file in sorted(folder.glob("runtime/*.h")):
        whole.update(file.name.encode() + file.read_bytes())
    found = cache_folder() / f"{whole.hexdigest()[:24]}.o"
    if not found.exists():
        run(["make", "-s", *rest, "command_line.o"], folder)
        fresh = found.with_suffix(f".{os.getpid()}.o")
        shutil.copy(folder / "command_line.o", fresh)
        fresh.replace(found)
    shutil.copy(found, folder / "command_line.o")  # newer than what make compares it with
    run(["make", "-s", *rest, *goals], folder)


def write_emulated(folder: Path, files: Mapping[str, str]) -> None:
    """Writes CUDA files as the emulation compiles them, with the runtime's, below ``folder``."""
    cuda = {f"runtime/cuda/{f.name}": f.read_text(encoding="utf-8") for f in runtime_dir().glob("cuda/*.cuh")}
    for path, text in emulated_files({**cuda, **files}).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    if not (folder / "runtime").exists():
        (folder / "runtime").symlink_to(runtime_dir())


def build(folder: Path, source: str, mode: str, *, program: bool, flags: Sequence[str] = ()) -> Path:
    """Compiles one C++ file below ``folder/emulation`` into a program, or else a library, beside it."""
    stem = f"{Path(source).stem}.{mode}"
    force = ("-I.", f"-I{FOLDER}", "-Iruntime/cuda", "-include", "runtime/emulation/cuda.h")
    run(["g++", *_COMMON, *_KERNELS[mode], *force, *flags, "-c", "-o", f"{stem}.o", f"{FOLDER}/{source}"], folder)
    out, kind = (stem, ()) if program else (f"{stem}.so", ("-shared",))
    link = ["g++", *kind, "-pthread", "-o", out, f"{stem}.o", str(engine_object(mode)), *_LINK[mode], "-ldl"]
    run(link, folder)
    return folder / out


def compiled(
    source: str, folder: Path, archs: Sequence[str] = ARCHITECTURES, *, tuned: bool = True
) -> list[Resources]:
    """What ptxas says of the kernels of a CUDA file on all architectures; nvcc must take it without a warning.

    ``tuned``: ptxas must not see lost performance either; kernels with planted mistakes are not.
    """
    (folder / "kernels.cu").write_text(source, encoding="utf-8")
    codes = [f"-gencode=arch={arch.replace('sm', 'compute')},code={arch}" for arch in archs]
    strict = ("-Xptxas", "-v", "-Xcompiler", "-Wall,-Wextra", "-Werror=all-warnings")
    command = ["nvcc", "-std=c++17", "-O3", *codes, *strict, f"-I{runtime_dir().parent}", "-c", "-o", "kernels.o"]
    done = subprocess.run([*command, "kernels.cu"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:6000]
    lost = [line for line in done.stderr.splitlines() if "Potential Performance Loss" in line]
    assert not (tuned and lost), lost[0]  # such as products of a warpgroup that wait for each other
    return parse(done.stderr)
