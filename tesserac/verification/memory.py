"""Buffers of one kernel: where they lie, what is in them, and which of their elements a kernel wrote."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from tesserac.codegen.cuda.alone import Alone, written
from tesserac.codegen.records import Launch
from tesserac.codegen.stage_values import StageValues
from tesserac.codegen.views import View
from tesserac.ir.program import Var
from tesserac.ir.types import DType
from tesserac.passes.plan import storage_bytes
from tesserac.verification.reference import Array, from_memory, in_memory

ALIGNMENT = 256
_UNTOUCHED = 0xFF
"""Every byte of a buffer before the kernel runs: a NaN that no arithmetic makes, and no integer that programs hold."""


@dataclass
class Buffer:
    """Memory of the value that owns it: ``offset`` bytes from the start, ``host`` what is in it."""

    offset: int
    host: NDArray[np.uint8]

    def view(self, view: View, dtype: DType) -> Array:
        """The elements of a view, as memory holds them."""
        kind = np.dtype(np.uint16) if dtype is DType.BF16 else dtype.numpy
        start = view.offset * dtype.itemsize
        elements = self.host[start : start + (len(self.host) - start) // kind.itemsize * kind.itemsize].view(kind)
        return as_strided(elements, view.shape, [s * kind.itemsize for s in view.strides])

    def touched(self, view: View, dtype: DType) -> NDArray[np.bool_]:
        """Which elements are no longer as they were."""
        bits = np.dtype(f"u{dtype.itemsize}")
        return np.asarray(self.view(view, dtype).view(bits) != np.iinfo(bits).max)


@dataclass
class Layout:
    """The buffers of a kernel, and of those it fills them with, behind each other; the random key; the workspace."""

    item: Alone
    scratch: int
    buffers: dict[Var, Buffer] = field(default_factory=dict)
    key: int = 0
    workspace: int = 0
    size: int = 0

    def __post_init__(self) -> None:
        for argument in (a for _, launch in self.item.together for a in launch.arguments):
            if argument.var not in self.buffers:
                bytes_ = storage_bytes(self.values.storage(argument.var), argument.var.type.dtype.itemsize)
                host = np.full(-(-bytes_ // ALIGNMENT) * ALIGNMENT, _UNTOUCHED, np.uint8)
                self.buffers[argument.var] = Buffer(self.size, host)
                self.size += len(host)
        self.key, self.workspace = self.size, self.size + ALIGNMENT
        self.size = self.workspace + self.scratch + ALIGNMENT

    @property
    def values(self) -> StageValues:
        """The values of the kernel's stage."""
        return self.item.stage.fused.values

    def offsets(self, launch: Launch) -> list[int]:
        """Where the pointer of every slot of a launch points."""
        return [self.buffers[a.var].offset + a.offset * a.var.type.dtype.itemsize for a in launch.arguments]

    @property
    def written(self) -> list[Var]:
        """The owners of the buffers that the kernel itself writes."""
        own = written(self.item.launch)
        return [var for var in self.buffers if var in own]

    @property
    def read(self) -> list[Var]:
        """The owners of all buffers that hold something beforehand."""
        results = {var for _, launch in self.item.together for var in written(launch)}
        return [var for var in self.buffers if var not in results]

    def put(self, var: Var, array: Array) -> Array:
        """Stores a value in its buffer; what is read from there."""
        raw, kept = in_memory(array, var.type.dtype)
        self.buffers[var].view(self.values.storage(var), var.type.dtype)[...] = raw
        return kept

    def results(self, owner: Var) -> dict[Var, tuple[Array, NDArray[np.bool_]]]:
        """Of every value that lies in a buffer and of which something was written: its elements, and which were."""
        found = {}
        for equation in self.values.stage.equations:
            for var in equation.results:
                if self.values.root(var) == owner:
                    view, buffer = self.values.storage(var), self.buffers[owner]
                    touched = buffer.touched(view, var.type.dtype)
                    if touched.any():
                        found[var] = (from_memory(buffer.view(view, var.type.dtype), var.type.dtype), touched)
        return found
