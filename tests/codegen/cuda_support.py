"""Emitted CUDA for tests: compiled by nvcc, or executed on the host by the stand-in of cuda_host.h."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tesserac.codegen.cuda.project import render_cuda_makefile, render_entry_cuda
from tesserac.driver import CompileOptions, plan_entry
from tesserac.ir.program import Entry, Function
from tesserac.resources import runtime_dir

WHOLE = CompileOptions(tile_rows=0)
FLAGS = (
    "-std=c++17",
    "-O1",
    "-fPIC",
    "-shared",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unknown-pragmas",
    "-Wno-maybe-uninitialized",
    "-I.",
    "-x",
    "c++",
    "-include",
    "cuda_host.h",
)

SHIM = """
#include "{stem}.program.cu"

extern "C" int call_{stem}(const void* const* inputs, void* const* outputs, const char* const* params,
                           char* const* grads, unsigned long seed, unsigned long step) {{
  const tsr::cuda::Program& p = {stem}_program;
  const tsr::cuda::Function& f = p.train ? *p.train : *p.infer;
  auto filled = [](size_t n) {{
    n = n / 256 * 256 + 512;
    return static_cast<char*>(memset(aligned_alloc(256, n), 0xEE, n));
  }};
  char *weights = filled(p.param_bytes), *gradients = filled(p.param_bytes), *arena = filled(f.arena_bytes);
  auto rows = [&](auto copy) {{
    for (int i = 0; i < p.param_count; ++i) {{
      const tsr::Tensor& t = p.params[i];
      long count = 1, width = t.rank ? t.shape[t.rank - 1] : 1;
      for (int a = 0; a + 1 < t.rank; ++a) count *= t.shape[a];
      const size_t size = t.dtype == tsr::DType::f64 ? 8 : 4;
      for (long r = 0; r < count; ++r) copy(i, t.offset + r * t.row_stride * size, r * width * size, width * size);
    }}
  }};
  rows([&](int i, size_t at, size_t dense, size_t n) {{ memcpy(weights + at, params[i] + dense, n); }});
  tsr::cuda::Context context;
  const tsr::cuda::Call call{{inputs, outputs, weights, gradients, arena, seed, step}};
  const int code = {stem}_{entry}(context, call);
  if (p.train) rows([&](int i, size_t at, size_t dense, size_t n) {{ memcpy(grads[i] + dense, gradients + at, n); }});
  free(weights), free(gradients), free(arena);
  return code;
}}
"""


def split_arguments(text: str) -> list[str]:
    """Arguments at the top level of parentheses."""
    parts, depth, start = [], 0, 0
    for i, c in enumerate(text):
        depth += (c in "([{") - (c in ")]}")
        if c == "," and depth == 0:
            parts.append(text[start:i].strip())
            start = i + 1
    return [*parts, text[start:].strip()]


def closing(text: str, opened: int) -> int:
    """Position of the parenthesis that closes the one at ``opened``."""
    depth = 0
    for i in range(opened, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i
    raise AssertionError("unbalanced launch")


def host_source(text: str) -> str:
    """CUDA C++ with its launches as calls of the host stand-in."""
    while "<<<" in text:
        at = text.index("<<<")
        begin, depth = at, 0
        while depth or re.match(r"[\w:>]", text[begin - 1]):
            depth += (text[begin - 1] == ">") - (text[begin - 1] == "<")
            begin -= 1
        config_end = text.index(">>>", at)
        grid, block, _, stream = split_arguments(text[at + 3 : config_end])
        opened = config_end + 3
        end = closing(text, opened)
        call = (
            f"host::launch(dim3({grid}), dim3({block}), {stream}, [=] {{ {text[begin:at]}{text[opened : end + 1]}; }})"
        )
        text = text[:begin] + call + text[end + 1 :]
    return text


def emit(functions: Sequence[Function], folder: Path) -> list[str]:
    """Writes the CUDA files of functions f0, f1... and a Makefile; returns the stems."""
    stems = []
    for number, function in enumerate(functions):
        trains = any(o.name.startswith("grad:") for o in function.outputs)
        entry = Entry(f"f{number}", function if trains else None, None if trains else function)
        for name, text in render_entry_cuda(
            plan_entry(entry, WHOLE), stem=f"f{number}", source="random.py", lines={}
        ).items():
            (folder / name).write_text(text, encoding="utf-8")
        stems.append(f"f{number}")
    (folder / "Makefile").write_text(render_cuda_makefile(stems, title="functions"), encoding="utf-8")
    if not (folder / "runtime").exists():
        shutil.copytree(runtime_dir(), folder / "runtime")
    return stems


def on_host(folder: Path) -> None:
    """Rewrites every launch below a folder and puts the stand-in beside the files."""
    for file in [*folder.glob("*.cu*"), *folder.glob("runtime/cuda/*.cuh")]:
        file.write_text(host_source(file.read_text(encoding="utf-8")), encoding="utf-8")
    shutil.copy(Path(__file__).with_name("cuda_host.h"), folder / "cuda_host.h")


def build(sources: Sequence[str], folder: Path) -> ctypes.CDLL:
    """One shared library of C++ files; they become one translation unit, which saves reading the headers again."""
    (folder / "all.cpp").write_text("".join(f'#include "{name}"\n' for name in sources), encoding="utf-8")
    done = subprocess.run(
        ["g++", *FLAGS, "all.cpp", "-o", "all.so", "-ldl"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[:6000]
    return ctypes.CDLL(str(folder / "all.so"))


def compile_on_host(functions: Sequence[Function], folder: Path) -> ctypes.CDLL:
    """A library with ``call_f0``, ``call_f1``... that executes the emitted CUDA thread by thread."""
    stems = emit(functions, folder)
    for number, (stem, function) in enumerate(zip(stems, functions, strict=True)):
        trains = any(o.name.startswith("grad:") for o in function.outputs)
        (folder / f"f{number}.cpp").write_text(
            SHIM.format(stem=stem, entry="train_step" if trains else "infer"), encoding="utf-8"
        )
    on_host(folder)
    return build([f"{stem}.cpp" for stem in stems], folder)


def call(
    library: ctypes.CDLL,
    number: int,
    function: Function,
    values: Mapping[str, NDArray[np.generic]],
    *,
    seed: int = 0,
    step: int = 0,
) -> dict[str, NDArray[np.generic]]:
    """Outputs and gradients by name."""

    def pointers(arrays: Sequence[NDArray[np.generic]]) -> ctypes.Array[ctypes.c_void_p]:
        return (ctypes.c_void_p * (len(arrays) + 1))(*[a.ctypes.data for a in arrays])

    def aligned(array: NDArray[np.generic]) -> NDArray[np.generic]:
        """A copy at an address as cudaMalloc would give it (a whole number of 256 bytes), with no slack behind it."""
        room = np.empty(array.nbytes + 256, np.uint8)
        start = -room.ctypes.data % 256
        copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
        copy[...] = array
        return copy

    data = [aligned(np.ascontiguousarray(values[i.path], dtype=i.var.type.dtype.numpy)) for i in function.data]
    params = [np.ascontiguousarray(values[i.path], dtype=i.var.type.dtype.numpy) for i in function.parameters]
    grads = [np.full(p.shape, np.nan, p.dtype) for p in params]
    plain = [o for o in function.outputs if not o.name.startswith("grad:")]
    outputs = [aligned(np.zeros(o.var.type.sizes, o.var.type.dtype.numpy)) for o in plain]
    code = getattr(library, f"call_f{number}")(
        pointers(data), pointers(outputs), pointers(params), pointers(grads), ctypes.c_ulong(seed), ctypes.c_ulong(step)
    )
    assert code == 0
    result = {o.name: a for o, a in zip(plain, outputs, strict=True)}
    wanted = {o.name for o in function.outputs}
    result.update(
        {f"grad:{i.path}": g for i, g in zip(function.parameters, grads, strict=True) if f"grad:{i.path}" in wanted}
    )
    return result
