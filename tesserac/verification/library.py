"""The compiled kernels of an entry, loaded: for this machine's GPU or for the emulation."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tesserac import __version__
from tesserac.codegen.cuda.alone import Alone, render_alone
from tesserac.codegen.cuda.emulate import emulated_files
from tesserac.codegen.jinja import render_template
from tesserac.includes import runtime_headers
from tesserac.toolchain import run_make


def has_device() -> bool:
    """Whether a CUDA driver with a device is there, as the driver itself says."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


def build_library(
    folder: Path,
    files: Mapping[str, str],
    kernels: Sequence[Alone],
    *,
    stem: str,
    source: str,
    emulate: bool,
    variables: Sequence[str],
    jobs: int,
) -> Path:
    """Writes a project with one function per kernel into ``folder`` and makes it; files that did not change stay."""
    own = {f"{stem}.alone.cu": render_alone(kernels, stem=stem, source=source, title=stem)}
    headers = runtime_headers(own)
    makefile = {"verify.mk": render_template("cuda/verify.mk.j2", stem=stem, version=__version__, emulate=emulate)}
    everything = {**files, **headers, **own, **makefile}
    if emulate:
        everything.update(emulated_files({**headers, **own}))
    for name, text in everything.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    library = f"{stem}.alone.so"
    run_make(folder, [library], jobs, False, ["-f", "verify.mk", *variables])
    return (folder / library).absolute()


class Kernels:
    """The functions of such a library. Errors of CUDA are RuntimeErrors."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path), os.RTLD_LOCAL | os.RTLD_NOW)
        self._library.tsr_alone_error.restype = ctypes.c_char_p
        self._library.tsr_alone_copy_rate.restype = ctypes.c_double
        self._library.tsr_alone_peak.restype = ctypes.c_double
        self._library.tsr_alone_device.restype = ctypes.c_char_p

    def open(self, size: int) -> None:
        """Allocates ``size`` bytes on the device, in place of what was there."""
        self._check(self._library.tsr_alone_open(ctypes.c_size_t(size)))

    def write(self, offset: int, host: NDArray[np.uint8]) -> None:
        """Copies bytes to the device."""
        pointer = ctypes.c_void_p(host.ctypes.data)
        self._check(self._library.tsr_alone_write(ctypes.c_size_t(offset), pointer, ctypes.c_size_t(host.nbytes)))

    def read(self, offset: int, host: NDArray[np.uint8]) -> None:
        """Copies bytes from the device."""
        pointer = ctypes.c_void_p(host.ctypes.data)
        self._check(self._library.tsr_alone_read(ctypes.c_size_t(offset), pointer, ctypes.c_size_t(host.nbytes)))

    def run(self, number: int, offsets: Sequence[int], workspace: int, key: int, repeats: int = 0) -> float:
        """Runs a kernel once, then ``repeats`` times; the mean seconds of those."""
        seconds = ctypes.c_double(0)
        places = (ctypes.c_int64 * len(offsets))(*offsets)
        arguments = (ctypes.c_int64(workspace), ctypes.c_int64(key), repeats, ctypes.byref(seconds))
        self._check(self._library.tsr_alone_run(number, places, len(offsets), *arguments))
        return seconds.value

    def copy_rate(self, size: int) -> float:
        """Bytes per second of a copy of ``size`` bytes on the device, read and written; the memory holds twice that."""
        return float(self._library.tsr_alone_copy_rate(ctypes.c_size_t(size), 20))

    def peak(self, tensor_cores: bool) -> float:
        """Floating-point operations per second that the device can do; 0 where that is not known."""
        return float(self._library.tsr_alone_peak(int(tensor_cores)))

    def device(self) -> str:
        """The device's name and architecture: ``NVIDIA H200 (sm_90)``; empty for the emulation."""
        return str(self._library.tsr_alone_device().decode("utf-8", "replace"))

    def _check(self, code: int) -> None:
        if code != 0:
            raise RuntimeError(self._library.tsr_alone_error().decode("utf-8", "replace"))
