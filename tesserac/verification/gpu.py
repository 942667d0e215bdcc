"""This machine's GPU through cupy: memory, copies, a stream, times, and what the device can do.

The kernels themselves are not cupy's to launch: grids, shared memory, tensor maps and the choice between kernels are
made by the emitted functions on the host, which the program calls, too. They run on cupy's stream and pointers.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tesserac.diagnostics import Diagnostics
from tesserac.toolchain import ToolchainError

INSTALL = "pip install 'tesserac[cuda]'"
REPEATS = 20
"""Copies whose mean rate counts."""


class Gpu:
    """The current device of cupy, and one stream on it. Errors of CUDA are RuntimeErrors, and T0816 without room."""

    def __init__(self, cupy: Any) -> None:
        self._cuda = cupy.cuda
        self._device = self._cuda.runtime.getDevice()
        self._stream = self._cuda.Stream(non_blocking=True)
        self._memory: Any = None

    @property
    def stream(self) -> int:
        """The stream's handle: a cudaStream_t."""
        return int(self._stream.ptr)

    def allocate(self, size: int) -> int:
        """The address of ``size`` bytes on the device, in place of what was there."""
        self._memory = None  # goes before the new piece comes
        try:
            self._memory = self._cuda.MemoryPointer(self._cuda.Memory(size), 0)
        except MemoryError as error:
            message = f"this machine's GPU has no room for {size >> 20} MiB"
            raise _error(message, str(error), "smaller sizes: --set, --dim") from error
        return int(self._memory.ptr)

    def write(self, offset: int, host: NDArray[np.uint8]) -> None:
        """Copies bytes into the memory."""
        (self._memory + offset).copy_from_host_async(ctypes.c_void_p(host.ctypes.data), host.nbytes, self._stream)
        self.finish()

    def read(self, offset: int, host: NDArray[np.uint8]) -> None:
        """Copies bytes out of the memory."""
        (self._memory + offset).copy_to_host_async(ctypes.c_void_p(host.ctypes.data), host.nbytes, self._stream)
        self.finish()

    def finish(self) -> None:
        """Waits until all is done."""
        self._stream.synchronize()

    def seconds(self, work: Callable[[], None]) -> float:
        """The time between two events on the stream, around what ``work`` puts there."""
        first, last = self._cuda.Event(), self._cuda.Event()
        first.record(self._stream)
        work()
        last.record(self._stream)
        last.synchronize()
        return float(self._cuda.get_elapsed_time(first, last)) / 1000

    def copy_rate(self, size: int) -> float:
        """Bytes per second, read and written, of copies of ``size`` bytes within the device's memory."""
        self.allocate(2 * size)
        target = self._memory + size

        def copies(count: int) -> None:
            for _ in range(count):
                target.copy_from_device_async(self._memory, size, self._stream)

        copies(1)  # the first call of anything takes longer
        return 2.0 * size * REPEATS / self.seconds(lambda: copies(REPEATS))

    def peak(self, tensor_cores: bool) -> float:
        """Operations per second that the multiply-add units allow, or tensor cores on 16-bit floats; 0: not known."""
        properties = self._cuda.runtime.getDeviceProperties(self._device)
        version = properties["major"], properties["minor"]
        lanes = 64 if version == (8, 0) else 128
        products = 1024 if version == (8, 0) else {8: 512, 9: 2048}.get(version[0], 0)
        per_second = 2e3 * properties["clockRate"] * properties["multiProcessorCount"]  # the clock is in kHz
        return float(per_second * (products if tensor_cores else lanes))

    def name(self) -> str:
        """``NVIDIA H200 (sm_90)``."""
        properties = self._cuda.runtime.getDeviceProperties(self._device)
        name = properties["name"].decode("utf-8", "replace")
        return f"{name} (sm_{properties['major']}{properties['minor']})"


def opened(emulate: bool) -> Gpu | None:
    """This machine's GPU, None for the emulation. Raises T0816 where cupy is not there or sees no GPU."""
    if emulate:
        return None
    try:
        cupy = importlib.import_module("cupy")
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "cupy"
        reason = "it is not among the packages of this Python" if missing else f"it cannot be imported: {error}"
        raise _error("there is no cupy, which brings kernels to this machine's GPU", reason, INSTALL) from error
    try:
        return Gpu(cupy)
    except RuntimeError as error:
        raise _error("cupy cannot use this machine's GPU", str(error), INSTALL) from error


def _error(message: str, reason: str, remedy: str) -> ToolchainError:
    diagnostics = Diagnostics()
    help_ = [remedy, "--emulate runs the kernels on this processor, where times mean nothing"]
    diagnostics.error("T0816", message, None, notes=[reason], help=help_)
    return ToolchainError(diagnostics.items)
