"""`inspect --target cuda --stage source`: the text of CUDA kernels, and what they take of a GPU as ptxas tells it."""

from __future__ import annotations

import math
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tesserac.diagnostics import InternalError
from tesserac.driver import Project
from tesserac.inspection.stages import unknown
from tesserac.nvcc import find_nvcc

_DEFINITION = re.compile(
    r"^(?:__global__ void (?:__launch_bounds__\(\d+\) )?|static constexpr Matmul |struct )(\w+)", re.MULTILINE
)
_ENTRY = re.compile(r"Compiling entry function '(\S+)' for '(sm_\w+)'")
_BOUNDS = re.compile(r"\.entry\s+(\S+?)\s*\([^)]*\)\s*\.maxntid\s+(\d+(?:,\s*\d+)*)")
_SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?")
_REGISTERS, _WARPS, _BLOCKS = 65536, 64, 32
_SHARED = {"80": 164 << 10, "86": 100 << 10, "89": 100 << 10, "90": 228 << 10, "100": 228 << 10, "120": 100 << 10}


@dataclass(frozen=True, slots=True)
class CudaKernel:
    """A kernel of ``file`` or what the runtime's kernels are instantiated with."""

    name: str
    file: str
    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Resources:
    """Of one entry function: ``registers`` per thread, ``shared`` bytes per block, ``spills`` bytes per thread.

    ``block``: the most threads it may be launched with, 0 if it does not say.
    """

    entry: str
    architecture: str
    registers: int
    shared: int
    spills: int
    block: int = 0


def cuda_source(project: Project, name: str | None, resources: bool, architectures: Sequence[str]) -> str:
    """The CUDA files, or the kernels called ``name`` or ``name_...``; with ``resources`` a table below each."""
    if name is None:
        own = {path: text for path, text in project.files.items() if re.search(r"\.(kernels\.cuh|program\.cu)$", path)}
        whole = "\n".join(f"// ==== {path} ====\n{text}" for path, text in own.items() if "/" not in path)
        return whole + ("\n" + table(compiled(project, architectures), None) if resources else "")
    kernels = cuda_kernels(project)
    chosen = [k for k in kernels if k.name == name] or [k for k in kernels if k.name.startswith(f"{name}_")]
    if not chosen:
        raise unknown("kernel", name, list(dict.fromkeys(k.name for k in kernels)))
    found = compiled(project, architectures) if resources else []
    parts = [
        f"// {k.file}:{k.line}\n{k.text}" + ("\n" + table([r for r in found if uses(r, k)], k) if resources else "")
        for k in chosen
    ]
    return "\n".join(parts)


def cuda_kernels(project: Project) -> list[CudaKernel]:
    """Everything a kernel's name can be, in the order of the files."""
    found = []
    for path, text in project.files.items():
        if not path.endswith(".kernels.cuh") or "/" in path:
            continue
        lines = text.splitlines()
        for match in _DEFINITION.finditer(text):
            number = text.count("\n", 0, match.start())
            first, last = number, number
            while first > 0 and lines[first - 1].startswith("//"):
                first -= 1
            while not re.match(r"\}|.*\};$", lines[last]) and last + 1 < len(lines):
                last += 1
            body = "\n".join(lines[first : last + 1]) + "\n"
            found.append(CudaKernel(match[1], path, first + 1, body))
    return found


def compiled(project: Project, architectures: Sequence[str]) -> list[Resources]:
    """What ptxas says of every entry function, for each architecture (none: sm_80 and sm_90a). Needs nvcc (T0810)."""
    names = list(architectures) or ["sm_80", "sm_90a"]
    nvcc = find_nvcc(names)
    with tempfile.TemporaryDirectory(prefix="tesserac-resources-") as folder:
        for path, text in project.files.items():
            (Path(folder) / path).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / path).write_text(text, encoding="utf-8")
        found: list[Resources] = []
        for source in (path for path in project.files if path.endswith(".program.cu")):
            codes = [f"-gencode=arch={n.replace('sm', 'compute')},code={n}" for n in names]
            if "sm_90a" in names:
                codes.append("-DTSR_SM_90A")  # as the Makefile does
            flags = ["-std=c++17", "-O3", "-I.", "-Xptxas", "-v", "--keep", *codes, "-c", "-o", "out.o"]
            command = [nvcc.path, *flags, source]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise InternalError(f"nvcc failed on {source}:\n{done.stderr[:2000]}")
            blocks: dict[str, int] = {}
            for kept in Path(folder).glob("*.ptx"):
                blocks.update(launch_bounds(kept.read_text(encoding="utf-8")))
            found += [replace(r, block=blocks.get(r.entry, 0)) for r in parse(done.stderr)]
    return found


def launch_bounds(ptx: str) -> dict[str, int]:
    """Threads per block that the entry functions of a PTX file are limited to."""
    return {match[1]: math.prod(int(n) for n in match[2].split(",")) for match in _BOUNDS.finditer(ptx)}


def parse(text: str) -> list[Resources]:
    """The entries of a log of ``ptxas -v``."""
    found, entry, spills = [], ("", ""), 0
    for line in text.splitlines():
        if match := _ENTRY.search(line):
            entry, spills = (match[1], match[2]), 0
        elif match := _SPILLS.search(line):
            spills = int(match[1]) + int(match[2])
        elif entry[0] and (match := _USED.search(line)):
            found.append(Resources(*entry, int(match[1]), int(match[2] or 0), spills))
            entry = ("", "")
    return found


def uses(resources: Resources, kernel: CudaKernel) -> bool:
    """Whether an entry is the kernel, or one of the runtime's that is instantiated with it."""
    return f"{len(kernel.name)}{kernel.name}E" in resources.entry


def occupancy(resources: Resources) -> float:
    """Share of a multiprocessor's warps that can be resident, from registers, shared memory and the block's size."""
    warps = -(-resources.block // 32)
    registers = -(-resources.registers * 32 // 256) * 256 * warps  # given to warps in units of 256
    major = re.sub(r"\D", "", resources.architecture)
    blocks = min(_BLOCKS, _WARPS // warps, _REGISTERS // max(registers, 1))
    if resources.shared:
        blocks = min(blocks, _SHARED.get(major, 100 << 10) // (resources.shared + 1024))
    return blocks * warps / _WARPS


def _readable(entries: Sequence[str]) -> dict[str, str]:
    """Names of entry functions as C++ writes them, by the mangled ones, where binutils' c++filt is there to tell."""
    try:
        done = subprocess.run(["c++filt", "-p"], input="\n".join(entries), capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return {}
    return dict(zip(entries, done.stdout.splitlines(), strict=False))


def table(found: Sequence[Resources], kernel: CudaKernel | None) -> str:
    """One line per entry function and architecture."""
    if not found:
        return "// no entry function of its own: a product that cuBLASLt or the runtime's kernel carries out\n"
    lines = []
    names = _readable([r.entry for r in found])
    for r in found:
        share = f", {occupancy(r):.0%} of the warps resident" if r.block else ""
        own = "" if kernel and f"{len(kernel.name)}{kernel.name}EP" in r.entry else f"  {names.get(r.entry, r.entry)}"
        lines.append(
            f"// {r.architecture}: {r.registers} registers, {r.shared} bytes of shared memory, "
            f"{r.spills} bytes spilled{share}{own}"
        )
    return "\n".join(lines) + "\n"
