"""The compiled kernels of an entry, loaded: for this machine's GPU or for the emulation."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

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


class Device(Protocol):
    """Memory and a stream that kernels work on; offsets count from the memory's start. Errors are RuntimeErrors."""

    @property
    def stream(self) -> int:
        """The handle of the stream."""

    def allocate(self, size: int) -> int:
        """The address of ``size`` bytes, in place of what was there."""

    def write(self, offset: int, host: NDArray[np.uint8]) -> None:
        """Copies bytes into the memory."""

    def read(self, offset: int, host: NDArray[np.uint8]) -> None:
        """Copies bytes out of the memory."""

    def finish(self) -> None:
        """Waits until all is done."""

    def seconds(self, work: Callable[[], None]) -> float:
        """How long it takes what ``work`` puts on the stream."""


class Emulated:
    """The device of a library that is built for the emulation, where time means nothing."""

    stream = 0

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library, self._memory = library, 0
        library.tsr_alone_allocate.restype = ctypes.c_void_p

    def allocate(self, size: int) -> int:
        """See Device."""
        self._library.tsr_alone_free(ctypes.c_void_p(self._memory))
        self._memory = int(self._library.tsr_alone_allocate(ctypes.c_size_t(size)) or 0)
        return self._memory

    def write(self, offset: int, host: NDArray[np.uint8]) -> None:
        """See Device."""
        self._copy(self._library.tsr_alone_write, offset, host)

    def read(self, offset: int, host: NDArray[np.uint8]) -> None:
        """See Device."""
        self._copy(self._library.tsr_alone_read, offset, host)

    def finish(self) -> None:
        """See Device."""
        checked(self._library, self._library.tsr_alone_finish())

    def seconds(self, work: Callable[[], None]) -> float:
        """See Device."""
        work()
        self.finish()
        return 0.0

    def _copy(self, function: Any, offset: int, host: NDArray[np.uint8]) -> None:
        pointers = ctypes.c_void_p(self._memory + offset), ctypes.c_void_p(host.ctypes.data)
        checked(self._library, function(*pointers, ctypes.c_size_t(host.nbytes)))


class Kernels:
    """The functions of such a library, on a GPU or (None) under the emulation that it is built for."""

    def __init__(self, path: Path, gpu: Device | None) -> None:
        self.library = ctypes.CDLL(str(path), os.RTLD_LOCAL | os.RTLD_NOW)
        self.library.tsr_alone_error.restype = ctypes.c_char_p
        self.device = gpu or Emulated(self.library)
        self._start = 0
        self.library.tsr_alone_open(ctypes.c_void_p(self.device.stream))

    def open(self, size: int) -> None:
        """Allocates ``size`` bytes on the device, in place of what was there."""
        self._start = self.device.allocate(size)

    def run(self, number: int, offsets: Sequence[int], workspace: int, key: int, repeats: int = 0) -> float:
        """Runs a kernel once, then ``repeats`` times; the mean seconds of those."""
        slots = (ctypes.c_void_p * len(offsets))(*(self._start + offset for offset in offsets))
        rest = ctypes.c_void_p(self._start + workspace), ctypes.c_void_p(self._start + key)

        def launch(times: int) -> None:
            checked(self.library, self.library.tsr_alone_launch(number, slots, *rest, times))

        launch(1)
        self.device.finish()
        return self.device.seconds(lambda: launch(repeats)) / repeats if repeats else 0.0


def checked(library: ctypes.CDLL, code: int) -> None:
    """RuntimeError for an error of a library."""
    if code != 0:
        raise RuntimeError(library.tsr_alone_error().decode("utf-8", "replace"))
