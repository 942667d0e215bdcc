"""The environments contestants run in, and what the machine can do at best."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "bench"

#: Variables some machines export that make OpenBLAS or MKL pick a slower kernel; no contestant sees them.
CLEARED = ("OPENBLAS_", "NVPL_", "MKL_", "OMP_PROC_BIND", "OMP_PLACES", "KMP_", "GOMP_")

#: glibc keeps large buffers mapped instead of returning them after every step, and asks for huge pages.
_KEEP_PAGES = {
    "GLIBC_TUNABLES": ":".join(
        f"glibc.malloc.{name}={value}"
        for name, value in {"hugetlb": 1, "mmap_max": 0, "mmap_threshold": 2**32, "trim_threshold": 2**33}.items()
    ),
    "THP_MEM_ALLOC_ENABLE": "1",
}


def threads() -> int:
    """How many cores this process may use; every contestant gets that many threads."""
    return len(os.sched_getaffinity(0))


def taken_s() -> float:
    """Processor seconds since the machine started that neither this process nor a child that ended had.

    Those of other processes, and those that the host of a virtual machine kept from it (proc_stat(5)).
    """
    with open("/proc/stat", encoding="utf-8") as lines:
        user, nice, system, _, _, irq, softirq, steal = map(int, lines.readline().split()[1:9])
    own = os.times()
    busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return busy - (own.user + own.system + own.children_user + own.children_system)


def cleared_names() -> list[str]:
    """The variables of the caller's environment that are kept from the contestants."""
    return sorted(name for name in os.environ if name.startswith(CLEARED))


def plain() -> dict[str, str]:
    """The environment of a contestant as shipped."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(CLEARED)}
    return kept | {
        "OMP_NUM_THREADS": str(threads()),
        "PYTHONPATH": str(ROOT),
        "TORCHINDUCTOR_CACHE_DIR": str(WORK / "inductor"),
    }


def tuned(*, mkl: bool) -> dict[str, str]:
    """What an expert adds: an allocator that keeps its pages; for PyTorch, MKL's AVX-512 path on any CPU."""
    environment = plain() | _KEEP_PAGES
    if mkl:
        environment["LD_PRELOAD"] = str(_mkl_preload())
    return environment


def _compile(compiler: str, source: Path, output: Path, *flags: str) -> Path:
    if not output.exists() or output.stat().st_mtime < source.stat().st_mtime:
        output.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([compiler, *flags, str(source), "-o", str(output)], check=True)
    return output


def _mkl_preload() -> Path:
    source = ROOT / "bench" / "peers" / "mkl_any_vendor.c"
    return _compile("gcc", source, WORK / "libmkl_any_vendor.so", "-O1", "-shared", "-fPIC")


def machine() -> dict[str, str]:
    """The processor and the versions of what is raced on it."""
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    versions = {}
    for package in ("tesserac", "torch", "jax", "numpy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {"cpu": model, **versions}


def peak_gflops(seconds: float = 2.0) -> float:
    """The fp32 multiply-add rate of all threads together, in 1e9 operations per second, from registers alone."""
    flags = ("-std=c++17", "-O3", "-march=native", "-fopenmp", f"-I{ROOT / 'runtime'}")
    program = _compile("g++", ROOT / "bench" / "peak.cpp", WORK / "peak", *flags)
    done = subprocess.run([str(program), str(seconds)], check=True, capture_output=True, text=True, env=plain())
    return float(done.stdout)
