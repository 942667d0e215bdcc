"""Batched Fourier transforms of runtime/fft.h and of the MKL inside PyTorch side by side, in one process.

    python -m bench.micro.fft_mkl [--threads 1]

Each figure is the best of alternating calls, so a busy machine lowers both; GFLOP/s count 5 n log2 n per complex
transform and half of that per real one. About 64k numbers per call, which stay in the caches. Ours reads and writes
real and imaginary parts apart, as emitted programs keep them; MKL interleaved complex numbers, as PyTorch does. MKL is
told that the processor is its vendor's (bench/peers/mkl_any_vendor.c), or it would not use AVX-512.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench import environment

LENGTHS = (64, 360, 512, 1000, 1009, 4096, 16384)
RUNTIME = Path(__file__).resolve().parents[2] / "runtime"
SOURCE = """#include "fft_real.h"
using namespace tsr;
template <int N>
static void whole(const float* a, const float* b, float* x, float* y, long rows, int threads) {
#pragma omp parallel num_threads(threads)
  {
    const Share share = share_of_thread(rows, lanes<float>);
    Workspace<float, fft_rows_work<float, N>()> work;
    fft_rows<float, N>(share.begin, share.end,
        [&](long i, auto c) TSR_LAMBDA { return Planes<Vec<float>>{c.load(a + i * N), c.load(b + i * N)}; },
        [&](long i, auto c, Planes<Vec<float>> v) TSR_LAMBDA { c.store(x + i * N, v.re), c.store(y + i * N, v.im); },
        work.get());
  }
}
template <int N>
static void real(const float* a, const float*, float* x, float* y, long rows, int threads) {
#pragma omp parallel num_threads(threads)
  {
    constexpr long H = N / 2 + 1;
    const Share share = share_of_thread(rows, lanes<float>);
    Workspace<float, rfft_rows_work<float, N>()> work;
    rfft_rows<float, N>(share.begin, share.end, 1.0f, [&](long i, auto c) TSR_LAMBDA { return c.load(a + i * N); },
        [&](long i, auto c, Planes<Vec<float>> v) TSR_LAMBDA { c.store(x + i * H, v.re), c.store(y + i * H, v.im); },
        work.get());
  }
}
"""
FUNCTION = """extern "C" void {kind}_{n}(const float* a, const float* b, float* x, float* y, long rows, int threads) {{
  {kind}<{n}>(a, b, x, y, rows, threads);
}}
"""
Call = Callable[[], object]


def compiled(folder: Path) -> ctypes.CDLL:
    """Our transforms of all lengths as a library."""
    functions = (FUNCTION.format(kind=kind, n=n) for kind in ("whole", "real") for n in LENGTHS)
    (folder / "fft.cpp").write_text(SOURCE + "".join(functions))
    flags = ["-std=c++17", "-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"]
    command = ["g++", *flags, "-shared", "-fPIC", f"-I{RUNTIME}", "fft.cpp", "-o", "fft.so"]
    subprocess.run(command, cwd=folder, check=True)
    return ctypes.CDLL(str(folder / "fft.so"))


def best_of(calls: tuple[Call, Call]) -> list[float]:
    """Seconds of each call, the least of 60 windows taken in turns."""
    least = [math.inf, math.inf]
    for _ in range(60):
        for i, call in enumerate(calls):
            start, count = time.perf_counter(), 0
            while time.perf_counter() - start < 1e-3:
                call()
                count += 1
            least[i] = min(least[i], (time.perf_counter() - start) / count)
    return least


def main() -> None:
    """Prints one line per length and kind."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    threads = parser.parse_args().threads
    if "LD_PRELOAD" not in os.environ:
        os.execve(sys.executable, [sys.executable, "-m", "bench.micro.fft_mkl", *sys.argv[1:]],
                  {**os.environ, **environment.tuned(mkl=True)})
    import numpy as np
    import torch

    torch.set_num_threads(threads)
    pointer = ctypes.POINTER(ctypes.c_float)
    with tempfile.TemporaryDirectory() as folder:
        library = compiled(Path(folder))
        for kind in ("whole", "real"):
            for n in LENGTHS:
                rows = max(16 * threads, 65536 // n)
                planes = [np.random.default_rng(i).standard_normal((rows, n), np.float32) for i in range(2)]
                results = [np.empty((rows, n if kind == "whole" else n // 2 + 1), np.float32) for _ in range(2)]
                x = torch.from_numpy(planes[0] + 1j * planes[1] if kind == "whole" else planes[0])
                out = torch.empty(results[0].shape, dtype=torch.complex64)
                function = getattr(library, f"{kind}_{n}")
                arguments = [a.ctypes.data_as(pointer) for a in (*planes, *results)]
                transform = torch.fft.fft if kind == "whole" else torch.fft.rfft
                ours, mkl = best_of((partial(function, *arguments, ctypes.c_long(rows), threads),
                                     partial(transform, x, out=out)))
                error = np.linalg.norm(results[0] + 1j * results[1] - out.numpy()) / np.linalg.norm(out.numpy())
                work = rows * 5e-9 * n * math.log2(n) * (1 if kind == "whole" else 0.5)
                print(f"{'complex' if kind == 'whole' else 'real':8s} n={n:6d} x {rows:5d}  ours {work / ours:6.1f}"
                      f"  MKL {work / mkl:6.1f} GFLOP/s  ratio {mkl / ours:5.2f}  difference {error:.1e}")


if __name__ == "__main__":
    main()
