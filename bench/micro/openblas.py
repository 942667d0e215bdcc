"""Plain products of our microkernel and of OpenBLAS (through NumPy) side by side: one thread, float32, one process.

    python -m bench.micro.openblas

Each figure is the best of alternating calls, so a busy machine lowers both. Operands are NumPy's dense arrays for
OpenBLAS and rows padded to an odd number of cache lines for ours, as emitted programs lay them out.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
import time
from pathlib import Path

SHAPES = ((256, 256, 256), (256, 1024, 256), (512, 512, 512), (1024, 1024, 1024), (256, 4096, 1024), (2048, 2048, 2048))
RUNTIME = Path(__file__).resolve().parents[2] / "runtime"
SOURCE = """#include "gemm.h"
using namespace tsr;
{functions}
"""
FUNCTION = """extern "C" void product_{m}_{n}_{k}(const float* a, const float* b, float* c) {{
  gemm<Shape<{m}, {n}, {k}, padded<float>({k}), padded<float>({n})>>(a, b, Store<float>{{c, padded<float>({n})}});
}}"""


def compiled(folder: Path) -> ctypes.CDLL:
    """Our products of all shapes as a library."""
    text = SOURCE.format(functions="\n".join(FUNCTION.format(m=m, n=n, k=k) for m, n, k in SHAPES))
    (folder / "products.cpp").write_text(text)
    flags = ["-std=c++17", "-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fno-trapping-math"]
    command = ["g++", *flags, "-shared", "-fPIC", f"-I{RUNTIME}", "products.cpp", "-o", "products.so"]
    subprocess.run(command, cwd=folder, check=True)
    return ctypes.CDLL(str(folder / "products.so"))


def padded(n: int) -> int:
    """Leading dimension of rows of n floats: an odd number of 64-byte lines."""
    return (-(-n // 16) | 1) * 16


def main() -> None:
    """Prints one line per shape."""
    # NumPy's OpenBLAS reads these when it is loaded; the second pair halves its speed where machines export it.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
        os.environ.pop(name, None)
    import numpy as np

    def aligned(rows: int, columns: int) -> np.ndarray:
        raw = np.empty(rows * columns + 16, np.float32)
        start = -raw.ctypes.data // 4 % 16
        return raw[start : start + rows * columns].reshape(rows, columns)

    pointer = ctypes.POINTER(ctypes.c_float)
    with tempfile.TemporaryDirectory() as folder:
        library = compiled(Path(folder))
        for m, n, k in SHAPES:
            rng = np.random.default_rng(0)
            a, b = rng.random((m, k), np.float32), rng.random((k, n), np.float32)
            c = np.empty((m, n), np.float32)
            ours = [aligned(m, padded(k)), aligned(k, padded(n)), aligned(m, padded(n))]
            ours[0][:, :k], ours[1][:, :n] = a, b
            function = getattr(library, f"product_{m}_{n}_{k}")
            arguments = [array.ctypes.data_as(pointer) for array in ours]
            best = [float("inf"), float("inf")]
            for _ in range(max(5, int(4e9 / (2 * m * n * k)))):
                for which in range(2):
                    start = time.perf_counter()
                    function(*arguments) if which == 0 else np.matmul(a, b, out=c)
                    best[which] = min(best[which], time.perf_counter() - start)
            error = np.abs(ours[2][:, :n] - c).max() / np.abs(c).max()
            rate = [2e-9 * m * n * k / seconds for seconds in best]
            print(f"{m:5} x {n:5} x {k:5}   ours {rate[0]:6.1f} GFLOP/s   OpenBLAS {rate[1]:6.1f}   ratio "
                  f"{rate[0] / rate[1]:.2f}   largest difference {error:.0e}")  # fmt: skip


if __name__ == "__main__":
    main()
