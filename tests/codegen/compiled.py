"""Compiles emitted functions and calls them on NumPy arrays: what the tests compare with the evaluator."""

from __future__ import annotations

import ctypes
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tesserac.codegen.cpu.project import render_entry
from tesserac.driver import CompileOptions, plan_entry
from tesserac.ir.program import Entry, Function
from tesserac.ir.types import TensorType
from tesserac.resources import runtime_dir

SHIM = """
#include <cstdlib>
#include <cstring>
#include "{stem}.program.cpp"

// Dense parameters and gradients in table order; everything else as tsr::Call wants it.
extern "C" void call_{stem}(const void* const* inputs, void* const* outputs, const char* const* params,
                            char* const* grads, int workers, long elements, unsigned long seed, unsigned long step) {{
  using namespace tsr;
  const Program& p = {stem}_program;
  const Function& f = p.train ? *p.train : *p.infer;
  auto garbage = [](size_t n) {{  // what the program must not rely on
    n = n / 64 * 64 + 128;
    return static_cast<char*>(memset(aligned_alloc(64, n), 0xEE, n));
  }};
  char *arena = garbage(p.param_bytes), *gradients = garbage(p.param_bytes * workers);
  char *shared = garbage(f.shared_bytes), *scratch = garbage(f.scratch_bytes * workers);
  auto rows = [&](auto copy) {{
    for (int i = 0; i < p.param_count; ++i) {{
      const Tensor& t = p.params[i];
      long count = 1, width = t.rank ? t.shape[t.rank - 1] : 1;
      for (int a = 0; a + 1 < t.rank; ++a) count *= t.shape[a];
      const size_t size = t.dtype == DType::f64 || t.dtype == DType::c128 ? 8 : 4;
      if (t.dtype != DType::c64 && t.dtype != DType::c128) {{
        for (long r = 0; r < count; ++r) copy(i, t.offset + r * t.row_stride * size, r * width * size, width * size);
        continue;
      }}
      const size_t plane = (count * t.row_stride * size + 63) / 64 * 64;  // real parts, then imaginary ones
      for (long e = 0; e < count * width; ++e)
        for (int k = 0; k < 2; ++k) {{
          const size_t at = t.offset + k * plane + (e / width * t.row_stride + e % width) * size;
          copy(i, at, (2 * e + k) * size, size);
        }}
    }}
  }};
  rows([&](int i, size_t at, size_t dense, size_t n) {{ memcpy(arena + at, params[i] + dense, n); }});
  if (elements < 0) elements = f.batch;
  f.run(Call{{inputs, outputs, arena, gradients, shared, scratch, workers, elements, seed, step}});
  if (p.train) rows([&](int i, size_t at, size_t dense, size_t n) {{ memcpy(grads[i] + dense, gradients + at, n); }});
  free(arena), free(gradients), free(shared), free(scratch);
}}
void {stem}_train_reference(const tsr::Call&) {{}}
void {stem}_infer_reference(const tsr::Call&) {{}}
"""

DEFAULT = CompileOptions()
FLAGS = (
    "-std=c++17",
    "-O1",
    "-march=native",
    "-fopenmp",
    "-fPIC",
    "-shared",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-I.",
)


def headers(texts: Iterable[str]) -> frozenset[str]:
    """What files include, but for each other."""
    found = (re.match(r'#include ([<"](?!f\d+\.).*)', line) for text in texts for line in text.splitlines())
    return frozenset(match[1] for match in found if match)


def compile_functions(
    functions: Sequence[Function],
    folder: Path,
    options: CompileOptions = DEFAULT,
    flags: Sequence[str] = (),
    mixed: bool = False,
) -> ctypes.CDLL:
    """One shared library with ``call_f0``, ``call_f1``... for the functions (already free of ``backward``, or not).

    Functions with the same headers are compiled together, as reading these takes longest; a function that forgets a
    header does not get it from another one.
    """
    link = folder / "runtime"
    if not link.exists():
        link.symlink_to(runtime_dir())
    units: dict[frozenset[str], list[str]] = {}
    for number, function in enumerate(functions):
        trains = any(o.name.startswith("grad:") for o in function.outputs)
        entry = Entry(f"f{number}", function if trains else None, None if trains else function, None, mixed)
        files = render_entry(plan_entry(entry, options), stem=f"f{number}", source="random.py", lines={})
        for name, text in files.items():
            assert not any(line.endswith(" ") for line in text.splitlines()), name
            (folder / name).write_text(text, encoding="utf-8")
        (folder / f"f{number}.cpp").write_text(SHIM.format(stem=f"f{number}"), encoding="utf-8")
        units.setdefault(headers(files.values()), []).append(f'#include "f{number}.cpp"\n')
    sources = []
    for number, unit in enumerate(units.values()):
        sources.append(f"unit{number}.cpp")
        (folder / sources[-1]).write_text("".join(unit), encoding="utf-8")
    done = subprocess.run(
        ["g++", *FLAGS, *flags, *sources, "-o", "functions.so"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[:4000]
    return ctypes.CDLL(str(folder / "functions.so"))


def _garbage(kind: TensorType) -> NDArray[np.generic]:
    """Memory that a program must not rely on."""
    size = kind.size * np.dtype(kind.dtype.numpy).itemsize
    return np.frombuffer(bytearray(b"\xee" * size), kind.dtype.numpy).reshape(kind.sizes)


def call(
    library: ctypes.CDLL,
    number: int,
    function: Function,
    values: Mapping[str, NDArray[np.generic]],
    *,
    workers: int = 2,
    elements: int = -1,
    seed: int = 0,
    step: int = 0,
) -> dict[str, NDArray[np.generic]]:
    """Outputs and gradients by name."""

    def pointers(arrays: Sequence[NDArray[np.generic]]) -> ctypes.Array[ctypes.c_void_p]:
        return (ctypes.c_void_p * (len(arrays) + 1))(*[a.ctypes.data for a in arrays])

    data = [np.ascontiguousarray(values[i.path], dtype=i.var.type.dtype.numpy) for i in function.data]
    params = [np.ascontiguousarray(values[i.path], dtype=i.var.type.dtype.numpy) for i in function.parameters]
    grads = [np.full(p.shape, np.nan, p.dtype) for p in params]
    plain = [o for o in function.outputs if not o.name.startswith("grad:")]
    outputs = [_garbage(o.var.type) for o in plain]
    getattr(library, f"call_f{number}")(
        pointers(data),
        pointers(outputs),
        pointers(params),
        pointers(grads),
        workers,
        ctypes.c_long(elements),
        ctypes.c_ulong(seed),
        ctypes.c_ulong(step),
    )
    result = {o.name: a for o, a in zip(plain, outputs, strict=True)}
    wanted = {o.name for o in function.outputs}
    result.update(
        {f"grad:{i.path}": g for i, g in zip(function.parameters, grads, strict=True) if f"grad:{i.path}" in wanted}
    )
    return result
