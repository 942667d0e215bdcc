"""What this machine has for building and running emitted projects, and how to get what it lacks."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tesserac import __version__
from tesserac.build import processors
from tesserac.nvcc import locate
from tesserac.toolchain import INSTALL, find_compiler, find_make
from tesserac.verification.gpu import INSTALL as INSTALL_CUPY

PACKAGES = ("click", "jinja2", "lark", "numpy")
"""Run-time dependencies whose versions are listed."""

_TRIAL = """#include <omp.h>
#include <string_view>
typedef float Vec __attribute__((vector_size(16)));
int main() {
  int threads = 0;
#pragma omp parallel reduction(+ : threads)
  threads += 1;
  Vec v = {1, 2, 3, 4};
  const bool parallel = threads >= 1 && threads <= omp_get_max_threads();
  if constexpr (sizeof(v) == 16) return parallel && std::string_view("x").size() == 1 && v[1] == 2 ? 0 : 1;
}
"""
"""C++17, OpenMP and vector extensions: what emitted code asks of a compiler."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; ``remedy`` is the command that mends it."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    required: bool = False


def findings() -> list[Finding]:
    """Everything that was looked for, in the order of the report."""
    return [*_python(), *_compiler(), _make(), _processor(), *_cuda()]


def report(found: Sequence[Finding]) -> str:
    """One line per finding; a missing one is followed by its remedy."""
    width = max(len(f.name) for f in found)
    lines = []
    for f in found:
        mark = "ok     " if f.ok else "MISSING" if f.required else "absent "
        lines.append(f"{mark}  {f.name:<{width}}  {f.detail}")
        if not f.ok and f.remedy:
            lines.append(f"{'':<9}{'':<{width}}  {f.remedy}")
    broken = [f.name for f in found if f.required and not f.ok]
    lines.append("")
    if broken:
        lines.append(f"Not ready: emitted projects need {' and '.join(broken)}.")
    else:
        lines.append("Ready: `tesserac build` can compile what it emits for this machine.")
    return "\n".join(lines) + "\n"


def _python() -> list[Finding]:
    versions = []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{name} (version unknown)")
    return [Finding("tesserac", True, f"{__version__}, Python {platform.python_version()}, {', '.join(versions)}")]


def _output(command: Sequence[str], cwd: str | None = None) -> tuple[int, str]:
    try:
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, errors="replace", timeout=60, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 127, str(error)
    return done.returncode, done.stdout + done.stderr


def _compiler() -> list[Finding]:
    compiler = find_compiler()
    if compiler is None:
        given = os.environ.get("CXX", "").strip()
        detail = f"$CXX is `{given}`, which cannot be run" if given else "no C++ compiler on PATH"
        return [Finding("C++ compiler", False, detail, INSTALL, required=True)]
    status, text = _output([*compiler, "--version"])
    version = text.splitlines()[0] if status == 0 and text else "its version is unknown"
    rows = [Finding("C++ compiler", status == 0, f"{shlex.join(compiler)}: {version}", INSTALL, required=True)]
    with tempfile.TemporaryDirectory(prefix="tesserac-doctor-") as folder:
        Path(folder, "trial.cpp").write_text(_TRIAL, encoding="utf-8")
        status, text = _output(
            [*compiler, "-std=c++17", "-O1", "-march=native", "-fopenmp", "trial.cpp", "-o", "trial"], folder
        )
        ran = _output([str(Path(folder, "trial"))])[0] if status == 0 else 1
    if status != 0:
        first = next((line for line in text.splitlines() if "error" in line), text.strip()[:200])
        rows.append(
            Finding(
                "C++17 and OpenMP",
                False,
                f"a trial program does not compile: {first}",
                INSTALL if compiler[0] != "clang++" else "apt-get install libomp-dev",
                required=True,
            )
        )
    else:
        detail = "a trial program compiles and runs" if ran == 0 else "a trial program compiles but fails when run"
        rows.append(
            Finding("C++17 and OpenMP", ran == 0, detail, "unset CXX and CXXFLAGS, or install g++", required=True)
        )
    return rows


def _make() -> Finding:
    make = find_make()
    if make is None:
        return Finding("make", False, "neither make nor gmake on PATH", INSTALL, required=True)
    status, text = _output([make, "--version"])
    version = text.splitlines()[0] if text else "no version"
    return Finding("make", status == 0 and "GNU" in version, f"{make}: {version}", INSTALL, required=True)


def _processor() -> Finding:
    try:
        info = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        info = ""
    model = re.search(r"^model name\s*:\s*(.+)$", info, re.MULTILINE)
    flags = set((re.search(r"^(?:flags|Features)\s*:\s*(.+)$", info, re.MULTILINE) or [""])[0].split())
    named = {
        "avx2": "AVX2",
        "fma": "FMA",
        "avx512f": "AVX-512",
        "avx512_bf16": "AVX-512 BF16",
        "amx_bf16": "AMX BF16",
        "asimd": "NEON",
        "sve": "SVE",
        "bf16": "BF16",
    }
    sets = ", ".join(text for flag, text in named.items() if flag in flags) or "instruction sets unknown"
    name = model[1] if model else platform.machine()
    return Finding("processor", True, f"{name}; {processors()} usable; {sets}")


def _cuda() -> list[Finding]:
    path = locate()
    version, libraries = "", {}
    if path is not None:
        text = _output([path, "--version"])[1]
        version = (re.search(r"release [\d.]+", text) or [""])[0]
        toolkit = Path(path).resolve().parent.parent
        folders = ("lib64", "lib", "targets/x86_64-linux/lib")
        for name, stem in (("cuBLASLt", "cublasLt"), ("cuFFT", "cufft")):
            found = [file for folder in folders for file in toolkit.glob(f"{folder}/lib{stem}.so*")]
            libraries[name] = str(found[0]) if found else ""
    rows = [
        Finding(
            "nvcc (optional)",
            path is not None,
            f"{path}, {version}" if path else "needed to compile what --target cuda emits; --emulate does without",
            "pip install 'tesserac[cuda-compile]'",
        )
    ]
    for name, file in libraries.items():
        what, extra = {"cuBLASLt": ("products", "cuda-compile"), "cuFFT": ("long transforms", "cuda")}[name]
        rows.append(
            Finding(
                f"{name} (optional)",
                bool(file),
                file or f"not beside this nvcc: programs compute {what} with kernels of their own",
                f"pip install 'tesserac[{extra}]', and NVCC= to the nvcc that it brings",
            )
        )
    smi = shutil.which("nvidia-smi")
    status, text = _output([smi, "--query-gpu=name,driver_version", "--format=csv,noheader"]) if smi else (1, "")
    gpu = text.splitlines()[0] if status == 0 and text.strip() else ""
    rows.append(_cupy())
    rows.append(
        Finding(
            "NVIDIA GPU (optional)",
            bool(gpu),
            gpu or "needed to run CUDA programs",
            "a machine with an NVIDIA GPU and its driver",
        )
    )
    return rows


def _cupy() -> Finding:
    """Whether it is there; whether it can be imported is only known by doing so, which takes a second."""
    spec = importlib.util.find_spec("cupy")
    detail = str(spec.origin) if spec else "needed by verify and tune on a GPU; built programs do without"
    return Finding("cupy (optional)", spec is not None, detail, INSTALL_CUPY)
