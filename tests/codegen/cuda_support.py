"""Emitted CUDA for tests: compiled by nvcc, or executed by the emulation (runtime/emulation)."""

from __future__ import annotations

import ctypes
import importlib
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tesserac.codegen.cuda.project import render_entry_cuda
from tesserac.codegen.cuda.schedule import Schedule
from tesserac.driver import CompileOptions, plan_entry
from tesserac.ir.evaluate import evaluate
from tesserac.ir.program import Entry, Function
from tesserac.passes.differentiate import differentiate
from tesserac.resources import runtime_dir
from tests.emulation.building import build, write_emulated

WHOLE = CompileOptions(tile_rows=0, target="cuda")

SHIM = """
#include "{stem}.program.cpp"

extern "C" int call_{stem}(const void* const* inputs, void* const* outputs, const char* const* params,
                           char* const* grads, unsigned long seed, unsigned long step) {{
  const tsr::Program& p = {stem}_program;
  const tsr::Function& f = p.train ? *p.train : *p.infer;
  return call_emulated(p, f, {stem}_{entry}, inputs, outputs, params, grads, seed, step);
}}
void {stem}_train_reference(const tsr::Call&) {{}}
void {stem}_infer_reference(const tsr::Call&) {{}}
"""

CALL = """
#include <vector>
#include "runtime/cuda/program.cuh"
#include "runtime/tensor.h"

// Dense parameters and gradients in table order; everything in device memory of its own, so that no slack is behind it.
template <class Entry>
int call_emulated(const tsr::Program& p, const tsr::Function& f, Entry entry, const void* const* inputs,
                  void* const* outputs, const char* const* params, char* const* grads, unsigned long seed,
                  unsigned long step) {
  std::vector<void*> all;
  auto device = [&](size_t bytes, const void* from) {
    void* to = nullptr;
    cudaMalloc(&to, bytes);
    if (from != nullptr) cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice);
    all.push_back(to);
    return to;
  };
  std::vector<const void*> in;
  std::vector<void*> out;
  for (int i = 0; i < f.input_count; ++i) in.push_back(device(tsr::dense_bytes(f.inputs[i]), inputs[i]));
  for (int i = 0; i < f.output_count; ++i) out.push_back(device(tsr::dense_bytes(f.outputs[i]), nullptr));
  std::vector<char> host(p.param_bytes, char(0xee));
  for (int i = 0; i < p.param_count; ++i) tsr::unpack(p.params[i], params[i], host.data());
  char* const weights = static_cast<char*>(device(p.param_bytes, host.data()));
  char* const gradients = static_cast<char*>(device(p.param_bytes, nullptr));
  char* const arena = static_cast<char*>(device(f.shared_bytes, nullptr));
  const tsr::RandomKey host_key{seed, step};
  const auto* const key = static_cast<const tsr::RandomKey*>(device(sizeof host_key, &host_key));
  int code = 0;
  {
    tsr::cuda::Context context;
    code = entry(context, tsr::cuda::Call{in.data(), out.data(), weights, gradients, arena, key});
    for (int i = 0; i < f.output_count; ++i)
      cudaMemcpy(outputs[i], out[size_t(i)], tsr::dense_bytes(f.outputs[i]), cudaMemcpyDeviceToHost);
    cudaMemcpy(host.data(), gradients, p.param_bytes, cudaMemcpyDeviceToHost);
    if (code == 0) code = int(cudaDeviceSynchronize());
  }
  for (int i = 0; p.train && i < p.param_count; ++i) tsr::pack(p.params[i], host.data(), grads[i]);
  for (void* memory : all) cudaFree(memory);
  return code;
}
"""


def emit(
    functions: Sequence[Function],
    folder: Path,
    mixed: bool = False,
    schedules: Sequence[Mapping[str, Schedule]] = (),
) -> list[str]:
    """Writes the CUDA files of functions f0, f1... (with ``schedules`` each, by digest); returns the stems."""
    stems = []
    for number, function in enumerate(functions):
        trains = any(o.name.startswith("grad:") for o in function.outputs)
        entry = Entry(f"f{number}", function if trains else None, None if trains else function, None, mixed)
        own = schedules[number] if schedules else {}
        for name, text in render_entry_cuda(
            plan_entry(entry, WHOLE), stem=f"f{number}", source="random.py", lines={}, schedules=own
        ).items():
            (folder / name).write_text(text, encoding="utf-8")
        stems.append(f"f{number}")
    if not (folder / "runtime").exists():
        shutil.copytree(runtime_dir(), folder / "runtime")
    return stems


def load(folder: Path, sources: Mapping[str, str], mode: str = "fast") -> ctypes.CDLL:
    """The library that ``build_all`` makes, loaded."""
    return ctypes.CDLL(str(build_all(folder, sources, mode)))


def build_all(folder: Path, sources: Mapping[str, str], mode: str) -> Path:
    """One library of C++ files for the emulation, beside the folder's CUDA files; one translation unit in all."""
    cuda = {f.name: f.read_text(encoding="utf-8") for f in [*folder.glob("*.cu"), *folder.glob("*.cuh")]}
    write_emulated(folder, cuda)
    for name, text in sources.items():
        (folder / "emulation" / name).write_text(text, encoding="utf-8")
    (folder / "emulation" / "all.cpp").write_text("".join(f'#include "{name}"\n' for name in sources), encoding="utf-8")
    return build(folder, "all.cpp", mode, program=False, flags=("-Og",))  # cases are small: compiling takes longest


def compile_on_host(functions: Sequence[Function], folder: Path) -> ctypes.CDLL:
    """A library with ``call_f0``, ``call_f1``... that executes the emitted CUDA thread by thread."""
    return ctypes.CDLL(str(build_functions(functions, folder)))


def build_functions(
    functions: Sequence[Function],
    folder: Path,
    mode: str = "fast",
    *,
    mixed: bool = False,
    schedules: Sequence[Mapping[str, Schedule]] = (),
) -> Path:
    """The same library, not loaded: the address sanitizer's needs a process that has the sanitizer."""
    sources = {"call.h": CALL}
    for stem, function in zip(emit(functions, folder, mixed, schedules), functions, strict=True):
        trains = any(o.name.startswith("grad:") for o in function.outputs)
        sources[f"call_{stem}.cpp"] = SHIM.format(stem=stem, entry="train_step" if trains else "infer")
    return build_all(folder, sources, mode)


def run_library(library: Path, mode: str, module: str) -> None:
    """Calls ``run_cases`` of a module with a library; the address sanitizer's in a process that has loaded it."""
    if mode != "asan":
        importlib.import_module(module).run_cases(str(library))
        return
    sanitizer = subprocess.check_output(["g++", "-print-file-name=libasan.so"], text=True).strip()
    environment = {**os.environ, "LD_PRELOAD": sanitizer, "ASAN_OPTIONS": "detect_leaks=0", "PYTHONPATH": "."}
    code = f"import sys; from {module} import run_cases; run_cases(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, str(library)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]


def check_in_mode(
    functions: Sequence[Function], values: Sequence[Mapping[str, NDArray[np.generic]]], mode: str, folder: Path
) -> None:
    """Runs functions in mode ``race`` or ``asan``, which stops at the first fault, with threads out of order."""
    library = build_functions(functions, folder, mode)
    environment = {**os.environ, "PYTHONPATH": ".", "TSR_EMULATION_ORDER": "random", "TSR_EMULATION_SEED": "3"}
    if mode == "asan":
        sanitizer = subprocess.check_output(["g++", "-print-file-name=libasan.so"], text=True).strip()
        environment |= {"LD_PRELOAD": sanitizer, "ASAN_OPTIONS": "detect_leaks=0"}
    with (folder / "cases.pickle").open("wb") as file:
        pickle.dump([(f, dict(v)) for f, v in zip(functions, values, strict=True)], file)
    command = [sys.executable, "-m", "tests.codegen.cuda_support", str(library), str(folder / "cases.pickle")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]


def run_saved(library: str, cases: str) -> None:
    """What ``check_in_mode`` runs in a process of its own: every case, compared with the evaluator."""
    loaded = ctypes.CDLL(library)
    with open(cases, "rb") as file:
        saved: list[tuple[Function, dict[str, NDArray[np.generic]]]] = pickle.load(file)
    for number, (function, values) in enumerate(saved):
        function = differentiate(function)
        wide = {k: v.astype(np.float64) if v.dtype.kind == "f" else v for k, v in values.items()}
        want = evaluate(function, wide)
        for name, found in call(loaded, number, function, values).items():
            scale = float(np.abs(want[name]).max(initial=0.0)) + 1e-3
            np.testing.assert_allclose(found, want[name], rtol=0, atol=3e-5 * scale, err_msg=name)


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

    data = [np.ascontiguousarray(values[i.path], dtype=i.var.type.dtype.numpy) for i in function.data]
    params = [np.ascontiguousarray(values[i.path], dtype=i.var.type.dtype.numpy) for i in function.parameters]
    grads = [np.full(p.shape, np.nan, p.dtype) for p in params]
    plain = [o for o in function.outputs if not o.name.startswith("grad:")]
    outputs = [np.zeros(o.var.type.sizes, o.var.type.dtype.numpy) for o in plain]
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


if __name__ == "__main__":
    run_saved(*sys.argv[1:])
