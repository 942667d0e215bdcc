"""What a CUDA kernel may choose freely: sizes that leave every sum in its order, and so every result as it is.

A *schedule* is a value for each of a kernel's choices. Rows that a whole block adds up, sums of all elements, products
of cuBLASLt, and whatever concerns the axis along which numbers are added up, have none.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass

from tesserac.codegen.cuda.layout import BLOCK, WARP, count, is_pointwise, layout
from tesserac.codegen.cuda.pointwise import POINTWISE_BLOCKS
from tesserac.codegen.cuda.products import split
from tesserac.codegen.cuda.tensor_cores import TILES, takes_tensor_cores, usual_tile
from tesserac.codegen.cuda.transforms import fft_lines
from tesserac.codegen.records import (
    AttentionKernel,
    ContractKernel,
    FftKernel,
    Kernel,
    LineKernel,
    RowKernel,
    TransposeKernel,
)
from tesserac.ir.types import DType

Schedule = Mapping[str, int]
"""Values of choices by name; those left out are the usual ones."""

FEW_BLOCKS = 1056
"""Eight for each of 132 multiprocessors: all that can be resident with 256 threads each."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A free size: its name, the ``usual`` value, and all values it may have."""

    name: str
    usual: int
    values: tuple[int, ...]


def choices(kernel: Kernel, itemsize: int) -> tuple[Choice, ...]:
    """The choices of a kernel whose floats have ``itemsize`` bytes.

    ``block``: threads of a block; ``blocks``: of a grid at most; ``rows``: of threads in a block of 32 columns;
    ``warps``: of a block; ``lines``: of a block; ``tile``: rows and columns of a block's results.
    """
    if isinstance(kernel, RowKernel):
        return _of_rows(kernel)
    if isinstance(kernel, ContractKernel):
        parts = split(kernel)
        if takes_tensor_cores(kernel, parts):
            return (Choice("tile", usual_tile(kernel), TILES),)
        return () if parts.pointwise is None else _of_rows(parts.pointwise)
    if isinstance(kernel, AttentionKernel):
        return _of_attention(kernel)
    if isinstance(kernel, TransposeKernel):
        return (Choice("rows", 8, (4, 8, 16)),)
    if isinstance(kernel, LineKernel):
        # on each line of a wavelet transform works a block of a fixed size
        return () if kernel.wavelet else (Choice("block", 128, (64, 128, 256)),)
    if isinstance(kernel, FftKernel):
        usual, values = fft_lines(kernel, itemsize)
        return (Choice("lines", usual, values),) if len(values) > 1 else ()
    return ()


def _of_rows(kernel: RowKernel) -> tuple[Choice, ...]:
    if is_pointwise(kernel):
        block = Choice("block", BLOCK, (128, 256, 512))
        many = count(kernel.domain) > 4 * BLOCK * FEW_BLOCKS
        blocks = Choice("blocks", POINTWISE_BLOCKS, (FEW_BLOCKS, POINTWISE_BLOCKS, 1 << 16))
        return (block, blocks) if many else (block,)
    plan = layout(kernel)
    kinds = {phase.kind for phase in plan.phases if phase is not None}
    if plan.team > WARP or "total" in kinds:
        return ()  # the block's size is part of how numbers are added up
    # Rows of partial sums belong to teams, of which there must be as many as ever.
    values = [b for b in (64, 128, 256, 512) if "columns" not in kinds or plan.blocks * BLOCK % b == 0]
    return (Choice("block", BLOCK, tuple(values)),)


def _of_attention(kernel: AttentionKernel) -> tuple[Choice, ...]:
    if kernel.slots[0].dtype is not DType.BF16:
        return (Choice("warps", 4, (2, 4, 8)),)
    # Twice the rows, and with them twice the shared memory, which wider heads do not have.
    return (Choice("warps", 4, (4, 8)),) if max(kernel.head_dim, kernel.value_dim) <= 64 else ()


def schedules(found: tuple[Choice, ...]) -> list[dict[str, int]]:
    """All combinations of values, the usual ones first."""
    combinations = [
        dict(zip((c.name for c in found), values, strict=True))
        for values in itertools.product(*(c.values for c in found))
    ]
    usual = {c.name: c.usual for c in found}
    return [usual, *(s for s in combinations if s != usual)]


def unfit(schedule: Schedule, found: tuple[Choice, ...]) -> str:
    """What is wrong with a schedule for these choices; empty if nothing is."""
    known = {c.name: c for c in found}
    for name, value in schedule.items():
        if name not in known:
            return f"it has no choice `{name}`"
        if value not in known[name].values:
            return f"`{name}` is one of {', '.join(map(str, known[name].values))}, not {value}"
    return ""


def digest(kernel: Kernel, aligned: bool, real: str) -> str:
    """A hash of what a kernel computes and on which sizes; names of the source do not count."""
    return hashlib.sha256(f"{_content(kernel)} {aligned} {real}".encode()).hexdigest()[:24]


def _content(value: object) -> str:
    if is_dataclass(value) and not isinstance(value, type):
        kept = (f.name for f in fields(value) if f.compare and f.name != "name")
        parts = ", ".join(f"{name}={_content(getattr(value, name))}" for name in kept)
        return f"{type(value).__name__}({parts})"
    if isinstance(value, tuple):
        return f"({', '.join(map(_content, value))})"
    return str(value) if isinstance(value, DType) else repr(value)
