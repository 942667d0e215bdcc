"""What the compiler uses of cupy, over the memory and the stream of a library that is built for the emulation."""

from __future__ import annotations

import ctypes
import itertools
from pathlib import Path
from types import SimpleNamespace

from tesserac.verification.library import Device, Kernels

MILLISECONDS = itertools.count(1)


class StandIn:
    """``cupy``: the module, for `Gpu`; `kernels` in place of `Kernels` tells it of each library that is loaded."""

    def __init__(self, room: int = 1 << 40) -> None:
        self.library: ctypes.CDLL | None = None
        self.room, self.copies = room, 0
        outer = self

        class Memory:
            """cupy.cuda.Memory: its own until it is dropped."""

            def __init__(self, size: int) -> None:
                if size > outer.room:
                    raise MemoryError(f"Out of memory allocating {size:,} bytes")
                self.size, self.library = size, outer.loaded
                self.library.tsr_alone_allocate.restype = ctypes.c_void_p
                self.ptr = self.library.tsr_alone_allocate(ctypes.c_size_t(size))

            def __del__(self) -> None:
                if hasattr(self, "ptr"):
                    self.library.tsr_alone_free(ctypes.c_void_p(self.ptr))

        class MemoryPointer:
            """cupy.cuda.MemoryPointer: a place in memory. Copies are made in the order of the stream, so behind it."""

            def __init__(self, mem: Memory, offset: int) -> None:
                self.mem, self.ptr = mem, mem.ptr + offset

            def __add__(self, offset: int) -> MemoryPointer:
                return MemoryPointer(self.mem, self.ptr - self.mem.ptr + offset)

            def copy_from_host_async(self, mem: ctypes.c_void_p, size: int, stream: Stream) -> None:
                self.copy(self.ptr, mem.value, size, stream)

            def copy_to_host_async(self, mem: ctypes.c_void_p, size: int, stream: Stream) -> None:
                self.copy(mem.value, self.ptr, size, stream)

            def copy_from_device_async(self, src: MemoryPointer, size: int, stream: Stream) -> None:
                self.copy(self.ptr, src.ptr, size, stream)

            def copy(self, to: int | None, start: int | None, size: int, stream: Stream) -> None:
                """All three."""
                stream.synchronize()
                outer.copies += 1
                ctypes.memmove(to or 0, start or 0, size)

        class Stream:
            """cupy.cuda.Stream: the emulation's default one."""

            def __init__(self, non_blocking: bool) -> None:
                self.ptr, self.non_blocking = 0, non_blocking

            def synchronize(self) -> None:
                outer.loaded.tsr_alone_finish()

        class Event:
            """cupy.cuda.Event: a millisecond behind the one before it."""

            def record(self, stream: Stream) -> None:
                stream.synchronize()
                self.at = next(MILLISECONDS)

            def synchronize(self) -> None:
                assert self.at

        properties = {"name": b"Stand-in", "major": 9, "minor": 0, "clockRate": 1_980_000, "multiProcessorCount": 132}
        self.cupy = SimpleNamespace(
            cuda=SimpleNamespace(
                Memory=Memory,
                MemoryPointer=MemoryPointer,
                Stream=Stream,
                Event=Event,
                get_elapsed_time=lambda first, last: float(last.at - first.at),
                runtime=SimpleNamespace(getDevice=lambda: 0, getDeviceProperties=lambda device: properties),
            )
        )

    @property
    def loaded(self) -> ctypes.CDLL:
        """The library that was loaded last."""
        assert self.library is not None
        return self.library

    def kernels(self, path: Path, gpu: Device | None) -> Kernels:
        """`Kernels`, and what the stand-in needs of it."""
        assert gpu is not None
        found = Kernels(path, gpu)
        self.library = found.library
        return found
